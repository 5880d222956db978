"""Choosing regions: apart, neither too small nor too large, between limits, by a lot that the seed decides."""

import pytest
import torch

from groma.boxes import pairwise_iou
from groma.curate.regions import DROPPED, boxes_in_pixels, choose_regions, trusted_boxes
from groma.curate.settings import RegionSettings
from groma.data.annotation import NORMALIZED, Annotation, Box, Passage, Span
from groma.errors import InputError

SIZE = (400, 300)
SETTINGS = RegionSettings()


def grid(columns: int, rows: int, *, side: float = 30) -> tuple[Box, ...]:
    """Boxes that do not overlap."""
    return tuple((x * 40.0, y * 40.0, x * 40 + side, y * 40 + side) for y in range(rows) for x in range(columns))


def annotated(boxes: tuple[Box, ...], **fields) -> Annotation:
    labels = tuple(f"thing {number}" for number in range(len(boxes)))
    return Annotation(**{"picture": "a.jpg", "frame": SIZE, "boxes_xyxy_frame": boxes, "labels": labels, **fields})


def test_numbers_run_from_left_to_right_and_keep_their_texts():
    boxes = ((200.0, 10.0, 260.0, 70.0), (10.0, 200.0, 70.0, 260.0), (100.0, 5.0, 160.0, 65.0))
    regions = choose_regions(annotated(boxes), SIZE, SETTINGS, seed=0)
    assert regions.boxes_xyxy_px == (boxes[1], boxes[2], boxes[0])
    assert regions.texts == ("thing 1", "thing 2", "thing 0")
    assert regions.dropped == {}


def test_at_most_ten_by_lot():
    annotation = annotated(grid(8, 4))
    chosen = [choose_regions(annotation, SIZE, SETTINGS, seed=seed).boxes_xyxy_px for seed in (0, 0, 1)]
    assert [len(boxes) for boxes in chosen] == [10, 10, 10]
    assert chosen[0] == chosen[1] != chosen[2]
    assert choose_regions(annotation, SIZE, SETTINGS, seed=0).dropped == {"surplus": 22}
    other = choose_regions(annotated(grid(8, 4), picture="b.jpg"), SIZE, SETTINGS, seed=0)
    assert other.boxes_xyxy_px != chosen[0]


@pytest.mark.parametrize("seed", range(5))
def test_regions_hardly_overlap(seed):
    boxes = tuple((x * 9.0, y * 9.0, x * 9.0 + 60, y * 9.0 + 60) for y in range(12) for x in range(12))
    regions = choose_regions(annotated(boxes), SIZE, RegionSettings(nms_iou=0.2), seed=seed)
    ious = pairwise_iou(torch.tensor(regions.boxes_xyxy_px), torch.tensor(regions.boxes_xyxy_px)).fill_diagonal_(0)
    assert float(ious.max()) <= 0.2
    assert regions.dropped["overlapping"] > 100
    assert sum(regions.dropped.values()) + len(regions) == len(boxes)


def test_boxes_that_nobody_could_see_or_that_are_the_picture():
    boxes = (*grid(3, 1), (200.0, 200.0, 209.0, 260.0), (0.0, 0.0, 400.0, 300.0))
    regions = choose_regions(annotated(boxes), SIZE, SETTINGS, seed=0)
    assert len(regions) == 3
    assert regions.dropped == {"small": 1, "large": 1}


def test_every_reason_is_documented():
    assert {"small", "large", "overlapping", "surplus", "untrusted"} == set(DROPPED)


def test_no_boxes_and_no_labels():
    assert len(choose_regions(annotated(()), SIZE, SETTINGS, seed=0)) == 0
    unlabelled = choose_regions(annotated(grid(3, 1), labels=()), SIZE, SETTINGS, seed=0)
    assert unlabelled.texts == ("", "", "")


def test_normalized_boxes_become_pixels():
    annotation = annotated(((0.1, 0.2, 0.5, 0.6),), frame=NORMALIZED)
    assert boxes_in_pixels(annotation, SIZE) == ((40.0, 60.0, 200.0, 180.0),)
    assert boxes_in_pixels(annotated(((1.0, 2.0, 3.004, 4.0),), frame=None), SIZE) == ((1.0, 2.0, 3.0, 4.0),)


def test_texts_are_one_line():
    regions = choose_regions(annotated(grid(1, 1), labels=(" a\n big  dog ",)), SIZE, SETTINGS, seed=0)
    assert regions.texts == ("a big dog",)


def test_spans_of_captions_follow_their_boxes():
    boxes = ((200.0, 10.0, 260.0, 70.0), (10.0, 200.0, 70.0, 260.0), (100.0, 5.0, 103.0, 65.0))
    caption = Passage("A dog and a cat by a pole.", (Span(0, 5, (0,)), Span(10, 15, (1, 0)), Span(19, 25, (2,))))
    annotation = annotated(boxes, passages=(caption, Passage("  ")))
    regions = choose_regions(annotation, SIZE, SETTINGS, seed=0)  # the third box is too narrow
    assert regions.captions == (Passage(caption.text, (Span(0, 5, (1,)), Span(10, 15, (0, 1)))),)


def test_of_nested_spans_the_outer_one_is_kept():
    caption = Passage("the dog's red collar", (Span(0, 20, (0,)), Span(0, 7, (1,)), Span(10, 20, (0,))))
    regions = choose_regions(annotated(grid(2, 1), passages=(caption,)), SIZE, SETTINGS, seed=0)
    assert regions.captions[0].spans == (Span(0, 20, (0,)),)


def test_trusted_boxes_confirm_and_correct():
    loose = annotated(
        ((12.0, 8.0, 62.0, 60.0), (100.0, 100.0, 180.0, 180.0), (300.0, 10.0, 340.0, 60.0)),
        passages=(Passage("one, two", (Span(0, 3, (0,)), Span(5, 8, (1,)))),),
    )
    exact = annotated(((10.0, 10.0, 60.0, 60.0), (300.0, 100.0, 340.0, 160.0)), labels=("x", "y"))
    confirmed = trusted_boxes(loose, exact, min_iou=0.5)
    assert confirmed.boxes_xyxy_frame == ((10.0, 10.0, 60.0, 60.0),)
    assert confirmed.labels == ("thing 0",)
    assert confirmed.passages == (Passage("one, two", (Span(0, 3, (0,)),)),)
    assert trusted_boxes(loose, annotated(()), min_iou=0.5).boxes_xyxy_frame == ()
    assert trusted_boxes(annotated(()), exact, min_iou=0.5) == annotated(())
    with pytest.raises(InputError, match="measured in"):
        trusted_boxes(loose, annotated((), frame=(40.0, 30.0)), min_iou=0.5)
