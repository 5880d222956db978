"""Draws numbered boxes on a picture, for a model that is asked about them: picture + boxes -> numbered picture.

Every region has a colour, a thin outline and a badge with its number, 1 for the first. Badge and outline carry an edge
of the opposite brightness, so that they show on any ground; a badge that cannot touch its box is tied to it by a line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from groma.curate.placing import Rect, area, place_badges, tie
from groma.curate.settings import PictureSettings
from groma.data.annotation import Box
from groma.errors import InputError
from groma.inference.draw import PALETTE
from groma.inference.lettering import Color, Lettering, text_color_on


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedPicture:
    """A picture with n numbered boxes on it."""

    image: Image.Image
    """RGB, at the size at which it is sent."""
    boxes_xyxy_canvas: tuple[Rect, ...]
    """n boxes in pixels of `image`."""
    badges_xyxy_canvas: tuple[Rect, ...]
    """n badges in pixels of `image`, in the order of the boxes; number k stands in badge k-1."""


def draw_numbers(picture: Image.Image, boxes_xyxy_px: Sequence[Box], settings: PictureSettings) -> NumberedPicture:
    """Draw the boxes with their numbers, from 1 on.

    Args:
        picture: RGB; it is not changed.
        boxes_xyxy_px: n boxes in pixels of the picture, inside it.
        settings: At which size it is drawn.

    Raises:
        InputError: The picture is too narrow to hold a number.
    """
    canvas = _resized(picture, settings)
    scale = (canvas.width / picture.width, canvas.height / picture.height)
    boxes = tuple(_to_canvas(box, scale, canvas.size) for box in boxes_xyxy_px)
    lettering = Lettering(max(15, round(max(canvas.size) / 36)))
    pad = lettering.size_px // 4
    texts = [str(number) for number in range(1, len(boxes) + 1)]
    sizes = [(max(lettering.width_px(text) + 2 * pad, lettering.line_px), lettering.line_px) for text in texts]
    if any(width > canvas.width or height > canvas.height for width, height in sizes):
        raise InputError(
            f"a picture of {picture.width}x{picture.height} pixels is too narrow to draw numbers on: leave it out"
        )
    badges = place_badges(boxes, sizes, canvas.size)
    line = max(2, round(max(canvas.size) / 400))
    colors = [PALETTE[index % len(PALETTE)] for index in range(len(boxes))]
    large_first = sorted(range(len(boxes)), key=lambda index: -area(boxes[index]))
    for index in large_first:
        _outline(canvas, boxes[index], colors[index], line)
    for index in large_first:
        _tie(canvas, badges[index], boxes[index], colors[index], line)
    for text, badge, color in zip(texts, badges, colors, strict=True):
        _badge(canvas, badge, text, color, lettering)
    return NumberedPicture(image=canvas, boxes_xyxy_canvas=boxes, badges_xyxy_canvas=tuple(badges))


def _resized(picture: Image.Image, settings: PictureSettings) -> Image.Image:
    """A copy whose longer side is within the limits."""
    longer = max(picture.size)
    target = min(max(longer, settings.min_side_px), settings.max_side_px)
    if target == longer:
        return picture.copy()
    size = (max(1, round(picture.width * target / longer)), max(1, round(picture.height * target / longer)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _to_canvas(box_xyxy_px: Box, scale: tuple[float, float], size: tuple[int, int]) -> Rect:
    """Pixels of the picture -> whole pixels of the canvas, inside it and at least one wide and high."""

    def side(low: float, high: float, factor: float, limit: int) -> tuple[int, int]:
        first = min(max(round(low * factor), 0), limit - 1)
        return first, min(max(round(high * factor), first + 1), limit)

    left, right = side(box_xyxy_px[0], box_xyxy_px[2], scale[0], size[0])
    top, bottom = side(box_xyxy_px[1], box_xyxy_px[3], scale[1], size[1])
    return left, top, right, bottom


def _outline(canvas: Image.Image, box: Rect, color: Color, line: int) -> None:
    """The line runs inside the box, its edge around it."""
    pen = ImageDraw.Draw(canvas)
    left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=text_color_on(color))
    pen.rectangle((left, top, right, bottom), outline=color, width=line)


def _tie(canvas: Image.Image, badge: Rect, box: Rect, color: Color, width_px: int) -> None:
    """A line from a badge to the nearest point of its box, if they do not touch."""
    line = tie(badge, box)
    if line is None:
        return
    pen = ImageDraw.Draw(canvas)
    pen.line((*line[0], *line[1]), fill=text_color_on(color), width=width_px + 2)
    pen.line((*line[0], *line[1]), fill=color, width=width_px)


def _badge(canvas: Image.Image, badge: Rect, text: str, color: Color, lettering: Lettering) -> None:
    ink = text_color_on(color)
    left, top, right, bottom = badge
    ImageDraw.Draw(canvas).rectangle((left, top, right - 1, bottom - 1), fill=color, outline=ink)
    width = lettering.width_px(text)
    lettering.write(canvas, (left + (right - left - width) // 2, top), text, ink)
