"""Shares with their uncertainty, and calibration."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CALIBRATION_BINS = 10
NORMAL_QUANTILE = 1.959964
"""How many standard deviations around the mean hold 95% of a normal distribution."""
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its 95% interval."""

    value: float
    """NaN without cases."""
    low: float
    """Lower end of the interval; NaN where there is none."""
    high: float
    """Upper end."""
    cases: int
    """How many cases it is measured on."""


@dataclass(slots=True)
class Share:
    """So many of so many."""

    right: int = 0
    """Cases that count."""
    total: int = 0
    """All cases."""

    @property
    def value(self) -> float:
        """The share of right cases; NaN without cases."""
        return self.right / self.total if self.total else math.nan

    def interval(self, z: float = NORMAL_QUANTILE) -> tuple[float, float]:
        """Wilson score interval (Wilson 1927), 95% by default; (0, 1) without cases."""
        if not self.total:
            return 0.0, 1.0
        share, n = self.value, self.total
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


def share_over_groups(groups: Sequence[Share]) -> Figure:
    """One share of all groups' cases, with an interval that takes the cases of a group as dependent.

    By bootstrap over groups; where all cases agree, which leaves a bootstrap nothing to vary, Wilson's interval.
    """
    total = Share(sum(group.right for group in groups), sum(group.total for group in groups))
    if total.right in (0, total.total):
        return Figure(total.value, *total.interval(), total.total)
    rows = [(group.right, group.total) for group in groups]
    return bootstrap(rows, lambda sums: sums[0] / sums[1] if sums[1] else math.nan, cases=total.total)


def calibration_sums(scored: Sequence[tuple[float, bool]], bins: int = CALIBRATION_BINS) -> NDArray[np.float64]:
    """(confidence, right) of some cases -> (2, bins): confidence minus accuracy summed over each bin, and its cases."""
    values, hits = np.asarray(scored, dtype=float).reshape(-1, 2).T
    places = np.clip((values * bins).astype(int), 0, bins - 1)
    # the cases of a bin times the distance of its means is the distance of its sums
    sums = [np.bincount(places, weights=weights, minlength=bins) for weights in (values - hits, np.ones_like(values))]
    return np.stack(sums).astype(np.float64)


def calibration_error(sums: NDArray[np.float64]) -> float:
    """Mean distance between confidence and accuracy over equally wide bins, weighted by their cases.

    Guo et al. 2017 (arXiv 1706.04599), equation 3. Sums of several groups may be added. Few cases make it too large:
    chance alone moves the bins' means. NaN without cases.
    """
    differences, cases = sums
    return float(np.abs(differences).sum() / cases.sum()) if cases.sum() else math.nan


def bootstrap(groups: Sequence[ArrayLike], statistic: Callable[[NDArray[np.float64]], float], *, cases: int) -> Figure:
    """A statistic of sums over groups with its bootstrap interval (Efron 1979), the groups being resampled.

    The interval has the spread of the resampled values around the value itself: resampling moves a statistic such as
    the calibration error, which chance can only raise, away from it, and this bias is taken off again.

    Args:
        groups: an array of one shape for each group; the statistic is one of their sum.
        statistic: that sum -> a value from 0 to 1.
        cases: how many cases the groups have, for the figure.

    Returns:
        The same figure for the same groups, as the resampling is seeded; NaN without cases.
    """
    if not cases:
        return Figure(math.nan, math.nan, math.nan, 0)
    table = np.asarray(groups, dtype=float)
    value = statistic(table.sum(0))
    picks = np.random.default_rng(0).multinomial(len(table), np.full(len(table), 1 / len(table)), size=RESAMPLES)
    draws = np.array([statistic(sums) for sums in np.tensordot(picks, table, 1)])
    draws = draws[~np.isnan(draws)]
    low, high = np.clip(np.quantile(draws, (0.025, 0.975)) - (draws.mean() - value), 0, 1).tolist()
    return Figure(value, low, high, cases)
