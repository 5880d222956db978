"""Numbers on pictures, by geometry: inside, apart, beside their boxes, over little, and the same on any ground."""

import random

import numpy as np
import pytest
from PIL import Image

from groma.curate.numbering import NumberedPicture, draw_numbers
from groma.curate.placing import OUTLINE_PX, Rect, area, gap_px, place_badges, shared, tie
from groma.curate.settings import PictureSettings
from groma.errors import InputError
from groma.inference.draw import PALETTE
from groma.inference.lettering import text_color_on

CANVAS = (640, 480)
BADGE = (20, 19)
AS_IT_IS = PictureSettings(min_side_px=1, max_side_px=10_000)


def layout(seed: int, *, count: int = 10, smallest: int = 16, largest: int = 300) -> list[Rect]:
    """Boxes anywhere, of any size."""
    rng = random.Random(seed)
    boxes = []
    for _ in range(count):
        width, height = rng.randint(smallest, largest), rng.randint(smallest, largest)
        x, y = rng.randint(0, CANVAS[0] - width), rng.randint(0, CANVAS[1] - height)
        boxes.append((x, y, x + width, y + height))
    return boxes


def hidden(boxes: list[Rect], badges: list[Rect]) -> float:
    """Shares of boxes that badges hide, summed over all pairs."""
    return sum(shared(badge, box) / area(box) for badge in badges for box in boxes)


def in_the_corner(box: Rect) -> Rect:
    """Where a badge would stand without any care: inside, in the upper left corner."""
    x, y = min(box[0], CANVAS[0] - BADGE[0]), min(box[1], CANVAS[1] - BADGE[1])
    return x, y, x + BADGE[0], y + BADGE[1]


@pytest.mark.parametrize("seed", range(40))
def test_badges_are_inside_apart_and_near_their_boxes(seed):
    boxes = layout(seed)
    badges = place_badges(boxes, [BADGE] * len(boxes), CANVAS)
    for index, badge in enumerate(badges):
        assert 0 <= badge[0] < badge[2] <= CANVAS[0] and 0 <= badge[1] < badge[3] <= CANVAS[1]
        assert (badge[2] - badge[0], badge[3] - badge[1]) == BADGE
        assert gap_px(badge, boxes[index]) <= 3 * BADGE[1]
        assert all(shared(badge, other) == 0 for other in badges[:index])


def test_badges_hide_far_less_than_in_the_boxes_corners():
    ours = careless = 0.0
    for seed in range(20):
        boxes = layout(seed)
        ours += hidden(boxes, place_badges(boxes, [BADGE] * len(boxes), CANVAS))
        careless += hidden(boxes, [in_the_corner(box) for box in boxes])
    assert ours < 0.15 * careless


def test_a_small_box_is_not_hidden_by_the_badge_of_a_large_one():
    small, large = (
        (100, 80, 124, 99),
        (100, 100, 500, 400),
    )  # the small one lies where the other's badge would like to be
    badges = place_badges([small, large], [BADGE] * 2, CANVAS)
    assert shared(badges[1], small) == 0
    assert shared(badges[0], small) == 0


@pytest.mark.parametrize("pitch", [18, 24])
def test_in_a_crowd_badges_stay_apart_and_are_tied_to_their_boxes(pitch):
    boxes = [(300 + column * pitch, 220 + row * pitch, 316 + column * pitch, 236 + row * pitch)
             for row in range(2) for column in range(5)]  # fmt: skip
    badges = place_badges(boxes, [BADGE] * 10, CANVAS)
    assert all(shared(a, b) == 0 for index, a in enumerate(badges) for b in badges[:index])
    for index, (badge, box) in enumerate(zip(badges, boxes, strict=True)):
        line = tie(badge, box)
        if line is None:
            continue
        (x1, y1), (x2, y2) = line
        assert badge[0] <= x1 < badge[2] and badge[1] <= y1 < badge[3]
        assert box[0] <= x2 < box[2] and box[1] <= y2 < box[3]
        points = [(x1 + (x2 - x1) * step / 50, y1 + (y2 - y1) * step / 50) for step in range(51)]
        crossed = [other for other in badges[:index] + badges[index + 1 :]
                   if any(other[0] <= x < other[2] and other[1] <= y < other[3] for x, y in points)]  # fmt: skip
        assert crossed == []


def test_a_box_that_fills_the_picture():
    (badge,) = place_badges([(0, 0, *CANVAS)], [BADGE], CANVAS)
    assert shared(badge, (0, 0, *CANVAS)) == area(badge)


def test_where_everything_lies_in_a_box_small_ones_are_spared():
    whole, own, small = (0, 0, *CANVAS), (100, 100, 500, 400), (92, 72, 132, 110)  # around the place above the corner
    assert shared(place_badges([own, whole, small], [BADGE] * 3, CANVAS)[0], small) == 0


def test_a_small_box_is_not_hidden_by_its_own_badge():
    own = (300, 200, 330, 230)
    around = [(100, 0, 540, 195), (100, 235, 540, 480), (0, 150, 295, 280), (335, 150, 640, 280)]
    assert shared(place_badges([own, *around], [BADGE] * 5, CANVAS)[0], own) == 0  # rather over a larger one's outline


