"""The engine: one thread that owns the model and answers all who ask, side by side.

    submit(job) -> queue -> picture encoded (once) -> prompt -> place in the running batch -> events of the ticket
                                                                 | step, step, step ...

Between two steps whoever has ended, given up or run out of time leaves, and whoever waits joins.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from PIL import Image

from groma.engine.batch import Batch
from groma.engine.fair_queue import FairQueue
from groma.engine.observer import Observer
from groma.engine.pictures import Picture, PictureCache, open_picture
from groma.engine.ticket import (
    Answered,
    CancelledError,
    Event,
    Job,
    StoppedError,
    Ticket,
    TimeLimitError,
)
from groma.errors import GromaError, InputError
from groma.image import MAX_PIXELS
from groma.inference.assistant import Groma
from groma.inference.decoder import Backend
from groma.inference.generate import Decoding, check_decoding
from groma.inference.prefix import PrefixStore
from groma.inference.request import BoxesXyxyPx
from groma.inference.result import GroundedAnswer
from groma.inference.turns import Exchange, asking

LOG = logging.getLogger("groma.engine")

ENCODED_TOGETHER = 4
"""New pictures that are encoded between two steps at most: answers on their way do not stand still for long."""

AT_LEAST = 64
"""Tokens for which there must be room if it is not said how many an answer may have."""

LOOK_EVERY_S = 0.05
"""How often the waiting are looked through for those who gave up or ran out of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Limits."""

    max_batch: int = 32
    """Answers that are said side by side."""
    max_queue: int = 256
    """Questions that wait; one client may hold half of these."""
    picture_cache_bytes: int = 1 << 30
    """Memory for pictures that were seen."""
    prefix_cache_bytes: int = 1 << 30
    """Memory for conversations that were read (keys and values)."""
    max_pixels: int = MAX_PIXELS
    """Pixels that a picture may have."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "max_pixels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("picture_cache_bytes", "prefix_cache_bytes"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}")


