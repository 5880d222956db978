"""Checks what a user asks: boxes in pixels of the picture, regions as text, and questions that name regions.

How a question refers to its regions, here and nowhere else: `[1]`, `[2]`, ... stand for the boxes of
`regions=[...]`, counted from 1.

    "Which is larger, [1] or [2]?"   two regions
    "What is this?"                  one region, not named: it is put at the end, "What is this? [1]"
    "What does [[1]] mean on [1]?"   doubled brackets stay text: "[1]"
    "See footnote [1]."              no regions given: the question is plain text, brackets and all
"""

import math
import re
import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from groma.errors import InputError
from groma.prompt.dialogue import Referred, Segment, Text

BoxesXyxyPx = Sequence[Sequence[float]] | Sequence[float] | np.ndarray | Tensor
"""Boxes as a user may give them: (n, 4) or one box (4,), left, top, right, bottom in pixels."""

MIN_SIDE_PX = 0.01
"""A box thinner than this is empty."""

OVERHANG_PX = 0.01
"""So far a box may reach beyond the picture without a warning: the rounding of other programs."""

NORMALIZED_SIDE_PX = 32
"""In a picture of at least this width and height, a box within 0..1 is refused: it must be normalized."""

_PLACEHOLDER = re.compile(r"\[\[(?P<escaped>\d+)\]\]|\[(?P<number>\d+)\]")


class BoxClippedWarning(UserWarning):
    """A box reaches beyond its picture and was clipped to it."""


class BoxesMergedWarning(UserWarning):
    """Two boxes of a question overlap so much that selection keeps one region for both."""


def check_boxes_xyxy_px(boxes: BoxesXyxyPx | None, width_px: int, height_px: int, *, limit: int) -> Tensor:
    """Checks the boxes that a user points at and clips them to the picture.

    Args:
        boxes: n boxes or one, as list, array or tensor: left, top, right, bottom in pixels of the picture as
            it is seen (EXIF orientation applied). None or nothing: no boxes.
        width_px: The picture's width.
        height_px: The picture's height.
        limit: Most boxes accepted, as each one takes a region.

    Returns:
        (n, 4) float32 on the CPU, within the picture, each with a width and height of at least MIN_SIDE_PX.

    Raises:
        InputError: A box is not four finite numbers, is inverted, empty, outside the picture or looks
            normalized, or there are more than `limit`. Boxes are counted from 1, as in questions.

    Warns:
        BoxClippedWarning: A box reaches beyond the picture; one sentence a box.
    """
    rows = _rows(boxes)
    if len(rows) > limit:
        raise InputError(f"{len(rows)} regions are given, but at most {limit} fit: ask about fewer at a time")
    checked: list[tuple[float, float, float, float]] = []
    for number, row in enumerate(rows, start=1):
        checked.append(_check_box(_four_numbers(row, number), number, width_px, height_px))
    return torch.tensor(checked, dtype=torch.float32).reshape(-1, 4)


def parse_region_text(text: str) -> tuple[float, float, float, float]:
    """Reads a box as it is typed, "x1,y1,x2,y2": pixels, blanks and enclosing brackets are allowed.

    Raises:
        InputError: It is not four finite numbers.
    """
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] in ("()", "[]"):
        stripped = stripped[1:-1]
    parts = [part.strip() for part in stripped.split(",")]
    expected = "expected x1,y1,x2,y2: left, top, right, bottom in pixels"
    if len(parts) != 4:
        count = 0 if not stripped.strip() else len(parts)
        raise InputError(f"region {text!r} has {count} numbers instead of 4, {expected}")
    try:
        x1, y1, x2, y2 = (float(part) for part in parts)
    except ValueError:
        raise InputError(f"region {text!r} is not made of numbers, {expected}") from None
    if not all(math.isfinite(value) for value in (x1, y1, x2, y2)):
        raise InputError(f"region {text!r} has a number that is not finite, {expected}")
    return x1, y1, x2, y2


def check_question(question: str) -> str:
    """The question without blanks at its ends.

    Raises:
        InputError: It is no text, empty, or holds characters that cannot be written in UTF-8.
    """
    return _check_text(question, "the question", "ask something about the picture")


def check_phrase(phrase: str) -> str:
    """What is to be located, without blanks at its ends.

    Raises:
        InputError: As `check_question`.
    """
    return _check_text(phrase, "the phrase", "say what to look for")


def check_switch(value: bool, name: str) -> bool:
    """Something that is on or off; text such as "no" would count as on.

    Raises:
        InputError: It is neither True nor False.
    """
    if not isinstance(value, bool | np.bool_):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def _check_text(text: str, what: str, advice: str) -> str:
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"{what} must be text, not {type(text).__name__}")
    stripped = text.strip()
    if not stripped:
        raise InputError(f"{what} is empty: {advice}")
    try:
        stripped.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds a character that is not valid Unicode at position {error.start}: "
            "was it read in another encoding than UTF-8?"
        ) from None
    return stripped


