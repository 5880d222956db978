"""Scenes: what is promised about splits, contents, boxes and speed."""

import hashlib
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from groma.data.scenes.atlas import atlas
from groma.data.scenes.backgrounds import BACKGROUNDS
from groma.data.scenes.cast import SPLITS, cast_residue, draw_cast, find_split
from groma.data.scenes.colours import COLOURS
from groma.data.scenes.cutout import Pose, draw_cutout
from groma.data.scenes.placing import place
from groma.data.scenes.scene import Scene, make_scene
from groma.errors import InputError

COUNT = 300
SIZE_PX = 168
UPRIGHT = {"angle": 0.0, "flipped": False, "gain": 1.0, "jitter": (1.0, 1.0, 1.0)}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene("train", index, 5, size_px=SIZE_PX) for index in range(COUNT)]


def sides(scene: Scene) -> list[float]:
    return [max(x2 - x1, y2 - y1) / scene.size_px for x1, y1, x2, y2 in boxes(scene)]


def boxes(scene: Scene) -> list[tuple[int, int, int, int]]:
    return [entry.box_xyxy_px for entry in scene.objects]


def meet(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def cast_of(scene: Scene) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((entry.name, entry.colour or "") for entry in scene.objects))


def digest(split: str, seed: int) -> str:
    made = [make_scene(split, index, seed, size_px=96) for index in range(5)]
    facts = [[(entry.name, entry.box_xyxy_px, sorted(entry.may_be_called)) for entry in s.objects] for s in made]
    pixels = b"".join(scene.image.tobytes() for scene in made)
    return hashlib.sha256(pixels + repr(facts).encode()).hexdigest()


def test_same_arguments_give_the_same_scene_in_another_process() -> None:
    code = f"import sys; sys.path.insert(0, {str(__file__.rsplit('/', 1)[0])!r}); import test_scenes"
    code += "; print(test_scenes.digest('test', 7))"
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert digest("test", 7) == other
    assert digest("test", 8) != other
    assert digest("train", 7) != other


def test_a_scene_depends_neither_on_the_scenes_before_it_nor_on_sharing() -> None:
    first = make_scene("train", 3, 0, size_px=96)
    first.image[:] = 0
    make_scene("train", 4, 0, size_px=96)
    again = make_scene("train", 3, 0, size_px=96)
    assert again.image.any()
    assert again.objects == first.objects


@pytest.mark.parametrize("size_px", [64, 224, 448])
def test_names_and_colours_do_not_depend_on_the_size(size_px: int) -> None:
    for index in range(5):
        scene = make_scene("validation", index, 0, size_px=size_px)
        assert scene.image.shape == (size_px, size_px, 3)
        assert scene.image.dtype == np.uint8
        assert cast_of(scene) == cast_of(make_scene("validation", index, 0, size_px=100))
        assert all(0.1 <= side <= 0.5 for side in sides(scene))


def test_splits_never_share_a_cast() -> None:
    casts: dict[str, set] = {}
    for name, split in SPLITS.items():
        for index in range(150):
            rng = np.random.default_rng((split.identity, index))
            members = draw_cast(split, rng)
            pairs = [(member.name, member.colour) for member in members]
            assert cast_residue(pairs) in split.residues
            assert cast_residue(pairs[::-1]) == cast_residue(pairs)
            casts.setdefault(name, set()).add(tuple(sorted((name, colour or "") for name, colour in pairs)))
    assert not casts["train"] & (casts["validation"] | casts["test"] | casts["test_style"])
    assert not casts["validation"] & (casts["test"] | casts["test_style"])
    residues = [SPLITS[name].residues for name in ("train", "validation", "test")]
    assert sorted(value for residue in residues for value in residue) == list(range(8))
    for name in ("test_style", "test_objects"):
        assert SPLITS[name].residues == SPLITS["test"].residues


def test_a_finished_scene_shows_the_cast_that_its_split_allows(scenes: list[Scene]) -> None:
    for split, made in [("train", scenes), ("test", [make_scene("test", k, 1, size_px=96) for k in range(20)])]:
        for scene in made:
            pairs = [(entry.name, entry.colour) for entry in scene.objects]
            assert cast_residue(pairs) in SPLITS[split].residues


