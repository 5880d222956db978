"""Runs a benchmark: batch by batch, on any number of processes, and goes on where it was stopped.

    cases 0 .. n-1 --cut into batches--> batch b is process b mod W's --ask--> run folder --all there--> records

Which cases are asked together depends on their numbers alone, so that the answers are the same on any number of
processes; no case is asked twice, and none is padded.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from groma.distributed import World
from groma.errors import InputError
from groma.evaluate.benchmark import Benchmark
from groma.evaluate.run_folder import RunFolder
from groma.inference.assistant import BATCH_SIZE, Groma
from groma.model.fingerprint import fingerprint

Records = list[dict[str, Any]]


def run_benchmark(
    assistant: Groma,
    benchmark: Benchmark,
    *,
    out: Path | None = None,
    batch_size: int = BATCH_SIZE,
    world: World | None = None,
    console: Console | None = None,
) -> Records | None:
    """Ask about every case.

    Args:
        assistant: the model, the same on every process.
        benchmark: what is asked.
        out: the run's folder, which all processes share; None: nothing is kept, in one process.
        batch_size: cases that are asked together.
        world: this process among all.
        console: where progress is shown; None: nowhere.

    Returns:
        A record for each case, in order; None on all processes but the first.

    Raises:
        InputError: the folder holds another run, a picture cannot be used, or there are several processes and no
            folder.
    """
    world = world or World()
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}.")
    if out is None:
        if world.size > 1:
            raise InputError("several processes need a folder that they share: give --out.")
        records: dict[int, dict[str, Any]] = {}
        _work(assistant, benchmark, _batches(len(benchmark), batch_size), records.update, console)
        return benchmark.finish([records[number] for number in range(len(benchmark))], None)
    folder = RunFolder(out, identity_of(assistant, benchmark, batch_size), rank=world.rank)
    world.barrier()  # all have looked before the first one writes
    if world.is_main:
        folder.begin()
    done = folder.finished()
    todo = [batch for batch in _batches(len(benchmark), batch_size) if any(number not in done for number in batch)]
    world.barrier()  # all have read before one appends
    _work(assistant, benchmark, todo[world.rank :: world.size], folder.append, console if world.is_main else None)
    world.barrier()
    folder.close()
    if not world.is_main:
        return None
    complete = benchmark.finish(_collect(folder, len(benchmark)), out)
    folder.complete(complete)
    return complete


def identity_of(assistant: Groma, benchmark: Benchmark, batch_size: int) -> dict[str, Any]:
    """What defines a run: answers of another one are not mixed with it."""
    weight = next(assistant.model.parameters())
    return {
        "benchmark": benchmark.name,
        "cases": benchmark.identity() | {"count": len(benchmark)},
        "model": fingerprint(sorted(assistant.model.state_dict().items())),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": weight.device.type,
        "torch": torch.__version__,
        "batch_size": batch_size,
        "max_new_tokens": benchmark.decoding.max_new_tokens,
    }


def _batches(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _work(
    assistant: Groma,
    benchmark: Benchmark,
    batches: Sequence[Sequence[int]],
    keep: Callable[[Mapping[int, dict[str, Any]]], None],
    console: Console | None,
) -> None:
    with _progress(console, benchmark.name, sum(map(len, batches))) as advance, ThreadPoolExecutor(1) as ahead:
        for place, batch in enumerate(batches):
            for following in batches[place + 1 : place + 2]:
                ahead.submit(
                    benchmark.prepare, following
                )  # what fails there fails again, and is told, where it is needed
            keep(dict(zip(batch, benchmark.answer(assistant, batch), strict=True)))
            advance(len(batch))


def _collect(folder: RunFolder, count: int) -> Records:
    found = folder.finished()
    missing = [number for number in range(count) if number not in found]
    if missing:
        raise InputError(
            f"{folder.folder}: {len(missing)} of {count} answers are missing, the first is case {missing[0]}: do all "
            "machines share this folder?"
        )
    return [found[number] for number in range(count)]


@contextmanager
def _progress(console: Console | None, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar where somebody looks, else a line a minute, both with the time that is left."""
    if console is None or not total:
        yield lambda _count: None
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
            task = progress.add_task(name, total=total)
            yield lambda count: progress.advance(task, count)
    else:
        yield _Lines(console, name, total)


class _Lines:
    """Says how far it is, once in a while."""

    EVERY_S = 60.0

    def __init__(self, console: Console, name: str, total: int) -> None:
        self.console, self.name, self.total = console, name, total
        self.done, self.started = 0, time.monotonic()
        self.told = self.started

    def __call__(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.told >= self.EVERY_S:
            self.told, left = now, (now - self.started) / self.done * (self.total - self.done)
            self.console.print(f"{self.name}: {self.done:,} of {self.total:,}, about {left / 60:.0f} min left")
