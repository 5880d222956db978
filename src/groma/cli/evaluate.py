"""Command `groma evaluate`: run a benchmark, on one process or many, or compare two runs."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from groma.cli.arguments import Switch, check_count, check_seed
from groma.cli.loading import DEFAULT_MODEL, Placement
from groma.cli.output import finite_or_null, note, show, write_json, write_line
from groma.errors import InputError

if TYPE_CHECKING:
    from groma.distributed import World
    from groma.evaluate.data_folder import Place
    from groma.evaluate.report import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Measure a model on a benchmark; under torchrun on several processes."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = DEFAULT_MODEL
    """A model that comes with the package, a checkpoint folder or a hub name."""
    benchmark: str = "scenes"
    """Name of the benchmark; a wrong one lists them."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Annotation files under the names they are published with, and pictures."""
    annotations: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """One annotation file, whatever it is called."""
    pictures: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder that the annotations' paths start from."""
    split: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A split; may be given several times. None: all that are there (of scenes: test)."""
    rename: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="OLD=NEW")] = ()
    """Text in pictures' names and what stands in its place on disk."""
    n: Annotated[int | None, tyro.conf.arg(aliases=("--limit",))] = None
    """Only so many pictures or questions of each split, evenly spaced. None: all (of scenes: 1000). Under torchrun say
    --limit, as it takes --n for an option of its own."""
    seed: int = 0
    """Draws questions where a benchmark draws some; of scenes: which ones."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write answers, figures, a report and pictures there, and go on there after a stop."""
    batch_size: int = 16
    """Questions that are asked together."""
    compare: Annotated[tuple[Path, Path] | None, tyro.conf.arg(metavar="A B")] = None
    """Instead of asking: compare two finished runs of this benchmark, given with the same data, in pairs."""
    judge: str = ""
    """Of llava-bench: the model that judges, behind an OpenAI-compatible endpoint. Empty: what OPENAI_MODEL says."""
    judge_url: str = ""
    """Its address. Empty: what OPENAI_BASE_URL says; the key comes from OPENAI_API_KEY."""
    judge_max_tokens: int | None = None
    """Tokens that the judge may cost. None: no limit."""
    json: Switch = False
    """Print one JSON value and nothing else."""
    placement: Annotated[Placement, tyro.conf.arg(name="")] = field(default_factory=Placement)

    def run(self) -> int:
        """Measure."""
        check_count(self.batch_size, "--batch-size")
        from groma.distributed import process_group
        from groma.evaluate import open_benchmark

        if self.compare is not None:
            return self._compare(*self.compare)
        with process_group() as world:
            if world.size > 1 and self.out is None:
                raise InputError("several processes need a folder that they share: give --out FOLDER")
            benchmark = open_benchmark(self.benchmark, self._place())
            outcome = self._measured(benchmark, world)
        if outcome is not None:
            _print(outcome, as_json=self.json, out=self.out)
        return 0

    def _place(self) -> "Place":
        from groma.evaluate.data_folder import Judge, Place

        return Place(
            data=self.data,
            annotations=self.annotations,
            pictures=self.pictures,
            splits=self.split,
            renamed=tuple(_change(text) for text in self.rename),
            n=None if self.n is None else check_count(self.n, "--n"),
            seed=check_seed(self.seed),
            judge=Judge(model=self.judge, url=self.judge_url, max_tokens=self.judge_max_tokens),
        )

    def _measured(self, benchmark: Any, world: "World") -> "Outcome | None":
        """Ask and write; None on all processes but the first."""
        from rich.console import Console

        from groma.evaluate.report import measure, write_report
        from groma.evaluate.runner import run_benchmark

        placement = self.placement if world.size == 1 else replace(self.placement, device=str(world.device))
        assistant = placement.load(self.model)
        assistant.batch_size = self.batch_size
        records = run_benchmark(
            assistant,
            benchmark,
            out=self.out,
            batch_size=self.batch_size,
            world=world,
            console=Console(stderr=True),
        )
        if records is None:
            return None
        outcome = measure(benchmark, records, model=Path(self.model).name)
        if self.out is not None:
            write_report(outcome, benchmark, records, self.out)
        return outcome

    def _compare(self, first: Path, second: Path) -> int:
        from dataclasses import asdict

        from groma.evaluate import open_benchmark
        from groma.evaluate.comparison import check_comparable, compare, read_answers

        told = check_comparable(first, second)
        place = self._place()
        if told["benchmark"] != self.benchmark and self.benchmark != "scenes":
            raise InputError(f"{first} is a run of {told['benchmark']}, not of {self.benchmark}")
        benchmark = open_benchmark(told["benchmark"], place)
        if benchmark.identity() | {"count": len(benchmark)} != told["cases"]:
            raise InputError(
                f"{first} is a run of other cases: give --data, --split, --n and --seed as they were for that run"
            )
        compared = compare(benchmark, read_answers(first), read_answers(second))
        if self.json:
            rows = {section: {k: asdict(one) for k, one in own.items()} for section, own in compared.items()}
            write_json(finite_or_null(rows))
        else:
            show(_comparison_table(compared, first, second))
        return 0


def _change(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not old or not equals:
        raise InputError(f"--rename must be OLD=NEW, got {text!r}")
    return old, new


def _print(outcome: "Outcome", *, as_json: bool, out: Path | None) -> None:
    if as_json:
        write_json(finite_or_null(outcome.metrics()))
        return
    from rich.table import Table
    from rich.text import Text

    head, *rows = outcome.rows()
    table = Table(title=f"{outcome.benchmark}: {outcome.model}", caption="shares; 95% intervals in brackets")
    for name in head:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    show(table)
    if out is not None:
        write_line(f"written: {out}")
    elif outcome.benchmark != "scenes":
        note("answers were not kept: --out FOLDER keeps them, with a report and pictures")


def _comparison_table(compared: Any, first: Path, second: Path) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("section", "metric", first.name, second.name, "difference", caption="paired 95% intervals; * clear")
    for section, own in compared.items():
        for metric, one in own.items():
            change = one.difference
            interval = "" if change.low != change.low else f" [{change.low:+.3f}, {change.high:+.3f}]"
            told = f"{change.value:+.3f}{interval}{' *' if change.is_clear else ''}"
            table.add_row(*map(Text, (section, metric, f"{one.first:.3f}", f"{one.second:.3f}", told)))
    return table
