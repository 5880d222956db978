"""A real Ray on this machine, one of whose actors is killed in the middle: every picture once."""

import os
import signal
import sys
import threading
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from label_inputs import FIRST_WIDTH, folder, job, rows
from label_workers import watcher

from groma.errors import InputError, MissingExtraError
from groma.label.ray_crew import _threads_each
from groma.label.run import Watching, Workers, label

COUNT = 30
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'groma[ray]'")


@pytest.fixture(autouse=True)
def not_last_in_line(monkeypatch):
    """Ray's workers let every other process go first: beside tests that compute they would hardly move."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.fixture
def photos(tmp_path):
    return folder(tmp_path / "photos", COUNT)


@needs_ray
@pytest.mark.slow
def test_an_actor_killed_in_the_middle(photos, model, tmp_path):
    """kill -9 of one of two actors; then the run is stopped, and goes on without Ray."""
    import ray  # pyright: ignore[reportMissingImports]

    killed, interrupted = [], threading.Event()
    before = signal.getsignal(signal.SIGTERM)

    def kill(tally):
        if tally.done >= 4 and not killed:
            killed.append(tally.workers[0]["pid"])
            os.kill(killed[0], signal.SIGKILL)
        elif killed and tally.done >= 20:
            interrupted.set()

    wanted = {"task": "grounded-caption", "model": str(model), "batch_size": 2}
    workers = Workers(count=2, threads=1, ray=True)
    report = label(
        job(photos, tmp_path / "out", workers=workers, **wanted), Watching(interrupted=interrupted, on_progress=kill)
    )
    assert killed and killed[0] != os.getpid()
    assert report.workers_died == 1 and report.failed == 0 and 20 <= report.labelled == COUNT - report.left
    assert not ray.is_initialized() and signal.getsignal(signal.SIGTERM) is before

    again = label(job(photos, tmp_path / "out", workers=Workers(count=0), **wanted))
    assert (again.done_before, again.labelled, again.complete) == (report.labelled, report.left, True)
    label(job(photos, tmp_path / "alone", workers=Workers(count=0), **wanted))
    found, alone = (rows(tmp_path / name / "labels.jsonl") for name in ("out", "alone"))
    assert [(row["key"], row["text"]) for row in found] == [(row["key"], row["text"]) for row in alone]
    assert len({row["key"] for row in found}) == COUNT


@needs_ray
@pytest.mark.slow
def test_an_actor_that_hangs(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("groma.label.dispatch.MAX_TRIES", 1)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where actors find what they load
    load = partial(watcher, endless=frozenset({FIRST_WIDTH + 2}))
    workers = Workers(count=1, threads=1, ray=True, stuck_after_s=15.0)  # far longer than a first batch takes
    report = label(job(photos, tmp_path / "out", workers=workers, load=load, batch_size=8))
    assert (report.labelled, report.failed, report.workers_died) == (COUNT - 16, 16, 1)  # two batches in hand


@needs_ray
@pytest.mark.slow
def test_what_is_missing_where_actors_run_is_named(photos, tmp_path):
    with pytest.raises(InputError, match=r"by ModuleNotFoundError: No module named 'label_workers': .* installed"):
        label(job(photos, tmp_path / "out", workers=Workers(count=1, threads=1, ray=True), load=watcher))


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:99999", "auto"])
def test_an_address_where_nobody_is(photos, tmp_path, address):
    workers = Workers(ray=True, ray_address=address)
    with pytest.raises(InputError, match=f"--ray-address {address}: there is no Ray to work with"):
        label(job(photos, tmp_path / "out", workers=workers))


def test_without_ray_the_extra_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'groma\[ray\]'"):
        label(job(photos, tmp_path / "out", workers=Workers(ray=True)))


def test_every_actor_finds_room():
    assert _threads_each([2], 1) == 2 and _threads_each([2], 2) == 1 and _threads_each([2], 3) == 1
    assert _threads_each([8, 8, 8, 8], 4) == 8 and _threads_each([8, 8, 8, 8], 5) == 4
    assert _threads_each([16, 4], 3) == 8 - 3 and _threads_each([], 2) == 1
