"""Close-ups: a square window around every object of a scene, enlarged or reduced to one size.

Shape legend: K side of a close-up in px.
"""

from dataclasses import replace

import numpy as np
from PIL import Image

from groma.data.scenes.scene import Scene, SceneObject

_MARGIN = (1.15, 2.2)  # side of the window in units of the object's longer side
_LEAST_SHARE = 0.5  # of a neighbour's box that must lie in the window for it to count as shown


def close_ups(scene: Scene, side_px: int, rng: np.random.Generator) -> list[Scene]:
    """One small scene for each object: its surroundings at another scale, with all boxes that are (mostly) in it.

    Args:
        scene: what is cut up.
        side_px: K.
        rng: draws how close and where.

    Returns:
        Close-ups in the order of the objects; the object that one was made for is wholly in it. How much of a
        neighbour at the edge is visible is estimated from the areas of its boxes.
    """
    picture = Image.fromarray(scene.image)
    return [_close_up(scene, picture, entry, side_px, rng) for entry in scene.objects]


def _close_up(scene: Scene, picture: Image.Image, entry: SceneObject, side_px: int, rng: np.random.Generator) -> Scene:
    x1, y1, x2, y2 = entry.box_xyxy_px
    longer = max(x2 - x1, y2 - y1)
    window = min(longer * rng.uniform(*_MARGIN), scene.size_px)
    left, top = (
        float(np.clip(rng.uniform(high - window, low), 0, scene.size_px - window)) for low, high in ((x1, x2), (y1, y2))
    )
    scale = side_px / window
    seen = picture.resize((side_px, side_px), Image.Resampling.BILINEAR, (left, top, left + window, top + window))
    shown = [_move(other, left, top, scale, side_px) for other in scene.objects]
    return Scene(image=np.asarray(seen), objects=tuple(o for o in shown if o is not None), background=scene.background)


def _move(entry: SceneObject, left: float, top: float, scale: float, side_px: int) -> SceneObject | None:
    """The object in the window's pixels, or None if too little of it is there."""
    x1, y1, x2, y2 = entry.box_xyxy_px
    moved = [round((v - offset) * scale) for v, offset in ((x1, left), (y1, top), (x2, left), (y2, top))]
    clipped = [min(max(v, 0), side_px) for v in moved]
    whole, shown = _area(moved), _area(clipped)
    if shown == 0 or shown < _LEAST_SHARE * whole:
        return None
    return replace(
        entry,
        box_xyxy_px=(clipped[0], clipped[1], clipped[2], clipped[3]),
        visible_share=entry.visible_share * (shown / whole),
    )


def _area(box_xyxy_px: list[int]) -> int:
    x1, y1, x2, y2 = box_xyxy_px
    return max(x2 - x1, 0) * max(y2 - y1, 0)
