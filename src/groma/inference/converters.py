"""Grounded answers in the shapes that other tools read. Each is a method of GroundedAnswer as well.

Every pair (phrase, region) is one detection; regions that no phrase names are left out. A region without a
phrase is called "object", as in the method's class-agnostic data.

| converter | for | boxes |
|---|---|---|
| `to_supervision` | supervision's annotators, trackers, metrics (extra `supervision`) | xyxy pixels |
| `to_coco` | pycocotools and everything that reads COCO's JSON | xywh pixels |
| `to_kosmos2` | code written for Kosmos-2's processor | xyxy normalized |
| `to_transformers_detection` | code written for transformers' Grounding DINO post-processing | xyxy pixels |
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from groma.boxes import picture_scale, to_tuples, xyxy_to_xywh
from groma.errors import InputError, MissingExtraError
from groma.inference.result import Box, GroundedAnswer

NO_PHRASE = "object"
"""What a region without a phrase is called."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One region that one phrase names."""

    label: str
    """The phrase, blanks at its ends removed."""
    box_xyxy_px: Box
    """Left, top, right, bottom in pixels of the original picture."""
    score: float
    """Confidence of the region for this phrase, 0..1."""
    region_id: int
    """Number of the region's token."""


def detections(answer: GroundedAnswer) -> Iterator[Detection]:
    """Every pair (phrase, region) of an answer, in the order of the text."""
    for entity in answer.entities:
        label = entity.phrase.strip() or NO_PHRASE
        rows = zip(entity.boxes_xyxy_px, entity.region_scores, entity.region_ids, strict=True)
        for box_xyxy_px, score, region_id in rows:
            yield Detection(label, box_xyxy_px, score, region_id)


def to_supervision(answer: GroundedAnswer) -> Any:
    """`supervision.Detections` with n rows, one a pair (phrase, region).

    `xyxy` (n, 4) float32 pixels, `confidence` (n,) float32, `class_id` (n,) int (one a phrase, from 0), and
    in `data` the phrases as "class_name" and the region numbers as "region_id".

    Raises:
        MissingExtraError: supervision is not installed.
    """
    try:
        import supervision  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise MissingExtraError(
            "to_supervision needs the package supervision: pip install 'groma[supervision]'"
        ) from None
    rows = list(detections(answer))
    class_ids = _class_ids(row.label for row in rows)
    library: Any = supervision
    return library.Detections(
        xyxy=np.array([row.box_xyxy_px for row in rows], np.float32).reshape(-1, 4),
        confidence=np.array([row.score for row in rows], np.float32),
        class_id=np.array([class_ids[row.label.casefold()] for row in rows], int),
        data={
            "class_name": np.array([row.label for row in rows], str),
            "region_id": np.array([row.region_id for row in rows], int),
        },
    )


def to_coco(answers: Sequence[GroundedAnswer], image_ids: Sequence[int]) -> dict[str, Any]:
    """A COCO dictionary: images, annotations with `bbox` [x, y, w, h] in pixels and `score`, categories.

    Categories are the phrases, upper and lower case taken together, numbered from 1 in order of appearance.
    The list under "annotations" alone is what pycocotools' `loadRes` takes as results.

    Args:
        answers: One for each picture.
        image_ids: The pictures' COCO ids, all different.

    Raises:
        InputError: The two differ in number, or an id comes twice.
    """
    if len(answers) != len(image_ids):
        raise InputError(f"to_coco got {len(answers)} answers and {len(image_ids)} image ids: one for each")
    if len(set(image_ids)) != len(image_ids):
        raise InputError("to_coco got an image id twice: merge the answers of a picture or number them apart")
    rows = [(image_id, row) for answer, image_id in zip(answers, image_ids, strict=True) for row in detections(answer)]
    class_ids = _class_ids(row.label for _, row in rows)
    names = {class_ids[row.label.casefold()]: row.label for _, row in reversed(rows)}
    annotations: list[dict[str, Any]] = []
    for number, (image_id, row) in enumerate(rows, start=1):
        box_xyxy_px = torch.tensor(row.box_xyxy_px, dtype=torch.float64)
        ((left, top, width, height),) = to_tuples(xyxy_to_xywh(box_xyxy_px))
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": class_ids[row.label.casefold()] + 1,
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": row.score,
            }
        )
    return {
        "images": [
            {"id": image_id, "width": answer.image_size_px[0], "height": answer.image_size_px[1]}
            for answer, image_id in zip(answers, image_ids, strict=True)
        ],
        "annotations": annotations,
        "categories": [{"id": index + 1, "name": names[index]} for index in sorted(names)],
    }


def to_kosmos2(answer: GroundedAnswer) -> tuple[str, list[tuple[str, tuple[int, int], list[Box]]]]:
    """What Kosmos-2's `post_process_generation` returns: (text, [(phrase, (start, end), boxes), ...]).

    Boxes are (x1, y1, x2, y2) normalized by the picture's width and height.
    """
    entities: list[tuple[str, tuple[int, int], list[Box]]] = []
    for entity in answer.entities:
        boxes_xyxy_px = torch.tensor(entity.boxes_xyxy_px, dtype=torch.float64).reshape(-1, 4)
        boxes_xyxy = boxes_xyxy_px / picture_scale(*answer.image_size_px, boxes_xyxy_px)
        entities.append((entity.phrase, (entity.start, entity.end), to_tuples(boxes_xyxy)))
    return answer.text, entities


def to_transformers_detection(answer: GroundedAnswer) -> dict[str, Any]:
    """What `post_process_grounded_object_detection` of transformers' Grounding DINO returns for a picture.

    "scores" (n,) float32, "boxes" (n, 4) float32 xyxy pixels, "text_labels" and "labels" the n phrases.
    """
    rows = list(detections(answer))
    labels = [row.label for row in rows]
    return {
        "scores": torch.tensor([row.score for row in rows], dtype=torch.float32),
        "boxes": torch.tensor([row.box_xyxy_px for row in rows], dtype=torch.float32).reshape(-1, 4),
        "text_labels": labels,
        "labels": list(labels),
    }


def _class_ids(labels: Iterator[str]) -> dict[str, int]:
    """Label in lower case -> class number from 0, in order of appearance."""
    return {label: index for index, label in enumerate(dict.fromkeys(label.casefold() for label in labels))}
