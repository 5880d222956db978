"""What people read: a benchmark's figures with 95% intervals, held-out splits included."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from groma.evaluate.scenes import KEYS, evaluate_scenes
from groma.evaluate.statistics import Figure
from groma.inference.assistant import Groma

SPLITS = {
    "test": "scenes of the kind that training shows",
    "test_style": "drawn in a style that training never shows",
    "test_objects": "of objects that training never shows (recall alone, as their names were never learned)",
}
"""Split -> what is special about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Figures of a model on all splits of a benchmark."""

    n: int
    """Scenes a split."""
    seed: int
    """Which series of scenes."""
    splits: dict[str, dict[str, Figure]]
    """Split -> metric -> figure."""

    def metrics(self) -> dict[str, float]:
        """What the benchmark itself reports: all of KEYS on the split "test"; NaN where no case occurred."""
        figures = self.splits["test"]
        return {key: figures[key].value if key in figures else math.nan for key in KEYS}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_markdown(self) -> str:
        """One table: a row a metric, a column a split, each figure with its interval."""
        lines = [
            f"{self.n} scenes a split, seed {self.seed}; 95% intervals in brackets.",
            "",
            f"| metric | {' | '.join(self.splits)} |",
            f"|---|{'---|' * len(self.splits)}",
        ]
        for key in KEYS:
            cells = [_cell(figures.get(key)) for figures in self.splits.values()]
            lines.append(f"| `{key}` | {' | '.join(cells)} |")
        lines += ["", *(f"- `{split}`: {SPLITS[split]}" for split in self.splits)]
        return "\n".join(lines) + "\n"


def report_scenes(assistant: Groma, n: int, seed: int) -> Report:
    """Run the benchmark "scenes" on every split.

    Args:
        assistant: the model.
        n: how many scenes of each split.
        seed: which series.

    Returns:
        Its `metrics()` equal `evaluate_scenes(...).metrics()`.
    """
    splits = {split: evaluate_scenes(assistant, n=n, seed=seed, split=split).figures() for split in SPLITS}
    return Report(n=n, seed=seed, splits=splits)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
