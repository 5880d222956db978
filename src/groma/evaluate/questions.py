"""Questions of a benchmark, put to the model through the calls that users have; answers as plain JSON values.

    pictures, questions of each --by kind of call, in batches--> Groma.locate, describe, ask, regions --> records

Equal to asking one by one. A picture is encoded once for all of its questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from groma.errors import InputError
from groma.inference.assistant import Groma
from groma.inference.generate import Decoding
from groma.inference.pictures import Picture, Seen
from groma.inference.proposals import all_proposals
from groma.inference.result import Box, GroundedAnswer, Region

Call = Literal["locate", "locate_all", "describe", "ask", "ask_plainly", "regions", "proposals"]
CALLS: tuple[Call, ...] = ("locate", "locate_all", "describe", "ask", "ask_plainly", "regions", "proposals")

BOX_DIGITS, SCORE_DIGITS = 2, 6
"""Digits behind the point that are written: what lies below changes with the number of threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about a picture."""

    call: Call
    """locate, locate_all: where `text` is. describe: what is in the box. ask, ask_plainly: `text` itself, grounded or
    not. regions: what the model could name; proposals: all that the proposer found, before any selection."""
    text: str = ""
    """Phrase or question; [1], [2], ... stand for the boxes."""
    boxes_xyxy_px: tuple[Box, ...] = ()
    """Boxes that it points at, in pixels of the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A phrase of an answer with its boxes."""

    phrase: str
    start: int
    """First character in the text."""
    end: int
    """One behind the last."""
    boxes_xyxy_px: tuple[Box, ...]
    scores: tuple[float, ...]
    """Confidence of each box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An answer as it is written to disk."""

    text: str = ""
    named: tuple[Named, ...] = ()
    regions_xyxy_px: tuple[Box, ...] = ()
    """Of the calls "regions" and "proposals": boxes, best first."""
    objectness: tuple[float, ...] = ()
    """Of each of these."""
    finish_reason: str = "stop"

    @property
    def boxes_xyxy_px(self) -> tuple[Box, ...]:
        """Boxes of all phrases, in the order in which they were named."""
        return tuple(box for one in self.named for box in one.boxes_xyxy_px)

    @property
    def scores(self) -> tuple[float, ...]:
        """Confidence of each of them."""
        return tuple(score for one in self.named for score in one.scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Record":
        """Reads what `to_dict` wrote, also after a trip through JSON.

        Raises:
            InputError: something is missing or unknown.
        """
        try:
            named = tuple(
                Named(**{**one, "boxes_xyxy_px": _boxes(one["boxes_xyxy_px"]), "scores": tuple(one["scores"])})
                for one in values["named"]
            )
            regions, objectness = _boxes(values["regions_xyxy_px"]), tuple(values["objectness"])
            return cls(**{**values, "named": named, "regions_xyxy_px": regions, "objectness": objectness})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not an answer of a benchmark: {error!r}.") from None


def put(
    assistant: Groma,
    pictures: Sequence[Picture],
    questions: Sequence[Sequence[Question]],
    *,
    decoding: Decoding,
) -> list[list[Record]]:
    """Ask.

    Args:
        assistant: who is asked.
        pictures: P pictures; the same object twice is encoded once.
        questions: P lists.
        decoding: how answers are decoded.

    Returns:
        P lists of answers.

    Raises:
        InputError: a picture cannot be read, or a question cannot be put.
    """
    different = list({id(picture): picture for picture in pictures}.values())
    seen = dict(zip(map(id, different), assistant.see(different), strict=True))
    asked = [
        (seen[id(picture)], question) for picture, own in zip(pictures, questions, strict=True) for question in own
    ]
    records: dict[int, Record] = {}
    for call in CALLS:
        places = [place for place, (_, question) in enumerate(asked) if question.call == call]
        if places:
            rows = [asked[place] for place in places]
            records.update(zip(places, _put_alike(assistant, call, rows, decoding), strict=True))
    answers = iter(records[place] for place in range(len(asked)))
    return [[next(answers) for _ in own] for own in questions]


def _put_alike(assistant: Groma, call: Call, rows: Sequence[tuple[Seen, Question]], decoding: Decoding) -> list[Record]:
    """Questions of one kind together."""
    seen, texts = [picture for picture, _ in rows], [question.text for _, question in rows]
    boxes = [list(question.boxes_xyxy_px) for _, question in rows]
    match call:
        case "locate" | "locate_all":
            return _recorded(assistant.locate(seen, texts, all=call == "locate_all", decoding=decoding))
        case "describe":
            described = assistant.describe(seen, boxes, decoding=decoding)
            return _recorded([answer for (answer,) in described])
        case "ask" | "ask_plainly":
            pointed = [own or None for own in boxes]
            return _recorded(assistant.ask(seen, texts, regions=pointed, grounded=call == "ask", decoding=decoding))
        case "regions":
            return [_found(regions) for regions in assistant.regions(seen)]
        case "proposals":
            return [_found(regions) for regions in all_proposals(assistant, seen)]


def _recorded(answers: Sequence[GroundedAnswer]) -> list[Record]:
    return [
        Record(
            text=answer.text,
            named=tuple(
                Named(
                    phrase=entity.phrase,
                    start=entity.start,
                    end=entity.end,
                    boxes_xyxy_px=tuple(map(_rounded, entity.boxes_xyxy_px)),
                    scores=tuple(round(score, SCORE_DIGITS) for score in entity.region_scores),
                )
                for entity in answer.entities
            ),
            finish_reason=answer.finish_reason,
        )
        for answer in answers
    ]


def _found(regions: Sequence[Region]) -> Record:
    return Record(
        regions_xyxy_px=tuple(_rounded(region.box_xyxy_px) for region in regions),
        objectness=tuple(round(region.objectness, SCORE_DIGITS) for region in regions),
    )


def _rounded(box: Box) -> Box:
    x1, y1, x2, y2 = (round(value, BOX_DIGITS) for value in box)
    return x1, y1, x2, y2


def _boxes(values: Sequence[Sequence[float]]) -> tuple[Box, ...]:
    return tuple((float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in values)
