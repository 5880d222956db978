"""What becomes of generated tokens: events while they come, a GroundedAnswer at any time."""

from collections.abc import Callable, Iterator

from groma.inference.decoder import Said
from groma.inference.result import Entity, FinishReason, GroundedAnswer, Region
from groma.prompt.parse import Event, IncrementalParser, ParsedPhrase, parse
from groma.prompt.tokenizer_base import PromptTokenizer


class Transcript:
    """Collects one answer of a batch, token by token."""

    def __init__(
        self,
        tokenizer: PromptTokenizer,
        stop_ids: frozenset[int],
        *,
        question: str,
        regions: tuple[Region, ...],
        image_size_px: tuple[int, int],
        grounded: bool,
    ) -> None:
        """Start an answer to `question` about a picture with these regions."""
        self._tokenizer, self._stop_ids = tokenizer, stop_ids
        self._parser = IncrementalParser(tokenizer, stop_ids=stop_ids)
        self.regions = regions
        self._question, self._size, self._grounded = question, image_size_px, grounded
        self._token_ids: list[int] = []
        self._probabilities: list[dict[int, float] | None] = []

    def add(self, said: Said) -> list[Event]:
        """Take the next token; return what is new."""
        self._token_ids.append(said.token_id)
        self._probabilities.append(said.region_probabilities)
        return self._parser.push(said.token_id)

    def finish(self) -> list[Event]:
        """What a cut answer still held back; call it once, when no token will come."""
        return self._parser.finish()

    def answer(self, reason: FinishReason = "length") -> GroundedAnswer:
        """The answer so far; `reason` says why it ends if the model did not end it. More tokens may follow."""
        parsed = parse(self._token_ids, self._tokenizer, stop_ids=self._stop_ids)
        return GroundedAnswer(
            text=parsed.text,
            entities=tuple(self.entity(phrase) for phrase in parsed.phrases if phrase.regions),
            regions=self.regions,
            finish_reason="stop" if parsed.finished else reason,
            raw_text=parsed.raw_text,
            image_size_px=self._size,
            question=self._question,
            grounded=self._grounded,
        )

    def entity(self, phrase: ParsedPhrase) -> Entity:
        """A phrase with its regions and how sure the model was of them."""
        named = zip(phrase.regions, phrase.token_positions, strict=True)
        scores = tuple((self._probabilities[position] or {}).get(region, 0.0) for region, position in named)
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

    def __init__(
        self,
        steps: Iterator[Said],
        transcript: Transcript,
        *,
        finish: Callable[[GroundedAnswer], GroundedAnswer] = lambda answer: answer,
    ) -> None:
        """`steps` are the answer's tokens; `finish` makes of an answer what the user gets."""
        self._transcript, self._finish = transcript, finish
        self._ended = False
        self._events = self._run(steps)

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def _run(self, steps: Iterator[Said]) -> Iterator[Event]:
        for step in steps:
            yield from self._transcript.add(step)
        self._ended = True
        yield from self._transcript.finish()

    @property
    def answer(self) -> GroundedAnswer:
        """The answer as far as it was read; "cancelled" if the iteration was left before its end."""
        return self._finish(self._transcript.answer("length" if self._ended else "cancelled"))
