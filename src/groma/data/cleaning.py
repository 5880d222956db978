"""What can be wrong with a sample, and what is done about it: mended where nothing is lost, dropped and counted else.

A fault of one box or span costs that box or span; a fault of the sample costs the sample. Nothing is replaced by
something else, and every fault has a kind that is counted.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from groma.data.annotation import Annotation, Box, Exchange, Passage, Span

KINDS = {
    "unreadable_record": "the annotation is not as its format says",
    "missing_picture": "the picture is not there",
    "corrupt_picture": "the picture cannot be decoded",
    "wrong_size": "the picture has another size than the annotation says",
    "nothing_to_learn": "what the task needs is not there, or was dropped",
    "too_long": "not even the first turn of a dialogue fits into the model's context",
    "shortened": "the last turns of a dialogue were left out, as it does not fit into the model's context",
    "broken_box": "a box is not finite, or has no area",
    "outside_box": "a box lies outside the picture",
    "clipped_box": "a box reaches over the picture's edge and was clipped",
    "misfit_span": "a span is empty, beyond its text, or tied to no box",
    "orphan": "an annotation belongs to no picture",
}
"""Kind of fault -> what it means."""
FATAL = ("unreadable_record", "missing_picture", "corrupt_picture", "wrong_size", "nothing_to_learn", "too_long")
"""Kinds that cost the whole sample."""

EDGE_TOLERANCE = 1e-3
"""A box this little over the edge, as a share of the picture's side, was rounded and is clipped without being told."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    kind: str
    """A key of KINDS."""
    told: str
    """One sentence for people."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A sample without its faults."""

    annotation: Annotation
    """Boxes within the frame, spans within their texts and tied to existing boxes, by position; frame is known."""
    faults: tuple[Fault, ...]
    """What was wrong; none is fatal."""


class BadSampleError(Exception):
    """A sample cannot be used: carries the fault. Never leaves the data rooms."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.told)
        self.fault = fault


def clean(annotation: Annotation, size_px: tuple[int, int]) -> Cleaned:
    """Check a sample against its picture and mend what can be mended.

    Args:
        annotation: as a source gave it.
        size_px: width and height of the picture as it is seen.

    Raises:
        BadSampleError: the picture has another size than the annotation says.
    """
    frame = annotation.frame or (float(size_px[0]), float(size_px[1]))
    if not annotation.is_normalized and frame != size_px:
        found, said = "x".join(map(str, size_px)), f"{frame[0]:g}x{frame[1]:g}"
        told = f"{annotation.picture} has {found} pixels, its annotation says {said}"
        raise BadSampleError(Fault("wrong_size", told))
    faults: list[Fault] = []
    kept: dict[int, Box] = {}
    for number, box in enumerate(annotation.boxes_xyxy_frame):
        mended = _mended_box(box, frame, f"box {number} of {annotation.picture}", faults)
        if mended is not None:
            kept[number] = mended
    renumbered = {old: new for new, old in enumerate(kept)}
    labels = annotation.labels
    cleaned = replace(
        annotation,
        frame=frame,
        boxes_xyxy_frame=tuple(kept.values()),
        labels=tuple(labels[number] for number in kept) if labels else (),
        passages=tuple(_mended_passage(p, renumbered, annotation.picture, faults) for p in annotation.passages),
        exchanges=tuple(
            Exchange(
                question=_mended_passage(e.question, renumbered, annotation.picture, faults),
                answer=_mended_passage(e.answer, renumbered, annotation.picture, faults),
                grounded=e.grounded,
            )
            for e in annotation.exchanges
        ),
    )
    return Cleaned(cleaned, tuple(faults))


def _mended_box(box_xyxy: Box, frame: tuple[float, float], name: str, faults: list[Fault]) -> Box | None:
    """The part inside the frame, or None if there is none."""
    width, height = frame
    x1, y1, x2, y2 = box_xyxy
    if not all(map(math.isfinite, box_xyxy)) or x2 <= x1 or y2 <= y1:
        faults.append(Fault("broken_box", f"{name} is {_shown(box_xyxy)}"))
        return None
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        faults.append(Fault("outside_box", f"{name} is {_shown(box_xyxy)}, outside {width:g}x{height:g}"))
        return None
    over = max((abs(a - b) / side for a, b, side in zip(box_xyxy, clipped, (*frame, *frame), strict=True)))
    if over > EDGE_TOLERANCE:
        faults.append(Fault("clipped_box", f"{name} is {_shown(box_xyxy)}, over the edge of {width:g}x{height:g}"))
    return clipped


def _mended_passage(passage: Passage, renumbered: dict[int, int], picture: str, faults: list[Fault]) -> Passage:
    """Spans that fit the text, by position, with the new numbers of the boxes that are left."""
    spans = sorted(passage.spans, key=lambda span: (span.start, span.end))
    return replace(passage, spans=tuple(_mended_spans(passage.text, spans, renumbered, picture, faults)))


def _mended_spans(
    text: str, spans: Sequence[Span], renumbered: dict[int, int], picture: str, faults: list[Fault]
) -> Iterator[Span]:
    for span in spans:
        boxes = tuple(renumbered[box] for box in span.boxes if box in renumbered)
        if not 0 <= span.start < span.end <= len(text) or not text[span.start : span.end].strip() or not boxes:
            told = f"span {span.start}-{span.end} of {picture} in {text[:40]!r} ({len(text)} characters)"
            faults.append(Fault("misfit_span", told))
        else:
            yield replace(span, boxes=boxes)


def _shown(box: Box) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"
