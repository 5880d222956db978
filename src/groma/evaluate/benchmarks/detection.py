"""Benchmarks of detection files: locate all of a class (LVIS-Ground), and what the proposer finds.

Recall is average recall over IoU 0.5 to 0.95 as the COCO evaluation defines it; sizes are COCO's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from groma.evaluate.average_precision import Prediction, average_precision, check_installed
from groma.evaluate.benchmark import Figures, QuestionBenchmark, answers_of
from groma.evaluate.data_folder import PictureFolder, Place, find_annotations, identity_of_files, spaced
from groma.evaluate.detections import Detected, Thing, read_detections, spoken
from groma.evaluate.matching import AREAS_PX, IOU_THRESHOLDS, found_once, overlaps, recalled
from groma.evaluate.measures import Groups, Measure, Weights
from groma.evaluate.questions import Question, Record
from groma.evaluate.statistics import calibration_error, calibration_sums
from groma.inference.result import Box

NAMES = {
    "val": (
        "lvis_ground.json",
        "lvis_v1_minival.json",
        "lvis_v1_val.json",
        "instances_val2017.json",
        "val.json",
        "annotations.json",
    )
}
"""What an LVIS- or COCO-style file of held-out pictures may be called."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One class in one picture."""

    detected: Detected
    label: str

    @property
    def things(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.detected.things if thing.label == self.label)


class _OneFile(QuestionBenchmark):
    """A benchmark of one detection file."""

    def __init__(self, place: Place) -> None:
        ((self.split, file),) = list(find_annotations(place, NAMES, benchmark=self.name).items())[:1]
        self.read = read_detections(file)
        self.place = place
        with_things = [one for one in self.read.pictures if one.things]
        self.detected = [with_things[number] for number in spaced(len(with_things), place.n)]
        self.pictures = PictureFolder(place, (one.picture for one in self.detected))

    @property
    def sections(self) -> Sequence[str]:
        """See the base class: the file's name is the only one."""
        return (self.split,)

    def section_of(self, number: int) -> str:
        """See the base class."""
        return self.split

    def identity(self) -> dict[str, Any]:
        """See the base class."""
        return {"files": identity_of_files([self.read.file]), "n": self.place.n, "seed": self.place.seed}


