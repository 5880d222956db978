"""Captions: of regions (Visual Genome, RefCOCOg), and of whole pictures with grounded phrases (Flickr30k Entities).

METEOR and CIDEr-D are those of the COCO caption evaluation (groma.evaluate.captions).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groma.data.annotation import Annotation, Passage
from groma.data.sources import Source
from groma.errors import InputError
from groma.evaluate.benchmark import Figures, QuestionBenchmark, answers_of
from groma.evaluate.captions.cider import cider_d
from groma.evaluate.captions.meteor import meteor, meteor_available
from groma.evaluate.captions.ptb import tokenize
from groma.evaluate.data_folder import PictureFolder, Place, find_annotations, identity_of_files, spaced
from groma.evaluate.matching import overlaps
from groma.evaluate.measures import Groups, Measure
from groma.evaluate.questions import Question, Record
from groma.inference.result import Box

CIDER_AT_MOST = 10.0
"""CIDEr-D is ten times a cosine."""

DESCRIBE_IMAGE = "Describe the image in detail."
"""What is asked about a whole picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A picture or a region with its references."""

    picture: str
    box_xyxy_px: Box | None
    references: tuple[str, ...]
    passages: tuple[Passage, ...] = ()
    """Captions with their spans."""
    boxes_xyxy_px: tuple[Box, ...] = ()
    """Boxes that the spans are tied to; those of passage k have the numbers that its spans name."""


class _Captioning(QuestionBenchmark):
    """What captions of regions and of pictures have in common."""

    main_metric = "cider"

    def __init__(self, place: Place, file: Path, split: str, cases: Sequence[_Case]) -> None:
        if not cases:
            raise InputError(f"{file} has no captions: is it another benchmark's file?")
        self.file, self.split, self.place = file, split, place
        if reason := meteor_available():
            self.told = f"{self.told} (without METEOR: {reason})"
        self.cases = [cases[number] for number in spaced(len(cases), place.n)]
        self.pictures = PictureFolder(place, (case.picture for case in self.cases))

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def sections(self) -> Sequence[str]:
        """See the base class."""
        return (self.split,)

    def section_of(self, number: int) -> str:
        """See the base class."""
        return self.split

    def identity(self) -> dict[str, Any]:
        """See the base class."""
        return {"files": identity_of_files([self.file]), "n": self.place.n}

    def picture(self, number: int) -> Image.Image:
        """See the base class."""
        return self.pictures.open(self.cases[number].picture)

    def quality(self, number: int, record: Mapping[str, Any]) -> float | None:
        """See the base class: best F1 of words with a reference, as CIDEr-D of one case means little."""
        words = tokenize(answers_of(record)[0].text)
        return max(_word_f1(words, tokenize(reference)) for reference in self.cases[number].references)

    def _caption_figures(self, groups: Groups, numbers: Sequence[int], texts: Sequence[str]) -> Figures:
        references = [self.cases[number].references for number in numbers]
        figures: Figures = {"cider": groups.mean(cider_d(texts, references), at_most=CIDER_AT_MOST)}
        if not meteor_available():
            scores = meteor(texts, references)
            # the corpus' score is no mean of its segments', which are what can be resampled
            segments = groups.mean(scores.segments)
            figures["meteor"] = _shifted(segments, scores.corpus)
        return figures


class RegionCaptions(_Captioning):
    """What is in the box, for each region (method, section 5)."""

    def __init__(self, place: Place, name: str, told: str, format_name: str, names: Sequence[str]) -> None:
        """Open it.

        Raises:
            InputError: the data are not there or of another format.
        """
        self.name, self.told = name, told
        ((split, file),) = find_annotations(place, {"val": tuple(names)}, benchmark=name).items()
        super().__init__(place, file, split, _regions(file, format_name))

    def questions(self, number: int) -> Sequence[Question]:
        """See the base class."""
        return (Question(call="describe", boxes_xyxy_px=self.wanted(number)),)

    def wanted(self, number: int) -> tuple[Box, ...]:
        """See the base class."""
        box = self.cases[number].box_xyxy_px
        assert box is not None, "regions have boxes"
        return (box,)

    def figures(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> Figures:
        """See the base class: cider, and meteor where it is installed."""
        numbers = list(records)
        groups = Groups([self.cases[number].picture for number in numbers])
        texts = [answers_of(records[number])[0].text for number in numbers]
        return self._caption_figures(groups, numbers, texts)


class GroundedCaptions(_Captioning):
    """The whole picture, phrases tied to boxes (Flickr30k Entities)."""

    name = "flickr30k"
    told = "captions of whole pictures: caption scores, and how well their phrases are grounded"
    main_metric = "phrase_box_f1"

    def __init__(self, place: Place) -> None:
        """Open it.

        Raises:
            InputError: the data are not there or of another format.
        """
        names = {split: _flickr_names(split) for split in ("test", "val")}
        split, file = next(iter(find_annotations(place, names, benchmark=self.name).items()))
        super().__init__(place, file, split, _pictures(file))

    def questions(self, number: int) -> Sequence[Question]:
        """See the base class."""
        return (Question(call="ask", text=DESCRIBE_IMAGE),)

    def wanted(self, number: int) -> tuple[Box, ...]:
        """See the base class."""
        return self.cases[number].boxes_xyxy_px

    def figures(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> Figures:
        """See the base class.

        phrase_recall: share of annotated phrases (of all captions) of which a box is found at IoU 0.5 by a phrase that
        ends in the same word. phrase_precision: share of answered pairs of phrase and box that fit an annotated one.
        phrase_box_f1: their harmonic mean. box_recall, box_precision: the same whatever the words are.
        """
        numbers = list(records)
        groups = Groups([self.cases[number].picture for number in numbers])
        answers = [answers_of(records[number])[0] for number in numbers]
        rows = np.array([self._counts(number, answer) for number, answer in zip(numbers, answers, strict=True)])
        said, there = int(rows[:, 1].sum()), int(rows[:, 4].sum())
        figures = self._caption_figures(groups, numbers, [answer.text for answer in answers])
        return figures | {
            "phrase_recall": groups.ratio(rows[:, 3], rows[:, 4], cases=there),
            "phrase_precision": groups.ratio(rows[:, 0], rows[:, 1], cases=said),
            "phrase_box_f1": groups.of_sums(list(rows), _harmonic, cases=there),
            "box_recall": groups.ratio(rows[:, 5], rows[:, 4], cases=there),
            "box_precision": groups.ratio(rows[:, 2], rows[:, 1], cases=said),
            "phrases": groups.mean([len(answer.named) for answer in answers], at_most=float("inf")),
        }

    def quality(self, number: int, record: Mapping[str, Any]) -> float | None:
        """See the base class: F1 of phrases with boxes."""
        value = _harmonic(np.array(self._counts(number, answers_of(record)[0])))
        return None if np.isnan(value) else value

    def _counts(self, number: int, answer: Record) -> tuple[float, float, float, float, float, float]:
        """Of an answer: pairs that fit, pairs, boxes that fit; phrases found, phrases, phrases whose box is found."""
        case = self.cases[number]
        annotated = [
            (_last_word(passage.text[span.start : span.end]), span.boxes)
            for passage in case.passages
            for span in passage.spans
        ]
        pairs = [(_last_word(one.phrase), box) for one in answer.named for box in one.boxes_xyxy_px]
        near = overlaps([box for _, box in pairs], case.boxes_xyxy_px) >= 0.5
        alike = [[word == other for other, _ in annotated] for word, _ in pairs]
        on = [[any(near[row, box] for box in boxes) for _, boxes in annotated] for row in range(len(pairs))]
        fits = [[a and o for a, o in zip(*rows, strict=True)] for rows in zip(alike, on, strict=True)]
        found = [any(row[place] for row in fits) for place in range(len(annotated))]
        covered = [any(row[place] for row in on) for place in range(len(annotated))]
        return (
            sum(any(row) for row in fits),
            len(pairs),
            sum(any(row) for row in on),
            sum(found),
            len(annotated),
            sum(covered),
        )


def _harmonic(sums: np.ndarray) -> float:
    fitting, said, _, found, there, _ = sums.tolist()
    if not there:
        return float("nan")
    precision, recall = (fitting / said if said else 0.0), found / there
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _last_word(phrase: str) -> str:
    """The word that says what a phrase is about, in English nearly always."""
    words = tokenize(phrase)
    return words[-1] if words else ""


def _word_f1(words: Sequence[str], reference: Sequence[str]) -> float:
    common = sum(min(words.count(word), reference.count(word)) for word in set(words))
    return 2 * common / (len(words) + len(reference)) if words or reference else 1.0


def _shifted(measure: Measure, value: float) -> Measure:
    """The measure moved so that its figure is `value`; how it varies stays."""
    offset = value - measure.statistic(np.ones(measure.groups))
    return Measure(
        groups=measure.groups, cases=measure.cases, statistic=lambda weights: measure.statistic(weights) + offset
    )


def _regions(file: Path, format_name: str) -> list[_Case]:
    """Regions with all captions that the file has of the same box."""
    found: dict[tuple[str, Box], list[str]] = {}
    for annotation in Source(file, format_name):
        for box, label in zip(annotation.boxes_xyxy_frame, annotation.labels, strict=True):
            found.setdefault((annotation.picture, box), []).append(label.strip())
    return [
        _Case(picture=picture, box_xyxy_px=box, references=tuple(captions))
        for (picture, box), captions in sorted(found.items(), key=lambda pair: pair[0][0])
    ]


def _pictures(file: Path) -> list[_Case]:
    """Pictures with all of their captions."""
    found: dict[str, list[Annotation]] = {}
    for annotation in Source(file, "coco_grounded_captions"):
        found.setdefault(annotation.picture, []).append(annotation)
    return [_together(picture, found[picture]) for picture in sorted(found)]


def _together(picture: str, annotations: Sequence[Annotation]) -> _Case:
    boxes: list[Box] = []
    passages: list[Passage] = []
    for annotation in annotations:
        first = len(boxes)
        boxes += annotation.boxes_xyxy_frame
        for passage in annotation.passages:
            spans = tuple(replace(span, boxes=tuple(first + box for box in span.boxes)) for span in passage.spans)
            passages.append(replace(passage, spans=spans))
    return _Case(
        picture=picture,
        box_xyxy_px=None,
        references=tuple(passage.text for passage in passages),
        passages=tuple(passages),
        boxes_xyxy_px=tuple(boxes),
    )


def _flickr_names(split: str) -> tuple[str, ...]:
    return (
        f"final_flickr_separateGT_{split}.json",
        f"final_flickr_mergedGT_{split}.json",
        f"flickr30k_{split}.json",
        f"flickr_{split}.json",
    )


def open_visual_genome(place: Place) -> RegionCaptions:
    """Visual Genome, region captions."""
    told = "Visual Genome: what is in the box, one region a question"
    return RegionCaptions(place, "visual-genome", told, "coco_region_captions", ("vg_test.json", "test_caption.json"))


def open_refcocog_captions(place: Place) -> RegionCaptions:
    """RefCOCOg, its expressions as captions."""
    names = ("finetune_refcocog_val_with_mask.json", "finetune_refcocog_val.json", "refcocog_val.json")
    return RegionCaptions(place, "refcocog-captions", "RefCOCOg: what is in the box", "coco_expressions", names)
