"""Runs a command on a machine that is made unreliable: its processes are stopped for a moment again and again.

    python scripts/jolt.py -- python -m pytest -n 2 --dist loadfile tests/serve

Now all processes, now half of them stand still for 0.3 to 2 seconds, beside others that compute without end. What
passes only as long as everybody is quick fails here sooner than on a busy machine.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

import psutil
import tyro

STANDSTILLS_S = (0.3, 0.7, 1.2, 1.2, 2.0)
BETWEEN_S = (1.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is run, and how hard it is made."""

    command: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The program and its arguments, after --."""
    busy: int = 1
    """Processes that compute beside it without end."""
    seed: int = 0
    """Of who stands still, when and for how long."""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that only take time."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()


def descendants(pid: int) -> list[psutil.Process]:
    """All that a process has started, and what they have."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def stand_still(processes: Sequence[psutil.Process], seconds: float) -> None:
    """Stop processes, and let those go on that are still there, whatever happens meanwhile."""
    try:
        _tell(processes, signal.SIGSTOP)
        time.sleep(seconds)
    finally:
        _tell(processes, signal.SIGCONT)


def _tell(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def main(options: Options) -> int:
    """The command's own status."""
    if not options.command:
        sys.exit("jolt.py: there is nothing to run: give a command after --")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # tidies up, as Ctrl-C does
    choice = random.Random(options.seed)
    with busy(options.busy), subprocess.Popen(options.command) as running:
        try:
            while running.poll() is None:
                time.sleep(choice.uniform(*BETWEEN_S))
                share = 1.0 if choice.random() < 0.3 else 0.5
                chosen = [process for process in descendants(running.pid) if choice.random() < share]
                stand_still(chosen, choice.choice(STANDSTILLS_S))
        finally:
            running.terminate()  # which does nothing once it has ended
    return running.returncode


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
