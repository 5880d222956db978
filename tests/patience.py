"""How long something may take in a test on a machine that is busy otherwise, and may stand still for seconds.

What shall not be waited for takes far longer in a test than a few seconds; what shall cost little is measured by the
time that the process computes, as it does not run on while others do.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SOON_S = 15.0
"""Seconds that are few beside what would be waited for."""


@contextmanager
def soon(seconds: float = SOON_S) -> Iterator[None]:
    """What is done within ends soon."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"took {took:.1f} s of at most {seconds:g}"


@contextmanager
def cheaply(seconds: float) -> Iterator[None]:
    """What is done within, by any thread of this process, computes for less than so many seconds."""
    began = time.process_time()
    yield
    took = time.process_time() - began
    assert took < seconds, f"computed for {took:.2f} s of at most {seconds:g}"


def wait_for(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until it is true; a server that is not there yet says no."""
    until = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            if true():
                return
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.02)
