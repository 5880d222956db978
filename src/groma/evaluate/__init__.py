"""Benchmarks: each asks a loaded model through its public calls and returns metrics.

BENCHMARKS: name -> (assistant, n, seed) -> metrics, JSON-able.
"""

from collections.abc import Callable
from typing import Any

from groma.evaluate.scenes import evaluate_scenes
from groma.inference.assistant import Groma

BENCHMARKS: dict[str, Callable[[Groma, int, int], dict[str, Any]]] = {
    "scenes": lambda assistant, n, seed: evaluate_scenes(assistant, n=n, seed=seed).metrics(),
}
"""Name of a benchmark -> what runs it on `n` cases of the series `seed`."""
