"""`groma evaluate MODEL`: a benchmark's figures."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import tyro

from groma.cli.arguments import Switch, check_count, check_seed
from groma.cli.loading import DEFAULT_MODEL, Placement
from groma.cli.output import (
    check_target,
    figures_table,
    finite_or_null,
    save_json,
    save_text,
    show,
    write_json,
    write_line,
)
from groma.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Measure a model on a benchmark."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = DEFAULT_MODEL
    """A model that comes with the package, a checkpoint folder or a hub name."""
    benchmark: str = "scenes"
    """Name of the benchmark."""
    n: int = 1000
    """How many samples (of `scenes`: pictures)."""
    seed: int = 0
    """Which samples; the same seed gives the same ones."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the figures to this file, too."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE.md")] = None
    """Measure held-out splits as well and write a table with 95% intervals to this file; takes two to three times as
    long."""
    json: Switch = False
    """Print one JSON value and nothing else."""
    placement: Annotated[Placement, tyro.conf.arg(name="")] = field(default_factory=Placement)

    def run(self) -> int:
        """Measure."""
        n, seed = check_count(self.n, "--n"), check_seed(self.seed)
        for flag, target in (("--out", self.out), ("--report", self.report)):
            if target is not None:
                check_target(target, flag)
        from groma.evaluate import BENCHMARKS, REPORTS

        if self.benchmark not in BENCHMARKS:
            close = get_close_matches(self.benchmark, BENCHMARKS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(BENCHMARKS)}."
            raise InputError(f"there is no benchmark {self.benchmark!r}; {hint}")
        assistant = self.placement.load(self.model)
        if self.report is not None:
            report = REPORTS[self.benchmark](assistant, n, seed)
            save_text(report.to_markdown(), self.report)
            figures = finite_or_null(report.metrics())
        else:
            figures = finite_or_null(BENCHMARKS[self.benchmark](assistant, n, seed))
        if self.out is not None:
            save_json(figures, self.out)
        if self.json:
            write_json(figures)
        else:
            show(figures_table(figures, f"{self.benchmark}, n {n}, seed {seed}", "figure"))
            write_line(f"written: {self.out}") if self.out is not None else None
        return 0
