"""Turns: evenly spread, none while the endpoint wants peace, none after the end; waits that grow."""

import asyncio
from itertools import pairwise

import pytest

from groma.curate.pace import Pace, Stop
from groma.curate.settings import Line
from groma.errors import InputError


class Clock:
    """Time that passes while somebody waits for it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class ClockStop(Stop):
    """Waiting takes no real time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    async def sleep(self, seconds: float) -> None:
        self.clock.now_s += seconds
        await asyncio.sleep(0)


def turns(line: Line, count: int, *, hold_after: int | None = None, hold_s: float = 0.0) -> list[float]:
    """When so many turns came, in seconds from the start."""

    async def run() -> list[float]:
        clock = Clock()
        pace = Pace(line, ClockStop(clock), clock=clock)
        came: list[float] = []
        for number in range(count):
            if number == hold_after:
                pace.hold(hold_s)
            await pace.turn()
            came.append(clock.now_s - 100.0)
        return came

    return asyncio.run(run())


def test_a_rate_is_kept():
    assert turns(Line(per_minute=30), 4) == pytest.approx([0, 2, 4, 6])
    assert turns(Line(per_minute=None), 3) == [0, 0, 0]


def test_peace_holds_everybody():
    assert turns(Line(per_minute=30), 4, hold_after=2, hold_s=9.0) == pytest.approx([0, 2, 11, 13])
    assert turns(Line(per_minute=30), 4, hold_after=2, hold_s=0.5) == pytest.approx([0, 2, 4, 6])


def test_many_workers_share_one_rate():
    async def run() -> list[float]:
        clock = Clock()
        pace = Pace(Line(per_minute=60), ClockStop(clock), clock=clock)
        came: list[float] = []

        async def worker() -> None:
            for _ in range(3):
                await pace.turn()
                came.append(clock.now_s)

        await asyncio.gather(*(worker() for _ in range(4)))
        return came

    came = asyncio.run(run())
    assert len(came) == 12
    assert all(later - earlier >= 1.0 - 1e-6 for earlier, later in pairwise(came))


def test_the_end_of_a_run_wakes_those_who_wait():
    async def run() -> float:
        stop = Stop()
        pace = Pace(Line(), stop)
        pace.hold(3600)
        waiting = asyncio.create_task(pace.turn())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        stop.now("interrupted")
        stop.now("budget", InputError("x"))
        await asyncio.wait_for(waiting, timeout=5)
        await asyncio.wait_for(stop.sleep(3600), timeout=5)
        assert (stop.reason, stop.error) == ("interrupted", None)  # the first reason counts

    asyncio.run(run())


def test_waits_double_up_to_a_limit():
    async def run() -> None:
        pace = Pace(Line(first_wait_s=1, longest_wait_s=10), Stop())
        for failures, longest in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (50, 10)):
            waits = [pace.wait_s(failures) for _ in range(50)]
            assert longest / 2 <= min(waits) < max(waits) <= longest

    asyncio.run(run())
