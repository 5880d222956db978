"""Waiting for what is done in other processes only as long as they live.

vLLM's own call waits without end for a token of a process that was killed, as a system does that runs out of memory
(seen with 0.32.0).
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from multiprocessing import active_children
from typing import Generic, TypeVar

LOOK_S = 0.5
"""Seconds between two looks at the processes."""

Started = TypeVar("Started")
Result = TypeVar("Result")


class ProcessEndedError(Exception):
    """A process ended that was still waited for."""


class Watched(Generic[Started]):
    """Something that has processes of its own."""

    def __init__(self, start: Callable[[], Started]) -> None:
        """Start it; its processes are those that are there afterwards and were not before."""
        before = active_children()
        self.inner = start()
        self._processes = [process for process in active_children() if process not in before]

    @property
    def alive(self) -> bool:
        """Whether all its processes live; without any it is of this one."""
        return all(process.is_alive() for process in self._processes)

    def wait_for(self, call: Callable[[], Result]) -> Result:
        """What a call of its gives; one that never comes back keeps a thread, but not this one.

        Raises:
            ProcessEndedError: a process has ended, and the call does not notice.
        """
        if not self._processes:
            return call()
        future: Future[Result] = Future()
        threading.Thread(target=_run, args=(call, future), name="groma-watched", daemon=True).start()
        alive = True
        while not wait([future], LOOK_S).done:
            if not alive:  # it had time to say so itself
                raise ProcessEndedError(f"process {', '.join(self._ended())} has ended")
            alive = self.alive
        return future.result()

    def _ended(self) -> list[str]:
        return [process.name for process in self._processes if not process.is_alive()]


def _run(call: Callable[[], Result], future: Future[Result]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001  # the one who waits is told
        future.set_exception(error)
