"""What becomes of generated tokens: events while they come, a GroundedAnswer at the end."""

from collections.abc import Iterator

from groma.inference.generate import Step
from groma.inference.result import Entity, FinishReason, GroundedAnswer, Region
from groma.prompt.parse import Event, IncrementalParser, ParsedPhrase


class Transcript:
    """Collects one answer of a batch, token by token."""

    def __init__(
        self,
        parser: IncrementalParser,
        stop_ids: frozenset[int],
        *,
        question: str,
        regions: tuple[Region, ...],
        image_size_px: tuple[int, int],
        grounded: bool,
    ) -> None:
        """Start an answer to `question` about a picture with these regions."""
        self._parser, self._stop_ids = parser, stop_ids
        self._question, self._regions, self._size, self._grounded = question, regions, image_size_px, grounded
        self._probabilities: list[dict[int, float] | None] = []
        self._stopped = self._flushed = False

    def add(self, step: Step, index: int) -> list[Event]:
        """Take what sample `index` said in this step; return what is new."""
        token = step.token_ids[index]
        if token is None:
            return []
        self._probabilities.append(step.region_probabilities[index])
        self._stopped = token in self._stop_ids
        return self._parser.push(token)

    def finish(self) -> list[Event]:
        """What a cut answer still held back; call it when no token will come."""
        if self._flushed:
            return []
        self._flushed = True
        return self._parser.finish()

    def answer(self, reason: FinishReason | None = None) -> GroundedAnswer:
        """The answer so far; `reason` says why it ends if the model did not end it."""
        self.finish()
        parsed = self._parser.result()
        return GroundedAnswer(
            text=parsed.text,
            entities=tuple(self._entity(phrase) for phrase in parsed.phrases if phrase.regions),
            regions=self._regions,
            finish_reason="stop" if self._stopped else reason or "length",
            raw_text=parsed.raw_text,
            image_size_px=self._size,
            question=self._question,
            grounded=self._grounded,
        )

    def _entity(self, phrase: ParsedPhrase) -> Entity:
        scores = tuple(
            (self._probabilities[position] or {}).get(region, 0.0)
            for region, position in zip(phrase.regions, phrase.token_positions, strict=True)
        )
        return Entity(
            phrase=phrase.text,
            start=phrase.start,
            end=phrase.end,
            region_ids=phrase.regions,
            score=sum(scores) / len(scores),
            region_scores=scores,
        )


class AnswerStream:
    """Iterate for what is new (groma.prompt.parse events); afterwards, or at any time, `answer` is the whole."""

    def __init__(self, steps: Iterator[Step], transcript: Transcript) -> None:
        """`steps` come from `decode`, for a batch of one."""
        self._steps, self._transcript = steps, transcript
        self._ended = False

    def __iter__(self) -> Iterator[Event]:
        for step in self._steps:
            yield from self._transcript.add(step, 0)
        self._ended = True
        yield from self._transcript.finish()

    @property
    def answer(self) -> GroundedAnswer:
        """The answer as far as it was read; "cancelled" if the iteration was left before its end."""
        return self._transcript.answer("length" if self._ended else "cancelled")