def test_held_out_styles_and_objects_stay_out(scenes: list[Scene]) -> None:
    sprites = atlas()
    for split in ("train", "validation", "test", "test_style", "test_objects"):
        made = scenes if split == "train" else [make_scene(split, k, 0, size_px=96) for k in range(25)]
        names = {entry.name for scene in made for entry in scene.objects}
        styles = {entry.style for scene in made for entry in scene.objects}
        assert names <= set(sprites.held_out_names if split == "test_objects" else sprites.names)
        assert styles <= set(sprites.held_out_styles if split == "test_style" else sprites.styles)


def test_contents_are_worth_asking_about(scenes: list[Scene]) -> None:
    objects = [entry for scene in scenes for entry in scene.objects]
    counts = np.bincount([len(scene.objects) for scene in scenes])
    assert set(np.flatnonzero(counts)) == set(range(2, 10))
    repeated = [max(Counter(entry.name for entry in scene.objects).values()) for scene in scenes]
    assert 0.37 <= np.mean([count > 1 for count in repeated]) <= 0.55
    assert max(repeated) == 4
    overlapping = [any(meet(a, b) for k, a in enumerate(boxes(s)) for b in boxes(s)[:k]) for s in scenes]
    assert np.mean(overlapping) >= 0.35
    assert 0.54 <= np.mean([entry.colour is not None for entry in objects]) <= 0.68
    assert {entry.colour for entry in objects} == {None, *COLOURS}
    assert len({entry.name for entry in objects}) == len(atlas().names) == 84
    assert len({scene.background for scene in scenes}) == len(BACKGROUNDS) >= 7
    for scene in scenes:
        assert scene.image.flags.writeable and scene.image.flags.c_contiguous
        for x1, y1, x2, y2 in boxes(scene):
            assert 0 <= x1 < x2 <= SIZE_PX and 0 <= y1 < y2 <= SIZE_PX
        assert all(0.6 <= entry.visible_share <= 1 for entry in scene.objects)
        assert all(entry.may_be_called == {entry.colour} for entry in scene.objects if entry.colour)


def test_sizes_spread_over_the_promised_range(scenes: list[Scene]) -> None:
    found = np.concatenate([sides(scene) for scene in scenes])
    assert found.min() >= 0.1
    assert found.max() <= 0.5
    assert (np.histogram(found, 4, (0.1, 0.5))[0] / len(found) > 0.15).all()


def test_boxes_cxcywh_are_the_pixel_boxes(scenes: list[Scene]) -> None:
    scene = scenes[0]
    for (x1, y1, x2, y2), (cx, cy, w, h) in zip(boxes(scene), scene.boxes_cxcywh, strict=True):
        assert np.allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], np.array([x1, y1, x2, y2]) / SIZE_PX)


@pytest.mark.parametrize("index", range(12))
def test_boxes_are_tight_around_what_is_seen(index: int) -> None:
    """The same objects on black and on white: opacity is where the two pictures agree."""
    cast = draw_cast(find_split("train"), np.random.default_rng(index))
    canvases = [np.full((SIZE_PX, SIZE_PX, 3), value, np.float32) for value in (0, 255)]
    black, white = (place(cast, canvas, np.random.default_rng(index)) for canvas in canvases)
    opaque = 1 - (white.picture - black.picture).mean(-1) / 255 >= 128 / 255 - 1e-3
    found = [black.box_xyxy_px(k) for k in range(len(cast))]
    assert opaque[black.owner >= 0].all()
    assert (opaque & (black.owner < 0)).mean() < 0.005  # where two soft edges lie upon each other
    for k, (x1, y1, x2, y2) in enumerate(found):
        if any(meet((x1 - 3, y1 - 3, x2 + 3, y2 + 3), other) for other in found[:k] + found[k + 1 :]):
            continue
        top, left = max(y1 - 3, 0), max(x1 - 3, 0)
        rows, columns = np.nonzero(opaque[top : y2 + 3, left : x2 + 3])
        seen = (columns.min() + left, rows.min() + top, columns.max() + 1 + left, rows.max() + 1 + top)
        assert seen == (x1, y1, x2, y2)


