"""Benchmarks: each asks a loaded model through its public calls and returns metrics.

BENCHMARKS: name -> (assistant, n, seed) -> metrics, JSON-able.
REPORTS: name -> (assistant, n, seed) -> Report, the same with intervals and held-out splits, for people.
"""

from collections.abc import Callable

from groma.evaluate.report import Report, report_scenes
from groma.evaluate.scenes import evaluate_scenes
from groma.inference.assistant import Groma

BENCHMARKS: dict[str, Callable[[Groma, int, int], dict[str, float]]] = {
    "scenes": lambda assistant, n, seed: evaluate_scenes(assistant, n=n, seed=seed).metrics(),
}
"""Name of a benchmark -> what runs it on `n` cases of the series `seed`."""

REPORTS: dict[str, Callable[[Groma, int, int], Report]] = {"scenes": report_scenes}
"""Name of a benchmark -> what runs it on `n` cases of the series `seed` of every split."""
