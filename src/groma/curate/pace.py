"""When the next request may leave: so many a minute, none while the endpoint wants peace, and later after each failure.

`Stop` is how a run ends early: whoever waits is woken, and nobody starts anything new.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

from groma.curate.settings import Line
from groma.errors import GromaError


class Stop:
    """The wish to end a run, with its reason.

    Attributes:
        reason: Why; None while the run goes on.
        error: What is raised once everything is written, if it ends because of a fault.
    """

    def __init__(self) -> None:
        """Nothing to stop for yet."""
        self.reason: str | None = None
        self.error: GromaError | None = None
        self._event = asyncio.Event()

    def now(self, reason: str, error: GromaError | None = None) -> None:
        """End the run; the first reason counts."""
        if self.reason is None:
            self.reason, self.error = reason, error
        self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of the run."""
        with contextlib.suppress(TimeoutError):  # the time is over
            await asyncio.wait_for(self._event.wait(), timeout=max(0.0, seconds))


class Pace:
    """Gives requests their turn. For all workers of one event loop together."""

    def __init__(self, line: Line, stop: Stop, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without debts.

        Args:
            line: How fast.
            stop: What wakes those who wait.
            clock: Seconds, for tests.
        """
        self._line = line
        self._stop = stop
        self._clock = clock
        self._interval_s = 0.0 if line.per_minute is None else 60.0 / line.per_minute
        self._next_s = clock()
        self._jitter = random.Random()  # spreads retries of several runs, decides nothing else

    async def turn(self) -> None:
        """Wait until a request may leave, or until the run ends."""
        while self._stop.reason is None:
            wait_s = self._next_s - self._clock()
            if wait_s <= 0:
                self._next_s = self._clock() + self._interval_s
                return
            await self._stop.sleep(wait_s)

    def hold(self, seconds: float) -> None:
        """Let nobody go for so long: the endpoint asked for it."""
        self._next_s = max(self._next_s, self._clock() + seconds)

    def wait_s(self, failures: int) -> float:
        """How long a request waits after its n-th failure, in seconds: twice as long each time, spread by chance."""
        longest = min(self._line.longest_wait_s, self._line.first_wait_s * 2.0 ** (failures - 1))
        return longest * self._jitter.uniform(0.5, 1.0)
