"""Referring expression comprehension: an expression, a picture, which box?

RefCOCO, RefCOCO+, RefCOCOg and Ref-L4 mean one box each: the first box that is named is the answer (method, section 5).
gRefCOCO and HumanRef mean several boxes or none.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groma.errors import InputError
from groma.evaluate.benchmark import Figures, QuestionBenchmark, answers_of
from groma.evaluate.data_folder import PictureFolder, Place, find_annotations, identity_of_files, spaced
from groma.evaluate.expressions import Expression, read_grefcoco, read_humanref, read_pairs, read_ref_l4
from groma.evaluate.matching import IOU_THRESHOLDS, found_once, overlap, overlaps
from groma.evaluate.measures import Groups
from groma.evaluate.questions import Question, Record
from groma.evaluate.statistics import calibration_error, calibration_sums
from groma.inference.result import Box

Reader = Callable[[Path, str], list[Expression]]
"""(annotation file, split) -> its expressions."""

REFCOCO = {"refcoco": ("val", "testA", "testB"), "refcoco+": ("val", "testA", "testB"), "refcocog": ("val", "test")}
"""Data set -> its splits."""


class _Referring(QuestionBenchmark):
    """What both kinds have in common."""

    call: str

    def __init__(self, place: Place, names: Mapping[str, tuple[str, ...]], read: Reader) -> None:
        is_shared = len(set(names.values())) < len(names)
        self.files = find_annotations(place, names, benchmark=self.name, is_shared=is_shared)
        self.cases: list[tuple[str, Expression]] = []
        for split, file in self.files.items():
            found = read(file, split)
            if not found and (place.splits or not is_shared):
                raise InputError(f"{file} has no expressions of split {split!r}.")
            chosen = [found[number] for number in spaced(len(found), place.n)]
            # expressions about one picture follow each other, so that it is encoded once
            self.cases += [(split, one) for one in sorted(chosen, key=lambda one: one.picture)]
        if not self.cases:
            raise InputError(f"{next(iter(self.files.values()))} has no expressions of {', '.join(self.files)}.")
        self.pictures = PictureFolder(place, (one.picture for _, one in self.cases))
        self.place = place

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def sections(self) -> Sequence[str]:
        """See the base class: the splits."""
        return tuple(self.files)

    def section_of(self, number: int) -> str:
        """See the base class."""
        return self.cases[number][0]

    def identity(self) -> dict[str, Any]:
        """See the base class."""
        return {"files": identity_of_files(self.files.values()), "splits": list(self.files), "n": self.place.n}

    def picture(self, number: int) -> Image.Image:
        """See the base class."""
        return self.pictures.open(self.cases[number][1].picture)

    @abstractmethod
    def questions(self, number: int) -> Sequence[Question]: ...

    def wanted(self, number: int) -> tuple[Box, ...]:
        """See the base class."""
        return self.cases[number][1].boxes_xyxy_px

    def _groups(self, numbers: Sequence[int]) -> Groups:
        return Groups([self.cases[number][1].picture for number in numbers])


class Referring(_Referring):
    """One box for each expression."""

    main_metric = "accuracy50"
    thresholds: Mapping[str, float] = {"accuracy50": 0.5, "accuracy75": 0.75}

    def __init__(self, place: Place, name: str, told: str, names: Mapping[str, tuple[str, ...]], read: Reader) -> None:
        """Open it; see `_Referring`."""
        self.name, self.told = name, told
        super().__init__(place, names, read)

    def questions(self, number: int) -> Sequence[Question]:
        """See the base class."""
        return (Question(call="locate", text=self.cases[number][1].phrase),)

    def figures(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> Figures:
        """See the base class: accuracy at thresholds of IoU, mean IoU, share of expressions without an answer, ECE."""
        numbers = list(records)
        groups = self._groups(numbers)
        answers = [answers_of(records[number])[0] for number in numbers]
        iou = np.array([self._iou(number, answer) for number, answer in zip(numbers, answers, strict=True)])
        scored = self.reliability(section, records)
        rows = [calibration_sums(own) for own in scored]
        figures = {metric: groups.share(iou >= limit) for metric, limit in self.thresholds.items()}
        return figures | {
            "mean_iou": groups.mean(iou),
            "unanswered": groups.share([not answer.boxes_xyxy_px for answer in answers]),
            "ece": groups.of_sums(rows, calibration_error, cases=sum(map(len, scored))),
        }

    def reliability(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> list[list[tuple[float, bool]]]:
        """Of each case: (confidence, whether it was right) of the box that is its answer, if it has one."""
        scored: list[list[tuple[float, bool]]] = []
        for number, record in records.items():
            answer = answers_of(record)[0]
            scored.append([(answer.scores[0], self._iou(number, answer) >= 0.5)] if answer.scores else [])
        return scored

    def quality(self, number: int, record: Mapping[str, Any]) -> float | None:
        """See the base class: IoU of the answer."""
        return self._iou(number, answers_of(record)[0])

    def _iou(self, number: int, answer: Record) -> float:
        boxes, (wanted,) = answer.boxes_xyxy_px, self.wanted(number)
        return overlap(boxes[0], wanted) if boxes else 0.0


class RefL4(Referring):
    """Ref-L4: stricter thresholds, and apart by size (Chen et al. 2024, arXiv 2406.16866)."""

    thresholds: Mapping[str, float] = {"accuracy50": 0.5, "accuracy75": 0.75, "accuracy90": 0.9}
    SIZES: Mapping[str, tuple[float, float]] = {
        "small": (0, 128.0**2),
        "medium": (128.0**2, 256.0**2),
        "large": (256.0**2, math.inf),
    }
    """Areas in square pixels."""

    def figures(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> Figures:
        """See the base class; mean accuracy over thresholds 0.5 to 0.95 as well."""
        numbers = list(records)
        groups = self._groups(numbers)
        iou = np.array([self.quality(number, records[number]) for number in numbers])
        mean = (iou[:, None] >= IOU_THRESHOLDS).mean(axis=1)
        areas = np.array([_area(self.wanted(number)[0]) for number in numbers])
        figures = super().figures(section, records) | {"mean_accuracy": groups.mean(mean)}
        for size, (least, most) in self.SIZES.items():
            figures[f"mean_accuracy_{size}"] = groups.mean(np.where((areas >= least) & (areas < most), mean, np.nan))
        return figures


class ManyReferring(_Referring):
    """Several boxes for an expression, or none."""

    main_metric = "precision_f1"

    def __init__(self, place: Place, name: str, told: str, names: Mapping[str, tuple[str, ...]], read: Reader) -> None:
        """Open it; see `_Referring`."""
        self.name, self.told = name, told
        super().__init__(place, names, read)

    def questions(self, number: int) -> Sequence[Question]:
        """See the base class."""
        return (Question(call="locate_all", text=self.cases[number][1].phrase),)

    def figures(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> Figures:
        """See the base class.

        precision_f1: share of expressions for which the boxes are exactly right, F1 = 1 at IoU 0.5 (Liu et al. 2023,
        gRefCOCO); no_target_accuracy: of those that mean nothing, refused; target_accuracy: of the others, answered.
        precision and recall: mean over those that mean something, over IoU 0.5 to 0.95 (HumanRef).
        """
        numbers = list(records)
        groups = self._groups(numbers)
        rows = [self._counted(number, answers_of(records[number])[0]) for number in numbers]
        exact, refused = (np.array([row[place] for row in rows], dtype=float) for place in (0, 1))
        nothing = np.array([not self.wanted(number) for number in numbers])
        figures = {
            "precision_f1": groups.share(exact),
            "no_target_accuracy": groups.share(np.where(nothing, refused, np.nan)),
            "target_accuracy": groups.share(np.where(nothing, np.nan, 1 - refused)),
            "precision": groups.mean([row[2] for row in rows]),
            "recall": groups.mean([row[3] for row in rows]),
        }
        for kind in dict.fromkeys(self.cases[number][1].kind for number in numbers):
            own = np.array([self.cases[number][1].kind == kind for number in numbers])
            if kind:
                figures[f"precision_f1_{kind}"] = groups.share(np.where(own, exact, np.nan))
        return figures

    def quality(self, number: int, record: Mapping[str, Any]) -> float | None:
        """See the base class: F1 at IoU 0.5."""
        answer = answers_of(record)[0]
        wanted, named = len(self.wanted(number)), len(answer.boxes_xyxy_px)
        right = sum(found_once(overlaps(answer.boxes_xyxy_px, self.wanted(number)), 0.5))
        return 2 * right / (wanted + named) if wanted + named else 1.0

    def _counted(self, number: int, answer: Record) -> tuple[float, float, float, float]:
        """Exactly right, refused, precision and recall (NaN where nothing is meant)."""
        boxes, wanted = answer.boxes_xyxy_px, self.wanted(number)
        exact, refused = float(self.quality(number, {"answers": [answer.to_dict()]}) == 1.0), float(not boxes)
        if not wanted:
            return exact, refused, math.nan, math.nan
        iou = overlaps(boxes, wanted)
        right = [sum(found_once(iou, threshold)) for threshold in IOU_THRESHOLDS]
        return exact, refused, float(np.mean(right)) / len(boxes) if boxes else 0.0, float(np.mean(right)) / len(wanted)


def _area(box_xyxy_px: Box) -> float:
    x1, y1, x2, y2 = box_xyxy_px
    return (x2 - x1) * (y2 - y1)


def _names(dataset: str, split: str) -> tuple[str, ...]:
    """What the annotation file of a split may be called."""
    return tuple(
        f"{folder}{stem}{dataset}_{split}.json" for folder in ("", f"{dataset}/") for stem in ("finetune_", "")
    )


def open_refcoco(place: Place, first: str, *more: str) -> Referring:
    """One of REFCOCO, or several as one benchmark, whose sections are then named "data set split"."""
    names = {
        f"{dataset} {split}" if more else split: _names(dataset, split)
        for dataset in (first, *more)
        for split in REFCOCO[dataset]
    }
    told = f"referring expressions of {', '.join((first, *more))}: the first box named counts"
    return Referring(place, "rec" if more else first, told, names, lambda file, _split: read_pairs(file))


def open_ref_l4(place: Place) -> Referring:
    """Ref-L4."""
    names = {split: (f"ref-l4-{split}.parquet", f"ref-l4-{split}.jsonl", f"ref-l4-{split}.json") for split in _VAL_TEST}
    return RefL4(place, "ref-l4", "Ref-L4: long expressions", names, lambda file, _split: read_ref_l4(file))


def open_grefcoco(place: Place) -> ManyReferring:
    """GRefCOCO."""
    names = dict.fromkeys(REFCOCO["refcoco"], ("grefs(unc).json", "grefs.json"))
    return ManyReferring(place, "grefcoco", "gRefCOCO: expressions for several things or none", names, read_grefcoco)


def open_humanref(place: Place) -> ManyReferring:
    """HumanRef."""
    names = {"test": ("annotations.jsonl", "humanref.jsonl")}
    told = "HumanRef: expressions for people, some of whom are not there"
    return ManyReferring(place, "humanref", told, names, lambda file, _split: read_humanref(file))


_VAL_TEST = ("val", "test")
