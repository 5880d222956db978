"""Workers that are actors of a Ray cluster: one that is started here, or one of many machines.

As with processes, an actor writes nothing to disk: what it made comes back to the driver, which keeps it. Pictures are
read by the actors, so that all machines must see the input under the same paths.
"""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from groma.errors import GromaError, InputError, MissingExtraError
from groma.label.crew import Died, Event, Finished, Numbered, Ready, Refused
from groma.label.labeller import Labeller, Outcome, Setup

CALLS_AT_ONCE = 3
"""Of an actor: one that labels, one that opens pictures meanwhile, and one that tells it to stop."""
CONNECT_S = 10.0
"""How long a cluster's address is tried."""
_ERROR = re.compile(r"[\w.]*(Error|Exception): ")
GREETING = -1
"""Number of the call in which an actor loads its model."""


class RayCrew:
    """Actors."""

    def __init__(self, setup: Setup, workers: int, *, address: str | None, threads: int | None) -> None:
        """Connect to a cluster, or start one on this machine that nothing else can reach.

        Args:
            setup: for each worker.
            workers: how many there will be.
            address: of the cluster; None: start one.
            threads: of each worker; None: cores divided by workers.

        Raises:
            MissingExtraError: ray is not installed.
            InputError: there is no such cluster.
        """
        self._ray = _import_ray()
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            _connect(self._ray, address)
        has_gpus = setup.device != "cpu" and self._ray.cluster_resources().get("GPU", 0) > 0
        cores = [int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"]]
        self._threads = threads or _threads_each(cores, workers)
        self._setup = setup
        self._actor = self._ray.remote(
            num_cpus=min(self._threads, max(cores, default=1)),
            num_gpus=1 if has_gpus else 0,
            max_concurrency=CALLS_AT_ONCE,
            max_restarts=0,
        )(LabelActor)
        self._workers: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, int]] = {}
        self._started = 0

    def start(self) -> int:
        """See `Crew`."""
        number = self._started
        self._started += 1
        actor = self._actor.remote(self._setup, number, self._threads)
        self._workers[number] = actor
        self._calls[actor.greet.remote()] = (number, GREETING)
        return number

    def hand(self, worker: int, task: int, items: Numbered) -> None:
        """See `Crew`."""
        self._calls[self._workers[worker].label.remote(list(items))] = (worker, task)

    def events(self, timeout_s: float) -> list[Event]:
        """See `Crew`."""
        if not self._calls:
            return []
        ready, _ = self._ray.wait(list(self._calls), timeout=timeout_s)
        if ready:
            ready, _ = self._ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        told: list[Event] = []
        dead: dict[int, str] = {}
        for call in ready:
            worker, task = self._calls.pop(call)
            try:
                told.append(_event(worker, task, self._ray.get(call)))
            except self._ray.exceptions.RayError as error:
                dead.setdefault(worker, _how_it_ended(error))
        for worker, how in dead.items():
            told += self._last_words(worker)
            told.append(Died(worker, how))
        return told

    def end(self, worker: int, why: str) -> list[Event]:
        """See `Crew`."""
        return [*self._last_words(worker), Died(worker, why)]

    def stop_soon(self) -> None:
        """See `Crew`."""
        for actor in self._workers.values():
            actor.stop.remote()

    def close(self) -> None:
        """See `Crew`."""
        for actor in self._workers.values():
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)
        self._workers.clear()
        self._calls.clear()
        if self._is_ours:
            self._ray.shutdown()

    def _last_words(self, worker: int) -> list[Event]:
        """What a dead actor finished before; the rest of its calls is forgotten."""
        told: list[Event] = []
        for call, (owner, task) in list(self._calls.items()):
            if owner == worker:
                del self._calls[call]
                with suppress(self._ray.exceptions.RayError):
                    told.append(_event(worker, task, self._ray.get(call, timeout=0)))
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._workers.pop(worker))
        return told


class LabelActor:
    """What lives in a worker of Ray. Calls run side by side, but only one labels at a time."""

    def __init__(self, setup: Setup, number: int, threads: int) -> None:
        """Nothing is loaded yet, so that an error of loading can be told."""
        from dataclasses import replace

        self._setup, self._number = replace(setup, threads=threads), number
        self._labeller: Labeller | None = None
        self._turn = threading.Lock()
        self._stopping = threading.Event()

    def greet(self) -> Mapping[str, Any] | str:
        """Load the model; what tells it from others, or why it cannot be loaded."""
        try:
            self._labeller = Labeller(self._setup, self._number)
        except GromaError as error:
            return str(error)
        return self._labeller.about()

    def label(self, items: Numbered) -> Outcome | None:
        """Label pictures; None if they are not wanted any more."""
        labeller = self._labeller
        if labeller is None:
            raise RuntimeError("an actor is asked to label before it has loaded its model")
        prepared = labeller.prepare(items)
        with self._turn:
            return None if self._stopping.is_set() else labeller.label(prepared)

    def stop(self) -> None:
        """Give back what is not begun."""
        self._stopping.set()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # says at length what it will do some day
    try:
        import ray  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise MissingExtraError("--ray needs the package ray: pip install 'groma[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Start a cluster or connect to one; Ray's own handler of SIGTERM, which ends the process, makes way again."""
    if address is not None:
        _check_reachable(address)
    options: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address is None else {}
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if is_main else None
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise _no_ray(address or "local", error) from error
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _check_reachable(address: str) -> None:
    """Whether anybody is there, as Ray itself waits for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise _no_ray(address, error) from error


def _no_ray(address: str, error: Exception) -> InputError:
    return InputError(f"--ray-address {address}: there is no Ray to work with: {' '.join(str(error).split())[:300]}")


def _threads_each(cores: Sequence[int], workers: int) -> int:
    """As many cores for each worker as there can be so that all find room."""
    for threads in range(max(cores, default=1), 1, -1):
        if sum(own // threads for own in cores) >= workers:
            return threads
    return 1


def _event(worker: int, task: int, value: Any) -> Event:
    if task != GREETING:
        return Finished(worker, task, value)
    return Refused(worker, value) if isinstance(value, str) else Ready(worker, dict(value))


def _how_it_ended(error: Exception) -> str:
    """The error inside, such as a package that is missing on that machine, else what Ray says."""
    *_, last = ["", *filter(None, map(str.strip, str(error).splitlines()))]
    inside = last if _ERROR.match(last) else f"{type(error).__name__}: {' '.join(str(error).split())}"
    return inside[:200]
