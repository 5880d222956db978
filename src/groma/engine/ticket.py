"""A question that was handed in: what becomes of it, and how to give it up."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue

from groma.engine.pictures import Picture
from groma.errors import GromaError
from groma.inference.generate import Decoding
from groma.inference.result import Entity, GroundedAnswer, Region
from groma.inference.turns import Exchange
from groma.prompt.parse import TextDelta

LOG = logging.getLogger("groma.engine")

_NUMBERS = itertools.count(1)


class BusyError(GromaError):
    """More questions wait than may; `retry_after_s` says when to come again."""

    def __init__(self, text: str, retry_after_s: int) -> None:
        """Say it in one sentence."""
        super().__init__(text)
        self.retry_after_s = retry_after_s


class TimeLimitError(GromaError):
    """A question was not answered within its time."""


class CancelledError(GromaError):
    """A question was given up by who asked it."""


class StoppedError(GromaError):
    """The engine stops, or has stopped."""


class EngineError(GromaError):
    """Something broke inside; the log says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked."""

    picture: Picture
    """What it is about."""
    exchange: Exchange | None
    """The question (groma.inference.turns); None: only which regions the picture has."""
    decoding: Decoding = field(default_factory=Decoding)
    """How tokens are chosen."""
    client: str = ""
    """Who asks: those who ask are served in turn."""
    time_limit_s: float = 300.0
    """Seconds it may take, the time in the queue included."""
    asked: float | None = None
    """When it was asked, on the monotonic clock: its time begins there. None: when it is handed in."""
    at_least: int | None = None
    """Tokens for which there must be room in the model's context; None: all that the answer may have."""
    streams: bool = False
    """Whether what is said is wanted token by token."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost."""

    prompt_tokens: int
    """of the whole prompt, the picture's included"""
    cached_tokens: int
    """of these, how many had been read before"""
    completion_tokens: int
    """that were said"""


@dataclass(frozen=True, slots=True)
class Answered:
    """The end of a question."""

    answer: GroundedAnswer | None
    """None where only regions were asked for"""
    regions: tuple[Region, ...]
    """the picture's regions"""
    usage: Usage


Event = TextDelta | Entity | Answered | GromaError
"""What happens to a question: text, a phrase whose regions were named, its end, or what was wrong."""


class Ticket:
    """Iterate for what happens, or wait for the end with `result`.

    Attributes:
        number: counted from 1.
        job: what is asked.
        submitted: when it was handed in, on the monotonic clock.
        asked: when its time began.
        began: when its place was taken; None: it waits.
    """

    def __init__(self, job: Job, listener: Callable[[Event], None] | None = None) -> None:
        """`listener` is called by the engine's thread for each event; without one they are kept for iteration."""
        self.number = next(_NUMBERS)
        self.job = job
        self.submitted = time.monotonic()
        self.asked = self.submitted if job.asked is None else job.asked
        self.began: float | None = None
        self.first_said: float | None = None
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._listener = self._events.put if listener is None else listener
        self._cancelled = threading.Event()
        self._wake: Callable[[], None] = lambda: None
        self.done = False

    @property
    def deadline(self) -> float:
        """On the monotonic clock."""
        return self.asked + self.job.time_limit_s

    @property
    def cancelled(self) -> bool:
        """Whether it was given up."""
        return self._cancelled.is_set()

    def on_cancel(self, wake: Callable[[], None]) -> None:
        """Call this when the question is given up."""
        self._wake = wake

    def cancel(self) -> None:
        """Give it up; its place is free before the next token is said. Nothing happens if it has ended."""
        self._cancelled.set()
        self._wake()

    def tell(self, event: Event) -> None:
        """Something happened (for the engine), which a listener that fails does not disturb."""
        if self.done:
            return
        self.done = isinstance(event, Answered | GromaError)
        try:
            self._listener(event)
        except Exception:
            LOG.exception("who listens to question %d failed", self.number)
            self.cancel()

    def __iter__(self) -> Iterator[TextDelta | Entity | Answered]:
        """Everything that happens, up to the end.

        Raises:
            GromaError: it was not answered.
        """
        while True:
            event = self._events.get()
            if isinstance(event, GromaError):
                raise event
            yield event
            if isinstance(event, Answered):
                return

    def result(self, timeout_s: float | None = None) -> Answered:
        """Wait for the end.

        Raises:
            GromaError: it was not answered.
            TimeLimitError: not within this time; it goes on.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                event = self._events.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except Empty:
                raise TimeLimitError(f"no answer within {timeout_s:g} s: wait longer") from None
            if isinstance(event, GromaError):
                raise event
            if isinstance(event, Answered):
                return event


def with_boxes(entity: Entity, regions: tuple[Region, ...]) -> Entity:
    """An entity with the boxes of its regions."""
    return replace(entity, boxes_xyxy_px=tuple(regions[number].box_xyxy_px for number in entity.region_ids))
