"""What the addresses share: the engine once it is there, and how to wait for it without standing in the way."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from starlette.requests import Request

from groma.engine.engine import Engine
from groma.engine.ticket import Answered, Event, Job, Ticket
from groma.errors import GromaError
from groma.serve.errors import HttpError
from groma.serve.leaving import unless_gone
from groma.serve.metrics import Metrics
from groma.serve.picture_input import PictureInput
from groma.serve.settings import ServeSettings

LOG = logging.getLogger("groma.serve")

MakeEngine = Callable[[Metrics], Engine]
"""Loads the model; called in a thread of its own."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and since when."""

    client: str
    """as the queue knows it"""
    asked: float
    """when the request began to arrive, on the monotonic clock"""
    time_limit_s: float
    """seconds from then"""

    def asking(self, job: Job) -> Job:
        """A job of this one's."""
        return replace(job, client=self.client, asked=self.asked, time_limit_s=self.time_limit_s)


class Service:
    """One server's state."""

    def __init__(self, settings: ServeSettings, make_engine: MakeEngine, *, model_name: str) -> None:
        """Nothing is loaded yet."""
        self.settings, self.model_name = settings, model_name
        self.pictures = PictureInput(settings)
        self.metrics = Metrics()
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._loading: threading.Thread | None = None
        self._stopped = threading.Event()

    def load(self) -> None:
        """Load the model in the background."""
        self._loading = threading.Thread(target=self._load, name="groma-load", daemon=True)
        self._loading.start()

    def _load(self) -> None:
        try:
            engine = self._make_engine(self.metrics)
        except BaseException as error:  # noqa: BLE001  # the server stops, and says why
            self.failure = error
            self.on_failure()
            return
        if self._stopped.is_set():
            return
        engine.on_death = self._died
        engine.start()
        self.metrics.watch(engine)
        self._engine = engine
        LOG.info('{"event": "ready"}')

    def _died(self, error: BaseException) -> None:
        self.failure = error
        self.on_failure()

    def close(self) -> None:
        """Answer what was taken, for `drain_time_s` at most, and stop."""
        self._stopped.set()
        if self._engine is not None:
            self._engine.close(timeout_s=self.settings.drain_time_s)
        self.pictures.close()

    def stop_now(self) -> None:
        """Whoever is still answered is told that the server stops."""
        if self._engine is not None:
            self._engine.stop_now()

    @property
    def state(self) -> str:
        """One of "loading", "ready" or "stopping"."""
        if self._engine is None:
            return "loading"
        return "ready" if self._engine.ready else "stopping"

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            HttpError: it is not there yet, or not any more.
        """
        if self._engine is None or not self._engine.ready:
            raise HttpError(503, f"the server is {self.state}: ask again in a moment", headers={"Retry-After": "5"})
        return self._engine

    def asker(self, request: Request) -> Asker:
        """Who sent a request."""
        return Asker(request.state.client, request.state.began, self.settings.time_limit_s)

    async def run(self, jobs: Sequence[Job], request: Request) -> list[Answered]:
        """Answer all; if the client goes away or one fails, the others are given up.

        Raises:
            GromaError: one was not answered.
        """
        waiting = Waiting(self.engine)
        try:
            waiting.submit(jobs)
            return await unless_gone(waiting.ends(), request)
        finally:
            waiting.give_up()


class Waiting:
    """Tickets of one request, heard in the event loop."""

    def __init__(self, engine: Engine) -> None:
        """None yet."""
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._tickets: list[Ticket] = []
        self._queues: list[asyncio.Queue[Event]] = []

    def submit(self, jobs: Sequence[Job]) -> None:
        """Ask.

        Raises:
            GromaError: they are not taken.
        """
        self._queues = [asyncio.Queue() for _ in jobs]
        self._tickets = self._engine.submit_all(jobs, [self._listener(queue) for queue in self._queues])

    def _listener(self, queue: asyncio.Queue[Event]) -> Callable[[Event], None]:
        def listen(event: Event) -> None:
            self._loop.call_soon_threadsafe(queue.put_nowait, event)

        return listen

    async def events(self, number: int) -> AsyncIterator[Event]:
        """What happens to a question, its end included.

        Raises:
            GromaError: it was not answered.
        """
        while True:
            event = await self._queues[number].get()
            if isinstance(event, GromaError):
                raise event
            yield event
            if isinstance(event, Answered):
                return

    async def ends(self) -> list[Answered]:
        """The end of each.

        Raises:
            GromaError: one was not answered.
        """
        return [await self._end(number) for number in range(len(self._queues))]

    async def _end(self, number: int) -> Answered:
        async for event in self.events(number):
            if isinstance(event, Answered):
                return event
        raise AssertionError("a question without an end")

    def give_up(self) -> None:
        """Give up what has not ended."""
        for ticket in self._tickets:
            if not ticket.done:
                ticket.cancel()
