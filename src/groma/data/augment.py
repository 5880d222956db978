"""Augmentation of stage 1: random resize, crop and flip, boxes moved with the picture.

    picture --short side one of 400, 500, 600--> --crop, sides 448..896--> --resize to S x S--> --mirror half of them-->

The published pipeline resamples at both resizes; here the crop is found in the coordinates of the resized picture and
cut out of the original in one resampling: the same geometry, less blur, half the time.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from groma.data.annotation import Box
from groma.errors import InputError
from groma.image import RESAMPLING, Resample

PUBLISHED_SIDE_PX = 448
"""Side of the pictures that the published sizes are meant for."""
CROP_TRIES = 10
"""Draws of a crop that keeps a box; after that the whole picture is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How pictures of stage 1 are varied. Sizes are for pictures of 448 px and scale with another side."""

    short_sides_px: tuple[int, ...] = (400, 500, 600)
    """The short side is resized to one of these."""
    max_long_side_px: int = 4200
    """The long side becomes no longer than this."""
    crop_px: tuple[int, int] = (448, 896)
    """Width and height of the crop are drawn between these, each for itself, as far as the picture reaches."""
    flip: float = 0.5
    """Share of pictures that are mirrored."""

    def __post_init__(self) -> None:
        least, most = self.crop_px
        if not self.short_sides_px or min(self.short_sides_px) < 1 or not 1 <= least <= most:
            raise InputError(f"Augmentation needs positive sides, got {self.short_sides_px} and crops {self.crop_px}.")
        if not 0 <= self.flip <= 1:
            raise InputError(f"Augmentation.flip must be between 0 and 1, got {self.flip!r}.")


@dataclass(frozen=True, slots=True)
class Cut:
    """Which part of a picture is shown."""

    box_xyxy_px: Box
    """The part, in pixels of the original."""
    mirrored: bool
    """Left and right exchanged."""


WHOLE = Augmentation(short_sides_px=(PUBLISHED_SIDE_PX,), crop_px=(1 << 20, 1 << 20), flip=0.0)
"""No augmentation: a crop larger than any picture shows all of it."""


def draw_cut(
    size_px: tuple[int, int],
    boxes_xyxy_px: np.ndarray,
    augmentation: Augmentation,
    *,
    side_px: int,
    rng: np.random.Generator,
) -> Cut:
    """Draw the part of a picture that is shown; it shows a part of at least one box, if there are any.

    Args:
        size_px: width and height of the picture.
        boxes_xyxy_px: (n, 4).
        augmentation: what is drawn from.
        side_px: side S of the pictures that come out.
        rng: source of all choices.
    """
    width, height = size_px
    unit = side_px / PUBLISHED_SIDE_PX
    short = augmentation.short_sides_px[int(rng.integers(len(augmentation.short_sides_px)))] * unit
    scale = min(short / min(size_px), augmentation.max_long_side_px * unit / max(size_px))
    resized = np.array([max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))])
    least, most = (round(side * unit) for side in augmentation.crop_px)
    for _ in range(CROP_TRIES):
        sides = rng.integers(np.minimum(resized, least), np.minimum(resized, most) + 1)
        corner = rng.integers(resized - sides + 1)
        crop = np.concatenate((corner, corner + sides)) / np.tile(resized / np.array(size_px), 2)
        if len(boxes_xyxy_px) == 0 or _shows_any(crop, boxes_xyxy_px):
            break
    else:
        crop = np.array([0.0, 0.0, width, height])
    x1, y1, x2, y2 = np.minimum(crop, (width, height, width, height)).tolist()  # rounding must not leave the picture
    return Cut((x1, y1, x2, y2), mirrored=bool(rng.random() < augmentation.flip))


def apply_to_picture(picture: Image.Image, cut: Cut, *, side_px: int, resample: Resample) -> np.ndarray:
    """RGB picture -> the part that is shown, (S, S, 3) uint8."""
    part = picture.resize((side_px, side_px), RESAMPLING[resample], box=cut.box_xyxy_px)
    return np.array(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if cut.mirrored else part)


def apply_to_boxes(boxes_xyxy_px: np.ndarray, cut: Cut) -> np.ndarray:
    """(n, 4) corners in pixels of the original -> (n, 4) corners normalized to the part that is shown, clipped to it.

    Boxes outside have no area afterwards; see `visible`.
    """
    x1, y1, x2, y2 = cut.box_xyxy_px
    shown = (boxes_xyxy_px - (x1, y1, x1, y1)) / (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
    shown = shown.clip(0.0, 1.0)
    return shown[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (1, 0, 1, 0) if cut.mirrored else shown


def visible(boxes_xyxy: np.ndarray, *, side_px: int, min_side_px: float, area_px: tuple[float, float]) -> np.ndarray:
    """(n, 4) normalized corners -> (n,) bool: which are large enough to be taught.

    Args:
        boxes_xyxy: as `apply_to_boxes` gives them.
        side_px: side of the picture.
        min_side_px: neither width nor height is below this.
        area_px: least and largest area, in square pixels.
    """
    sides_px = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * side_px
    area = sides_px.prod(1)
    return (sides_px.min(1, initial=np.inf) >= min_side_px) & (area >= area_px[0]) & (area <= area_px[1])


def _shows_any(crop_xyxy: np.ndarray, boxes_xyxy: np.ndarray) -> bool:
    low = np.maximum(boxes_xyxy[:, :2], crop_xyxy[:2])
    high = np.minimum(boxes_xyxy[:, 2:], crop_xyxy[2:])
    return bool(((high - low).min(1) > 0).any())
