"""Augmentation by geometry: a painted mark is where its box says, whatever was cut and mirrored."""

import numpy as np
import pytest
from PIL import Image

from groma.data.augment import (
    WHOLE,
    Augmentation,
    Cut,
    apply_to_boxes,
    apply_to_picture,
    draw_cut,
    visible,
)
from groma.errors import InputError

SIDE = 112


def marked(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (width, height))
    picture.paste((255, 0, 0), box)
    return picture


@pytest.mark.parametrize("size", [(640, 480), (300, 700), (100, 90), (2000, 200)])
def test_a_mark_is_where_its_box_says(size):
    rng = np.random.default_rng(5)
    mirrored, clipped = set(), 0
    for _ in range(60):
        width, height = size
        x1, y1 = int(rng.integers(width - 20)), int(rng.integers(height - 20))
        box = (x1, y1, int(rng.integers(x1 + 10, width)), int(rng.integers(y1 + 10, height)))
        boxes = np.array([box], dtype=float)
        cut = draw_cut(size, boxes, Augmentation(), side_px=SIDE, rng=rng)
        shown = apply_to_boxes(boxes, cut)[0]
        pixels = apply_to_picture(marked(width, height, box), cut, side_px=SIDE, resample="box")
        rows, columns = np.nonzero(pixels[..., 0] > 127)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) if len(rows) else None
        mirrored.add(cut.mirrored)
        clipped += bool((shown == 0).any() or (shown == 1).any())
        assert shown[2] > shown[0] and shown[3] > shown[1]  # the crop shows a part of the one box
        if found is not None:
            np.testing.assert_allclose(found, shown * SIDE, atol=1.01)
    assert mirrored == {True, False} and 0 < clipped < 60


def test_sizes_are_drawn_as_published():
    rng = np.random.default_rng(0)
    none = np.zeros((0, 4))
    sides = []
    for _ in range(400):
        x1, y1, x2, y2 = draw_cut((800, 800), none, Augmentation(), side_px=448, rng=rng).box_xyxy_px
        sides.append((x2 - x1, y2 - y1))
    widths = np.array(sides)[:, 0]
    # resized to 400, 500 or 600; a crop of 448 to 896 px of it: all of the first, at least 448/500 and 448/600 else
    assert widths.max() <= 800 + 1e-6 and widths.min() >= 448 / 600 * 800 - 1e-6
    assert 0.3 < np.mean(np.isclose(widths, 800)) < 0.45
    assert draw_cut((800, 600), none, WHOLE, side_px=448, rng=rng) == Cut((0.0, 0.0, 800.0, 600.0), mirrored=False)


def test_a_mirrored_box_keeps_its_order():
    cut = Cut((0.0, 0.0, 10.0, 10.0), mirrored=True)
    np.testing.assert_allclose(apply_to_boxes(np.array([[1.0, 2, 4, 6]]), cut), [[0.6, 0.2, 0.9, 0.6]])


def test_boxes_too_small_or_of_wrong_area_are_not_taught():
    boxes = np.array([[0, 0, 0.01, 0.5], [0, 0, 0.5, 0.5], [0, 0, 0.03, 0.03], [0.2, 0.2, 0.2, 0.4]])
    everything, some = (0.0, np.inf), (14.0**2, 400.0**2)
    assert visible(boxes, side_px=448, min_side_px=2.0, area_px=everything).tolist() == [True, True, True, False]
    assert visible(boxes, side_px=448, min_side_px=2.0, area_px=some).tolist() == [True, True, False, False]
    assert visible(np.zeros((0, 4)), side_px=448, min_side_px=2.0, area_px=some).shape == (0,)


@pytest.mark.parametrize("changes", [{"short_sides_px": ()}, {"crop_px": (9, 3)}, {"flip": 1.5}])
def test_nonsense_is_refused(changes):
    with pytest.raises(InputError, match="Augmentation"):
        Augmentation(**changes)
