"""Scenes: pictures of objects on varied backgrounds, with the exact box of every object.

    (split, index, seed) -> cast -> backdrop -> placing, one object after another -> light, grain -> Scene

Shape legend: S picture side in px, n number of objects (2 to 9).
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from groma.boxes import xyxy_to_cxcywh
from groma.data.scenes.backgrounds import BACKGROUNDS, draw_background
from groma.data.scenes.cast import Member, draw_cast, find_split
from groma.data.scenes.placing import Stage, mean_colour, place
from groma.errors import InputError

_LEAST_CONTRAST = 70.0  # distance in RGB (0..255) kept between a background and the objects, where possible
_BACKGROUND_COLOURS = 24  # candidates, of which three are used
_GRAIN_SIDE_PX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """One object as it can be seen in the finished picture."""

    name: str
    """What it is, one or two lower-case words."""
    colour: str | None
    """One of the ten COLOURS, or None: its natural colours."""
    style: str
    """The drawing style."""
    box_xyxy_px: tuple[int, int, int, int]
    """Left, top, right, bottom of its visible pixels; right and bottom are exclusive."""
    visible_share: float
    """Share of its pixels that are not hidden by other objects or cut off by the border, 0.6..1."""
    may_be_called: frozenset[str]
    """Colours somebody may call it: the tint, or, if untinted, all that its natural colours come near to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A picture and what is in it."""

    image: NDArray[np.uint8]
    """(S, S, 3) RGB."""
    objects: tuple[SceneObject, ...]
    """In painting order, back to front."""
    background: str
    """One of BACKGROUNDS."""

    @property
    def size_px(self) -> int:
        """S, the side of the square picture."""
        return self.image.shape[0]

    @property
    def boxes_cxcywh(self) -> tuple[tuple[float, float, float, float], ...]:
        """The objects' boxes: centre and size, normalized by the picture's side."""
        boxes_xyxy_px = torch.tensor([entry.box_xyxy_px for entry in self.objects], dtype=torch.float64)
        boxes_cxcywh = (xyxy_to_cxcywh(boxes_xyxy_px.reshape(-1, 4)) / self.size_px).tolist()  # ties stay ties
        return tuple((cx, cy, w, h) for cx, cy, w, h in boxes_cxcywh)


def make_scene(split: str, index: int, seed: int, *, size_px: int = 224) -> Scene:
    """Composes a scene: a pure function of its arguments.

    No scene of "train" equals one of the other splits, and none of "validation" one of the test splits, for
    any indices and seeds: the digest of the names and colours decides which split may show them (see `cast`).
    The names and colours do not depend on `size_px`, the places do.

    Args:
        split: "train", "validation", "test", "test_style" (a drawing style that training never shows) or
            "test_objects" (objects that training never shows); "example" and "example_test" (such objects, to finetune
            on and to test that).
        index: Number of the scene, from 0.
        seed: Another seed is another series of scenes, from 0.
        size_px: S.

    Returns:
        The scene: 2 to 9 objects, the longer sides of whose boxes lie between 0.1 and 0.5 of S; at least 60%
        of each can be seen.

    Raises:
        InputError: The split does not exist, or index, seed or size is out of range.
    """
    kind = find_split(split)
    _check_numbers(index, seed, size_px)
    rng = np.random.Generator(np.random.PCG64(_seed_sequence(kind.identity, seed, index)))
    cast = draw_cast(kind, rng)
    background = tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    backdrop = draw_background(background, size_px, _draw_palette(cast, rng), rng)
    stage = place(cast, backdrop, rng)
    return Scene(image=_finish(stage.picture, rng), objects=_objects(stage), background=background)


def _seed_sequence(identity: int, seed: int, index: int) -> np.random.SeedSequence:
    """Different for different numbers: numpy writes them one after the other in words of 32 bits, without saying how
    many belong to which, so larger ones are digested first.
    """
    if max(seed, index) < 2**32:
        return np.random.SeedSequence((identity, seed, index))
    digest = hashlib.sha256(f"{seed} {index}".encode()).digest()
    return np.random.SeedSequence((identity, int.from_bytes(digest, "little")))


def _check_numbers(index: int, seed: int, size_px: int) -> None:
    if index < 0 or seed < 0:
        raise InputError(f"Index and seed of a scene count from 0, got index {index} and seed {seed}.")
    if not 64 <= size_px <= 2048:
        raise InputError(f"A scene's side must lie between 64 and 2048 px, got {size_px}.")


def _draw_palette(cast: tuple[Member, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """(3, 3) background colours: any, but not close to an object's main colour where that can be avoided."""
    colours = rng.uniform(0, 255, (_BACKGROUND_COLOURS, 3))
    gray = colours.mean(1, keepdims=True)
    colours = gray + (colours - gray) * rng.uniform(0.1, 1.2, (_BACKGROUND_COLOURS, 1))
    colours = colours + (255 - colours) * rng.uniform(-0.3, 0.7, (_BACKGROUND_COLOURS, 1)).clip(0)
    colours = colours.clip(0, 255).astype(np.float32)
    objects = np.stack([mean_colour(member) for member in cast])
    distances = np.linalg.norm(colours[:, None] - objects[None], axis=-1).min(1)
    order = np.argsort(-np.minimum(distances, _LEAST_CONTRAST), kind="stable")
    return colours[order[:3]]


def _objects(stage: Stage) -> tuple[SceneObject, ...]:
    """What the stage shows, seen from outside."""
    objects = []
    for index, figure in enumerate(stage.figures):
        member = figure.member
        called = figure.sprite.may_be_called if member.colour is None else frozenset({member.colour})
        entry = SceneObject(
            name=member.name,
            colour=member.colour,
            style=member.style,
            box_xyxy_px=stage.box_xyxy_px(index),
            visible_share=stage.visible_px[index] / stage.areas_px[index],
            may_be_called=called,
        )
        objects.append(entry)
    return tuple(objects)


def _finish(picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(S, S, 3) 0..255 -> uint8, with a little light, grain and, seldom, blur."""
    contrast, brightness = np.float32(rng.uniform(0.85, 1.1)), np.float32(rng.uniform(-12, 12))
    picture *= contrast
    picture += (1 - contrast) * 127.5 + brightness
    if rng.random() < 0.6:
        rows, columns = (int(start) + np.arange(len(picture)) for start in rng.integers(0, _GRAIN_SIDE_PX, 2))
        grain = _grain().take(rows, 0, mode="wrap").take(columns, 1, mode="wrap")
        picture += grain[..., None] * np.float32(rng.uniform(1, 7))
    image = np.clip(picture, 0, 255, out=picture).astype(np.uint8)
    if rng.random() < 0.12:
        blur = ImageFilter.BoxBlur(float(rng.uniform(0.3, 0.7)) * len(image) / 224)
        image = np.array(Image.fromarray(image).filter(blur))  # a copy, since Pillow's memory is read-only
    return image


@lru_cache(maxsize=1)
def _grain() -> NDArray[np.float32]:
    """(512, 512) fixed normal noise, of which every picture takes another part."""
    return np.random.Generator(np.random.PCG64(0)).standard_normal((_GRAIN_SIDE_PX, _GRAIN_SIDE_PX), np.float32)
