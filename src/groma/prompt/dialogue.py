"""What is said about one picture: turns made of plain text, phrases, groundings and referred boxes.

A dialogue knows neither tokens nor files. Data sets and the assistant build one; `render` turns it into
tokens.

    Dialogue
      turns         Turn, Turn, ...           one question and its answer each
        segments    Text | Phrase | Grounding | Referred
      boxes_cxcywh  the boxes that segments point at by index

Boxes are named in two ways: by index into `Dialogue.boxes_cxcywh` while it is still open which region of the
picture they will become, and by region number k (the token <rk>) once that is known, as in a parsed answer.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from groma.errors import InputError


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text. Whatever it spells, it never becomes a special token.

    Attributes:
        text: Any characters, blanks included.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Phrase:
    """A marked phrase, "<p>text</p>", with its regions "<roi>...</roi>" right behind it if it has any.

    Attributes:
        text: The words of the phrase; at least one character.
        boxes: Indices into `Dialogue.boxes_cxcywh`; each becomes a <ground_box> slot.
        regions: Region numbers k; each becomes <rk>. Written after the boxes if both are given.

    Raises:
        InputError: The text is empty.
    """

    text: str
    boxes: tuple[int, ...] = ()
    regions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.text:
            raise InputError("a Phrase has no text; use Grounding for regions without a phrase")


@dataclass(frozen=True, slots=True)
class Grounding:
    """Regions without a phrase, a bare "<roi>...</roi>".

    Attributes:
        boxes: Indices into `Dialogue.boxes_cxcywh`; each becomes a <ground_box> slot.
        regions: Region numbers k; each becomes <rk>. Written after the boxes if both are given.

    Raises:
        InputError: Neither a box nor a region is given.
    """

    boxes: tuple[int, ...] = ()
    regions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.boxes and not self.regions:
            raise InputError("a Grounding names no box and no region; leave it out or give at least one")


@dataclass(frozen=True, slots=True)
class Referred:
    """A box that the user points at, "<roi><refer_box></roi><refer_feat>". Questions only.

    Attributes:
        box: Index into `Dialogue.boxes_cxcywh`.
    """

    box: int


Segment = Text | Phrase | Grounding | Referred


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer.

    Attributes:
        question: What the user says, in order.
        answer: What the assistant says, in order; None where it is to be generated (last turn only).
        grounded: The question starts with [grounding], which asks for an answer with grounded phrases.
        target: The answer is trained on. Context of earlier turns can be switched off with False.

    Raises:
        InputError: The answer refers to a user's box, which only a question can.
    """

    question: tuple[Segment, ...]
    answer: tuple[Segment, ...] | None = None
    grounded: bool = False
    target: bool = True

    def __post_init__(self) -> None:
        if any(isinstance(segment, Referred) for segment in self.answer or ()):
            raise InputError("an answer holds a Referred segment; use Phrase or Grounding there")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """All turns about one picture.

    Attributes:
        turns: At least one; only the last may have no answer yet.
        boxes_cxcywh: Referred and grounded boxes (centre x, centre y, width, height), normalized to 0..1 by
            the picture's width and height.

    Raises:
        InputError: No turn, an unanswered turn before the last, a box that is not four finite numbers, or an
            index that no box has.
    """

    turns: tuple[Turn, ...]
    boxes_cxcywh: tuple[tuple[float, float, float, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.turns:
            raise InputError("a Dialogue needs at least one turn")
        for number, turn in enumerate(self.turns[:-1]):
            if turn.answer is None:
                raise InputError(f"turn {number} of {len(self.turns)} has no answer; only the last may be open")
        for number, box in enumerate(self.boxes_cxcywh):
            if len(box) != 4 or not all(math.isfinite(value) for value in box):
                raise InputError(f"box {number} of the dialogue is {box!r}; expected four finite numbers")
        for index in self._box_indices():
            if not 0 <= index < len(self.boxes_cxcywh):
                count = len(self.boxes_cxcywh)
                raise InputError(f"a segment names box {index}, but the dialogue has {count} boxes")

    def _box_indices(self) -> Iterable[int]:
        for turn in self.turns:
            for segment in (*turn.question, *(turn.answer or ())):
                match segment:
                    case Referred(box):
                        yield box
                    case Phrase() | Grounding():
                        yield from segment.boxes
                    case Text():
                        pass
