"""Who has which picture in hand, with a crew that does what a script says: deaths, trials, false starts, stopping."""

import threading
from collections import Counter, deque

import pytest
from label_inputs import job

from groma.errors import InputError
from groma.label.crew import Died, Event, Finished, Ready, Refused
from groma.label.dispatch import IN_HAND, MAX_DEATHS, MAX_FALSE_STARTS, MAX_TRIES, Dispatcher
from groma.label.items import InFile, Item
from groma.label.labeller import Outcome
from groma.label.run import Workers, label

COUNT = 20
ITEMS = [Item(f"{number}", InFile(f"{number}.jpg")) for number in range(COUNT)]


class Scripted:
    """Workers who do one thing a turn. Pictures in `deadly` kill them, in `endless` they never get through."""

    def __init__(
        self,
        *,
        deadly: dict[int, int] | None = None,
        endless: frozenset[int] = frozenset(),
        false_starts: int = 0,
        refuses: bool = False,
    ) -> None:
        self.deadly = dict(deadly or {})  # picture -> how many it kills
        self.false_starts, self.refuses = false_starts, refuses
        self.endless = endless
        self.hands: dict[int, deque] = {}
        self.new: list[int] = []
        self.handed: list[list[int]] = []
        self.most_in_hand = 0
        self.stopped = self.started = 0

    def start(self) -> int:
        self.started += 1
        self.new.append(self.started - 1)
        return self.started - 1

    def hand(self, worker, task, items) -> None:
        numbers = [number for number, _ in items]
        self.handed.append(numbers)
        self.hands[worker].append((task, numbers))
        self.most_in_hand = max(self.most_in_hand, len(self.hands[worker]))

    def events(self, timeout_s: float) -> list[Event]:
        told: list[Event] = []
        for worker in self.new:
            if self.refuses:
                told.append(Refused(worker, "no model"))
            elif self.false_starts:
                self.false_starts -= 1
                told.append(Died(worker, "SIGKILL"))
            else:
                self.hands[worker] = deque()
                told.append(Ready(worker, {}))
        self.new = []
        for worker, hand in list(self.hands.items()):
            if hand and not self.endless & set(hand[0][1]):
                told.append(self._work(worker, hand))
        return told

    def end(self, worker: int, why: str) -> list[Event]:
        """It finished what it has in hand first if nothing of that is endless."""
        hand = self.hands.pop(worker)
        assert self.endless & set(hand[0][1]), "a worker is ended that is not stuck"
        return [Died(worker, why)]

    def _work(self, worker: int, hand: deque) -> Event:
        task, numbers = hand.popleft()
        if self.stopped:
            return Finished(worker, task, None)
        for number in numbers:
            if self.deadly.get(number):
                self.deadly[number] -= 1
                del self.hands[worker]
                return Died(worker, "SIGKILL")
        return Finished(worker, task, Outcome(rows=tuple((number, {}) for number in numbers)))

    def stop_soon(self) -> None:
        self.stopped += 1

    def close(self) -> None: ...


class Clock:
    """What the dispatcher takes for the time."""

    def __init__(self, step_s: float) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def monotonic(self) -> float:
        return self.now_s

    def tick(self) -> list[Event]:
        self.now_s += self.step_s
        return []


def ticking(monkeypatch, crew: Scripted, step_s: float) -> Clock:
    """A clock that goes on by so much whenever the dispatcher looks what its workers say."""
    clock, events = Clock(step_s), crew.events
    monkeypatch.setattr("groma.label.dispatch.time", clock)
    monkeypatch.setattr(crew, "events", lambda timeout_s: clock.tick() + events(timeout_s))
    return clock


def run(crew: Scripted, *, workers: int = 2, size: int = 4, interrupted=None, on_keep=lambda: None, **options):
    """Labels and failures of each picture, counted."""
    labels, failures = Counter(), {}

    def keep(outcome: Outcome) -> None:
        labels.update(number for number, _ in outcome.rows)
        failures.update(outcome.failures)
        on_keep()

    dispatcher = Dispatcher(crew, ITEMS, keep=keep, on_ready=lambda _: None, interrupted=interrupted, **options)
    batches = (tuple(range(first, min(first + size, COUNT))) for first in range(0, COUNT, size))
    dispatcher.run(batches, workers)
    return labels, failures, dispatcher.deaths


