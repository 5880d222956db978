"""Workers that are processes of this machine, each at the other end of a pipe of its own.

A worker writes nothing to disk: it sends what it made, and dies when its pipe closes. So one that is killed takes
nothing along but what it had in hand, and none outlives the process that started it.
"""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any

from groma.errors import GromaError
from groma.label.crew import Died, Event, Finished, Numbered, Ready, Refused
from groma.label.labeller import Labeller, Prepared, Setup

STOP = "stop"
"""What is sent to a worker instead of something to label."""
PATIENCE_S = 5.0
"""How long a process that should end is waited for before it is killed."""


class ProcessCrew:
    """Processes, started afresh (spawned) so that they inherit no locks and no threads."""

    def __init__(self, setup: Setup) -> None:
        """Nothing is started yet."""
        self._setup = setup
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self._started = 0
        self._lost: list[Event] = []

    def start(self) -> int:
        """See `Crew`."""
        number = self._started
        self._started += 1
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work, args=(theirs, self._setup, number), name=f"groma-label-{number}", daemon=True
        )
        with _no_interrupts():
            process.start()
        theirs.close()  # so that the pipe ends with the worker
        self._workers[number] = (process, ours)
        return number

    def hand(self, worker: int, task: int, items: Numbered) -> None:
        """See `Crew`."""
        with suppress(OSError):  # it has died: that is told by its end of the pipe
            self._workers[worker][1].send((task, items))

    def events(self, timeout_s: float) -> list[Event]:
        """See `Crew`."""
        numbers = {connection: number for number, (_, connection) in self._workers.items()}
        told: list[Event] = []
        for connection in wait(list(numbers), timeout_s):
            number = numbers[connection]  # pyright: ignore[reportArgumentType]
            try:
                told.append(self._workers[number][1].recv())
            except (EOFError, OSError):
                told.append(self._gone(number))
        return told

    def end(self, worker: int, why: str) -> list[Event]:
        """See `Crew`."""
        process, connection = self._workers[worker]
        process.kill()
        told: list[Event] = []
        with suppress(EOFError, OSError):
            while connection.poll(PATIENCE_S):  # one that waits for a dead disk cannot even be killed
                told.append(connection.recv())
        self._gone(worker)
        return [*told, Died(worker, why)]

    def stop_soon(self) -> None:
        """See `Crew`."""
        for _, connection in self._workers.values():
            with suppress(OSError):
                connection.send(STOP)

    def close(self) -> None:
        """See `Crew`."""
        for _, connection in self._workers.values():
            connection.close()  # which ends who listens to it, at once
        deadline = time.monotonic() + PATIENCE_S
        for process, _ in self._workers.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(PATIENCE_S)
        self._workers.clear()

    def _gone(self, number: int) -> Died:
        process, connection = self._workers.pop(number)
        connection.close()
        process.join(PATIENCE_S)
        if process.exitcode is None:  # it has closed its pipe and lives on
            process.kill()
            process.join(PATIENCE_S)
        return Died(number, _how_it_ended(process.exitcode or 0))


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"{name}, as when memory runs out" if name == "SIGKILL" else name


@contextmanager
def _no_interrupts() -> Any:
    """Ctrl-C waits, and processes that are started meanwhile never hear it: who started them tells them to stop."""
    if os.name != "posix":
        yield
        return
    resource_tracker.ensure_running()  # else it is started meanwhile, and lets interrupts in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- in the worker's process -----------------------------------------------------------------------------------------


def work(connection: Connection, setup: Setup, number: int) -> None:
    """Label what comes through the pipe until it says stop or closes; the next pictures are opened meanwhile."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox: SimpleQueue[tuple[int, Future[list[Prepared]]] | None] = SimpleQueue()
    stopping = threading.Event()
    ahead = ThreadPoolExecutor(1)
    loaded: Future[Labeller] = Future()

    def receive() -> None:
        """Take everything at once, so that neither side waits for the other with a full pipe."""
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # nobody wants what this one makes
            if message == STOP:
                stopping.set()
                inbox.put(None)
            else:
                task, items = message
                inbox.put((task, ahead.submit(loaded.result().prepare, items)))

    threading.Thread(target=receive, daemon=True).start()  # from the beginning: it may end while the model is loaded
    try:
        labeller = Labeller(setup, number)
    except GromaError as error:
        return _send(connection, Refused(number, str(error)))
    loaded.set_result(labeller)
    _send(connection, Ready(number, labeller.about()))
    while (handed := inbox.get()) is not None and not stopping.is_set():
        task, prepared = handed
        _send(connection, Finished(number, task, labeller.label(prepared.result())))
    os._exit(0)  # which closes the pipe, without waiting for pictures that are still being opened


def _send(connection: Connection, event: Event) -> None:
    try:
        connection.send(event)
    except OSError:
        os._exit(1)  # nobody listens any more