@pytest.mark.parametrize("index", range(12))
def test_visible_share_counts_what_is_hidden_and_cut_off(index: int) -> None:
    cast = draw_cast(find_split("train"), np.random.default_rng((1, index)))
    stage = place(cast, np.zeros((SIZE_PX, SIZE_PX, 3), np.float32), np.random.default_rng(index))
    for k, figure in enumerate(stage.figures):
        whole = draw_cutout(figure.sprite, figure.member.colour, figure.pose).mask.sum()
        share = (stage.owner == k).sum() / whole
        assert share == pytest.approx(stage.visible_px[k] / stage.areas_px[k])
        assert share >= 0.6


def test_tints_are_nearest_to_their_own_colour() -> None:
    middle = np.asarray(list(COLOURS.values()), np.float32)
    right = []
    for style in (*atlas().styles, *atlas().held_out_styles):
        for name in atlas().names[::7]:
            for number, colour in enumerate(COLOURS):
                cutout = draw_cutout(atlas().sprite(style, name), colour, Pose(side_px=40, **UPRIGHT))
                mean = np.median(cutout.rgb[cutout.mask] / cutout.opacity[cutout.mask], axis=0)
                right.append(np.linalg.norm(middle - mean, axis=1).argmin() == number)
    assert np.mean(right) > 0.97


@pytest.mark.parametrize("side_px", [17, 40, 80, 112])
def test_a_cutout_has_the_size_that_was_asked_for(side_px: int) -> None:
    for name in atlas().names[::9]:
        for angle in (0.0, 0.4, -1.2):
            pose = Pose(side_px=side_px, **UPRIGHT | {"angle": angle, "flipped": angle < 0})
            mask = draw_cutout(atlas().sprite("noto", name), None, pose).mask
            rows, columns = np.nonzero(mask)
            assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - side_px) <= max(2, 0.06 * side_px)
            assert rows.min() <= 2 and columns.min() <= 2  # nothing is lost: the margins are even


def test_mirroring_and_turning_go_the_right_way() -> None:
    sprite = atlas().sprite("noto", "hammer")  # head at the top left, handle at the bottom right

    def mask(angle: float, *, flipped: bool) -> np.ndarray:
        pose = Pose(side_px=60, **UPRIGHT | {"angle": angle, "flipped": flipped})
        return draw_cutout(sprite, None, pose).mask

    plain = mask(0.0, flipped=False)
    agrees = (mask(0.0, flipped=True)[:, ::-1] == plain).mean()
    assert agrees > 0.98
    quarter = mask(np.pi / 2, flipped=False)
    assert (np.rot90(plain, -1) == quarter).mean() > 0.98  # clockwise


def test_objects_stand_out_from_the_background(scenes: list[Scene]) -> None:
    """Hardly any object has the mean colour of the ring around it."""
    differences = []
    for scene in scenes[:100]:
        picture = scene.image.astype(np.float32)
        for x1, y1, x2, y2 in boxes(scene):
            inner = picture[y1:y2, x1:x2]
            outer = picture[max(y1 - 4, 0) : y2 + 4, max(x1 - 4, 0) : x2 + 4]
            ring = (outer.sum((0, 1)) - inner.sum((0, 1))) / max(outer.size / 3 - inner.size / 3, 1)
            differences.append(np.abs(inner - ring).max(-1).mean())
    assert np.mean(np.asarray(differences) > 20) > 0.97


def test_composing_is_fast(scenes: list[Scene]) -> None:
    begin = time.process_time()
    for index in range(60):
        make_scene("train", index, 5)
    assert (time.process_time() - begin) / 60 < 0.015


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("training", 0, 0), "no split 'training'"),
        (("train", -1, 0), "index -1"),
        (("train", 0, -1), "seed -1"),
    ],
)
def test_impossible_scenes_are_refused(arguments: tuple[str, int, int], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        make_scene(*arguments)
    with pytest.raises(InputError, match="px"):
        make_scene("train", 0, 0, size_px=20)


def test_large_seeds_and_indices_are_series_of_their_own():
    numbers = [(3, 1), (0, 1 + 3 * 2**32), (1, 3), (3 * 2**32 + 1, 0), (0, 2**63 - 1)]
    pictures = {make_scene("test", index, seed, size_px=64).image.tobytes() for index, seed in numbers}
    assert len(pictures) == len(numbers)
