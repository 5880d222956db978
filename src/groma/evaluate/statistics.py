"""Shares with their uncertainty, and calibration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CALIBRATION_BINS = 10


@dataclass(slots=True)
class Share:
    """So many of so many."""

    right: int = 0
    """cases that count"""
    total: int = 0
    """all cases"""

    @property
    def value(self) -> float:
        """right / total; NaN without cases."""
        return self.right / self.total if self.total else math.nan

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Wilson score interval (Wilson 1927), 95% by default; (0, 1) without cases."""
        if not self.total:
            return 0.0, 1.0
        share, n = self.value, self.total
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


def expected_calibration_error(scores: Sequence[float], right: Sequence[bool], bins: int = CALIBRATION_BINS) -> float:
    """Mean distance between confidence and accuracy over equally wide bins, weighted by their cases.

    Guo et al. 2017 (arXiv 1706.04599), equation 3. NaN without cases.
    """
    if len(scores) == 0:
        return math.nan
    values, hits = np.asarray(scores, dtype=float), np.asarray(right, dtype=float)
    places = np.clip((values * bins).astype(int), 0, bins - 1)
    gaps = [
        abs(values[places == b].mean() - hits[places == b].mean()) * (places == b).sum()
        for b in range(bins)
        if (places == b).any()
    ]
    return float(sum(gaps) / len(values))
