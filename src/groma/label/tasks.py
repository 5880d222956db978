"""What is asked about each picture, and the label that the answers become.

A task turns seen pictures into labels with the calls that users have; TASKS names them. A label of any task is one
text whose phrases have boxes, so that all formats write all tasks:

| task | text | phrases |
|---|---|---|
| grounded-caption | the answer | as in the answer |
| detect | the phrases that were found | each with its boxes; without --phrase one empty phrase with all proposals |
| describe | a line a box | each description with its box |
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

from groma.errors import InputError

if TYPE_CHECKING:
    from groma.evaluate.questions import Named, Question, Record
    from groma.inference.assistant import Groma
    from groma.inference.pictures import Seen
    from groma.inference.result import Box

QUESTION = "Describe the image in detail."
MIN_OBJECTNESS = 0.3
MAX_BOXES = 20
MAX_NEW_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is said about one picture."""

    text: str = ""
    """All that is said."""
    entities: "tuple[Named, ...]" = ()
    """Phrases with boxes, in the order of the text. Scores, 0..1, are the confidence in a phrase's boxes, the
    objectness of proposals, 1 of boxes that were given."""
    finish_reason: str = "stop"
    """"length" if an answer was cut at its largest number of tokens, else "stop"."""

    def to_row(self, key: str, size_px: tuple[int, int], *, clipped: int = 0) -> dict[str, Any]:
        """A line of labels.jsonl.

        Args:
            key: what the picture is called.
            size_px: its width and height.
            clipped: how many given boxes reached beyond it.
        """
        row: dict[str, Any] = {"key": key, "width": size_px[0], "height": size_px[1], "text": self.text}
        row["entities"] = [asdict(entity) for entity in self.entities]
        row["finish_reason"] = self.finish_reason
        return row | ({"clipped_boxes": clipped} if clipped else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a task is done; None: its default."""

    question: str | None = None
    """Of grounded-caption: what is asked."""
    phrases: tuple[str, ...] = ()
    """Of detect: what is looked for; nothing: all that the proposer is sure of."""
    min_objectness: float | None = None
    """Of detect and describe: proposals that are at least so sure to be something, 0..1."""
    max_boxes: int | None = None
    """Of describe, where no boxes are given: proposals of a picture at most."""
    max_new_tokens: int = MAX_NEW_TOKENS
    """Tokens that an answer may have at most."""


class LabelTask(ABC):
    """One kind of label."""

    name: ClassVar[str]
    """What it is called on the command line."""
    uses: ClassVar[tuple[str, ...]]
    """Options that change it, beside the number of tokens."""
    wants_boxes: ClassVar[bool] = False
    """Whether boxes that come with pictures are its business."""

    def __init__(self, options: Options) -> None:
        """Begin with checked options."""
        self.options = options

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The options that change it, with defaults filled in, as JSON values."""

    @abstractmethod
    def label(
        self, assistant: "Groma", pictures: "Sequence[Seen]", boxes: "Sequence[Sequence[Box] | None]"
    ) -> list[Label]:
        """Labels of P pictures.

        Args:
            assistant: who is asked.
            pictures: what it sees.
            boxes: of each picture the boxes that came with it, checked; None: none were told.

        Raises:
            InputError: a question cannot be put.
        """

    def _put(
        self, assistant: "Groma", pictures: "Sequence[Seen]", questions: "Sequence[Sequence[Question]]"
    ) -> "list[list[Record]]":
        from groma.evaluate.questions import put
        from groma.inference.generate import Decoding

        decoding = Decoding(max_new_tokens=self.options.max_new_tokens)
        return put(assistant, pictures, questions, decoding=decoding)


class GroundedCaption(LabelTask):
    """A text about the whole picture whose phrases have boxes."""

    name, uses = "grounded-caption", ("question",)

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"question": self.options.question or QUESTION}

    def label(
        self, assistant: "Groma", pictures: "Sequence[Seen]", boxes: "Sequence[Sequence[Box] | None]"
    ) -> list[Label]:
        """See the base class."""
        from groma.evaluate.questions import Question

        question = Question(call="ask", text=self.settings()["question"])
        answers = self._put(assistant, pictures, [[question]] * len(pictures))
        return [
            Label(text=answer.text, entities=answer.named, finish_reason=answer.finish_reason) for (answer,) in answers
        ]


class Detect(LabelTask):
    """Boxes: of each phrase all that it names, or all that the proposer is sure of."""

    name, uses = "detect", ("phrases", "min_objectness")

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        if self.options.phrases:
            return {"phrases": list(self.options.phrases)}
        return {"phrases": [], "min_objectness": _or(self.options.min_objectness, MIN_OBJECTNESS)}

    def label(
        self, assistant: "Groma", pictures: "Sequence[Seen]", boxes: "Sequence[Sequence[Box] | None]"
    ) -> list[Label]:
        """See the base class."""
        from groma.evaluate.questions import Question

        phrases = self.options.phrases
        if not phrases:
            lowest = _or(self.options.min_objectness, MIN_OBJECTNESS)
            found = self._put(assistant, pictures, [[Question(call="regions")]] * len(pictures))
            return [_proposed(*_sure(record, lowest)) for (record,) in found]
        asked = [Question(call="locate_all", text=phrase) for phrase in phrases]
        answers = self._put(assistant, pictures, [asked] * len(pictures))
        return [
            _joined([(phrase, a.boxes_xyxy_px, a.scores) for phrase, a in zip(phrases, own, strict=True)], ", ", own)
            for own in answers
        ]


