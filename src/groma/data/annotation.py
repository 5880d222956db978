"""What a data set says about one picture, in one shape for all sets: no files, no tokens, no wording.

    Annotation
      picture          where the picture is, below the set's folder of pictures
      boxes_xyxy_frame boxes, in the unit of `frame`
      labels           what each box shows: a class, a phrase or a description
      passages         text about the whole picture whose spans are tied to boxes
      exchanges        questions and answers, made of passages

A source (groma.data.sources) turns bytes into annotations, a task (groma.data.tasks) annotations into dialogues.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Box = tuple[float, float, float, float]

NORMALIZED = (1.0, 1.0)
"""Frame of boxes that are given as shares of the picture's width and height."""


@dataclass(frozen=True, slots=True)
class Span:
    """A phrase of a passage and what it stands for."""

    start: int
    """First character."""
    end: int
    """One behind the last."""
    boxes: tuple[int, ...]
    """Indices into `Annotation.boxes_xyxy_frame`."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Text whose phrases may be tied to boxes."""

    text: str
    """Plain text."""
    spans: tuple[Span, ...] = ()
    """By position once they are cleaned (groma.data.cleaning); one may lie inside another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One question and its answer."""

    question: Passage
    """What is asked; its spans are boxes that the user points at."""
    answer: Passage
    """What is answered; its spans are grounded phrases."""
    grounded: bool = False
    """The answer is one with grounded phrases, so that the question asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """All that a set says about one picture; n boxes."""

    picture: str
    """Path of the picture below the set's folder of pictures, with forward slashes."""
    frame: tuple[float, float] | None = None
    """Width and height that the boxes are measured in: pixels, or NORMALIZED; None: pixels of a picture whose size is
    not told."""
    boxes_xyxy_frame: tuple[Box, ...] = ()
    """n boxes: left, top, right, bottom in the unit of `frame`."""
    labels: tuple[str, ...] = ()
    """n texts, or none: what each box shows."""
    absent: tuple[str, ...] = ()
    """Classes that somebody made sure are not in the picture."""
    unsure: tuple[str, ...] = ()
    """Classes of which not every instance has a box: they can neither be asked for in full nor called absent."""
    passages: tuple[Passage, ...] = ()
    """Captions of the whole picture."""
    exchanges: tuple[Exchange, ...] = ()
    """A conversation, in order."""

    @property
    def is_normalized(self) -> bool:
        """Whether boxes are shares of the picture's sides, so that they say nothing about its size."""
        return self.frame == NORMALIZED

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without what is empty; `from_dict` reads them back."""
        return {name: value for name, value in asdict(self).items() if value not in ((), None)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Annotation":
        """Reads what `to_dict` wrote, also after a trip through JSON.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        frame: Any = values.get("frame")
        return cls(
            picture=values["picture"],
            frame=None if frame is None else (float(frame[0]), float(frame[1])),
            boxes_xyxy_frame=tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in values.get("boxes_xyxy_frame", ())),
            labels=tuple(values.get("labels", ())),
            absent=tuple(values.get("absent", ())),
            unsure=tuple(values.get("unsure", ())),
            passages=tuple(map(_passage, values.get("passages", ()))),
            exchanges=tuple(
                Exchange(question=_passage(e["question"]), answer=_passage(e["answer"]), grounded=e["grounded"])
                for e in values.get("exchanges", ())
            ),
        )


def _passage(values: Mapping[str, Any]) -> Passage:
    spans = (Span(s["start"], s["end"], tuple(s["boxes"])) for s in values["spans"])
    return Passage(values["text"], tuple(spans))
