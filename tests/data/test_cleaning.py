"""Faults of boxes and spans cost these alone, are named by kind, and leave numbers that fit."""

import pytest

from groma.data.annotation import NORMALIZED, Annotation, Exchange, Passage, Span
from groma.data.cleaning import FATAL, KINDS, BadSampleError, clean

NAN = float("nan")


def annotation(**changes) -> Annotation:
    return Annotation(**{"picture": "a.jpg", "frame": (100.0, 50.0)} | changes)


@pytest.mark.parametrize(
    ("box", "kept", "kind"),
    [
        ((10, 10, 20, 20), (10, 10, 20, 20), None),
        ((-10, 10, 20, 60), (0, 10, 20, 50), "clipped_box"),
        ((0, 0, 100.04, 50), (0, 0, 100, 50), None),  # rounding
        ((100, 0, 120, 50), None, "outside_box"),
        ((20, 10, 10, 20), None, "broken_box"),
        ((10, 10, 10, 20), None, "broken_box"),
        ((NAN, 10, 20, 20), None, "broken_box"),
        ((0, 0, float("inf"), 5), None, "broken_box"),
    ],
)
def test_boxes(box, kept, kind):
    cleaned = clean(annotation(boxes_xyxy_frame=(box,)), (100, 50))
    assert cleaned.annotation.boxes_xyxy_frame == (() if kept is None else (kept,))
    assert [fault.kind for fault in cleaned.faults] == ([] if kind is None else [kind])


def test_numbers_follow_the_boxes_that_stay():
    text = "A dog and a cat and a cow"
    before = annotation(
        boxes_xyxy_frame=((0, 0, 0, 0), (1, 1, 2, 2), (3, 3, 4, 4)),
        labels=("dog", "cat", "cow"),
        passages=(Passage(text, (Span(20, 25, (2, 0)), Span(0, 5, (0,)), Span(10, 15, (1,)))),),
        exchanges=(Exchange(question=Passage("[1]?", (Span(0, 3, (2,)),)), answer=Passage("Yes.")),),
    )
    cleaned = clean(before, (100, 50))
    after = cleaned.annotation
    assert after.labels == ("cat", "cow") and len(after.boxes_xyxy_frame) == 2
    assert after.passages[0].spans == (Span(10, 15, (0,)), Span(20, 25, (1,)))
    assert after.exchanges[0].question.spans == (Span(0, 3, (1,)),)
    assert [fault.kind for fault in cleaned.faults] == ["broken_box", "misfit_span"]


@pytest.mark.parametrize(
    "span", [Span(0, 9, (0,)), Span(3, 3, (0,)), Span(-1, 2, (0,)), Span(1, 2, (0,)), Span(0, 1, (7,))]
)
def test_spans_that_do_not_fit_their_text(span):
    before = annotation(boxes_xyxy_frame=((1, 1, 2, 2),), passages=(Passage("a b", (span,)),))
    cleaned = clean(before, (100, 50))
    assert cleaned.annotation.passages == (Passage("a b"),)
    assert [fault.kind for fault in cleaned.faults] == ["misfit_span"]


def test_a_picture_of_another_size_costs_the_sample():
    with pytest.raises(BadSampleError, match=r"a\.jpg has 50x100 pixels, its annotation says 100x50"):
        clean(annotation(), (50, 100))
    assert clean(annotation(frame=NORMALIZED, boxes_xyxy_frame=((0, 0, 1, 1),)), (7, 9)).faults == ()
    assert clean(annotation(frame=None, boxes_xyxy_frame=((0, 0, 7, 9),)), (7, 9)).annotation.frame == (7.0, 9.0)


def test_fatal_kinds_are_known():
    assert set(FATAL) <= KINDS.keys()
