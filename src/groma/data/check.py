"""Look through a mixture before training on it: are files, pictures, boxes and spans what they should be?"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from typing import Any

import numpy as np

from groma.data.annotated_set import LooseSet
from groma.data.cleaning import FATAL, KINDS, BadSampleError, Fault
from groma.data.mixture import MixtureConfig, MixtureSet, open_mixture
from groma.data.tasks import dialogues_of

EXAMPLES = 5
"""Faults of each kind that are told in words."""
CHUNK = 64
"""Samples that a worker takes at once."""


@dataclass(slots=True)
class SetReport:
    """What was found in one set."""

    name: str
    """What the set is called."""
    samples: int
    """How many it has."""
    checked: int = 0
    """How many of them were looked at."""
    bad: int = 0
    """How many of those cannot be used."""
    boxes: int = 0
    """Boxes that were kept."""
    turns: int = 0
    """Questions that its task asks."""
    faults: Counter[str] = field(default_factory=Counter[str])
    """Kind -> how often; several in one sample count each."""
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Kind -> the first ones in words."""

    @property
    def bad_share(self) -> float:
        """Share of the samples looked at that cannot be used."""
        return self.bad / self.checked if self.checked else 0.0

    def add(self, found: "_Found") -> None:
        """Count one sample."""
        self.checked += 1
        self.boxes += found.boxes
        self.turns += found.turns
        self.bad += any(fault.kind in FATAL for fault in found.faults)
        for fault in found.faults:
            self.faults[fault.kind] += 1
            told = self.examples.setdefault(fault.kind, [])
            if len(told) < EXAMPLES:
                told.append(fault.told)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "samples": self.samples,
            "checked": self.checked,
            "bad": self.bad,
            "bad_share": round(self.bad_share, 6),
            "boxes": self.boxes,
            "turns": self.turns,
            "faults": dict(sorted(self.faults.items(), key=lambda item: list(KINDS).index(item[0]))),
            "examples": self.examples,
        }


@dataclass(frozen=True, slots=True)
class _Found:
    """What one sample gave."""

    boxes: int
    turns: int
    faults: tuple[Fault, ...]


def check_mixture(
    config: MixtureConfig,
    *,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 0,
    tell: Callable[[SetReport], None] | None = None,
) -> list[SetReport]:
    """Decode and clean samples of every set, and ask what its task asks.

    Args:
        config: the mixture.
        limit: look at so many samples of each set, drawn at random; None: at all.
        seed: of the draw.
        workers: processes; 0: in this one.
        tell: called now and then with the report of the set that is being looked through.

    Returns:
        A report for each set, in their order.

    Raises:
        InputError: a set cannot be opened.
    """
    reports: list[SetReport] = []
    for number, one in enumerate(open_mixture(config)):
        report = SetReport(one.name, len(one.data))
        if isinstance(one.data, LooseSet) and (orphans := one.data.source.index.num_orphans):
            report.faults["orphan"] = orphans
        chosen = _chosen(one, limit, seed)
        for chunk in _look(config, number, one, chosen, workers):
            for found in chunk:
                report.add(found)
            if tell is not None:
                tell(report)
        reports.append(report)
    return reports


def _chosen(one: MixtureSet, limit: int | None, seed: int) -> Iterator[int]:
    if limit is None or limit >= len(one.data):
        return iter(range(len(one.data)))
    order = one.data.order(seed)
    return iter(sorted(order[k] for k in range(limit)))


def _look(
    config: MixtureConfig, number: int, one: MixtureSet, chosen: Iterator[int], workers: int
) -> Iterator[list[_Found]]:
    chunks = iter(lambda: list(islice(chosen, CHUNK)), [])
    if workers == 0:
        yield from ([_look_at(one, sample) for sample in chunk] for chunk in chunks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_open, initargs=(config, number)) as pool:
        while portion := list(islice(chunks, 16 * workers)):  # a pool takes all that it is given at once
            yield from pool.map(_look_at_chunk, portion)


_opened: MixtureSet | None = None  # a worker process's own


def _open(config: MixtureConfig, number: int) -> None:
    global _opened
    _opened = open_mixture(config)[number]


def _look_at_chunk(samples: Sequence[int]) -> list[_Found]:
    assert _opened is not None
    return [_look_at(_opened, sample) for sample in samples]


def _look_at(one: MixtureSet, number: int) -> _Found:
    try:
        sample = one.data.sample(number)
    except BadSampleError as error:
        return _Found(0, 0, (error.fault,))
    annotation = sample.annotation
    dialogues = dialogues_of(one.task, annotation, np.random.default_rng(number), one.options)
    boxes, turns = len(annotation.boxes_xyxy_frame), sum(len(dialogue.turns) for dialogue in dialogues)
    empty = Fault("nothing_to_learn", f"{annotation.picture}: nothing for the task {one.task!r}")
    return _Found(boxes, turns, sample.faults if dialogues else (*sample.faults, empty))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
