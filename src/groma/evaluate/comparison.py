"""Two runs of the same benchmark, compared case by case: is the second really better?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma.errors import InputError
from groma.evaluate.benchmark import Benchmark
from groma.evaluate.measures import Difference, difference
from groma.evaluate.report import by_section
from groma.evaluate.run_folder import ANSWERS, RUN, RunFolder
from groma.storage import read_json_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One figure of two runs."""

    first: float
    second: float
    difference: Difference
    """Second minus first, paired."""


def check_comparable(first: Path, second: Path) -> dict[str, Any]:
    """Whether both folders hold finished runs of the same cases.

    Returns:
        What run.json of the first says.

    Raises:
        InputError: one is no finished run, or they are of other cases.
    """
    told = []
    for folder in (first, second):
        if not (folder / RUN).is_file():
            raise InputError(f"{folder} holds no run of a benchmark: there is no {RUN}.")
        if not (folder / ANSWERS).is_file():
            raise InputError(f"{folder}: the run is not finished: go on with it first.")
        told.append(read_json_object(folder / RUN))
    for key in ("benchmark", "cases"):
        if told[0].get(key) != told[1].get(key):
            raise InputError(
                f"the runs cannot be compared: {key} is {told[0].get(key)} in {first}, {told[1].get(key)} in {second}."
            )
    return told[0]


def read_answers(folder: Path) -> list[dict[str, Any]]:
    """The records of a finished run, in order."""
    found = RunFolder(folder, read_json_object(folder / RUN)).finished()
    return [found[number] for number in range(len(found))]


def compare(
    benchmark: Benchmark, first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> dict[str, dict[str, Compared]]:
    """Section -> metric -> both values and their paired difference."""
    compared: dict[str, dict[str, Compared]] = {}
    others = by_section(benchmark, second)
    for section, records in by_section(benchmark, first).items():
        ones: Mapping[str, Any] = benchmark.figures(section, records)
        twos = benchmark.figures(section, others[section])
        compared[section] = {
            metric: Compared(
                first=ones[metric].figure().value,
                second=twos[metric].figure().value,
                difference=difference(ones[metric], twos[metric]),
            )
            for metric in ones
            if metric in twos
        }
    return compared
