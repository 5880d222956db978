"""Shares with their uncertainty, and calibration."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    def figure(self) -> Figure:
        """The share with its Wilson interval."""
        low, high = self.interval()
        return Figure(self.value, low, high, self.total)


def expected_calibration_error(scores: Sequence[float], right: Sequence[bool], bins: int = CALIBRATION_BINS) -> float:
    """Mean distance between confidence and accuracy over equally wide bins, weighted by their cases.

    Guo et al. 2017 (arXiv 1706.04599), equation 3. NaN without cases.
    """
    if len(scores) == 0:
        return math.nan
    values, hits = np.asarray(scores, dtype=float), np.asarray(right, dtype=float)
    places = np.clip((values * bins).astype(int), 0, bins - 1)
    # the cases of a bin times the distance of its means is the distance of its sums
    sums = np.bincount(places, weights=values - hits, minlength=bins)
    return float(np.abs(sums).sum() / len(values))


def bootstrap(rows: Sequence[Sequence[float]], statistic: Callable[[NDArray[np.float64]], float]) -> Figure:
    """A statistic of cases that is no share, with its percentile bootstrap interval (Efron 1979).

    Args:
        rows: (n, k) one row of numbers a case.
        statistic: (n, k) rows -> the value.

    Returns:
        The value of all rows; the same figure for the same rows, as the resampling is seeded.
    """
    if not rows:
        return Figure(math.nan, math.nan, math.nan, 0)
    table = np.asarray(rows, dtype=float)
    rng = np.random.default_rng(0)
    draws = [statistic(table[rng.integers(len(table), size=len(table))]) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, (0.025, 0.975)).tolist()
    return Figure(statistic(table), low, high, len(table))
