"""What a benchmark is: numbered cases, a question or more for each, and figures of the answers.

    case number --answer--> record (JSON) --sections--> figures of each section

A case is asked about without knowing the others, and its record says all that figures need, so that a run can be split
over processes, be resumed, and be measured again without a model.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from groma.evaluate.measures import Measure
from groma.evaluate.questions import Question, Record, put
from groma.inference.assistant import Groma
from groma.inference.generate import Decoding
from groma.inference.result import Box

DECODING = Decoding(max_new_tokens=160)
"""Greedy; nothing that is right is cut: nine objects with phrases and regions take 110 tokens."""

Figures = dict[str, Measure]
"""Metric -> measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A case for people to look at."""

    picture: Image.Image
    """RGB, as it is seen."""
    boxes_xyxy_px: tuple[Box, ...]
    """What was answered."""
    labels: tuple[str, ...]
    """What stands beside each of these."""
    wanted_xyxy_px: tuple[Box, ...]
    """What should have been."""
    text: str
    """Question and answer."""


class Benchmark(ABC):
    """A benchmark that is ready to be run: its data are open and were checked."""

    name: str
    """Its key in BENCHMARKS."""
    told: str
    """What it measures, in a sentence."""
    main_metric: str
    """The metric that people look at first."""
    decoding: Decoding = DECODING
    """How answers are decoded."""

    @abstractmethod
    def __len__(self) -> int:
        """How many cases there are."""

    @property
    @abstractmethod
    def sections(self) -> Sequence[str]:
        """Parts that are measured apart, such as splits: one a column of the table."""

    @abstractmethod
    def section_of(self, number: int) -> str:
        """Which section a case belongs to."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What defines the cases, as JSON values: files by checksum, options. Answers of other cases are refused."""

    def prepare(self, numbers: Sequence[int]) -> None:
        """What can be done ahead, while other cases are asked about; called in another thread, may fail."""
        return

    @abstractmethod
    def answer(self, assistant: Groma, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Ask about some cases.

        Returns:
            A record of JSON values for each.

        Raises:
            InputError: a picture cannot be used; names it.
        """

    def finish(self, records: list[dict[str, Any]], out: Path | None) -> list[dict[str, Any]]:
        """All records, completed by what takes all of them, such as a judge; called once they are there.

        Args:
            records: of all cases, in order.
            out: the run's folder, for what must not be lost; None: there is none.
        """
        return records

    @abstractmethod
    def figures(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> Figures:
        """What is measured on a section.

        Args:
            section: which.
            records: number of a case of that section -> its record.
        """

    def reliability(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> list[list[tuple[float, bool]]]:
        """Of each case: (confidence, whether it was right) of what was answered, where that can be said."""
        return []

    @abstractmethod
    def quality(self, number: int, record: Mapping[str, Any]) -> float | None:
        """How good one answer is, 0..1, to find the worst and the best; None: it cannot be said."""

    @abstractmethod
    def drawing(self, number: int, record: Mapping[str, Any]) -> Drawing:
        """A case with its answer, to be drawn."""


class QuestionBenchmark(Benchmark):
    """A benchmark whose cases are questions about a picture."""

    @abstractmethod
    def picture(self, number: int) -> Image.Image:
        """The picture of a case, RGB as it is seen; the same object as long as it is remembered."""

    @abstractmethod
    def questions(self, number: int) -> Sequence[Question]:
        """What is asked."""

    @abstractmethod
    def wanted(self, number: int) -> tuple[Box, ...]:
        """The boxes that should be named, in pixels."""

    def prepare(self, numbers: Sequence[int]) -> None:
        """See the base class: decode the pictures."""
        for number in numbers:
            self.picture(number)

    def answer(self, assistant: Groma, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """See the base class: {"answers": one a question}."""
        pictures = [self.picture(number) for number in numbers]
        questions = [self.questions(number) for number in numbers]
        records = put(assistant, pictures, questions, decoding=self.decoding)
        return [{"answers": [record.to_dict() for record in own]} for own in records]

    def drawing(self, number: int, record: Mapping[str, Any]) -> Drawing:
        """See the base class."""
        answer = answers_of(record)[0]
        question = self.questions(number)[0]
        boxes, scores = answer.boxes_xyxy_px, answer.scores
        if question.call in ("regions", "proposals"):
            boxes, scores = answer.regions_xyxy_px[:DRAWN], answer.objectness[:DRAWN]
        return Drawing(
            picture=self.picture(number),
            boxes_xyxy_px=boxes,
            labels=tuple(f"{score:.2f}" for score in scores),
            wanted_xyxy_px=self.wanted(number),
            text=f"{question.call.replace('_', ' ')}: {question.text}\n{answer.text or '(nothing)'}",
        )


DRAWN = 20
"""Proposals that are drawn, at most."""


def answers_of(record: Mapping[str, Any]) -> list[Record]:
    """The answers of a question benchmark's record."""
    return [Record.from_dict(values) for values in record["answers"]]
