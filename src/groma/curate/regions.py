"""Chooses the regions of a picture that a conversation is about: boxes that hardly overlap, 3 to 10, by lot.

    annotation -> boxes that can be seen -> drawn by lot, those that overlap dropped -> numbered from left to right

The lot depends on the seed and the picture's name alone, so that a second run chooses the same.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from groma.boxes import pairwise_iou, suppress_overlaps
from groma.curate.settings import RegionSettings
from groma.data.annotation import Annotation, Box, Passage, Span
from groma.errors import InputError

DROPPED = {
    "small": "narrower or lower than `regions.min_side` of the picture's longer side",
    "large": "covers more than `regions.max_area` of the picture",
    "overlapping": "overlaps a region that was drawn before it by more than `regions.nms_iou`",
    "surplus": "the picture has `regions.most` regions already",
    "untrusted": "no box of the trusted annotations lies where it does",
}
"""Why a box became no region -> what that means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """The n regions of a picture; region k has the number k + 1."""

    size_px: tuple[int, int]
    """Width and height of the picture."""
    boxes_xyxy_px: tuple[Box, ...]
    """n boxes: left, top, right, bottom in pixels of the picture."""
    texts: tuple[str, ...]
    """n descriptions; empty where a region has none."""
    captions: tuple[Passage, ...] = ()
    """Captions of the picture; the boxes of their spans are regions (0 .. n-1)."""
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    """Why boxes became no regions (a key of DROPPED) -> how many."""

    def __len__(self) -> int:
        return len(self.boxes_xyxy_px)


def choose_regions(annotation: Annotation, size_px: tuple[int, int], settings: RegionSettings, *, seed: int) -> Regions:
    """Choose regions; there may be fewer than `settings.least` of them, which is for the caller to judge.

    Args:
        annotation: Cleaned, so that its boxes have an area and lie in the picture (groma.data.cleaning).
        size_px: Width and height of the picture.
        settings: Which boxes are taken.
        seed: Of the lot.
    """
    boxes_xyxy_px = boxes_in_pixels(annotation, size_px)
    dropped: Counter[str] = Counter()
    seen = [row for row, box in enumerate(boxes_xyxy_px) if not _unfit(box, size_px, settings, dropped)]
    random.Random(f"{seed}:{annotation.picture}").shuffle(seen)
    apart: list[int] = []
    if seen:
        corners = torch.tensor([boxes_xyxy_px[row] for row in seen], dtype=torch.float64)
        apart = [seen[row] for row in suppress_overlaps(corners, settings.nms_iou, len(seen))]
    dropped["overlapping"] = len(seen) - len(apart)
    dropped["surplus"] = max(0, len(apart) - settings.most)
    chosen = sorted(apart[: settings.most], key=lambda row: boxes_xyxy_px[row])  # from left to right
    number_of = {row: number for number, row in enumerate(chosen)}
    return Regions(
        size_px=size_px,
        boxes_xyxy_px=tuple(boxes_xyxy_px[row] for row in chosen),
        texts=tuple(_one_line(annotation.labels[row]) if annotation.labels else "" for row in chosen),
        captions=tuple(_renumbered(passage, number_of) for passage in annotation.passages if passage.text.strip()),
        dropped=dict(+dropped),  # a plain one: asdict would count the pairs of a Counter
    )


def boxes_in_pixels(annotation: Annotation, size_px: tuple[int, int]) -> tuple[Box, ...]:
    """The boxes of an annotation in pixels of its picture, rounded to a hundredth, in their order."""
    frame = annotation.frame or size_px
    across, down = size_px[0] / frame[0], size_px[1] / frame[1]
    return tuple(
        (round(x1 * across, 2), round(y1 * down, 2), round(x2 * across, 2), round(y2 * down, 2))
        for x1, y1, x2, y2 in annotation.boxes_xyxy_frame
    )


def trusted_boxes(annotation: Annotation, trusted: Annotation, *, min_iou: float) -> Annotation:
    """Keep the boxes that a cleaner annotation of the same picture confirms, and take its coordinates.

    This is how loosely drawn boxes with rich descriptions and exact boxes with class names become exact boxes with rich
    descriptions. Both annotations must be cleaned (groma.data.cleaning). What a dropped box was named by in captions is
    tied to nothing.

    Args:
        annotation: n boxes with descriptions.
        trusted: Exact boxes, measured in the same frame.
        min_iou: How much a trusted box must overlap a box to confirm it.

    Returns:
        The annotation with m <= n boxes.

    Raises:
        InputError: The two are measured in different frames.
    """
    if annotation.frame != trusted.frame:
        raise InputError(
            f"{annotation.picture}: the trusted boxes are measured in {trusted.frame}, the annotation's in "
            f"{annotation.frame}: both must be about the same picture at the same size"
        )
    if not annotation.boxes_xyxy_frame:
        return annotation
    moved = _confirmed(annotation.boxes_xyxy_frame, trusted.boxes_xyxy_frame, min_iou)
    number_of = {row: number for number, row in enumerate(moved)}
    return replace(
        annotation,
        boxes_xyxy_frame=tuple(moved.values()),
        labels=tuple(annotation.labels[row] for row in moved) if annotation.labels else (),
        passages=tuple(_renumbered(passage, number_of) for passage in annotation.passages),
        exchanges=(),
    )


def _confirmed(boxes_xyxy: Sequence[Box], trusted_xyxy: Sequence[Box], min_iou: float) -> dict[int, Box]:
    """Row of a confirmed box -> the trusted box that overlaps it most; boxes are in one unit."""
    if not trusted_xyxy:
        return {}
    ious = pairwise_iou(torch.tensor(boxes_xyxy, dtype=torch.float64), torch.tensor(trusted_xyxy, dtype=torch.float64))
    best, partner = ious.max(dim=1)
    return {row: trusted_xyxy[int(partner[row])] for row in range(len(boxes_xyxy)) if float(best[row]) >= min_iou}


def _unfit(box_xyxy_px: Box, size_px: tuple[int, int], settings: RegionSettings, dropped: Counter[str]) -> bool:
    """Whether a box can be no region; counts why."""
    width, height = box_xyxy_px[2] - box_xyxy_px[0], box_xyxy_px[3] - box_xyxy_px[1]
    reason = ""
    if min(width, height) < max(settings.min_side * max(size_px), 1.0):
        reason = "small"
    elif width * height > settings.max_area * size_px[0] * size_px[1]:
        reason = "large"
    if reason:
        dropped[reason] += 1
    return bool(reason)


def _renumbered(passage: Passage, number_of: Mapping[int, int]) -> Passage:
    """The passage with those spans whose boxes were all kept, under their new numbers, none inside another."""
    spans: list[Span] = []
    for span in sorted(passage.spans, key=lambda span: (span.start, -span.end)):
        is_apart = not spans or spans[-1].end <= span.start
        if span.boxes and all(box in number_of for box in span.boxes) and is_apart:
            spans.append(replace(span, boxes=tuple(number_of[box] for box in span.boxes)))
    return replace(passage, spans=tuple(spans))


def _one_line(text: str) -> str:
    return " ".join(text.split())
