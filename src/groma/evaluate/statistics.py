"""Shares with their uncertainty, and calibration."""

import math
from collections.abc import Sequence
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
