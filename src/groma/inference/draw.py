"""Draws answers on pictures: one colour a phrase, labels that stay inside and keep out of each other's way.

Sizes follow the picture: lines and letters grow with it, and a picture whose longer side is under
MIN_LONG_SIDE_PX is magnified to it first, as no label could be read otherwise. Boxes stay in pixels of the
original picture everywhere outside this file; below, `boxes_xyxy_canvas` are pixels of the drawn one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from groma.errors import InputError
from groma.image import MAX_PIXELS
from groma.inference.lettering import (
    BLACK,
    WHITE,
    Color,
    FontSource,
    Lettering,
    Span,
    caption_strip,
    text_color_on,
)
from groma.inference.pictures import Picture, load_picture
from groma.inference.result import Box, Entity, GroundedAnswer, Region

PALETTE: tuple[Color, ...] = (
    (230, 159, 0),  # orange
    (0, 114, 178),  # blue
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (86, 180, 233),  # sky blue
    (213, 94, 0),  # vermilion
    (240, 228, 66),  # yellow
    (136, 0, 255),  # violet
    (0, 255, 136),  # spring green
    (85, 51, 0),  # brown
    (34, 34, 153),  # navy
    (119, 0, 102),  # plum
)
"""The seven colours of Okabe and Ito and five more, chosen so that every pair stays at least 15 apart (CIE
1976 colour difference) for red-, green- and blue-blind eyes too. A thirteenth phrase has the first, dashed."""

UNNAMED: Color = (175, 175, 175)
"""Regions that no phrase names, beside some that are named; without any phrase they take the palette."""

MIN_LONG_SIDE_PX = 640
"""Smaller pictures are magnified until their longer side has this length."""

MIN_CAPTION_PX = 320
"""A caption is at least so wide; a narrower picture stands on white above it."""

Rect = tuple[int, int, int, int]  # left, top, right, bottom, in canvas pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    """How an outline looks."""

    label: str
    """Empty: no label."""
    color: Color
    """Of outline and label."""
    dash: int = 0
    """0: a full line; n: dashed, the n-th pattern."""
    is_user: bool = False
    """A box the user gave: black dashes on white, a white label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """One outline and its label."""

    box_xyxy_canvas: Rect
    """Where, in pixels of the canvas."""
    inset: int
    """How many other outlines of the same region lie around it."""
    style: _Style
    """How it looks."""


def phrase_colors(entities: Sequence[Entity]) -> tuple[Color, ...]:
    """A colour for each entity; the same phrase (upper or lower case) has the same one."""
    return tuple(PALETTE[number % len(PALETTE)] for number in _phrase_numbers(entities))


def draw(
    image: Picture,
    answer: GroundedAnswer,
    *,
    width_px: int | None = None,
    font: FontSource | None = None,
    show_user_regions: bool = True,
    show_all_regions: bool = False,
    show_scores: bool = False,
    caption: bool = False,
) -> Image.Image:
    """The picture with an answer's boxes and phrases on it.

    Args:
        image: The picture that the answer is about, seen already or not; it is not changed.
        answer: The answer.
        width_px: Width of the drawn picture. Default: the picture's own, magnified if it is small.
        font: A font file for all text (see `groma.inference.lettering` for the default).
        show_user_regions: Draw the boxes that the user gave, dashed black on white, with their numbers [1].
        show_all_regions: Draw the regions that no phrase names as well, labelled with their token, r7.
        show_scores: Put the confidence behind each phrase.
        caption: Add a strip under the picture with question and answer, phrases in their colours.

    Returns:
        A new RGB picture.

    Raises:
        InputError: The picture is unreadable or of another size than the answer's, the font is unreadable, or
            the drawn picture would be too large.
    """
    picture = load_picture(image)
    if picture.size != tuple(answer.image_size_px):
        raise InputError(
            f"the picture is {picture.width}x{picture.height}, but the answer is about one of "
            f"{answer.image_size_px[0]}x{answer.image_size_px[1]}: give the picture that was asked about"
        )
    drawn = draw_regions(
        picture,
        answer.regions,
        answer.entities,
        width_px=width_px,
        font=font,
        show_user_regions=show_user_regions,
        show_all_regions=show_all_regions,
        show_scores=show_scores,
    )
    return _with_caption(drawn, answer, font) if caption else drawn


def draw_regions(
    image: Picture,
    regions: Sequence[Region],
    entities: Sequence[Entity] = (),
    *,
    width_px: int | None = None,
    font: FontSource | None = None,
    show_user_regions: bool = True,
    show_all_regions: bool = True,
    show_scores: bool = False,
) -> Image.Image:
    """As `draw`, for regions without an answer around them; by default it shows them all."""
    picture = load_picture(image)  # a copy, so that it can be drawn on
    canvas = _canvas(picture, width_px)
    scale = (canvas.width / picture.width, canvas.height / picture.height)
    shown = _Shown(user=show_user_regions, all=show_all_regions, scores=show_scores)
    marks = _marks(regions, entities, scale, canvas.size, shown)
    unit = math.sqrt(canvas.width * canvas.height)
    line = max(3, round(unit / 220))
    lettering = Lettering(max(14, round(unit / 42)), font)
    for mark in marks:
        _outline(canvas, mark, line)
    taken: list[Rect] = []
    for mark in sorted(marks, key=lambda mark: _area(mark.box_xyxy_canvas)):  # small boxes choose first
        if mark.style.label:
            _tag(canvas, mark, [other.box_xyxy_canvas for other in marks], taken, lettering)
    return canvas


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    user: bool
    all: bool
    scores: bool


