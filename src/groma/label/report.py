"""What a run has done: counted while it runs, told in the end."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from groma.label.labeller import Outcome

EXAMPLES = 3
"""Failures that are told in full."""


@dataclass(slots=True)
class Tally:
    """Counts of this command, while it works."""

    todo: int
    """Pictures that it has to label."""
    labelled: int = 0
    """Pictures that got a label."""
    failed: int = 0
    """Pictures that got none."""
    cut: int = 0
    """Labels that were cut at the largest number of tokens."""
    entities: int = 0
    """Phrases with boxes."""
    boxes: int = 0
    """Their boxes."""
    clipped: int = 0
    """Given boxes that reached beyond their picture."""
    examples: list[tuple[int, str]] = field(default_factory=list)
    """Some of the failures: number and reason."""
    workers: list[Mapping[str, Any]] = field(default_factory=list)
    """What workers said of themselves once they were ready."""
    began: float = field(default_factory=time.monotonic)
    """When the command began."""
    ready: float | None = None
    """When the first worker was ready."""
    last: float | None = None
    """When the last outcome came."""

    @property
    def done(self) -> int:
        """Pictures that are through."""
        return self.labelled + self.failed

    def greet(self, about: Mapping[str, Any]) -> None:
        """A worker is ready."""
        self.workers.append(about)
        self.ready = self.ready or time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Some pictures are through."""
        self.last = time.monotonic()
        self.labelled += len(outcome.rows)
        self.failed += len(outcome.failures)
        self.examples += outcome.failures[: EXAMPLES - len(self.examples)]
        for _, row in outcome.rows:
            self.count(row)

    def count(self, row: Mapping[str, Any]) -> None:
        """Count what is in a label."""
        self.entities += len(row["entities"])
        self.boxes += sum(len(entity["boxes_xyxy_px"]) for entity in row["entities"])
        self.cut += row["finish_reason"] == "length"
        self.clipped += row.get("clipped_boxes", 0)

    @property
    def seconds(self) -> float:
        """How long was labelled, loading models not counted."""
        return (self.last or 0.0) - (self.ready or 0.0) if self.done else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was done by one command, and what the folder holds after it."""

    pictures: int
    """Pictures that the command was to have labels for."""
    labelled: int
    """Of these, labelled now."""
    failed: int
    """Of these, failed now."""
    done_before: int
    """Of these, labelled or failed before."""
    left: int
    """Of these, neither."""
    entities: int
    """Phrases with boxes in the labels of now."""
    boxes: int
    """Boxes in the labels of now."""
    cut: int
    """Labels of now that were cut at the largest number of tokens."""
    clipped_boxes: int
    """Boxes that came with pictures of now and reached beyond them."""
    seconds: float
    """From the first worker being ready to the last label."""
    seconds_before: float
    """From the beginning to the first worker being ready."""
    pictures_per_s: float | None
    """Pictures of now a second, failures included; None: there were none."""
    workers: int
    """Workers that were ready at some time."""
    workers_died: int
    """Workers that died."""
    examples: tuple[tuple[str, str], ...]
    """Some failures of now: key and reason."""
    complete: bool
    """Every picture is through, and labels.jsonl is written."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        from dataclasses import asdict

        values = asdict(self)
        values["examples"] = [{"key": key, "reason": reason} for key, reason in self.examples]
        return values