def test_a_place_that_touches_no_other_outline_is_better():
    above = 200 - BADGE[1] - OUTLINE_PX + 1  # so near to the place above the first box ends the second
    badge = place_badges([(200, 200, 300, 300), (150, 60, 400, above)], [BADGE] * 2, CANVAS)[0]
    assert badge[1] >= 200


def test_a_badge_stays_at_its_box_though_there_is_more_room_elsewhere():
    boxes = [(200, 200, 300, 300), (190, 190, 310, 310)]
    badges = place_badges(boxes, [BADGE] * 2, CANVAS)
    assert [gap_px(badge, box) for badge, box in zip(badges, boxes, strict=True)] == [0, 0]


def grounds() -> dict[str, Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    plain = {f"palette {index}": Image.new("RGB", CANVAS, color) for index, color in enumerate(PALETTE)}
    greys = {f"grey {value}": Image.new("RGB", CANVAS, (value,) * 3) for value in (0, 90, 128, 180, 255)}
    return {"noise": Image.fromarray(noise), **plain, **greys}


@pytest.fixture(scope="module")
def drawn() -> dict[str, NumberedPicture]:
    boxes = [tuple(map(float, box)) for box in layout(3)]
    return {name: draw_numbers(ground, boxes, AS_IT_IS) for name, ground in grounds().items()}


def test_a_badge_looks_the_same_on_any_ground(drawn):
    reference = drawn["grey 0"]
    for name, picture in drawn.items():
        assert picture.badges_xyxy_canvas == reference.badges_xyxy_canvas
        for badge in picture.badges_xyxy_canvas:
            assert np.array_equal(np.array(picture.image.crop(badge)), np.array(reference.image.crop(badge))), name


def test_numbers_can_be_told_apart_and_read(drawn):
    crops = [np.array(drawn["noise"].image.crop(badge)) for badge in drawn["noise"].badges_xyxy_canvas]
    for crop, color in zip(crops, PALETTE, strict=False):
        ink = np.array(text_color_on(color))
        written = (np.abs(crop.astype(int) - ink).sum(axis=2) < 30)[2:-2, 2:-2]  # without the badge's edge
        assert 0.04 < written.mean() < 0.6
        assert contrast(color, tuple(ink)) >= 4.5
    shapes = {(np.abs(crop.astype(int) - crop[3, 2]).sum(axis=2) > 200)[2:-2, 2:-2].tobytes() for crop in crops}
    assert len(shapes) == len(crops)


def luminance(color) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", [name for name in grounds() if name != "noise"])
def test_every_outline_is_seen_on_any_ground(ground):
    """Around each box runs an edge, in it a line of its colour; one of both differs clearly from the ground."""
    corners = [(20.0 + 150 * (index % 4), 40.0 + 150 * (index // 4)) for index in range(len(PALETTE))]
    boxes = [(left, top, left + 100, top + 90) for left, top in corners]
    drawn = draw_numbers(grounds()[ground], boxes, AS_IT_IS)
    pixels, color = np.array(drawn.image), grounds()[ground].getpixel((0, 0))
    for (left, top, right, bottom), own in zip(drawn.boxes_xyxy_canvas, PALETTE, strict=True):
        line, edge = own, text_color_on(own)
        for shown, row, column in ((line, bottom - 1, right - 1), (edge, bottom, right)):
            assert (pixels[row, left:right] == shown).all()
            assert (pixels[top:bottom, column] == shown).all()
        assert max(contrast(line, color), contrast(edge, color)) >= 2.0


def test_sizes():
    box = (10.0, 10.0, 60.0, 50.0)
    small = draw_numbers(Image.new("RGB", (100, 80)), [box], PictureSettings())
    assert small.image.size == (768, 614)
    assert small.boxes_xyxy_canvas == ((77, 77, 461, 384),)
    large = draw_numbers(Image.new("RGB", (3000, 2000)), [box], PictureSettings())
    assert large.image.size == (1024, 683)
    between = draw_numbers(Image.new("RGB", (800, 700)), [box], PictureSettings())
    assert between.image.size == (800, 700)
    assert between.boxes_xyxy_canvas == ((10, 10, 60, 50),)
    for drawn in (small, large, between):
        badge = drawn.badges_xyxy_canvas[0]
        assert 0.025 < (badge[3] - badge[1]) / max(drawn.image.size) < 0.045


def test_the_picture_itself_is_left_alone():
    picture = Image.new("RGB", (800, 700), "white")
    before = picture.tobytes()
    assert draw_numbers(picture, [(10, 10, 60, 50)], PictureSettings()).image is not picture
    assert picture.tobytes() == before


def test_a_picture_that_is_too_narrow():
    with pytest.raises(InputError, match="3x900 pixels is too narrow to draw numbers on"):
        draw_numbers(Image.new("RGB", (3, 900)), [(0, 0, 3, 300)], PictureSettings())
