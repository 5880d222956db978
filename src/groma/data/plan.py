"""Which samples each optimizer step sees: a pure function of the mixture, the seed and the number of the step.

    step t -> data set, G sample numbers   (G: samples of a step over all processes and micro-batches)

An epoch holds each set's batches in shuffled order, as many as its share says; a set is gone through in a shuffled
order of its own, from beginning to end before it is shuffled anew, also when a share below 1 spreads that over several
epochs. So nothing is repeated and nothing left out, and a run goes on exactly with another number of processes, as long
as G stays the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from groma.data.shuffle import Order
from groma.errors import InputError


@dataclass(frozen=True, slots=True)
class StepSamples:
    """The samples of one optimizer step."""

    set_number: int
    """Which set of the mixture."""
    epoch: int
    """How often the mixture was gone through before."""
    numbers: tuple[int, ...]
    """G sample numbers of that set."""
    passes: tuple[int, ...]
    """For each of them, how often its set was gone through before: seeds what is drawn for the sample."""


class ShuffledSet(Protocol):
    """What a plan has to know of a set (groma.data.annotated_set)."""

    def __len__(self) -> int: ...

    def order(self, *seed: int) -> Order:
        """Its samples, shuffled."""
        ...


class MixturePlan:
    """Steps of a mixture, by number."""

    def __init__(
        self, sets: Sequence["ShuffledSet"], shares: Sequence[float], *, samples_per_step: int, seed: int
    ) -> None:
        """Plan a mixture.

        Args:
            sets: what it consists of; each has samples.
            shares: how often an epoch goes through each set: 0.2 takes a fifth of it, 2 all of it twice.
            samples_per_step: G.
            seed: of all orders.

        Raises:
            InputError: there is no set, or one is empty or has no share.
        """
        sizes = [len(one) for one in sets]
        if not sizes or min(sizes) < 1 or min(shares) <= 0:
            raise InputError(f"A mixture needs sets with samples and shares above 0, got sizes {sizes}.")
        self.sets, self.sizes, self.seed, self.samples_per_step = tuple(sets), sizes, seed, samples_per_step
        self.steps_of_set = tuple(
            max(1, round(size * share / samples_per_step)) for size, share in zip(sizes, shares, strict=True)
        )
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps until each set was gone through as often as its share says."""
        return sum(self.steps_of_set)

    def step(self, number: int) -> StepSamples:
        """What step `number` (from 0) sees."""
        epoch, place = divmod(number, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, *self._shuffled_sets(epoch))
        _, sets, ranks = self._epoch
        chosen = int(sets[place])
        size = self.sizes[chosen]
        first = (epoch * self.steps_of_set[chosen] + int(ranks[place])) * self.samples_per_step
        positions = [divmod(first + offset, size) for offset in range(self.samples_per_step)]
        orders = {passed: self.sets[chosen].order(self.seed, chosen, passed) for passed, _ in positions}
        return StepSamples(
            set_number=chosen,
            epoch=epoch,
            numbers=tuple(orders[passed][position] for passed, position in positions),
            passes=tuple(passed for passed, _ in positions),
        )

    def _shuffled_sets(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """For each step of an epoch: its set, and the how-many-eth step of that set it is."""
        sets = np.repeat(np.arange(len(self.sizes)), self.steps_of_set)
        np.random.default_rng((self.seed, epoch)).shuffle(sets)
        ranks = np.empty(len(sets), dtype=np.int64)
        for number, count in enumerate(self.steps_of_set):
            ranks[sets == number] = np.arange(count)
        return sets, ranks
