"""The ten colours of the scenes, and how a sprite is tinted without losing its shading."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (216, 30, 38),
    "orange": (250, 134, 16),
    "yellow": (248, 222, 40),
    "green": (48, 160, 58),
    "cyan": (50, 210, 220),
    "blue": (36, 78, 222),
    "purple": (132, 48, 186),
    "pink": (250, 132, 188),
    "brown": (122, 74, 40),
    "gray": (134, 136, 140),
}
"""Name -> RGB of the middle tone, 0..255."""

_SHADOW = 0.42  # darkest tone: the middle tone times this
_LIGHT = 0.5  # lightest tone: this share of the way from the middle tone to white
_LIGHT_OF = {
    "brown": 0.3,
    "gray": 0.35,
    "red": 0.35,
    "purple": 0.35,
}  # would otherwise pass for another colour


def tint_ramp(colour: str, jitter: Sequence[float]) -> NDArray[np.float32]:
    """The linear pieces of a tint, to be applied to premultiplied shades.

    With shade s in 0..1 and opacity A (0..255), a pixel is A * dark + 2 min(s, .5) A * (middle - dark) +
    2 max(s - .5, 0) A * (light - middle): dark at s = 0, the named colour at s = 0.5, light at s = 1.

    Args:
        colour: One of COLOURS.
        jitter: Three factors on the middle tone, a few percent around 1.

    Returns:
        (3, 3) rows for A, min(s, .5) A and max(s - .5, 0) A; columns red, green, blue; for A in 0..255.
    """
    towards_white = _LIGHT_OF.get(colour, _LIGHT)
    middle = [min(tone * factor / 255, 1) for tone, factor in zip(COLOURS[colour], jitter, strict=True)]
    to_middle = [2 * (1 - _SHADOW) * tone for tone in middle]
    to_light = [2 * towards_white * (1 - tone) for tone in middle]
    return np.asarray(([_SHADOW * tone for tone in middle], to_middle, to_light), np.float32)
