"""The sprite atlas: names, styles and pictures of the objects that scenes are made of.

`scripts/build_atlas.py` wrote the files (groma/assets/scenes); nothing is fetched at run time. A style's
sheet is decoded when its first sprite is asked for, a sprite is prepared when it is first used, and both
are kept.
"""

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FRAME_PX = 104  # a sprite lies centred in a square this large: room for resampling, divisible by 8
_LEVELS = 3  # full, half and quarter size, so that small objects are sampled without aliasing
_HULL_DIRECTIONS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprite:
    """One object in one style, ready to be sampled at any size and angle."""

    natural: tuple[Image.Image, ...]
    """Premultiplied RGBa, one picture a level: 104, 52 and 26 px square."""
    shade: tuple[Image.Image, ...]
    """Premultiplied La, the same levels: L is brightness, stretched so that its median is 0.5."""
    hull_px: NDArray[np.float32]
    """(2, 64) x and y of its outline's extreme points, in px of the full size, from the frame's centre."""
    mean_rgb: NDArray[np.float32]
    """(3,) mean visible colour, 0..255."""
    may_be_called: frozenset[str]
    """Colour names that somebody could use for the untinted sprite."""


class Atlas:
    """All sprites. Use `atlas()`, which loads the index once a process."""

    def __init__(self) -> None:
        self._folder = files("groma") / "assets" / "scenes"
        self._index = json.loads((self._folder / "atlas.json").read_text(encoding="utf-8"))
        self._sheets: dict[str, Image.Image] = {}
        self._sprites: dict[tuple[str, str], Sprite] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the objects seen in training."""
        return tuple(entry["name"] for entry in self._index["objects"] if not entry["held_out"])

    @cached_property
    def held_out_names(self) -> tuple[str, ...]:
        """Names of the objects that only the split `test_objects` shows."""
        return tuple(entry["name"] for entry in self._index["objects"] if entry["held_out"])

    @cached_property
    def styles(self) -> tuple[str, ...]:
        """Names of the drawing styles seen in training."""
        return tuple(entry["name"] for entry in self._index["styles"] if not entry["held_out"])

    @cached_property
    def held_out_styles(self) -> tuple[str, ...]:
        """Names of the drawing styles that only the split `test_style` shows."""
        return tuple(entry["name"] for entry in self._index["styles"] if entry["held_out"])

    def sprite(self, style: str, name: str) -> Sprite:
        """The sprite of an object in a style; KeyError if either does not exist."""
        key = (style, name)
        if key not in self._sprites:
            self._sprites[key] = self._prepare(style, name)
        return self._sprites[key]

    def _prepare(self, style: str, name: str) -> Sprite:
        entry = self._style_entries[style]
        left, top, width, height = entry["sprites"][name]["box_xywh_px"]
        picture = self._sheet(style).crop((left, top, left + width, top + height))
        frame = Image.new("RGBA", (_FRAME_PX, _FRAME_PX))
        frame.paste(picture, ((_FRAME_PX - width) // 2, (_FRAME_PX - height) // 2))
        rgba = np.asarray(frame, dtype=np.float32)
        visible = rgba[..., 3] > 127
        shade = Image.fromarray(_stretched_brightness(rgba, visible))
        shade = Image.merge("LA", (shade, frame.getchannel("A")))
        return Sprite(
            natural=_levels(frame.convert("RGBa")),
            shade=_levels(shade.convert("La")),
            hull_px=_hull(visible),
            mean_rgb=rgba[visible][:, :3].mean(0),
            may_be_called=frozenset(entry["sprites"][name]["may_be_called"]),
        )

    @cached_property
    def _style_entries(self) -> dict[str, dict]:
        return {entry["name"]: entry for entry in self._index["styles"]}

    def _sheet(self, style: str) -> Image.Image:
        if style not in self._sheets:
            with (self._folder / self._style_entries[style]["sheet"]).open("rb") as file:
                self._sheets[style] = Image.open(file).convert("RGBA")
        return self._sheets[style]


@lru_cache(maxsize=1)
def atlas() -> Atlas:
    """The atlas, loaded once a process."""
    return Atlas()


def _stretched_brightness(rgba: NDArray[np.float32], visible: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(h, w, 4) -> (h, w) brightness whose median over visible pixels is 0.5 and whose spread is moderate.

    So most of a tinted sprite has the named colour itself, whether the sprite is dark or bright by nature.
    """
    brightness = rgba[..., :3] @ np.asarray((0.299, 0.587, 0.114), np.float32) / 255
    low, middle, high = np.percentile(brightness[visible], (5, 50, 95))
    gain = min(0.42 / max(middle - low, high - middle, 0.08), 2.5)
    return (np.clip(0.5 + gain * (brightness - middle), 0, 1) * 255).astype(np.uint8)


def _levels(picture: Image.Image) -> tuple[Image.Image, ...]:
    levels = [picture]
    for _ in range(_LEVELS - 1):
        levels.append(levels[-1].reduce(2))
    return tuple(levels)


def _hull(visible: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(h, w) mask -> (2, 64) pixel centres that lie farthest out in 64 directions, relative to the middle."""
    rows, columns = np.nonzero(visible)
    points = np.stack((columns, rows), axis=1) + np.float32(0.5 - _FRAME_PX / 2)
    angles = np.arange(_HULL_DIRECTIONS) * (2 * np.pi / _HULL_DIRECTIONS)
    directions = np.stack((np.cos(angles), np.sin(angles)))
    return points[(points @ directions).argmax(0)].T.astype(np.float32)
