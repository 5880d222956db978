"""Average precision by the field's own tool, faster-coco-eval, on what a benchmark asked and got."""

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from groma.errors import MissingExtraError
from groma.evaluate.detections import Detected, Thing
from groma.inference.result import Box

MOST = 10**4
"""Boxes of one class in one picture that count: all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One box that was answered."""

    picture: str
    label: str
    box: Box
    """xyxy in pixels."""
    score: float


def check_installed() -> None:
    """Asked before anything is done that it would be needed for.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
    """
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise MissingExtraError("Average precision needs faster-coco-eval: pip install 'groma[evaluate]'")


def average_precision(
    pictures: Sequence[Detected], predictions: Sequence[Prediction], *, is_lvis: bool
) -> dict[str, float]:
    """AP over IoU 0.5 to 0.95 and at 0.5 and 0.75, mean over the classes that have boxes.

    Args:
        pictures: what is annotated.
        predictions: what was answered about classes that are there.
        is_lvis: by LVIS's rules: where a class is not annotated exhaustively, boxes that fit none are no mistakes.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
    """
    check_installed()
    from faster_coco_eval import COCO, COCOeval_faster  # pyright: ignore[reportMissingImports]

    if not predictions:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    ids = {one.picture: number for number, one in enumerate(pictures, start=1)}
    labels = sorted({label for one in pictures for label in one.labels})
    classes = {label: number for number, label in enumerate(labels, start=1)}
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
        truth = COCO(_truth(pictures, ids, classes, is_lvis=is_lvis))
        found = truth.loadRes(
            [
                {
                    "image_id": ids[one.picture],
                    "category_id": classes[one.label],
                    "bbox": _xywh(one.box),
                    "score": one.score,
                }
                for one in predictions
            ]
        )
        evaluation = COCOeval_faster(truth, found, "bbox", lvis_style=is_lvis)
        evaluation.params.maxDets = [1, 10, MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # thresholds, recalls, classes
    return {"ap": _mean(precision), "ap50": _mean(precision[0]), "ap75": _mean(precision[5])}


def _mean(precision: np.ndarray) -> float:
    there = precision[precision > -1]
    return float(there.mean()) if there.size else float("nan")


def _truth(
    pictures: Sequence[Detected], ids: dict[str, int], classes: dict[str, int], *, is_lvis: bool
) -> dict[str, Any]:
    images: list[dict[str, Any]] = [{"id": ids[one.picture], "width": 0, "height": 0} for one in pictures]
    categories: list[dict[str, Any]] = [{"id": number, "name": name} for name, number in classes.items()]
    if is_lvis:
        for image, one in zip(images, pictures, strict=True):
            incomplete = [classes[label] for label in one.unsure if label in classes]
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": incomplete}
        for category in categories:
            category["frequency"] = "f"  # the groups of rare and frequent classes are not asked for
    things: list[tuple[str, Thing]] = [(one.picture, thing) for one in pictures for thing in one.things]
    return {
        "images": images,
        "categories": categories,
        "annotations": [
            {
                "id": number,
                "image_id": ids[picture],
                "category_id": classes[thing.label],
                "bbox": _xywh(thing.box_xyxy_px),
                "area": thing.area_px,
                "iscrowd": 0,
            }
            for number, (picture, thing) in enumerate(things, start=1)
        ],
    }


def _xywh(box: Box) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]