class Engine(AbstractContextManager["Engine"]):
    """Answers questions of many at once; greedy answers are those of `Groma.ask`, whoever else asks.

    Use it as a context, or `start` and `close` it.
    """

    def __init__(
        self,
        assistant: Groma,
        settings: EngineSettings | None = None,
        *,
        backend: Callable[[PrefixStore], Backend] | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Not yet started.

        Args:
            assistant: the model; nobody else may use it while the engine runs.
            settings: limits.
            backend: makes what generates; None: the model itself.
            observer: is told what happens.
        """
        self.assistant = assistant
        self.settings = settings or EngineSettings()
        self.pictures = PictureCache(self.settings.picture_cache_bytes)
        self.prefixes = PrefixStore(self.settings.prefix_cache_bytes)
        made: Backend = (backend or assistant.decoder)(self.prefixes)
        self._batch = Batch(assistant, made, self.pictures, observer or Observer())
        self._queue = FairQueue(self.settings.max_queue)
        self._condition = threading.Condition()
        self._given_up = False
        self._stopping: str | None = None
        self.on_death: Callable[[BaseException], None] = lambda error: None
        """Is told should the engine's own thread ever end by an error."""
        self._looked = 0.0
        self._thread = threading.Thread(target=self._run, name="groma-engine", daemon=True)

    # --- for those who ask -------------------------------------------------------------------------------------------

    def __enter__(self) -> "Engine":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finish=kind is None)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether questions are taken."""
        return self._thread.is_alive() and self._stopping is None

    @property
    def default_decoding(self) -> Decoding:
        """How tokens are chosen where nothing is said; an answer may take half of a small model's context at most."""
        context = self.assistant.model.config.context_tokens
        return Decoding(max_new_tokens=max(1, min(Decoding().max_new_tokens, context // 2)))

    @property
    def at_least(self) -> int:
        """Tokens for which there must be room where it is not said how many an answer may have."""
        return min(self.default_decoding.max_new_tokens, AT_LEAST)

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Answers on their way."""
        return len(self._batch)

    def picture(self, source: bytes | Image.Image) -> Picture:
        """Decode a picture for a job, in the caller's thread.

        Raises:
            InputError: it cannot be read, or is too large.
        """
        return open_picture(source, self.assistant.preprocessing, self.pictures, max_pixels=self.settings.max_pixels)

    def question(
        self,
        picture: Picture,
        question: str,
        regions: BoxesXyxyPx | None = None,
        *,
        grounded: bool = True,
        history: Sequence[GroundedAnswer] = (),
        decoding: Decoding | None = None,
    ) -> Job:
        """What `Groma.ask` is given, as a job.

        Without `decoding` an answer may have as many tokens as there is room for, up to those of `default_decoding`.

        Raises:
            InputError: question, regions or history cannot be used.
        """
        exchange = asking(
            question,
            regions,
            size_px=picture.size_px,
            max_regions=self.assistant.max_regions,
            grounded=grounded,
            history=history,
        )
        return self.job(picture, exchange, decoding)

    def job(self, picture: Picture, exchange: Exchange | None, decoding: Decoding | None = None) -> Job:
        """A question as groma.inference.turns makes it; None: only which regions the picture has."""
        if decoding is not None:
            return Job(picture=picture, exchange=exchange, decoding=check_decoding(decoding))
        return Job(picture=picture, exchange=exchange, decoding=self.default_decoding, at_least=self.at_least)

    def submit(self, job: Job, listener: Callable[[Event], None] | None = None) -> Ticket:
        """Ask.

        Args:
            job: what is asked.
            listener: is told what happens, by the engine's thread; None: the ticket keeps it.

        Raises:
            BusyError: too many wait.
            StoppedError: the engine stops.
        """
        return self.submit_all([job], [listener])[0]

    def submit_all(
        self, jobs: Sequence[Job], listeners: Sequence[Callable[[Event], None] | None] | None = None
    ) -> list[Ticket]:
        """Ask several questions of one client: all of them are taken, or none.

        Args:
            jobs: one or more.
            listeners: of each, see `submit`.

        Raises:
            BusyError: too many wait.
            StoppedError: the engine stops.
        """
        tickets = [Ticket(job, listener) for job, listener in zip(jobs, listeners or [None] * len(jobs), strict=True)]
        for ticket in tickets:
            ticket.on_cancel(self._wake_for_cancelled)
        with self._condition:
            if not self.ready:
                raise StoppedError("the engine takes no questions: it stops, or was not started")
            self._queue.put(tickets, seconds_each=self._batch.seconds_each)
            self._condition.notify()
        return tickets

    def ask(self, job: Job) -> Answered:
        """Ask and wait.

        Raises:
            GromaError: it was not answered.
        """
        return self.submit(job).result()

    def drain(self) -> None:
        """Take no more questions; those that were taken are answered, then the thread ends."""
        with self._condition:
            self._stopping = self._stopping or "drain"
            self._condition.notify()

    def stop_now(self) -> None:
        """Tell everybody that the engine stops; it does not wait for that."""
        with self._condition:
            self._stopping = "now"
            self._condition.notify()

    def close(self, *, finish: bool = True, timeout_s: float | None = None) -> bool:
        """Stop.

        Args:
            finish: answer what was taken before; otherwise it is told that the engine has stopped.
            timeout_s: wait so long for that, then stop at once.

        Returns:
            Whether everything that was taken was answered.
        """
        self.drain()
        if not self._thread.is_alive():
            return True
        if finish:
            self._thread.join(timeout_s)
        left = self._thread.is_alive()
        self.stop_now()
        self._thread.join()
        return not left

    def _wake_for_cancelled(self) -> None:
        with self._condition:
            self._given_up = True
            self._condition.notify()

    # --- the engine's thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # there is nobody above who could be told
            LOG.critical("the engine has died", exc_info=error)
            self.on_death(error)
        finally:
            with self._condition:
                self._stopping = "now"
                left = [*self._queue.take(lambda _: True), *self._batch.tickets]
            for ticket in left:
                self._batch.leave(ticket, StoppedError("the engine has stopped"), "stopped")
            self._batch.close()

    def _turn(self) -> bool:
        """Let leave and join, and say one token of each answer; whether to go on."""
        with self._condition:
            while not (self._batch or len(self._queue) or self._stopping or self._given_up):
                self._condition.wait()
            if self._stopping == "now" or (self._stopping and not self._batch and not len(self._queue)):
                return False
            unwanted = self._take_unwanted()
            joining = self._take_joining()
        try:
            for ticket in unwanted:
                self._batch.leave(ticket, *_why_unwanted(ticket))
            self._batch.join(joining)
            self._batch.step()
        except Exception as error:  # noqa: BLE001  # the batch is lost, the engine goes on
            self._batch.fail_all((*unwanted, *joining), error)
        return True

    def _take_unwanted(self) -> list[Ticket]:
        """Those who gave up or ran out of time, out of the queue and out of the batch."""
        now = time.monotonic()
        if not self._given_up and now - self._looked < LOOK_EVERY_S:
            return []
        self._given_up, self._looked = False, now

        def unwanted(ticket: Ticket) -> bool:
            return ticket.cancelled or now > ticket.deadline

        return [*self._queue.take(unwanted), *filter(unwanted, self._batch.tickets)]

    def _take_joining(self) -> list[Ticket]:
        """Who gets the free places."""
        joining: list[Ticket] = []
        new: set[str] = set()
        while len(self._batch) + len(joining) < self.settings.max_batch and len(new) < ENCODED_TOGETHER:
            ticket = self._queue.pop()
            if ticket is None:
                break
            joining.append(ticket)
            if ticket.job.picture.seen is None:
                new.add(ticket.job.picture.digest)
        return joining


def _why_unwanted(ticket: Ticket) -> tuple[GromaError, str]:
    if ticket.cancelled:
        return CancelledError("the question was given up"), "cancelled"
    return TimeLimitError(f"the question was not answered within {ticket.job.time_limit_s:g} s"), "time_limit"
