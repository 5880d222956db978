"""Backgrounds of the scenes: a dozen ways to fill a picture with two or three colours.

Shape legend: S picture side in px. A palette is (3, 3), rows of RGB; a background is (S, S, 3) float32; all
values 0..255.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]


def draw_background(kind: str, size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    """Fills a picture.

    Args:
        kind: One of BACKGROUNDS.
        size_px: S.
        palette: (3, 3) the colours to use.
        rng: Source of widths, angles and places.

    Returns:
        (S, S, 3) float32 of its own, 0..255.
    """
    return BACKGROUNDS[kind](size_px, palette, rng)


def _solid(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    return np.broadcast_to(palette[0], (size_px, size_px, 3)).copy()


def _linear_gradient(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    along = _along(size_px, rng)
    low, high = float(along.min()), float(along.max())
    return _blend((along - low) / (high - low), palette)


def _radial_gradient(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    x, y = _axes(size_px)
    centre_x, centre_y = rng.uniform(0, 1, 2).astype(np.float32)
    radius = np.sqrt((x - centre_x) ** 2 + (y - centre_y) ** 2)
    return _blend(np.minimum(radius / np.float32(rng.uniform(0.5, 1.1)), np.float32(1)), palette)


def _stripes(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    along = _along(size_px, rng) * np.float32(rng.uniform(3, 14))
    return palette[_odd(along)]


def _checks(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    angle = rng.uniform(0, np.pi / 2) * (rng.random() < 0.5)
    cells = np.float32(rng.uniform(3, 12))
    x, y = _turned(size_px, angle)
    return palette[_odd(x * cells) ^ _odd(y * cells)]


def _dots(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    cells = np.float32(rng.uniform(4, 14))
    x, y = _turned(size_px, rng.uniform(0, np.pi / 2))
    x, y = x * cells, y * cells
    distance = (x - np.floor(x) - 0.5) ** 2 + (y - np.floor(y) - 0.5) ** 2
    return palette[(distance < rng.uniform(0.2, 0.42) ** 2).view(np.uint8)]


def _smooth_noise(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    cells = int(rng.integers(3, 10))
    weights = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
    smooth = Image.fromarray(weights).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return _blend(np.multiply(np.asarray(smooth), np.float32(1 / 255)), palette)


def _clouds(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    """Every colour channel is smooth noise of its own around the first colour."""
    cells = int(rng.integers(3, 8))
    steps = rng.uniform(-45, 45, (cells, cells, 3))
    grid = np.clip(palette[0] + steps, 0, 255).astype(np.uint8)
    smooth = Image.fromarray(grid).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(smooth).astype(np.float32)


def _mosaic(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    cells = int(rng.integers(4, 13))
    weights = rng.random((cells, cells), dtype=np.float32)[..., None]
    grid = (palette[0] + weights * (palette[1] - palette[0])).astype(np.uint8)
    return np.asarray(Image.fromarray(grid).resize((size_px, size_px), Image.Resampling.NEAREST)).astype(np.float32)


def _bricks(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    rows = np.float32(rng.uniform(5, 13))
    joint = np.float32(rng.uniform(0.06, 0.14))
    x, y = _axes(size_px)
    row = np.floor(y * rows)
    along = x * rows / 2 + row / 2
    in_joint = (y * rows - row < joint) | (along - np.floor(along) < joint / 2)
    return palette[in_joint.view(np.uint8)]


def _waves(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    x, y = _axes(size_px)
    sway = np.sin(x * np.float32(rng.uniform(6, 25)) + np.float32(rng.uniform(0, 6))) * np.float32(
        rng.uniform(0.2, 0.6)
    )
    phase = y * np.float32(rng.uniform(10, 45)) + sway * np.float32(3)
    return _blend(np.float32(0.5) + np.float32(0.5) * np.sin(phase), palette)


def _room(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    """A wall above a floor, each slightly graded."""
    _, y = _axes(size_px)
    edge = np.float32(rng.uniform(0.45, 0.85))
    shade = 1 - np.float32(0.25) * np.where(y < edge, edge - y, 1 - y)
    column = np.where(y < edge, palette[0], palette[1])[:, None] * shade[..., None]
    return np.repeat(column.reshape(size_px, 1, 3), size_px, axis=1)


def _landscape(size_px: int, palette: Floats, rng: np.random.Generator) -> Floats:
    """A graded sky above two rows of hills."""
    x, y = _axes(size_px)
    sky = palette[0] * (1 - y[..., None]) + (0.5 * palette[0] + 127) * y[..., None]
    picture = np.repeat(sky.reshape(size_px, 1, 3), size_px, axis=1)
    for layer, horizon in enumerate(np.sort(rng.uniform(0.4, 0.9, 2)).astype(np.float32), start=1):
        wave, phase = rng.uniform(3, 12), rng.uniform(0, 6)
        hills = horizon + np.float32(rng.uniform(0.02, 0.1)) * np.sin(np.float32(wave) * x + np.float32(phase))
        np.copyto(picture, palette[layer], where=(y > hills)[..., None])
    return picture


BACKGROUNDS: dict[str, Callable[[int, Floats, np.random.Generator], Floats]] = {
    "solid": _solid,
    "linear gradient": _linear_gradient,
    "radial gradient": _radial_gradient,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "smooth noise": _smooth_noise,
    "clouds": _clouds,
    "mosaic": _mosaic,
    "bricks": _bricks,
    "waves": _waves,
    "room": _room,
    "landscape": _landscape,
}
"""Kind -> how to draw it."""


@lru_cache(maxsize=8)
def _axes(size_px: int) -> tuple[Floats, Floats]:
    """(1, S) x and (S, 1) y of the pixel centres, 0..1."""
    centres = np.linspace(0.5 / size_px, 1 - 0.5 / size_px, size_px, dtype=np.float32)
    return centres[None], centres[:, None]


def _turned(size_px: int, angle: float) -> tuple[Floats, Floats]:
    """(S, S) two coordinates at right angles, one picture side long, turned by an angle."""
    x, y = _axes(size_px)
    cosine, sine = math.cos(angle), math.sin(angle)
    along, across = x * cosine + y * sine, y * cosine - x * sine
    return along.astype(np.float32, copy=False), across.astype(np.float32, copy=False)


def _along(size_px: int, rng: np.random.Generator) -> Floats:
    """(S, S) a coordinate along a random direction."""
    return _turned(size_px, rng.uniform(0, 2 * np.pi))[0]


def _odd(coordinate: Floats) -> NDArray[np.int32]:
    """1 where the whole part is odd, else 0."""
    return np.floor(coordinate).astype(np.int32) & 1


def _blend(weight: Floats, palette: Floats) -> Floats:
    """(S, S) weights 0..1 -> (S, S, 3) from the first colour to the second."""
    # A matrix product is much faster here than broadcasting over an axis of three.
    picture = weight.reshape(-1, 1) @ (palette[1] - palette[0])[None]
    picture += palette[0]
    return picture.reshape(*weight.shape, 3)
