"""Workers, whatever they are: what the dispatcher asks of them and what they tell it. And the simplest of them.

dispatcher --start, hand, stop_soon--> crew --events--> dispatcher
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from groma.errors import GromaError, InputError
from groma.label.items import Item
from groma.label.labeller import Labeller, Outcome, Setup

Numbered = Sequence[tuple[int, Item]]
"""Items with their numbers in the input."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded its model."""

    worker: int
    """Number of the worker."""
    about: dict[str, Any]
    """What `Labeller.about` says."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A worker is through with what it was handed."""

    worker: int
    """Number of the worker."""
    task: int
    """Number of what it was handed."""
    outcome: Outcome | None
    """What became of it; None: it was given back untouched."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker cannot load its model, and no other could."""

    worker: int
    """Number of the worker."""
    told: str
    """Why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone, and with it what it had in hand."""

    worker: int
    """Number of the worker."""
    told: str
    """How it ended, as far as is known."""


Event = Ready | Finished | Refused | Died


class Crew(Protocol):
    """Workers of one kind."""

    def start(self) -> int:
        """Start one more; returns its number, from 0."""
        ...

    def hand(self, worker: int, task: int, items: Numbered) -> None:
        """Give a worker something to label, which it does in the order in which it gets it."""
        ...

    def events(self, timeout_s: float) -> list[Event]:
        """What happened; waits so long at most if nothing did."""
        ...

    def end(self, worker: int, why: str) -> list[Event]:
        """End a worker that does nothing; what it finished before, and its death with `why`."""
        ...

    def stop_soon(self) -> None:
        """Workers finish what they are labelling and give back the rest."""
        ...

    def close(self) -> None:
        """End all workers, whatever they do."""
        ...


class InlineCrew:
    """No other process at all: one worker, who works while it is asked for events."""

    def __init__(self, setup: Setup) -> None:
        """Nothing is loaded yet."""
        self._setup = setup
        self._labeller: Labeller | None = None
        self._in_hand: deque[tuple[int, Numbered]] = deque()
        self._told: list[Event] = []
        self._stopping = False

    def start(self) -> int:
        """See `Crew`."""
        try:
            self._labeller = Labeller(self._setup, 0)
            self._told.append(Ready(0, self._labeller.about()))
        except GromaError as error:
            self._told.append(Refused(0, str(error)))
        return 0

    def hand(self, worker: int, task: int, items: Numbered) -> None:
        """See `Crew`."""
        self._in_hand.append((task, items))

    def events(self, timeout_s: float) -> list[Event]:
        """See `Crew`."""
        if not self._told and self._in_hand and self._labeller is not None:
            task, items = self._in_hand.popleft()
            labeller = self._labeller
            outcome = None if self._stopping else labeller.label(labeller.prepare(items))
            self._told.append(Finished(0, task, outcome))
        told, self._told = self._told, []
        return told

    def end(self, worker: int, why: str) -> list[Event]:
        """Nobody but this process itself is there to be ended."""
        raise InputError("a process that labels alone cannot be ended when it is stuck: use --workers 1 or more")

    def stop_soon(self) -> None:
        """See `Crew`."""
        self._stopping = True

    def close(self) -> None:
        """See `Crew`."""
        if self._labeller is not None:
            self._labeller.close()
