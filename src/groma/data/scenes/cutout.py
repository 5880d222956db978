"""Draws one sprite at a size and an angle, tinted or not: the piece that is pasted into a scene."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from groma.data.scenes.atlas import Sprite
from groma.data.scenes.colours import tint_ramp

_OPAQUE = 128  # a pixel belongs to the object when its opacity is at least this (of 255)
_MARGIN_PX = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutout:
    """A drawn sprite, cropped closely."""

    rgb: NDArray[np.float32]
    """(h, w, 3) colour times opacity, 0..255."""
    opacity: NDArray[np.float32]
    """(h, w, 1), 0..1."""
    mask: NDArray[np.bool_]
    """(h, w) the pixels that count as the object's own."""
    area_px: int
    """How many pixels the mask has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How a sprite is drawn."""

    side_px: float
    """Longer side of the drawn object's box."""
    angle: float
    """Rotation in radians, clockwise as seen."""
    flipped: bool
    """Mirrored left to right, before the rotation."""
    gain: float
    """Factor on the brightness, around 1."""
    jitter: tuple[float, ...]
    """Three factors on the tint's red, green and blue, around 1."""


def draw_cutout(sprite: Sprite, colour: str | None, pose: Pose) -> Cutout:
    """Samples the sprite: rotated, mirrored, scaled to `pose.side_px`, in its own colours or tinted."""
    cosine, sine = math.cos(pose.angle), math.sin(pose.angle)
    mirror = -1.0 if pose.flipped else 1.0
    # Sprite -> picture is [[mirror cosine, -sine], [mirror sine, cosine]]; its inverse is its transpose.
    x, y = sprite.hull_px
    across, down = x * (mirror * cosine) - y * sine, x * (mirror * sine) + y * cosine
    left, right, top, bottom = float(across.min()), float(across.max()), float(down.min()), float(down.max())
    width, height = right - left + 1, bottom - top + 1  # hull points are pixel centres
    scale = pose.side_px / max(width, height)
    width_px, height_px = (
        math.ceil(width * scale) + 2 * _MARGIN_PX,
        math.ceil(height * scale) + 2 * _MARGIN_PX,
    )

    level = 0 if scale > 0.6 else 1 if scale > 0.3 else 2
    source = (sprite.natural if colour is None else sprite.shade)[level]
    step = 1 / (scale * 2**level)
    a, b, d, e = mirror * cosine * step, mirror * sine * step, -sine * step, cosine * step
    # The middle of the cutout shows the middle of the turned sprite.
    across, down = (left + right) / 2 * scale - width_px / 2, (top + bottom) / 2 * scale - height_px / 2
    c, f = a * across + b * down + source.width / 2, d * across + e * down + source.height / 2
    drawn = source.transform(
        (width_px, height_px), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    pixels = np.asarray(drawn)
    alpha = pixels[..., -1]
    mask = alpha >= _OPAQUE
    if colour is None:
        rgb = np.multiply(pixels[..., :3], np.float32(pose.gain))
    else:
        rgb = _tinted(pixels, tint_ramp(colour, pose.jitter) * np.float32(pose.gain))
    return Cutout(
        rgb=rgb,
        opacity=np.multiply(alpha, np.float32(1 / 255))[..., None],
        mask=mask,
        area_px=int(np.count_nonzero(mask)),
    )


def _tinted(shade_alpha: NDArray[np.uint8], ramp: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w, 2) premultiplied shade and opacity -> (h, w, 3) premultiplied colour (see `tint_ramp`)."""
    pieces = np.empty((*shade_alpha.shape[:2], 3), np.float32)
    alpha, low, high = (pieces[..., k] for k in range(3))
    alpha[...] = shade_alpha[..., 1]
    np.multiply(alpha, np.float32(0.5), out=low)
    np.subtract(shade_alpha[..., 0], low, out=high)
    np.maximum(high, 0, out=high)
    np.minimum(shade_alpha[..., 0], low, out=low)
    return pieces @ ramp
