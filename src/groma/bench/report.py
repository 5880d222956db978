"""What was measured, as JSON values and as tables for people."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from groma.bench.growth import Growth, Turn
from groma.bench.machine import Machine
from groma.bench.memory import Memory
from groma.bench.stages import DECODE, Answers, Stages
from groma.bench.targets import Target, targets

DISTURBED = 1.5
"""Unsteadiness, or quotient of a whole and the sum of its parts, from which on people are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run of `groma bench`."""

    date: str
    """When it ended, ISO 8601, UTC."""
    versions: dict[str, str]
    """Package -> its version."""
    machine: Machine
    """What it ran on, and the best rates that it showed."""
    unsteadiness: float
    """How many times those are the worst rates that it showed."""
    configuration: dict[str, Any]
    """What was measured, see `run`."""
    stages: Mapping[int, Stages]
    """Pictures at once -> the stages of their answers; 1 is always there."""
    answers: Mapping[int, Answers]
    """The same for whole answers."""
    memory: Memory
    """Of the largest of these batches."""
    conversation: tuple[Turn, ...]
    """Turns about one picture."""
    growth: Mapping[str, Growth] | None
    """Name of a cost -> how it grows; None: not measured."""
    turns: tuple[Turn, ...] | None
    """A longer conversation, measured with `growth`."""

    def targets(self) -> list[Target]:
        """What the figures should be."""
        return targets(
            self.machine,
            self.stages[1],
            self.answers,
            self.turns or self.conversation,
            self.growth,
            parameters=self.configuration["parameters"]["total"],
        )

    @property
    def disturbed(self) -> bool:
        """Whether rates changed meanwhile, or the stages of an answer do not add up to it."""
        parts = [self._answers(size)["stages_over_whole"] for size in self.answers]
        return self.unsteadiness > DISTURBED or any(not 1 / DISTURBED < part < DISTURBED for part in parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; seconds, bytes, FLOPs."""
        machine = self.machine
        return {
            "date": self.date,
            "versions": self.versions,
            "machine": {
                "device": machine.device,
                "name": machine.name,
                "threads": machine.threads,
                "memory_bytes": machine.memory_bytes,
                "matrix_flops_per_second": dict(machine.matrix_rates),
                "unsteadiness": self.unsteadiness,
                "disturbed": self.disturbed,
                "copy_bytes_per_second": machine.bandwidth,
                "copy_bytes_per_second_by_size": {str(size): rate for size, rate in machine.copy_rates.items()},
            },
            "configuration": self.configuration,
            "stages": {str(size): self._stages(size) for size in self.stages},
            "answers": {str(size): self._answers(size) for size in self.answers},
            "memory": self.memory.to_dict(),
            "conversation": [asdict(turn) for turn in self.conversation],
            "growth": None if self.growth is None else {name: one.to_dict() for name, one in self.growth.items()},
            "turns": None if self.turns is None else [asdict(turn) for turn in self.turns],
            "targets": [target.to_dict() for target in self.targets()],
        }

    def _stages(self, size: int) -> list[dict[str, Any]]:
        return [stage.to_dict(self.machine) for stage in self.stages[size].stages]

    def _answers(self, size: int) -> dict[str, Any]:
        """Whole answers beside the sum of their stages and of the stages' floors."""
        answers, stages = self.answers[size], self.stages[size]
        calls = answers.language_calls
        floor = stages.floor_seconds(self.machine, calls)
        return {
            "seconds": answers.seconds,
            "answers_per_second": size / answers.seconds,
            "language_calls": calls,
            "stages_seconds": stages.seconds(calls),
            "stages_over_whole": stages.seconds(calls) / answers.seconds,
            "floor_seconds": floor,
            "fraction_of_floor": floor / answers.seconds,
        }

    # --- for people --------------------------------------------------------------------------------------------------

    def tables(self) -> RenderableType:
        """Everything that is worth reading on a terminal."""
        parts: list[RenderableType] = [self._head(), *(self._stage_table(size) for size in self.stages)]
        parts += [self._whole_table(), self._turn_table()]
        parts += [] if self.growth is None else [self._growth_table(self.growth)]
        return Group(*parts, self._target_table())

    def _head(self) -> RenderableType:
        own, machine = self.configuration, self.machine
        rates = ", ".join(f"{rate / 1e9:,.4g} GFLOP/s in {name}" for name, rate in machine.matrix_rates.items())
        disturbed = "\nother programs disturbed the measurements: figures are rough" if self.disturbed else ""
        return Text(
            f"{own['model']} ({own['weights']} weights, {own['parameters']['total'] / 1e6:,.1f} million parameters, "
            f"{own['dtype']}) on {machine.device}, {machine.name}\n"
            f"matrix rate {rates}; copies {machine.bandwidth / 1e9:,.4g} GB/s\n"
            f"{own['image_tokens']} image tokens, {own['regions']} regions, {own['prompt_tokens']} tokens in the prompt"
            f"{disturbed}"
        )

    def _stage_table(self, size: int) -> Table:
        table = _table(f"stages, {size} at once", "stage", "ms", "floor, ms", "of floor", "GFLOP", "MB")
        for stage in self._stages(size):
            name = f"{DECODE}, a token" if stage["name"] == DECODE else stage["name"]
            table.add_row(
                name,
                _ms(stage["seconds"]),
                _ms(stage["floor_seconds"]),
                _percent(stage["fraction_of_floor"]),
                f"{stage['flops'] / 1e9:,.3f}",
                f"{stage['moved_bytes'] / 1e6:,.2f}",
            )
        return table

    def _whole_table(self) -> Table:
        table = _table(
            "whole answers", "at once", "ms", "sum of stages, ms", "floor, ms", "of floor", "a second", "tokens"
        )
        for size in self.answers:
            whole = self._answers(size)
            table.add_row(
                str(size),
                _ms(whole["seconds"]),
                _ms(whole["stages_seconds"]),
                _ms(whole["floor_seconds"]),
                _percent(whole["fraction_of_floor"]),
                f"{whole['answers_per_second']:.3g}",
                str(whole["language_calls"]),
            )
        memory = self.memory
        table.caption = (
            f"memory of {max(self.answers)}: {memory.peak_bytes / 1e6:,.0f} MB ({memory.measured_by}), floor "
            f"{memory.floor_bytes / 1e6:,.0f} MB, {_percent(memory.floor_bytes / memory.peak_bytes)}"
        )
        return table

    def _turn_table(self) -> Table:
        table = _table(
            "turns about one picture", "turn", "ms", "pictures", "regions", "prompt", "new tokens", "processed"
        )
        for turn in self.turns or self.conversation:
            table.add_row(
                str(turn.number),
                _ms(turn.seconds),
                *map(str, (turn.encoded_pictures, turn.encoded_regions, turn.prompt_tokens)),
                *map(str, (turn.new_tokens, turn.prefilled_tokens)),
            )
        return table

    def _growth_table(self, growth: Mapping[str, Growth]) -> Table:
        table = _table("growth", "cost", "from", "ms", "to", "ms", "exponent", "at the end")
        for name, one in growth.items():
            ends = [text for at in (0, -1) for text in (str(one.sizes[at]), _ms(one.seconds[at]))]
            table.add_row(name, *ends, _exponent(one.exponent), _exponent(one.last_exponent))
        return table

    def _target_table(self) -> Table:
        table = _table("targets", "target", "measured", "at most", "met")
        said = {True: "yes", False: "no", None: "-"}
        for target in self.targets():
            value = "-" if target.value is None else f"{target.value:.3g}"
            table.add_row(target.name, value, f"{target.limit:g}", said[target.met])
        return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.4g}" if seconds < 1 else f"{seconds * 1e3:,.0f}"


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.3g}%"


def _exponent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
