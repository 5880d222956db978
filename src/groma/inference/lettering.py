"""Writing on pictures: fonts at any size, text fitted to a width, and the caption under a picture.

Pillow brings one scalable font (Aileron, ASCII and little more); it writes everything that is ASCII, so that
English labels look the same everywhere. Other text takes the first of SYSTEM_FONTS that is installed, or the
scalable font again, which shows a box for a character it lacks; pass `font=` to choose one that has them.
Where Pillow is built without FreeType, its bitmap font is magnified and shows "?" for such characters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from groma.errors import InputError

Color = tuple[int, int, int]
FontSource = str | Path | ImageFont.FreeTypeFont | ImageFont.ImageFont
"""A font file, the name of an installed one, or a font that Pillow has loaded (its size is not kept)."""

SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
)

BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)
GREY: Color = (110, 110, 110)
LONGEST_LINE = 500
"""So many characters of a line are looked at; no picture is wide enough for more."""


class Lettering:
    """One font at one size: measures text and writes it on a picture."""

    def __init__(self, size_px: int, font: FontSource | None = None) -> None:
        """Chooses the font.

        Args:
            size_px: Height of the font in pixels.
            font: A font to use for all text, instead of the choice in the module's docstring.

        Raises:
            InputError: The font cannot be read.
        """
        self.size_px = size_px
        self._chosen = None if font is None else _load(font, size_px)

    @property
    def line_px(self) -> int:
        """Height of a line in pixels, the same for every text."""
        return math.ceil(1.25 * self.size_px)

    def width_px(self, text: str) -> int:
        """Width of a text in pixels."""
        font = self._font(text)
        return math.ceil(font.getlength(_writable(text, font)) * self._magnification(font))

    def fit(self, text: str, width_px: int) -> str:
        """The text, shortened with "..." at its end to that width; empty if not even one letter fits."""
        text = text[:LONGEST_LINE]
        if self.width_px(text) <= width_px:
            return text
        low, high = 0, len(text)  # the longest start that fits has `low` characters or more, less than `high`
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.width_px(text[:middle].rstrip() + "...") <= width_px
            low, high = (middle, high) if fits else (low, middle)
        return text[:low].rstrip() + "..." if low else ""

    def write(self, canvas: Image.Image, left_top_px: tuple[int, int], text: str, color: Color) -> None:
        """Writes one line; its box is `width_px(text)` wide and `line_px` high."""
        font = self._font(text)
        text = _writable(text, font)
        if not text:
            return
        mask = Image.new("L", (math.ceil(font.getlength(text)) + 2, 2 * self.size_px + 16))
        draw = ImageDraw.Draw(mask)
        if isinstance(font, ImageFont.FreeTypeFont):
            # Capitals and descenders together stand in the middle of the line, whatever the letters are.
            top, bottom = font.getbbox("Hg", anchor="ls")[1::2]
            baseline = round((self.line_px - (bottom - top)) / 2 - top)
            draw.text((0, baseline), text, fill=255, font=font, anchor="ls")
            offset = 0
        else:
            draw.text((0, 0), text, fill=255, font=font)
            times = self._magnification(font)
            mask = mask.crop((0, 0, mask.width, math.ceil(font.getbbox("Hg")[3])))
            mask = mask.resize((mask.width * times, mask.height * times), Image.Resampling.NEAREST)
            offset = (self.line_px - mask.height) // 2
        canvas.paste(color, (left_top_px[0], left_top_px[1] + offset), mask)

    def _font(self, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        if self._chosen is not None:
            return self._chosen
        return _default_font(self.size_px) if text.isascii() else _system_font(self.size_px)

    def _magnification(self, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
        if isinstance(font, ImageFont.FreeTypeFont):
            return 1
        return max(1, round(self.size_px / font.getbbox("Hg")[3]))


@lru_cache(maxsize=16)
def _default_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size_px)
    except ImportError:  # Pillow without FreeType
        return ImageFont.load_default()


@lru_cache(maxsize=16)
def _system_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in SYSTEM_FONTS:
        try:
            return ImageFont.truetype(name, size_px)
        except (OSError, ImportError):
            continue
    return _default_font(size_px)


def _load(font: FontSource, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if isinstance(font, ImageFont.FreeTypeFont):
        return font.font_variant(size=size_px)
    if isinstance(font, ImageFont.ImageFont):
        return font
    try:
        return ImageFont.truetype(str(font), size_px)
    except (OSError, ImportError, ValueError) as error:
        raise InputError(f"font {str(font)!r} cannot be read ({error}): give a .ttf, .otf or .ttc file") from None


def _writable(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text on one line, with a stand-in for whatever cannot be shown."""
    line = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
    if isinstance(font, ImageFont.FreeTypeFont):
        return line
    return line.encode("latin-1", errors="replace").decode("latin-1")