def question_segments(question: str, num_regions: int, *, first_box: int = 0) -> tuple[Segment, ...]:
    """Splits a question at the places where it names its regions (see the module's docstring).

    A region may be named more than once.

    Args:
        question: As the user typed it.
        num_regions: How many boxes came with it.
        first_box: Index of this question's first box in the dialogue; earlier turns may have brought some.

    Returns:
        Text and Referred segments; `[1]` becomes `Referred(box=first_box)`.

    Raises:
        InputError: The question is empty, names a region that was not given, or does not name one that was
            (a single region need not be named).
    """
    question = check_question(question)
    if num_regions == 0:
        return (Text(question),)
    segments: list[Segment] = []
    named: set[int] = set()
    text, end = "", 0
    for match in _PLACEHOLDER.finditer(question):
        text += question[end : match.start()]
        end = match.end()
        if match["escaped"] is not None:
            text += f"[{match['escaped']}]"
            continue
        index = _region_index(match["number"], num_regions)
        segments += [Text(text)] if text else []
        segments.append(Referred(first_box + index))
        named.add(index)
        text = ""
    text += question[end:]
    if not named and num_regions == 1:
        return (Text(text + " "), Referred(first_box))
    segments += [Text(text)] if text else []
    if missing := [f"[{index + 1}]" for index in range(num_regions) if index not in named]:
        raise InputError(
            f"{num_regions} regions are given, but the question does not name {', '.join(missing)}: write "
            f'for example "What is {missing[0]}?", or leave the region out'
        )
    return tuple(segments)


def _region_index(number: str, num_regions: int) -> int:
    index = int(number) - 1 if len(number) <= 9 else -1
    if not 0 <= index < num_regions:
        given = "only region [1] is" if num_regions == 1 else f"only regions [1] to [{num_regions}] are"
        raise InputError(
            f"the question names region [{number}], but {given} given: correct it, "
            f"or write [[{number}]] if it is meant as text"
        )
    return index


def _rows(boxes: BoxesXyxyPx | None) -> list[object]:
    """The boxes one by one, not yet checked; a flat sequence of numbers is one box."""
    if boxes is None:
        return []
    if isinstance(boxes, Tensor):
        boxes = boxes.detach().cpu().to(torch.float64).numpy()
    if isinstance(boxes, np.ndarray):
        if boxes.ndim not in (1, 2):
            raise InputError(f"boxes have the shape {boxes.shape}, expected (n, 4) or (4,)")
        boxes = boxes.tolist()
    if isinstance(boxes, str | bytes) or not isinstance(boxes, Sequence):
        raise InputError(f"boxes must be a list, array or tensor of shape (n, 4), not {type(boxes).__name__}")
    is_flat = len(boxes) > 0 and not any(_is_listlike(item) for item in boxes)
    return [boxes] if is_flat else list(boxes)


def _is_listlike(item: object) -> bool:
    return isinstance(item, Sequence | np.ndarray | Tensor) and not isinstance(item, str | bytes)


def _four_numbers(row: object, number: int) -> tuple[float, float, float, float]:
    if isinstance(row, Tensor):
        row = row.detach().cpu().to(torch.float64).numpy()
    if isinstance(row, np.ndarray):
        row = row.tolist()
    if isinstance(row, str | bytes) or not isinstance(row, Sequence):
        raise InputError(f"box {number} is {row!r}, expected four numbers x1, y1, x2, y2 in pixels")
    values = cast(Sequence[Any], row)
    if len(values) != 4:
        raise InputError(f"box {number} has {len(values)} numbers, expected four: x1, y1, x2, y2 in pixels")
    try:
        x1, y1, x2, y2 = (float(value) for value in values if not isinstance(value, str | bytes | bool))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"box {number} is {row!r}, expected four numbers x1, y1, x2, y2 in pixels") from None
    return x1, y1, x2, y2


def _check_box(
    box_xyxy_px: tuple[float, float, float, float], number: int, width_px: int, height_px: int
) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box_xyxy_px
    written = f"box {number} ({', '.join(f'{value:g}' for value in box_xyxy_px)})"
    picture = f"{width_px}x{height_px} picture"
    if not all(math.isfinite(value) for value in box_xyxy_px):
        raise InputError(f"{written} has a coordinate that is not a finite number")
    if x2 < x1 or y2 < y1:
        wrong = " and ".join(name for name, is_wrong in (("x2 < x1", x2 < x1), ("y2 < y1", y2 < y1)) if is_wrong)
        raise InputError(f"{written} is inverted ({wrong}): the order is x1, y1, x2, y2 = left, top, right, bottom")
    if x2 - x1 < MIN_SIDE_PX or y2 - y1 < MIN_SIDE_PX:
        raise InputError(f"{written} is empty, {x2 - x1:g} wide and {y2 - y1:g} high: give a box with an area")
    if min(width_px, height_px) >= NORMALIZED_SIDE_PX and min(x1, y1) >= 0 and max(x2, y2) <= 1:
        raise InputError(
            f"{written} looks normalized: boxes are in pixels, multiply x by {width_px} and y by {height_px}"
        )
    clipped_xyxy_px = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width_px)), min(y2, float(height_px)))
    if clipped_xyxy_px[2] - clipped_xyxy_px[0] < MIN_SIDE_PX or clipped_xyxy_px[3] - clipped_xyxy_px[1] < MIN_SIDE_PX:
        raise InputError(f"{written} lies outside the {picture}: boxes are in pixels of the original picture")
    if max(abs(a - b) for a, b in zip(box_xyxy_px, clipped_xyxy_px, strict=True)) > OVERHANG_PX:
        kept = ", ".join(f"{value:g}" for value in clipped_xyxy_px)
        warnings.warn(
            f"{written} reaches beyond the {picture} and is clipped to ({kept})",
            BoxClippedWarning,
            stacklevel=3,
        )
    return clipped_xyxy_px
