"""What a person sees of a run: a live table with loss curves on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
_REFRESH_S = 0.5  # least time between two drawings, in seconds
_CURVE_WIDTH = 48  # columns of a curve


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values as one line of bars, the lowest as the lowest bar.

    Args:
        values: Any number of them; None is passed over.
        width: Most columns; more values than that are averaged in runs.
    """
    values = [value for value in values if value is not None]
    if not values:
        return ""
    columns = min(width, len(values))
    edges = [index * len(values) // columns for index in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((mean - low) * scale)] for mean in means)


def duration(seconds: float) -> str:
    """Seconds as "1h02m", "3m05s" or "12s"."""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{secs:02d}s" if minutes else f"{secs}s"


def number(value: float | None) -> str:
    """Four significant digits; "-" for what could not be measured."""
    return "-" if value is None else f"{value:.4g}"


class Progress:
    """Shows one run; used as a context manager."""

    def __init__(self, *, steps: int, step: int, records: Sequence[dict[str, Any]], console: Console) -> None:
        """Show a run of `steps` steps that stands at `step`; `records` is the (growing) list of logged records."""
        self._steps = steps
        self._first_step = self._step = step
        self._records = records
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._started = self._drawn = time.monotonic()

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(self._picture(), refresh=True)
            self._live.stop()

    def tick(self, step: int) -> None:
        """Say that `step` steps are done; cheap enough for every step."""
        self._step = step
        now = time.monotonic()
        if self._live and now - self._drawn >= _REFRESH_S:
            self._drawn = now
            self._live.update(self._picture(), refresh=True)

    def record(self, record: dict[str, Any]) -> None:
        """Show a newly logged record."""
        if not self._live and record.get("values") != {}:
            self._console.print(self._plain(record), highlight=False, soft_wrap=True)

    def note(self, message: str) -> None:
        """Show a remark that stays."""
        self._console.print(Text(message), highlight=False, soft_wrap=True)

    def _eta(self) -> str:
        done = self._step - self._first_step
        if not done:
            return "?"
        return duration((time.monotonic() - self._started) / done * (self._steps - self._step))

    def _plain(self, record: dict[str, Any]) -> Text:
        head = f"step {record['step']}/{self._steps}"
        if record["kind"] == "evaluate":
            values = "  ".join(f"{name} {number(value)}" for name, value in record["values"].items())
            return Text(f"{head}  evaluation: {values}")
        terms = "  ".join(f"{name} {number(value)}" for name, value in record["terms"].items())
        return Text(
            f"{head}  loss {number(record['loss'])}  {terms}  lr {number(record['lr'])}  "
            f"grad {number(record['grad_norm'])}  {number(record['samples_per_s'])} samples/s  left {self._eta()}"
        )

    def _picture(self) -> Group:
        train = [record for record in self._records if record["kind"] == "train"]
        last = train[-1] if train else None
        head = Table.grid(padding=(0, 2))
        speed = f"{number(last['samples_per_s'])} samples/s" if last else ""
        rate = f"lr {number(last['lr'])}" if last else ""
        bar = ProgressBar(total=self._steps, completed=self._step, width=30)
        head.add_row(f"step {self._step}/{self._steps}", bar, f"left {self._eta()}", speed, rate)
        return Group(head, self._curves(train))

    def _curves(self, train: Sequence[dict[str, Any]]) -> Table:
        table = Table(box=None, padding=(0, 2), show_header=False)
        names = dict.fromkeys(name for record in train[-50:] for name in record["terms"])
        curves = {"loss": [record["loss"] for record in train]}
        curves |= {name: [record["terms"].get(name) for record in train] for name in names}
        curves["grad norm"] = [record["grad_norm"] for record in train]
        for name, values in curves.items():
            present = [value for value in values if value is not None]
            if present:
                table.add_row(Text(name), number(present[-1]), sparkline(present, _CURVE_WIDTH))
        for name, values in self._evaluations().items():
            table.add_row(Text(name, style="bold"), number(values[-1]), sparkline(values, _CURVE_WIDTH))
        return table

    def _evaluations(self) -> dict[str, list[float]]:
        curves: dict[str, list[float]] = {}
        for record in self._records:
            if record["kind"] == "evaluate":
                for name, value in record["values"].items():
                    if value is not None:
                        curves.setdefault(name, []).append(value)
        return curves