def test_every_picture_once():
    crew = Scripted()
    labels, failures, deaths = run(crew)
    assert labels == Counter(range(COUNT)) and not failures and not deaths
    assert crew.most_in_hand == IN_HAND and crew.started == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_that_dies_once_costs_nothing(workers):
    """As when memory ran out for a moment: what it had in hand is labelled by others."""
    labels, failures, deaths = run(Scripted(deadly={6: 1}), workers=workers)
    assert labels == Counter(range(COUNT)) and not failures and deaths == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_deadly_picture_fails_alone(workers):
    crew = Scripted(deadly={6: 99})
    labels, failures, deaths = run(crew, workers=workers)
    assert labels == Counter(set(range(COUNT)) - {6}), "its neighbours are labelled, each once"
    assert deaths == MAX_TRIES and crew.started == workers + MAX_TRIES
    assert failures == {6: f"it ended the process that labelled it {MAX_TRIES} times (SIGKILL)"}
    assert crew.handed.count([6]) == MAX_TRIES - 1, "on trial it is alone"


def test_a_picture_on_trial_is_alone_in_a_workers_hand():
    crew = Scripted(deadly={0: 99, 5: 99})
    labels, failures, _ = run(crew, workers=1)
    assert set(failures) == {0, 5} and labels == Counter(set(range(COUNT)) - {0, 5})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_picture_that_never_ends_fails_alone(workers, monkeypatch):
    crew = Scripted(endless=frozenset({6}))
    ticking(monkeypatch, crew, 0.01)
    labels, failures, deaths = run(crew, workers=workers, stuck_after_s=0.05)
    assert labels == Counter(set(range(COUNT)) - {6}) and deaths == MAX_TRIES
    assert failures[6].endswith(f"{MAX_TRIES} times (ended, as nothing was heard of it for 0.05 s)")


def test_time_that_the_command_stood_still_counts_against_nobody(monkeypatch):
    """As after Ctrl-Z and fg: workers that stood still with it are not stuck."""
    crew = Scripted()
    clock = ticking(monkeypatch, crew, 101.0)
    events = crew.events
    crew.events = lambda timeout_s: events(timeout_s) if clock.now_s % 2 else clock.tick()  # heard every other turn
    labels, failures, deaths = run(crew, workers=1, stuck_after_s=5.0)
    assert labels == Counter(range(COUNT)) and not failures and not deaths


def test_a_worker_that_hangs_does_not_keep_the_run_from_stopping(monkeypatch):
    interrupted = threading.Event()
    crew = Scripted(endless=frozenset({6}))
    ticking(monkeypatch, crew, 0.01)
    labels, failures, _ = run(crew, workers=1, interrupted=interrupted, on_keep=interrupted.set, stuck_after_s=0.05)
    assert labels == Counter(range(4)) and not failures


def test_workers_that_all_die_end_the_run():
    crew = Scripted(deadly=dict.fromkeys(range(COUNT), 99))
    with pytest.raises(InputError, match=f"{MAX_DEATHS} workers ended one after another .* by SIGKILL"):
        run(crew, workers=1)


def test_workers_that_die_while_they_load():
    labels, _, deaths = run(Scripted(false_starts=MAX_FALSE_STARTS - 1), workers=1)
    assert labels == Counter(range(COUNT)) and deaths == MAX_FALSE_STARTS - 1
    with pytest.raises(InputError, match=f"{MAX_FALSE_STARTS} workers ended while they loaded the model"):
        run(Scripted(false_starts=99), workers=1)
    crew = Scripted(false_starts=MAX_FALSE_STARTS)  # of five, two find room
    labels, _, _ = run(crew, workers=5)
    assert labels == Counter(range(COUNT)) and len(crew.hands) >= 2


def test_a_model_that_cannot_be_loaded():
    with pytest.raises(InputError, match="no model"):
        run(Scripted(refuses=True))


def test_stopping_keeps_what_is_finished():
    interrupted = threading.Event()
    crew = Scripted()
    labels, _, _ = run(crew, workers=1, interrupted=interrupted, on_keep=interrupted.set)
    assert labels == Counter(range(4)) and crew.stopped == 1


def test_a_job_is_checked_before_anything_is_opened(tmp_path):
    for change, told in (
        ({"batch_size": 0}, "--batch-size"),
        ({"limit": 0}, "--limit"),
        ({"max_bad": 2}, "--max-bad"),
        (
            {"workers": Workers(stuck_after_s=0)},
            "--stuck-after",
        ),
        ({"workers": Workers(count=0, stuck_after_s=5)}, "--workers 1 or more"),
    ):
        with pytest.raises(InputError, match=told):
            label(job(tmp_path / "nowhere", tmp_path / "out", **change))
    assert not (tmp_path / "out").exists()
