"""Orders and plans: nothing twice, nothing left out, whatever the shares, the sizes and the point of resuming."""

import itertools
import pickle
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groma.data.packed import WindowedOrder
from groma.data.plan import MixturePlan
from groma.data.shuffle import Permutation
from groma.errors import InputError


class Numbers:
    """A set of so many samples."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def order(self, *seed: int) -> Permutation:
        return Permutation(self.length, *seed)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 5))
def test_a_permutation_hits_every_number_once(length, seed):
    assert sorted(Permutation(length, seed)[k] for k in range(length)) == list(range(length))


def test_orders_differ_by_seed_and_are_pure():
    first, second = (list(map(Permutation(500, seed).__getitem__, range(500))) for seed in (1, 2))
    assert first != second and first == [Permutation(500, 1)[k] for k in range(500)]
    assert first != sorted(first)
    neighbours = sum(abs(a - b) == 1 for a, b in itertools.pairwise(first))
    assert neighbours < 10  # a random order has 2 on average
    with pytest.raises(IndexError, match="position 500 of 500"):
        Permutation(500, 1)[500]


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 3))
def test_a_windowed_order_hits_every_number_once(sizes, seed):
    order = WindowedOrder(sizes, seed)
    assert sorted(order[k] for k in range(sum(sizes))) == list(range(sum(sizes)))


def test_a_windowed_order_stays_within_few_shards():
    order = WindowedOrder([10] * 100, 3)
    for first in range(0, 1000, 80):
        assert len({order[k] // 10 for k in range(first, min(first + 80, 1000))}) <= 8


@pytest.mark.parametrize("samples_per_step", [1, 4, 7, 64])
def test_each_set_is_gone_through_evenly(samples_per_step):
    sets, shares = [Numbers(100), Numbers(37), Numbers(5)], [1.0, 2.0, 0.5]
    plan = MixturePlan(sets, shares, samples_per_step=samples_per_step, seed=3)
    seen = [Counter(), Counter(), Counter()]
    for number in range(4 * plan.steps_per_epoch):
        step = plan.step(number)
        assert len(step.numbers) == samples_per_step
        seen[step.set_number].update(step.numbers)
    for one, counter, steps in zip(sets, seen, plan.steps_of_set, strict=True):
        total = 4 * steps * samples_per_step
        assert sum(counter.values()) == total
        counts = [counter[k] for k in range(len(one))]
        assert max(counts) - min(counts) <= 1  # no sample comes again before all have come


def test_shares_decide_how_often_a_set_comes():
    plan = MixturePlan([Numbers(1000), Numbers(1000)], [1.0, 0.25], samples_per_step=10, seed=0)
    assert plan.steps_of_set == (100, 25) and plan.steps_per_epoch == 125
    epochs = [[plan.step(k + 125 * e).set_number for k in range(125)] for e in range(2)]
    assert [epoch.count(1) for epoch in epochs] == [25, 25] and epochs[0] != epochs[1]


def test_a_plan_is_a_pure_function():
    plans = [MixturePlan([Numbers(50), Numbers(9)], [1, 1], samples_per_step=4, seed=s) for s in (1, 1, 2)]
    first = [plans[0].step(k) for k in range(60)]
    assert [plans[1].step(k) for k in reversed(range(60))] == first[::-1]
    assert [plans[2].step(k) for k in range(60)] != first
    assert pickle.loads(pickle.dumps(plans[0])).step(59) == first[59]


def test_an_empty_set_is_refused():
    with pytest.raises(InputError, match="needs sets with samples"):
        MixturePlan([Numbers(3), Numbers(0)], [1, 1], samples_per_step=2, seed=0)