def _canvas(picture: Image.Image, width_px: int | None) -> Image.Image:
    """A loaded picture at the size at which it is drawn on."""
    if width_px is None:
        factor = max(1.0, MIN_LONG_SIDE_PX / max(picture.size))
        width_px = round(picture.width * factor) or 1
    elif not isinstance(width_px, int) or width_px < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"width_px is {width_px!r}, expected a whole number of pixels above 0")
    height_px = round(picture.height * width_px / picture.width) or 1
    if width_px * height_px > max(MAX_PIXELS, picture.width * picture.height):
        raise InputError(f"a drawing {width_px} wide would have {width_px}x{height_px} pixels: choose a smaller width")
    if (width_px, height_px) == picture.size:
        return picture
    return picture.resize((width_px, height_px), Image.Resampling.LANCZOS)


def _phrase_numbers(entities: Sequence[Entity]) -> list[int]:
    """0 for the first phrase, 1 for the next other one, ...; an entity without a phrase has its own."""
    numbers: dict[str | int, int] = {}
    return [
        numbers.setdefault(" ".join(entity.phrase.casefold().split()) or index, len(numbers))
        for index, entity in enumerate(entities)
    ]


def _marks(
    regions: Sequence[Region],
    entities: Sequence[Entity],
    scale: tuple[float, float],
    size: tuple[int, int],
    shown: _Shown,
) -> list[_Mark]:
    """Everything there is to draw, large boxes first, so that small ones lie on top."""
    numbers = _phrase_numbers(entities)
    by_region: dict[int, dict[int, str]] = {region.id: {} for region in regions}  # id -> phrase number -> label
    for entity, number in zip(entities, numbers, strict=True):
        for region_id, score in zip(entity.region_ids, entity.region_scores, strict=True):
            if region_id not in by_region:
                raise InputError(f"entity {entity.phrase!r} names region {region_id}, which is not among the regions")
            label = " ".join(entity.phrase.split()) or f"r{region_id}"
            by_region[region_id].setdefault(number, f"{label} {score:.0%}" if shown.scores else label)
    marks: list[_Mark] = []
    for index, region in enumerate(regions):
        box = _to_canvas(region.box_xyxy_px, scale, size)
        styles: list[_Style] = []
        if region.source == "user" and shown.user:
            numbers_text = "".join(f"[{number}]" for number in region.numbers)
            styles.append(_Style(label=numbers_text, color=BLACK, is_user=True))
        for number, label in by_region[region.id].items():
            color, dash = PALETTE[number % len(PALETTE)], number // len(PALETTE)
            styles.append(_Style(label=label, color=color, dash=dash))
        if not styles and shown.all:
            label = f"r{region.id} {region.objectness:.0%}" if shown.scores else f"r{region.id}"
            styles.append(_Style(label=label, color=UNNAMED if entities else PALETTE[index % len(PALETTE)]))
        marks += [_Mark(box_xyxy_canvas=box, inset=inset, style=style) for inset, style in enumerate(styles)]
    return sorted(marks, key=lambda mark: (-_area(mark.box_xyxy_canvas), mark.inset))


def _to_canvas(box_xyxy_px: Box, scale: tuple[float, float], size: tuple[int, int]) -> Rect:
    """Pixels of the picture -> whole pixels of the canvas, inside it, at least 3 wide and high if it is."""

    def side(low: float, high: float, factor: float, limit: int) -> tuple[int, int]:
        first = min(max(round(low * factor), 0), limit - 1)
        last = min(max(round(high * factor) - 1, first + 2), limit - 1)
        return max(0, min(first, last - 2)), last

    left, right = side(box_xyxy_px[0], box_xyxy_px[2], scale[0], size[0])
    top, bottom = side(box_xyxy_px[1], box_xyxy_px[3], scale[1], size[1])
    return left, top, right, bottom


