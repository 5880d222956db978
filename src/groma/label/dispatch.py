"""Hands pictures to workers and takes what they make of them, whatever happens to a worker meanwhile.

    batches --two in a worker's hand--> worker --finished--> kept
                                          |
                                          +--died--> each picture on trial: alone in a worker's hand, so that it is
                                                     known which one it was; after MAX_TRIES it has failed

Every picture is kept once: what a worker had in hand when it died was not kept, as a worker keeps nothing itself.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from groma.errors import InputError
from groma.label.crew import Crew, Died, Event, Finished, Ready, Refused
from groma.label.items import Item
from groma.label.labeller import Outcome

IN_HAND = 2
"""Batches in a worker's hand: one is labelled, the other one's pictures are opened."""
MAX_TRIES = 3
"""Workers that may die of a picture before it has failed."""
MAX_FALSE_STARTS = 3
"""Workers that may die while they load the model before no more are started."""
MAX_DEATHS = 10
"""Workers that may die one after another, without one picture labelled between, before the run is given up."""
WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is handed at once."""

    numbers: tuple[int, ...]
    """Numbers of pictures."""
    deaths: int = 0
    """Workers that died with them in hand; above 0 it is on trial, one picture alone."""


@dataclass(slots=True)
class _Worker:
    """What is known of a worker."""

    ready: bool = False
    in_hand: dict[int, Task] = field(default_factory=dict)
    heard: float = 0.0
    """When it was last heard of, or had nothing in hand, on the monotonic clock."""


class Dispatcher:
    """One run's pictures, and who has which in hand."""

    def __init__(
        self,
        crew: Crew,
        items: Sequence[Item],
        *,
        keep: Callable[[Outcome], None],
        on_ready: Callable[[dict[str, Any]], None],
        stuck_after_s: float | None = None,
        interrupted: threading.Event | None = None,
        on_stopping: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is started yet.

        Args:
            crew: the workers.
            items: all pictures, by number.
            keep: puts labels and failures where they are safe.
            on_ready: is told what a worker says of itself, and refuses it by an error.
            stuck_after_s: a worker with something in hand that is not heard of for so long is ended; None: none is.
            interrupted: once it is set, workers finish what they are labelling, and no more.
            on_stopping: is called then.
        """
        self.deaths = 0
        """Workers that died."""
        self._crew, self._items = crew, items
        self._keep, self._on_ready = keep, on_ready
        self._interrupted, self._on_stopping = interrupted or threading.Event(), on_stopping
        self._stuck_after_s = stuck_after_s
        self._stopping = False
        self._workers: dict[int, _Worker] = {}
        self._batches: Iterator[tuple[int, ...]] = iter(())
        self._next: tuple[int, ...] | None = None
        self._on_trial: deque[Task] = deque()
        self._tasks = self._false_starts = self._in_a_row = 0

    def run(self, batches: Iterator[tuple[int, ...]], workers: int) -> None:
        """Label batches of pictures on so many workers.

        Args:
            batches: numbers of pictures; none are asked for before there is a worker for them.
            workers: how many; one is started even if there are no batches, and says which model it has.

        Raises:
            InputError: the model cannot be loaded or is another one, or workers die again and again.
        """
        self._batches, self._next = batches, next(batches, None)
        for _ in range(workers):
            self._start()
        greeted = False
        turned = time.monotonic()
        while not greeted or self._is_work_left():
            turned = self._turn_begins(turned)
            if self._interrupted.is_set() and not self._stopping:
                self._stopping = True
                self._crew.stop_soon()
                self._on_stopping()
            if self._stopping and not any(worker.in_hand for worker in self._workers.values()):
                return
            for event in self._crew.events(WAIT_S):
                greeted = greeted or isinstance(event, Ready)
                self._take(event)
            self._end_stuck()
            self._hand_out()

    def _turn_begins(self, before: float) -> float:
        """The time; what this process itself took, or stood still, does not count against its workers."""
        now = time.monotonic()
        for worker in self._workers.values():
            worker.heard += max(0.0, now - before - 2 * WAIT_S)
        return now

    def _end_stuck(self) -> None:
        """End workers that hang: on a disk that does not answer, a device that does not come back."""
        limit_s = self._stuck_after_s
        if limit_s is None:
            return
        late = time.monotonic() - limit_s
        stuck = [number for number, worker in self._workers.items() if worker.in_hand and worker.heard < late]
        for number in stuck:
            for event in self._crew.end(number, f"ended, as nothing was heard of it for {limit_s:g} s"):
                self._take(event)

    def _is_work_left(self) -> bool:
        in_hand = any(worker.in_hand for worker in self._workers.values())
        return in_hand or bool(self._on_trial) or self._next is not None

    def _start(self) -> None:
        self._workers[self._crew.start()] = _Worker()

    def _take(self, event: Event) -> None:
        match event:
            case Ready(worker, about):
                self._on_ready(about)
                self._workers[worker].ready = True
                self._false_starts = 0
            case Finished(worker, task, outcome):
                self._workers[worker].in_hand.pop(task)
                self._workers[worker].heard = time.monotonic()
                if outcome is not None:
                    self._keep(outcome)
                    self._in_a_row = 0
            case Refused(_, told):
                raise InputError(told)
            case Died(worker, told):
                self._bury(worker, told)

    def _bury(self, number: int, told: str) -> None:
        worker = self._workers.pop(number)
        if self._stopping:
            return
        self.deaths += 1
        if worker.ready:
            self._in_a_row += 1
        else:
            self._false_starts += 1
        for task in worker.in_hand.values():
            for one in task.numbers:
                self._try_again(one, task.deaths + 1, told)
        if self._in_a_row >= MAX_DEATHS:
            raise InputError(
                f"{self._in_a_row} workers ended one after another without labelling a picture, the last by {told}: is "
                "there enough memory? All labels so far are kept, and the same command goes on (try fewer --workers "
                "or a smaller --batch-size)"
            )
        if self._false_starts < MAX_FALSE_STARTS:
            self._start()
        elif not self._workers:
            raise InputError(
                f"{self._false_starts} workers ended while they loaded the model, the last one by {told}: is there "
                "enough memory for it, and is groma installed where they run?"
            )

    def _try_again(self, number: int, deaths: int, told: str) -> None:
        if deaths < MAX_TRIES:
            self._on_trial.append(Task((number,), deaths))
        else:
            self._keep(Outcome(failures=((number, f"it ended the process that labelled it {deaths} times ({told})"),)))

    def _hand_out(self) -> None:
        """Give everybody something to do."""
        if self._stopping:
            return
        for number, worker in self._workers.items():
            while worker.ready and (task := self._something_for(worker)) is not None:
                self._tasks += 1
                if not worker.in_hand:
                    worker.heard = time.monotonic()
                worker.in_hand[self._tasks] = task
                self._crew.hand(number, self._tasks, [(one, self._items[one]) for one in task.numbers])

    def _something_for(self, worker: _Worker) -> Task | None:
        """A trial for who has nothing in hand, and then nothing else; a batch for who has room for it."""
        if any(task.deaths for task in worker.in_hand.values()):
            return None
        if not worker.in_hand and self._on_trial:
            return self._on_trial.popleft()
        if len(worker.in_hand) >= IN_HAND or self._next is None:
            return None
        task, self._next = Task(self._next), next(self._batches, None)
        return task
