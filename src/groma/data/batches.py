"""Lessons -> micro-batches of one set, each a pure function of its number.

    number of the micro-batch --plan--> set, sample numbers --AnnotatedSet--> samples --lessons--> batch

Samples that cannot be used are left out and told in the batch's `faults`; nothing takes their place. A batch of which
nothing is left shows a blank picture and is marked, so that every process has something to compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from groma.data.annotated_set import Sample
from groma.data.cleaning import BadSampleError, Fault
from groma.data.collate import VisionBatch
from groma.data.dialogues import DialogueBatch
from groma.data.mixture import MixtureSet
from groma.data.plan import MixturePlan

Batch = VisionBatch | DialogueBatch
L = TypeVar("L")


class Lessons(Protocol[L]):
    """How a stage learns from samples (groma.data.lessons)."""

    def __call__(self, sample: Sample, one: MixtureSet, rng: np.random.Generator) -> L:
        """What is learned from one sample, or BadSampleError."""
        ...

    def collate(self, lessons: Sequence[L], one: MixtureSet, *, seeds: Sequence[int], faults: Sequence[Fault]) -> Batch:
        """A batch of lessons of one set; blank without any."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which part of each step a process makes."""

    rank: int = 0
    """Number of the process."""
    world_size: int = 1
    """Number of processes."""
    batch_size: int = 8
    """Samples of a micro-batch."""
    accumulate: int = 1
    """Micro-batches of each process per step."""

    @property
    def samples_per_step(self) -> int:
        """Samples of a step over all processes."""
        return self.batch_size * self.world_size * self.accumulate

    def of(self, micro: int) -> slice:
        """Where the samples of micro-batch `micro` of a step lie among the step's."""
        first = (micro * self.world_size + self.rank) * self.batch_size
        return slice(first, first + self.batch_size)


class MicroBatches:
    """This process's micro-batches, by number. Can be handed to other processes."""

    def __init__(self, sets: Sequence[MixtureSet], plan: MixturePlan, share: Share, lessons: Lessons[Any]) -> None:
        """Bring sets, plan and lessons together."""
        self.sets, self.plan, self.share, self.lessons = tuple(sets), plan, share, lessons

    def __getitem__(self, number: int) -> Batch:
        """Micro-batch `number` of this process since the start of training."""
        step, micro = divmod(number, self.share.accumulate)
        planned, part = self.plan.step(step), self.share.of(micro)
        one = self.sets[planned.set_number]
        made, faults, seeds = list[Any](), list[Fault](), list[int]()
        for sample, passed in zip(planned.numbers[part], planned.passes[part], strict=True):
            # the sample's own generator: what is drawn does not depend on how a step is cut up
            rng = np.random.default_rng((self.plan.seed, planned.set_number, sample, passed))
            try:
                lesson = self.lessons(one.data.sample(sample), one, rng)
            except BadSampleError as error:
                faults.append(error.fault)
                continue
            made.append(lesson)
            faults += lesson.faults
            seeds.append(int(rng.integers(2**62)))
        return self.lessons.collate(made, one, seeds=seeds, faults=faults)