def _outline(canvas: Image.Image, mark: _Mark, line: int) -> None:
    """The box's line, with a thin edge of the opposite brightness so that it shows on any background."""
    pen = ImageDraw.Draw(canvas)
    edge = max(1, line // 3)
    inset = mark.inset * (line + edge)
    left, top, right, bottom = mark.box_xyxy_canvas
    box = (left + inset, top + inset, right - inset, bottom - inset)
    if box[2] - box[0] < 2 or box[3] - box[1] < 2:
        return  # no room left inside the other outlines of this box
    if mark.style.is_user:
        pen.rectangle(box, outline=WHITE, width=line)
        _dashes(pen, box, BLACK, line, 3 * line, 3 * line)
        return
    outer = (box[0] - edge, box[1] - edge, box[2] + edge, box[3] + edge)
    pen.rectangle(outer, outline=text_color_on(mark.style.color), width=edge)
    if mark.style.dash:
        pen.rectangle(box, outline=text_color_on(mark.style.color), width=line)
        _dashes(pen, box, mark.style.color, line, (2 + 4 * mark.style.dash) * line, 2 * line)
    else:
        pen.rectangle(box, outline=mark.style.color, width=line)


def _dashes(pen: ImageDraw.ImageDraw, box: Rect, color: Color, line: int, dash: int, gap: int) -> None:
    left, top, right, bottom = box
    for x in range(left, right + 1, dash + gap):
        end = min(x + dash - 1, right)
        pen.rectangle((x, top, end, min(top + line - 1, bottom)), fill=color)
        pen.rectangle((x, max(bottom - line + 1, top), end, bottom), fill=color)
    for y in range(top, bottom + 1, dash + gap):
        end = min(y + dash - 1, bottom)
        pen.rectangle((left, y, min(left + line - 1, right), end), fill=color)
        pen.rectangle((max(right - line + 1, left), y, right, end), fill=color)


def _tag(canvas: Image.Image, mark: _Mark, boxes: Sequence[Rect], taken: list[Rect], lettering: Lettering) -> None:
    """Writes a mark's label where it covers least, and notes the place in `taken`."""
    pad = max(2, lettering.size_px // 5)
    room = max(canvas.width // 3, mark.box_xyxy_canvas[2] - mark.box_xyxy_canvas[0]) - 2 * pad
    label = lettering.fit(mark.style.label, min(room, canvas.width - 2 * pad))
    width, height = lettering.width_px(label) + 2 * pad, lettering.line_px
    if not label or width > canvas.width or height > canvas.height:
        return  # a picture too thin for any letter
    left, top = min(
        _places(mark.box_xyxy_canvas, width, height, canvas.size),
        key=lambda place: _cost(place, (width, height), mark.box_xyxy_canvas, boxes, taken),
    )
    rect = (left, top, left + width - 1, top + height - 1)
    taken.append(rect)
    background = WHITE if mark.style.is_user else mark.style.color
    ImageDraw.Draw(canvas).rectangle(rect, fill=background, outline=BLACK if mark.style.is_user else None)
    lettering.write(canvas, (left + pad, top), label, text_color_on(background))


def _places(box: Rect, width: int, height: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Where a tag may stand, best first: above its box, inside, below, beside, then further up and down."""
    left, top, right, bottom = box
    places = [(left, top - height), (right + 1 - width, top - height), (left, top), (right + 1 - width, top)]
    places += [(left, bottom + 1), (right + 1 - width, bottom + 1)]
    places += [(left, bottom + 1 - height), (right + 1 - width, bottom + 1 - height)]
    places += [(right + 1, top), (left - width, top)]
    places += [(left, top + height * k) for step in range(1, 9) for k in (step, -1 - step)]
    inside = [(min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)) for x, y in places]
    return list(dict.fromkeys(inside))


def _cost(
    place: tuple[int, int], size: tuple[int, int], own: Rect, boxes: Sequence[Rect], taken: Sequence[Rect]
) -> float:
    """How bad a tag's place is: other tags covered, small boxes covered, distance from its own box."""
    rect = (place[0], place[1], place[0] + size[0] - 1, place[1] + size[1] - 1)
    area = _area(rect)
    on_tags = sum(_shared(rect, other) for other in taken) / area
    on_boxes = sum(_shared(rect, other) / _area(other) for other in boxes)
    away_x = max(own[0] - rect[2] - 1, rect[0] - own[2] - 1, 0)
    away_y = max(own[1] - rect[3] - 1, rect[1] - own[3] - 1, 0)
    return 20 * on_tags + 2 * on_boxes + (away_x + away_y) / size[1]


def _area(rect: Rect) -> int:
    return (rect[2] - rect[0] + 1) * (rect[3] - rect[1] + 1)


def _shared(a: Rect, b: Rect) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(0, width) * max(0, height)


def _with_caption(drawn: Image.Image, answer: GroundedAnswer, font: FontSource | None) -> Image.Image:
    width = max(drawn.width, MIN_CAPTION_PX)
    spans = [
        Span(start=entity.start, end=entity.end, color=color)
        for entity, color in zip(answer.entities, phrase_colors(answer.entities), strict=True)
    ]
    lettering = Lettering(max(15, round(width / 42)), font)
    strip = caption_strip(answer.text, spans, width, lettering, heading=answer.question)
    whole = Image.new("RGB", (width, drawn.height + strip.height), WHITE)
    whole.paste(drawn, (0, 0))
    whole.paste(strip, (0, drawn.height))
    return whole