class Describe(LabelTask):
    """A description of each box that came with the picture, else of each proposal."""

    name, uses, wants_boxes = "describe", ("min_objectness", "max_boxes"), True

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "min_objectness": _or(self.options.min_objectness, MIN_OBJECTNESS),
            "max_boxes": _or(self.options.max_boxes, MAX_BOXES),
        }

    def label(
        self, assistant: "Groma", pictures: "Sequence[Seen]", boxes: "Sequence[Sequence[Box] | None]"
    ) -> list[Label]:
        """See the base class."""
        from groma.evaluate.questions import Question

        chosen = self._chosen(assistant, pictures, boxes)
        questions = [[Question(call="describe", boxes_xyxy_px=(box,)) for box, _ in own] for own in chosen]
        described = self._put(assistant, pictures, questions)
        return [
            _joined([(a.text, (box,), (score,)) for (box, score), a in zip(own, answers, strict=True)], "\n", answers)
            for own, answers in zip(chosen, described, strict=True)
        ]

    def _chosen(
        self, assistant: "Groma", pictures: "Sequence[Seen]", boxes: "Sequence[Sequence[Box] | None]"
    ) -> "list[list[tuple[Box, float]]]":
        """Of each picture the boxes that are described, each with its score."""
        from groma.evaluate.questions import Question

        settings = self.settings()
        without = [[Question(call="regions")] if own is None else [] for own in boxes]
        proposed = self._put(assistant, pictures, without)
        chosen: list[list[tuple[Box, float]]] = []
        for own, found in zip(boxes, proposed, strict=True):
            if own is None:
                (record,) = found
                pairs = list(zip(*_sure(record, settings["min_objectness"]), strict=True))
                chosen.append(pairs[: settings["max_boxes"]])
            else:
                chosen.append([(box, 1.0) for box in own])
        return chosen


TASKS: dict[str, type[LabelTask]] = {task.name: task for task in (GroundedCaption, Detect, Describe)}
"""Name of a task -> its class."""

_FLAGS = {
    "question": "--question",
    "phrases": "--phrase",
    "min_objectness": "--min-objectness",
    "max_boxes": "--max-boxes",
}


def make_task(name: str, options: Options) -> LabelTask:
    """A task by name.

    Raises:
        InputError: There is no such task, an option has no value that it could have, or belongs to another task.
    """
    if name not in TASKS:
        close = get_close_matches(name, TASKS, n=1)
        known = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(TASKS)}"
        raise InputError(f"there is no task {name!r}: {known}")
    for option, flag in _FLAGS.items():
        if getattr(options, option) not in (None, ()) and option not in TASKS[name].uses:
            owners = " or ".join(other for other, task in TASKS.items() if option in task.uses)
            raise InputError(f"{flag} is for --task {owners}, not for {name}")
    if options.phrases and options.min_objectness is not None:
        raise InputError("--min-objectness chooses among proposals, --phrase asks the model: leave one of them out")
    _check(options)
    return TASKS[name](options)


def _check(options: Options) -> None:
    for text, flag in ((options.question, "--question"), *((phrase, "--phrase") for phrase in options.phrases)):
        if text is not None and not text.strip():
            raise InputError(f"{flag} is empty: leave it out or say something")
    if twice := sorted({phrase for phrase in options.phrases if options.phrases.count(phrase) > 1}):
        raise InputError(f"--phrase {twice[0]!r} is given twice")
    if options.min_objectness is not None and not 0 <= options.min_objectness <= 1:
        raise InputError(f"--min-objectness must be from 0 to 1, got {options.min_objectness}")
    for count, flag in ((options.max_boxes, "--max-boxes"), (options.max_new_tokens, "--max-new-tokens")):
        if count is not None and count < 1:
            raise InputError(f"{flag} must be at least 1, got {count}")


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _sure(record: "Record", lowest: float) -> "tuple[tuple[Box, ...], tuple[float, ...]]":
    """Boxes and scores of the proposals that are at least so sure, best first."""
    rows = [
        (box, score)
        for box, score in zip(record.regions_xyxy_px, record.objectness, strict=True)
        if score >= lowest and box[2] > box[0] and box[3] > box[1]
    ]
    return tuple(box for box, _ in rows), tuple(score for _, score in rows)


def _proposed(boxes_xyxy_px: "tuple[Box, ...]", scores: tuple[float, ...]) -> Label:
    from groma.evaluate.questions import Named

    if not boxes_xyxy_px:
        return Label()
    return Label(entities=(Named(phrase="", start=0, end=0, boxes_xyxy_px=boxes_xyxy_px, scores=scores),))


def _joined(
    rows: "Sequence[tuple[str, tuple[Box, ...], tuple[float, ...]]]", separator: str, answers: "Sequence[Record]"
) -> Label:
    """Texts with boxes and scores as one text; one without boxes is left out. The answers say whether any was cut."""
    from groma.evaluate.questions import Named

    text, entities = "", list[Named]()
    for own, boxes_xyxy_px, scores in rows:
        if boxes_xyxy_px:
            text += separator if entities else ""
            start, end = len(text), len(text) + len(own)
            text += own
            entities.append(Named(phrase=own, start=start, end=end, boxes_xyxy_px=boxes_xyxy_px, scores=scores))
    cut = any(answer.finish_reason == "length" for answer in answers)
    return Label(text=text, entities=tuple(entities), finish_reason="length" if cut else "stop")