def text_color_on(background: Color) -> Color:
    """Black or white, whichever has the larger contrast ratio (WCAG 2.1) on that colour."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in background)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else WHITE


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of the caption that is filled with a colour."""

    start: int
    """First character."""
    end: int
    """One behind the last."""
    color: Color
    """What it is filled with; the letters are black or white on it."""


def caption_strip(
    text: str, spans: Sequence[Span], width_px: int, lettering: Lettering, *, heading: str = ""
) -> Image.Image:
    """A white strip with a text, broken into lines, its spans filled with their colours.

    Args:
        text: What to write; its own line breaks are kept.
        spans: Stretches of it; where two overlap, the first is seen.
        width_px: The strip's width; its height is what the text takes.
        lettering: The font.
        heading: Written above the text in grey, on one line of its own or more.
    """
    margin = max(4, lettering.size_px // 2)
    room_px = max(1, width_px - 2 * margin)
    colors: list[Color | None] = [None] * len(text)
    for span in reversed(spans):
        colors[span.start : span.end] = [span.color] * (span.end - span.start)
    rows = _rows(_Paragraphs(heading, [None] * len(heading), lettering), room_px, GREY) if heading else []
    rows += _rows(_Paragraphs(text, colors, lettering), room_px, BLACK) if text else []
    step = math.ceil(1.15 * lettering.line_px)
    strip = Image.new("RGB", (width_px, 2 * margin + step * len(rows)), WHITE)
    draw = ImageDraw.Draw(strip)
    for number, row in enumerate(rows):
        x, y = margin, margin + number * step
        for piece in row:
            right = x + piece.width_px
            if piece.fill is not None:
                draw.rectangle((x, y, right - 1, y + lettering.line_px - 1), fill=piece.fill)
            lettering.write(strip, (x + piece.pad_px, y), piece.text, piece.color)
            x = right
    return strip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Part of a line in one colour; `width_px` includes `pad_px` on both sides."""

    text: str
    color: Color
    fill: Color | None
    width_px: int
    pad_px: int


@dataclass(frozen=True, slots=True)
class _Paragraphs:
    """A text, a fill colour or none for each of its characters, and the font it is written in."""

    text: str
    fills: Sequence[Color | None]
    lettering: Lettering

    def pieces(self, start: int, end: int, color: Color = BLACK) -> list[_Piece]:
        """The characters start..end, cut where the fill changes."""
        edges = [start, *(k for k in range(start + 1, end) if self.fills[k] != self.fills[k - 1]), end]
        pieces: list[_Piece] = []
        for first, last in pairwise(edges) if end > start else ():
            fill = self.fills[first]
            pad = 0 if fill is None else max(2, self.lettering.size_px // 5)
            pieces.append(
                _Piece(
                    text=self.text[first:last],
                    color=color if fill is None else text_color_on(fill),
                    fill=fill,
                    width_px=self.lettering.width_px(self.text[first:last]) + 2 * pad,
                    pad_px=pad,
                )
            )
        return pieces

    def fits(self, start: int, end: int, room_px: int) -> bool:
        """Whether the characters start..end fit on one line."""
        return end - start <= LONGEST_LINE and sum(p.width_px for p in self.pieces(start, end)) <= room_px


def _rows(paragraphs: _Paragraphs, room_px: int, color: Color) -> list[list[_Piece]]:
    """Breaks a text into lines at blanks and line breaks; blanks at a break are left out."""
    rows: list[list[_Piece]] = []
    start = 0
    for paragraph in paragraphs.text.split("\n"):
        end = start + len(paragraph)
        while True:
            stop = _line_end(paragraphs, start, end, room_px)
            rows.append(paragraphs.pieces(start, stop, color))
            start = stop
            while start < end and paragraphs.text[start] == " ":
                start += 1
            if start >= end:
                break
        start = end + 1
    return rows


def _line_end(paragraphs: _Paragraphs, start: int, end: int, room_px: int) -> int:
    """As many words as fit; a word that is wider than the line is cut."""
    stop = start
    while stop < end:
        blank = paragraphs.text.find(" ", stop + 1, end)
        next_stop = end if blank < 0 else blank
        if not paragraphs.fits(start, next_stop, room_px):
            break
        stop = next_stop
    if stop > start or start >= end:
        return stop
    stop = start + 1
    while stop < end and paragraphs.fits(start, stop + 1, room_px):
        stop += 1
    return stop
