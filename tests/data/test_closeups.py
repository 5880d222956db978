"""Close-ups: boxes lie inside, on what they boxed before, and the object that one was made for is whole."""

import numpy as np
import pytest

from groma.data.scenes.closeups import close_ups
from groma.data.scenes.scene import Scene, SceneObject, make_scene

SIDE = 64


@pytest.fixture(scope="module")
def cut() -> list[tuple[Scene, list[Scene]]]:
    scenes = [make_scene("train", index, 21, size_px=224) for index in range(25)]
    return [(scene, close_ups(scene, SIDE, np.random.default_rng(k))) for k, scene in enumerate(scenes)]


def test_one_for_each_object_with_boxes_inside(cut):
    for scene, closes in cut:
        assert len(closes) == len(scene.objects)
        for entry, close in zip(scene.objects, closes, strict=True):
            assert close.image.shape == (SIDE, SIDE, 3) and close.image.dtype == np.uint8
            names = [(other.name, other.colour, other.style) for other in close.objects]
            assert (entry.name, entry.colour, entry.style) in names
            for other in close.objects:
                x1, y1, x2, y2 = other.box_xyxy_px
                assert 0 <= x1 < x2 <= SIDE and 0 <= y1 < y2 <= SIDE
                assert 0 < other.visible_share <= 1


def test_its_own_object_is_whole_and_large(cut):
    for scene, closes in cut:
        for entry, close in zip(scene.objects, closes, strict=True):
            x1, y1, x2, y2 = entry.box_xyxy_px
            wanted = (x2 - x1) / (y2 - y1)
            own = [o for o in close.objects if o.name == entry.name and o.visible_share == entry.visible_share]
            sides = [(o.box_xyxy_px[2] - o.box_xyxy_px[0], o.box_xyxy_px[3] - o.box_xyxy_px[1]) for o in own]
            fitting = [s for s in sides if max(s) >= SIDE / 2.3 and abs(s[0] - wanted * s[1]) <= 2 + 0.1 * max(s)]
            assert fitting, f"{entry} in {close.objects}"


def plain_scene() -> Scene:
    """Boxes filled with colours of their own on black: what a box shows can be read from the pixels."""
    image = np.zeros((200, 200, 3), np.uint8)
    boxes = ((20, 30, 60, 90), (70, 40, 150, 120), (150, 150, 190, 180))
    objects = []
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2, number] = 255
        objects.append(
            SceneObject(
                name=str(number),
                colour=None,
                style="",
                box_xyxy_px=(x1, y1, x2, y2),
                visible_share=1.0,
                may_be_called=frozenset(),
            )
        )
    return Scene(image=image, objects=tuple(objects), background="")


@pytest.mark.parametrize("seed", range(12))
def test_boxes_move_with_the_pixels(seed):
    scene = plain_scene()
    for entry, close in zip(scene.objects, close_ups(scene, 100, np.random.default_rng(seed)), strict=True):
        shown = {other.name: other for other in close.objects}
        assert entry.name in shown
        for name, other in shown.items():
            rows, columns = np.nonzero(close.image[..., int(name)] > 127)
            seen = np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            assert np.abs(seen - np.array(other.box_xyxy_px)).max() <= 2
        for number in {"0", "1", "2"} - set(shown):  # less than half of it may be in the window
            x1, y1, x2, y2 = scene.objects[int(number)].box_xyxy_px
            ex1, _, ex2, ey2 = entry.box_xyxy_px
            scale = 100 * max(ex2 - ex1, ey2 - entry.box_xyxy_px[1]) / 200  # at least: the window is at most 2.2 sides
            assert (close.image[..., int(number)] > 127).sum() <= 0.55 * (x2 - x1) * (y2 - y1) * scale**2


def test_what_is_cut_is_less_visible():
    shares = [
        (other.visible_share, other.box_xyxy_px)
        for seed in range(40)
        for close in close_ups(plain_scene(), 100, np.random.default_rng(seed))
        for other in close.objects
    ]
    cut_off = [share for share, box in shares if share < 1]
    assert cut_off and all(share >= 0.5 for share in cut_off)
    assert all(0 in box or 100 in box for share, box in shares if share < 1), "only at the border"


def test_the_same_choices_give_the_same_close_ups():
    scene = make_scene("train", 3, 0, size_px=96)
    first, again, other = (close_ups(scene, 32, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(a.image, b.image) and a.objects == b.objects for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a.image, b.image) for a, b in zip(first, other, strict=True))
