"""What a run measures: averages between two lines of the log, and the log itself as JSON lines."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groma.distributed import World
from groma.storage import json_text, write_text


@dataclass(slots=True)
class Meter:
    """Sums since the last line of the log. A term is averaged over the steps in which it occurred."""

    sums: dict[str, float] = field(default_factory=dict)
    """Term -> sum over steps of this process's share of it."""
    counts: dict[str, int] = field(default_factory=dict)
    """Term -> steps in which it occurred."""
    steps: int = 0
    """Optimizer steps."""
    grad_norm: float = 0.0
    """Sum over steps of the gradient's norm before clipping."""
    samples: int = 0
    """Samples seen by this process."""
    seconds: float = 0.0
    """Time spent in steps, without evaluation and saving, in seconds."""
    counted: dict[str, int] = field(default_factory=dict)
    """What the caller counts in batches: name -> sum over this process's."""

    def add(self, terms: dict[str, float], *, grad_norm: float, samples: int, seconds: float) -> None:
        """Take in one optimizer step; `terms` are sums over its micro-batches."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1
        self.grad_norm += grad_norm
        self.samples += samples
        self.seconds += seconds

    def count(self, counts: Mapping[str, int]) -> None:
        """Take in what was counted in a batch."""
        for name, value in counts.items():
            self.counted[name] = self.counted.get(name, 0) + value

    def state_dict(self) -> dict[str, Any]:
        """The sums as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}

    def merge(self, other: "Meter") -> None:
        """Take in what another process measured in the same steps: a run goes on with fewer processes than before."""
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        for name, steps in other.counts.items():
            self.counts[name] = max(self.counts.get(name, 0), steps)
        self.count(other.counted)
        self.samples += other.samples

    def summary(self, world: World) -> dict[str, Any]:
        """The averages over all processes: "loss", "terms", "grad_norm", "samples_per_s"; and "counts", if any."""
        states = world.gather(self.state_dict())
        terms = {}
        for name in sorted({name for state in states for name in state["sums"]}):
            total = sum(state["sums"].get(name, 0.0) for state in states)
            terms[name] = total / max(state["counts"].get(name, 0) for state in states)
        samples = sum(state["samples"] for state in states)
        counts = {
            name: sum(state["counted"].get(name, 0) for state in states)
            for name in sorted({name for state in states for name in state["counted"]})
        }
        return {
            "loss": terms.pop("loss", math.nan),
            "terms": terms,
            "grad_norm": self.grad_norm / max(1, self.steps),
            "samples_per_s": samples / self.seconds if self.seconds > 0 else 0.0,
        } | ({"counts": counts} if counts else {})


class MetricsLog:
    """A JSON-lines file: one record a line, each with its "step" and "kind" ("train" or "evaluate")."""

    def __init__(self, path: Path, *, upto: int) -> None:
        """Open a log to continue after step `upto`: later lines, and a last line cut short by a crash, are dropped."""
        self._path = path
        self.records: list[dict[str, Any]] = []
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record["step"] <= upto:
                self.records.append(record)
        write_text(path, "".join(_line(record) for record in self.records))

    def append(self, record: dict[str, Any]) -> None:
        """Add a record; numbers that JSON has no form for (NaN, infinity) become null."""
        record = _finite(record)
        self.records.append(record)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(record))


def _line(record: dict[str, Any]) -> str:
    return json_text(record, what="a line of metrics") + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
