"""Ctrl-C and SIGTERM as a wish that a loop can grant when it suits, instead of an exception anywhere."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptions(*, can_force: bool) -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event for the duration of a `with` block.

    Args:
        can_force: Whether a second Ctrl-C raises KeyboardInterrupt at once. Not to be used under torchrun, which
            sends the signal again to processes that the terminal has told already.

    Yields:
        The event that is set by the first signal. Outside the main thread, where Python allows no signal handlers,
        it is never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, _frame: object) -> None:
        if event.is_set() and can_force and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