class LvisGround(_OneFile):
    """For each picture and class: "locate all" (paper, section 4.2 and table 3)."""

    name = "lvis-ground"
    told = "every class of every picture: locate all; recall of the first k boxes, k as many as there are"
    main_metric = "ar"

    def __init__(self, place: Place) -> None:
        """Open it; see `_OneFile`.

        Raises:
            MissingExtraError: faster-coco-eval is not installed.
            InputError: the data are not there or of another format.
        """
        check_installed()
        super().__init__(place)
        self.cases = [_Case(one, label) for one in self.detected for label in one.labels]

    def __len__(self) -> int:
        return len(self.cases)

    def picture(self, number: int) -> Image.Image:
        """See the base class."""
        return self.pictures.open(self.cases[number].detected.picture)

    def questions(self, number: int) -> Sequence[Question]:
        """See the base class."""
        return (Question(call="locate_all", text=spoken(self.cases[number].label)),)

    def wanted(self, number: int) -> tuple[Box, ...]:
        """See the base class."""
        return tuple(thing.box_xyxy_px for thing in self.cases[number].things)

    def figures(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> Figures:
        """See the base class.

        ar, ar50, ar75, ar_small, ...: mean over classes of the recall of the first k boxes, every box having score 1,
        as published. ar_all, ap, ap50: the same and average precision of all boxes with the model's own scores, over
        the classes that were asked for. unanswered: share of questions without a box.
        """
        numbers = list(records)
        groups = Groups([self.cases[number].detected.picture for number in numbers])
        answers = [answers_of(records[number])[0] for number in numbers]
        labels = {label: place for place, label in enumerate(sorted({self.cases[n].label for n in numbers}))}
        of_class = np.array([labels[self.cases[number].label] for number in numbers])
        figures: Figures = {}
        for size, (least, most) in AREAS_PX.items():
            found, wanted = self._found(numbers, answers, least, most, first=True)
            for metric, rows in _metrics_of(size).items():
                figures[metric] = _class_recall(groups, of_class, found[:, rows], wanted)
        found, wanted = self._found(numbers, answers, *AREAS_PX["all"], first=False)
        figures["ar_all"] = _class_recall(groups, of_class, found, wanted)
        figures |= self._precision(numbers, answers, groups)
        scored = self.reliability(section, records)
        rows = [calibration_sums(own) for own in scored]
        return figures | {
            "unanswered": groups.share([not answer.boxes_xyxy_px for answer in answers]),
            "ece": groups.of_sums(rows, calibration_error, cases=sum(map(len, scored))),
        }

    def reliability(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> list[list[tuple[float, bool]]]:
        """Of each case: (confidence, whether it is right at IoU 0.5) of every box named."""
        scored: list[list[tuple[float, bool]]] = []
        for number, record in records.items():
            answer = answers_of(record)[0]
            right = found_once(overlaps(answer.boxes_xyxy_px, self.wanted(number)), 0.5)
            scored.append(list(zip(answer.scores, right, strict=True)))
        return scored

    def quality(self, number: int, record: Mapping[str, Any]) -> float | None:
        """See the base class: F1 at IoU 0.5."""
        answer, wanted = answers_of(record)[0], self.wanted(number)
        right = sum(found_once(overlaps(answer.boxes_xyxy_px, wanted), 0.5))
        return 2 * right / (len(wanted) + len(answer.boxes_xyxy_px))

    def _found(
        self, numbers: Sequence[int], answers: Sequence[Record], least: float, most: float, *, first: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n, 10) boxes found at each threshold and (n,) boxes that count, of a size."""
        found = np.zeros((len(numbers), len(IOU_THRESHOLDS)), dtype=np.int64)
        wanted = np.zeros(len(numbers), dtype=np.int64)
        for row, (number, answer) in enumerate(zip(numbers, answers, strict=True)):
            things = self.cases[number].things
            counts = np.array([least <= thing.area_px <= most for thing in things])
            boxes, scores = answer.boxes_xyxy_px, np.array(answer.scores)
            if first:
                boxes = boxes[: len(things)]
            else:
                boxes = [boxes[place] for place in np.argsort(-scores, kind="stable")]
            found[row] = recalled(overlaps(boxes, self.wanted(number)), counts)
            wanted[row] = counts.sum()
        return found, wanted

    def _precision(self, numbers: Sequence[int], answers: Sequence[Record], groups: Groups) -> Figures:
        predictions = [
            Prediction(
                picture=self.cases[number].detected.picture, label=self.cases[number].label, box=box, score=score
            )
            for number, answer in zip(numbers, answers, strict=True)
            for box, score in zip(answer.boxes_xyxy_px, answer.scores, strict=True)
        ]
        asked = {self.cases[number].detected.picture: self.cases[number].detected for number in numbers}
        values = average_precision(list(asked.values()), predictions, is_lvis=self.read.is_lvis)
        return {metric: groups.fixed(value, cases=len(numbers)) for metric, value in values.items()}


def _metrics_of(size: str) -> dict[str, slice]:
    """Metric -> thresholds it is averaged over."""
    if size == "all":
        return {"ar": slice(None), "ar50": slice(0, 1), "ar75": slice(5, 6)}
    return {f"ar_{size}": slice(None)}


def _class_recall(
    groups: Groups, of_class: NDArray[np.int64], found: NDArray[np.int64], wanted: NDArray[np.int64]
) -> Measure:
    """Recall of each class over all pictures, averaged over thresholds and over classes that have boxes of the size."""
    per_threshold = found.mean(axis=1)

    def value(weights: Weights) -> float:
        hits = np.bincount(of_class, weights * per_threshold)
        boxes = np.bincount(of_class, weights * wanted)
        there = boxes > 0
        return float((hits[there] / boxes[there]).mean()) if there.any() else float("nan")

    return groups.of_weights(value, cases=int(wanted.sum()))


class ProposerRecall(_OneFile):
    """What the region proposer finds, whatever it is."""

    name = "proposals"
    told = "class-agnostic average recall of the proposer's best 10, 100 and 300 boxes, and of the selected regions"
    main_metric = "ar100"

    BUDGETS = (10, 100, 300)

    def __len__(self) -> int:
        return len(self.detected)

    def picture(self, number: int) -> Image.Image:
        """See the base class."""
        return self.pictures.open(self.detected[number].picture)

    def questions(self, number: int) -> Sequence[Question]:
        """See the base class."""
        return (Question(call="proposals"), Question(call="regions"))

    def wanted(self, number: int) -> tuple[Box, ...]:
        """See the base class."""
        return tuple(thing.box_xyxy_px for thing in self.detected[number].things)

    def figures(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> Figures:
        """See the base class: ar10, ar100, ar300, ar_small, ... of the best 300, selected50 and selected75 regions."""
        numbers = list(records)
        groups = Groups([self.detected[number].picture for number in numbers])
        proposals, selected = zip(*(answers_of(records[number]) for number in numbers), strict=True)
        figures: Figures = {}
        for budget in self.BUDGETS:
            figures[f"ar{budget}"] = self._recall(groups, numbers, proposals, budget, "all", slice(None))
        for size in ("small", "medium", "large"):
            figures[f"ar_{size}"] = self._recall(groups, numbers, proposals, max(self.BUDGETS), size, slice(None))
        for metric, rows in {"selected50": slice(0, 1), "selected75": slice(5, 6), "selected_ar": slice(None)}.items():
            figures[metric] = self._recall(groups, numbers, selected, 10**6, "all", rows)
        figures["regions"] = groups.mean([len(one.regions_xyxy_px) for one in selected], at_most=float("inf"))
        return figures

    def quality(self, number: int, record: Mapping[str, Any]) -> float | None:
        """See the base class: share of boxes that a selected region finds at IoU 0.5."""
        wanted = self.wanted(number)
        iou = overlaps(answers_of(record)[1].regions_xyxy_px, wanted)
        return float((iou.max(axis=0) >= 0.5).mean()) if iou.size else 0.0

    def _recall(
        self, groups: Groups, numbers: Sequence[int], found: Sequence[Record], budget: int, size: str, rows: slice
    ) -> Measure:
        least, most = AREAS_PX[size]
        above, below = np.zeros(len(numbers)), np.zeros(len(numbers))
        for place, (number, one) in enumerate(zip(numbers, found, strict=True)):
            counts = np.array([least <= thing.area_px <= most for thing in self.detected[number].things])
            iou = overlaps(one.regions_xyxy_px[:budget], self.wanted(number))
            above[place], below[place] = recalled(iou, counts)[rows].mean(), counts.sum()
        return groups.ratio(above, below, cases=int(below.sum()))


OPENERS: dict[str, Callable[[Place], QuestionBenchmark]] = {"lvis-ground": LvisGround, "proposals": ProposerRecall}
"""Name -> benchmark."""
