"""A benchmark's figures, each with what it takes to say how sure it is, and how sure a difference of two models is.

    groups (pictures), weight of each -> statistic -> value
        all weights 1           the figure
        resampled               its 95% interval (bootstrap over groups, Efron 1979)
        the same for two models the interval of their difference, paired

Cases of one picture are not independent of each other, so that pictures are what is resampled.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groma.errors import InputError
from groma.evaluate.statistics import RESAMPLES, Figure, Share

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure of a benchmark."""

    groups: int
    """G, how many groups of cases there are."""
    cases: int
    """How many cases it is measured on."""
    statistic: Callable[[Weights], float]
    """(G,) weights of the groups -> value; NaN where nothing is left."""
    resampled: bool = True
    """False: the statistic ignores its weights, as resampling it would take too long; no interval then."""
    share: Share | None = None
    """Where it is a share of cases: which, for an interval where all agree."""
    at_most: float = 1.0
    """Largest possible value."""

    def figure(self) -> Figure:
        """The value with its 95% interval: the spread of resampled values around it, their bias taken off.

        The same for the same cases, as the resampling is seeded.
        """
        nothing = Figure(math.nan, math.nan, math.nan, 0)
        if not self.cases:
            return nothing
        value = self.statistic(np.ones(self.groups))
        if not self.resampled:
            return Figure(value, math.nan, math.nan, self.cases)
        if self.share is not None and self.share.right in (0, self.share.total):
            return Figure(value, *self.share.interval(), self.cases)
        draws = np.array([self.statistic(weights) for weights in _resampled(self.groups)])
        draws = draws[~np.isnan(draws)]
        low, high = np.clip(np.quantile(draws, (0.025, 0.975)) - (draws.mean() - value), 0, self.at_most).tolist()
        return Figure(value, low, high, self.cases)


@dataclass(frozen=True, slots=True)
class Difference:
    """How much larger the second model's figure is."""

    value: float
    low: float
    """Lower end of its 95% interval; NaN where there is none."""
    high: float
    """Upper end."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def difference(first: Measure, second: Measure) -> Difference:
    """Paired difference, both measured on the same groups in the same order.

    Raises:
        InputError: they have other numbers of groups.
    """
    if first.groups != second.groups:
        raise InputError(f"two measures of {first.groups} and {second.groups} groups cannot be compared in pairs.")
    ones = np.ones(first.groups)
    value = second.statistic(ones) - first.statistic(ones)
    if not (first.resampled and second.resampled):
        return Difference(value, math.nan, math.nan)
    draws = np.array([second.statistic(w) - first.statistic(w) for w in _resampled(first.groups)])
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return Difference(value, math.nan, math.nan)
    low, high = (np.quantile(draws, (0.025, 0.975)) - (draws.mean() - value)).tolist()
    return Difference(value, low, high)


def _resampled(groups: int) -> NDArray[np.float64]:
    """(RESAMPLES, G) how often each group is drawn; always the same."""
    draws = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    return draws.astype(np.float64)


# --- kinds of figures ------------------------------------------------------------------------------------------------


class Groups:
    """Which group each of n cases belongs to: cases of one picture are one group."""

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys`: what each case belongs to."""
        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        self.of_case = np.array([places[key] for key in keys], dtype=np.int64)
        self.count = len(places)

    def ratio(self, above: ArrayLike, below: ArrayLike, *, cases: int, at_most: float = 1.0) -> Measure:
        """Sum of `above` over sum of `below`, (n,) a value a case each."""
        sums = np.zeros((self.count, 2))
        np.add.at(sums, self.of_case, np.stack([np.asarray(above, float), np.asarray(below, float)], axis=1))

        def statistic(weights: Weights) -> float:
            top, bottom = weights @ sums
            return float(top / bottom) if bottom else math.nan

        return Measure(groups=self.count, cases=cases, statistic=statistic, at_most=at_most)

    def mean(self, values: ArrayLike, *, at_most: float = 1.0) -> Measure:
        """Mean of (n,) values; NaN: a case that does not count."""
        values = np.asarray(values, dtype=np.float64)
        counts = ~np.isnan(values)
        return self.ratio(np.where(counts, values, 0.0), counts, cases=int(counts.sum()), at_most=at_most)

    def share(self, hits: ArrayLike) -> Measure:
        """Share of cases that are right: (n,) of 0 and 1; NaN: a case that does not count."""
        values = np.asarray(hits, dtype=np.float64)
        counted = values[~np.isnan(values)]
        return replace(self.mean(values), share=Share(int(counted.sum()), len(counted)))

    def shares(self, shares: Sequence[Share]) -> Measure:
        """One share of the cases of all: a share a case of its own, possibly of nothing."""
        total = Share(sum(one.right for one in shares), sum(one.total for one in shares))
        ratio = self.ratio([one.right for one in shares], [one.total for one in shares], cases=total.total)
        return replace(ratio, share=total)

    def of_sums(
        self, rows: Sequence[ArrayLike], value: Callable[[NDArray[np.float64]], float], *, cases: int
    ) -> Measure:
        """A statistic of sums over cases: an array of one shape a case -> value of their weighted sum."""
        table = np.asarray(rows, dtype=np.float64)
        sums = np.zeros((self.count, *table.shape[1:]))
        np.add.at(sums, self.of_case, table)
        return Measure(groups=self.count, cases=cases, statistic=lambda w: value(np.tensordot(w, sums, 1)))

    def of_weights(self, value: Callable[[Weights], float], *, cases: int, at_most: float = 1.0) -> Measure:
        """A statistic that takes a weight a case: (n,) -> value."""
        return Measure(groups=self.count, cases=cases, statistic=lambda w: value(w[self.of_case]), at_most=at_most)

    def fixed(self, value: float, *, cases: int) -> Measure:
        """A value without an interval."""
        return Measure(groups=self.count, cases=cases, statistic=lambda _weights: value, resampled=False)
