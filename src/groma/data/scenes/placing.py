"""Places the objects of a cast on a backdrop, so that each stays visible, and knows who owns which pixel.

Shape legend: S picture side in px, (h, w) size of a cutout.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from groma.data.scenes.atlas import Sprite, atlas
from groma.data.scenes.cast import Member
from groma.data.scenes.colours import COLOURS
from groma.data.scenes.cutout import Cutout, Pose, draw_cutout

SMALLEST_SIDE, LARGEST_SIDE = 0.1, 0.5  # of the picture's side: what is promised about visible boxes
LEAST_VISIBLE_SHARE = 0.6
_DRAWN_SIDES = (0.105, 0.495)
_FILLED_SHARE = 0.8  # the squares around all objects together take at most this share of the picture
_TRIES = 24  # places tried for one object
_OVERLAP_WISH = 0.2  # share of objects that are first tried close to an earlier one
_SPACE_WISH = 0.5  # share of objects that are first tried where they overlap others least
_CUT_OFF_WISH = 0.12  # share of objects that may be cut off by the picture's border
_LEAST_CONTRAST = 60.0  # distance of mean colours (RGB, 0..255) of an object and one it lies upon
_TURN = math.radians(25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One object of a cast before it has a place."""

    member: Member
    sprite: Sprite
    pose: Pose
    mean_rgb: NDArray[np.float32]
    """(3,) its main colour, 0..255."""


