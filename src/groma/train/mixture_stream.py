"""Micro-batches of a mixture as a stream for the training loop, made ahead by worker processes.

The stream's place is the number of steps it has given: with the plan a pure function of that, a run is resumed exactly,
also on another number of processes with as many samples per step.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch.utils.data import DataLoader

from groma.data.batches import Batch, MicroBatches
from groma.errors import GromaError, InputError
from groma.train.objective import BatchStream


class MixtureStream(BatchStream):
    """Endless batches of a mixture for one process."""

    def __init__(self, batches: MicroBatches, *, workers: int = 0, ahead: int = 2) -> None:
        """Start at the first step.

        Args:
            batches: this process's micro-batches.
            workers: processes that make them; 0: made when they are needed.
            ahead: batches that each worker makes ahead.
        """
        self._batches, self._workers, self._ahead = batches, workers, ahead
        self._number = 0
        self._made: Iterator[Batch | GromaError] | None = None

    def next(self) -> Batch:
        """The next micro-batch.

        Raises:
            GromaError: it cannot be made, here or by a worker.
        """
        if self._made is None:
            self._made = self._start()
        batch = next(self._made)
        if isinstance(batch, GromaError):
            raise batch
        self._number += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """How many steps were given, and how large they are."""
        accumulate = self._batches.share.accumulate
        return {
            "steps": self._number // accumulate,
            "micro": self._number % accumulate,
            "samples_per_step": self._batches.share.samples_per_step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after that many steps.

        Raises:
            InputError: steps had another number of samples, or stopped within one that is cut up otherwise now.
        """
        share = self._batches.share
        if state["samples_per_step"] != share.samples_per_step:
            raise InputError(
                f"the run had {state['samples_per_step']} samples per step, now it has {share.samples_per_step}: "
                "choose batch_size and accumulate so that their product with the number of processes stays the same."
            )
        if state["micro"] and state["micro"] >= share.accumulate:
            raise InputError("the run stopped within a step: resume it with the same accumulate.")
        self._number = state["steps"] * share.accumulate + state["micro"]
        self._made = None

    def _start(self) -> Iterator[Batch | GromaError]:
        if self._workers == 0:
            return map(self._batches.__getitem__, count(self._number))
        loader = DataLoader(
            _Told(self._batches),  # pyright: ignore[reportArgumentType]  # found by number is all that is needed
            sampler=count(self._number),  # pyright: ignore[reportArgumentType]  # endless
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=self._ahead,
            generator=torch.Generator(),  # workers are seeded from it, not from the global one
            worker_init_fn=_one_thread,
        )
        return iter(loader)


class _Told:
    """Errors that are ours come as values: raised in a worker they would be told with its whole traceback."""

    def __init__(self, batches: MicroBatches) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Batch | GromaError:
        try:
            return self.batches[number]
        except GromaError as error:
            return error


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