@dataclass(slots=True)
class Stage:
    """A picture in the making."""

    picture: NDArray[np.float32]
    """(S, S, 3) RGB, 0..255."""
    owner: NDArray[np.int8]
    """(S, S) index of the object that is seen there, -1 for the background."""
    figures: list[Figure] = field(default_factory=list)
    areas_px: list[int] = field(default_factory=list)
    """Pixels of each object, hidden and cut off ones included."""
    visible_px: list[int] = field(default_factory=list)
    """Pixels of each object that can be seen."""
    places_xyxy_px: list[tuple[int, int, int, int]] = field(default_factory=list)
    """The rectangle each object was pasted into, cut off at the border."""

    def try_to_add(self, figure: Figure, cutout: Cutout, left: int, top: int) -> bool:
        """Pastes a cutout there, in front of all others, unless something would be hard to see then."""
        size = len(self.owner)
        height, width = cutout.mask.shape
        here = slice(max(top, 0), min(top + height, size)), slice(max(left, 0), min(left + width, size))
        part = (
            slice(here[0].start - top, here[0].stop - top),
            slice(here[1].start - left, here[1].stop - left),
        )
        mask, owner = cutout.mask[part], self.owner[here]
        *covered, free = np.bincount(owner[mask] % (len(self.figures) + 1), minlength=len(self.figures) + 1).tolist()
        visible = free + sum(covered)
        if visible < LEAST_VISIBLE_SHARE * cutout.area_px or not self._may_cover(figure, covered, visible):
            return False
        opacity, region = cutout.opacity[part], self.picture[here]
        region *= 1 - opacity
        region += cutout.rgb[part]
        owner[mask] = len(self.figures)
        self.visible_px = [before - lost for before, lost in zip(self.visible_px, covered, strict=True)] + [visible]
        self.areas_px.append(cutout.area_px)
        self.places_xyxy_px.append((here[1].start, here[0].start, here[1].stop, here[0].stop))
        self.figures.append(figure)
        return True

    def _may_cover(self, figure: Figure, covered: list[int], visible: int) -> bool:
        for index, lost in enumerate(covered):
            if self.visible_px[index] - lost < LEAST_VISIBLE_SHARE * self.areas_px[index]:
                return False
            if lost > 0.25 * visible:
                difference = figure.mean_rgb - self.figures[index].mean_rgb
                if float(difference @ difference) < _LEAST_CONTRAST**2:
                    return False
        return True

    def box_xyxy_px(self, index: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom (exclusive) of an object's visible pixels."""
        left, top, right, bottom = self.places_xyxy_px[index]
        seen = self.owner[top:bottom, left:right] == index
        rows, columns = seen.any(1).nonzero()[0].tolist(), seen.any(0).nonzero()[0].tolist()
        return left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1


def mean_colour(member: Member) -> NDArray[np.float32]:
    """(3,) main colour of a member, 0..255: the tint, or the mean of its natural colours."""
    if member.colour is None:
        return atlas().sprite(member.style, member.name).mean_rgb
    return np.asarray(COLOURS[member.colour], np.float32)


def place(cast: tuple[Member, ...], backdrop: NDArray[np.float32], rng: np.random.Generator) -> Stage:
    """Draws all members of a cast onto a backdrop.

    Objects get smaller with every failed attempt, so this ends; nearly always the first attempt succeeds.

    Args:
        cast: Who is to be placed.
        backdrop: (S, S, 3) RGB, 0..255; left as it is.
        rng: Source of sizes, poses and places.

    Returns:
        The stage with as many figures as the cast has members, larger ones mostly farther back.
    """
    attempt = 0
    while True:
        stage = Stage(backdrop.copy(), np.full(backdrop.shape[:2], -1, np.int8))
        sides = _draw_sides(len(cast), max(0.5, 1 - 0.05 * attempt), rng)
        depth = np.argsort(-sides * rng.uniform(0.7, 1.4, len(cast))).tolist()
        figures = _draw_figures([cast[k] for k in depth], sides[depth] * len(backdrop), rng)
        if all(_place_one(stage, figure, rng) for figure in figures) and _sizes_hold(stage):
            return stage
        attempt += 1


def _draw_sides(count: int, shrink: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count,) longer sides as shares of the picture's side: spread evenly, but fitting together."""
    low, high = _DRAWN_SIDES
    high = low + (high - low) * shrink
    sides = rng.uniform(low, high, count)
    while (sides**2).sum() > _FILLED_SHARE * shrink:
        sides[rng.integers(count)] = rng.uniform(low, high)
    return sides


def _draw_figures(members: list[Member], sides_px: NDArray[np.float64], rng: np.random.Generator) -> list[Figure]:
    count = len(members)
    angles = rng.uniform(-_TURN, _TURN, count) * np.where(rng.random(count) < 0.08, 3.0, 1.0)
    flips = rng.random(count) < 0.5
    gains = rng.uniform(0.88, 1.06, count)
    jitters = rng.uniform(0.93, 1.07, (count, 3)).tolist()
    return [
        Figure(
            member=member,
            sprite=atlas().sprite(member.style, member.name),
            pose=Pose(side_px=side, angle=angle, flipped=flipped, gain=gain, jitter=tuple(jitter)),
            mean_rgb=mean_colour(member),
        )
        for member, side, angle, flipped, gain, jitter in zip(
            members, sides_px.tolist(), angles.tolist(), flips.tolist(), gains.tolist(), jitters, strict=True
        )
    ]


def _place_one(stage: Stage, figure: Figure, rng: np.random.Generator) -> bool:
    """Tries places until one is allowed; False if none of them is."""
    cutout = draw_cutout(figure.sprite, figure.member.colour, figure.pose)
    size = len(stage.owner)
    extent = np.asarray(cutout.mask.shape[::-1])
    slack = 0.25 * extent * (rng.random() < _CUT_OFF_WISH)
    lows, highs = np.floor(-slack), np.floor(size - extent + slack)
    corners = rng.uniform(lows, highs + 1, (_TRIES, 2))
    wish = rng.random()
    if stage.figures and wish < _OVERLAP_WISH:
        x1, y1, x2, y2 = stage.places_xyxy_px[rng.integers(len(stage.figures))]
        middle, reach = np.asarray((x1 + x2, y1 + y2)) / 2, (np.asarray((x2 - x1, y2 - y1)) + extent) / 2
        corners[::2] = middle + reach * rng.uniform(-0.9, 0.9, (_TRIES // 2, 2)) - extent / 2
    elif stage.figures and wish < _OVERLAP_WISH + _SPACE_WISH:
        corners = corners[np.argsort(_overlaps(corners, extent, stage), kind="stable")]
    places = np.clip(np.floor(corners), lows, highs).astype(int).tolist()
    return any(stage.try_to_add(figure, cutout, left, top) for left, top in places)


def _overlaps(corners: NDArray[np.float64], extent: NDArray[np.int_], stage: Stage) -> NDArray[np.float64]:
    """(t, 2) left and top of t places -> (t,) area in px that they share with rectangles taken already."""
    taken = np.asarray(stage.places_xyxy_px)
    starts = np.maximum(corners[:, None], taken[:, :2])
    ends = np.minimum(corners[:, None] + extent, taken[:, 2:])
    return (ends - starts).clip(min=0).prod(-1).sum(-1)


def _sizes_hold(stage: Stage) -> bool:
    """Whether every visible box keeps the promised size."""
    size = len(stage.owner)
    for index in range(len(stage.figures)):
        x1, y1, x2, y2 = stage.box_xyxy_px(index)
        if not SMALLEST_SIDE * size <= max(x2 - x1, y2 - y1) <= LARGEST_SIDE * size:
            return False
    return True
