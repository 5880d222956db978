"""Real processes: workers and the command itself killed in the middle, deadly pictures, Ctrl-C; every picture once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import psutil
import pytest
from label_inputs import FIRST_WIDTH, folder, job, rows
from label_workers import nobody, watcher

from groma.cli import main
from groma.errors import InputError
from groma.label.dispatch import MAX_TRIES
from groma.label.run import Watching, Workers, label

COUNT = 24
TWO = Workers(count=2, threads=1)
ONE = Workers(count=1, threads=1)


@pytest.fixture
def photos(tmp_path):
    return folder(tmp_path / "photos", COUNT)


def seen(log: Path) -> Counter:
    """Number of a picture -> how often it was seen."""
    return Counter(int(line) - FIRST_WIDTH for line in log.read_text().splitlines())


def labelled(out: Path) -> list[int]:
    """Numbers of the labelled pictures, in the order of the file."""
    return [int(row["text"]) - FIRST_WIDTH for row in rows(out / "labels.jsonl")]


def in_order() -> list[int]:
    return sorted(range(COUNT), key=lambda number: (number % 3 == 0, number))


@pytest.mark.slow
def test_a_worker_killed_in_the_middle(photos, tmp_path):
    """kill -9 of one of two workers: what it had in hand is labelled again, and every picture has one label."""
    killed = []

    def kill(tally):
        if tally.done >= 6 and not killed:
            killed.append(tally.workers[0]["pid"])
            os.kill(killed[0], signal.SIGKILL)

    load = partial(watcher, log=tmp_path / "log", seconds=0.1)
    report = label(job(photos, tmp_path / "out", workers=TWO, load=load, batch_size=2), Watching(on_progress=kill))
    assert killed and not psutil.pid_exists(killed[0])
    assert (report.labelled, report.failed, report.workers_died, report.complete) == (COUNT, 0, 1, True)
    assert labelled(tmp_path / "out") == in_order()
    again = seen(tmp_path / "log") - Counter(range(COUNT))
    assert sum(again.values()) <= 4, "at most what one worker had in hand"
    assert report.workers >= 2


@pytest.mark.slow
def test_a_deadly_picture_does_not_stop_the_rest(photos, tmp_path):
    load = partial(watcher, log=tmp_path / "log", deadly=frozenset({FIRST_WIDTH + 2}))
    report = label(job(photos, tmp_path / "out", workers=ONE, load=load, batch_size=8))
    assert (report.labelled, report.failed, report.workers_died) == (COUNT - 1, 1, MAX_TRIES)
    assert labelled(tmp_path / "out") == [number for number in in_order() if number != 2]
    (failure,) = rows(tmp_path / "out" / "failures.jsonl")
    assert failure["key"] == "002.jpg"
    assert failure["reason"].startswith(f"it ended the process that labelled it {MAX_TRIES} times (SIGKILL")
    assert seen(tmp_path / "log") == Counter(set(range(COUNT)) - {2}), "its neighbours are labelled once"


@pytest.mark.slow
def test_a_picture_that_hangs_does_not_hold_up_the_rest(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("groma.label.dispatch.MAX_TRIES", 2)
    load = partial(watcher, log=tmp_path / "log", endless=frozenset({FIRST_WIDTH + 2}))
    workers = Workers(count=1, threads=1, stuck_after_s=6.0)
    report = label(job(photos, tmp_path / "out", workers=workers, load=load, batch_size=8))
    assert (report.labelled, report.failed, report.workers_died) == (COUNT - 1, 1, 2)
    (failure,) = rows(tmp_path / "out" / "failures.jsonl")
    assert failure["key"] == "002.jpg" and failure["reason"].endswith("(ended, as nothing was heard of it for 6 s)")
    assert seen(tmp_path / "log") == Counter(set(range(COUNT)) - {2}), "its neighbours are labelled once"


def test_a_model_that_cannot_be_loaded(photos, tmp_path):
    with pytest.raises(InputError, match="there is no such model"):
        label(job(photos, tmp_path / "out", workers=ONE, load=nobody))
    assert not [child for child in psutil.Process().children(recursive=True) if "tracker" not in str(child.cmdline())]


def test_stopping_leaves_no_process_and_goes_on(photos, tmp_path):
    interrupted = threading.Event()
    pids = []

    def stop(tally):
        pids[:] = [about["pid"] for about in tally.workers]
        if tally.done >= 4:
            interrupted.set()

    load = partial(watcher, log=tmp_path / "log", seconds=0.1)
    wanted = job(photos, tmp_path / "out", workers=TWO, load=load, batch_size=2)
    report = label(wanted, Watching(interrupted=interrupted, on_progress=stop))
    assert 4 <= report.labelled < COUNT and report.left == COUNT - report.labelled and report.workers_died == 0
    assert pids and not any(psutil.pid_exists(pid) for pid in pids)
    before = seen(tmp_path / "log")
    assert before.total() == report.labelled, "what was begun is kept"
    report = label(job(photos, tmp_path / "out", workers=Workers(count=0), load=load, batch_size=2))
    assert report.done_before == before.total() and seen(tmp_path / "log") == Counter(range(COUNT))


# --- the command -----------------------------------------------------------------------------------------------------


def command(model, photos, out, *more: str) -> list[str]:
    start = [sys.executable, "-m", "groma.cli", "label", str(photos), "--out", str(out), "--model", str(model)]
    start += ["--task", "grounded-caption", "--max-new-tokens", "150", "--batch-size", "1", "--threads", "1"]
    return [*start, *more]


def finished(out: Path) -> list[int]:
    """Numbers of pictures whose labels are on disk."""
    file = out / "parts" / "labels-1-of-1.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [int(number) for line in lines if line.endswith(b"\n") for number in json.loads(line)["labels"]]


def started(command: list[str], out: Path, count: int) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """The command and its workers, once so many pictures are labelled."""
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while len(finished(out)) < count:
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()
        time.sleep(0.01)
    return running, psutil.Process(running.pid).children(recursive=True)


@pytest.mark.slow
def test_the_command_stopped_and_killed_in_the_middle(model, photos, tmp_path, capsys):
    """Ctrl-C, then kill -9 of the command: no process is left, and the same command labels nothing twice."""
    out = tmp_path / "out"
    running, workers = started(command(model, photos, out), out, 3)
    for process in (running, *workers):  # as a terminal does
        os.kill(process.pid, signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "pictures are left; all labels are kept, and the same command goes on" in told and "Traceback" not in told
    assert workers and not psutil.wait_procs(workers, timeout=20)[1]
    first = finished(out)
    assert json.loads((out / "report.json").read_text())["left"] == COUNT - len(first) > 0

    running, workers = started(command(model, photos, out), out, len(first) + 4)
    running.kill()
    running.communicate()
    assert workers and not psutil.wait_procs(workers, timeout=20)[1], "they end by themselves"
    before = finished(out)
    assert len(first) + 4 <= len(before) < COUNT and len(set(before)) == len(before)
    part = out / "parts" / "labels-1-of-1.jsonl"
    kept = part.read_bytes()
    with part.open("ab") as file:
        file.write(b'{"labels": {"7": {"key"')  # killed in the middle of a line

    assert main([*command(model, photos, out)[3:], "--workers", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["done_before"], report["labelled"]) == (len(before), COUNT - len(before)) and report["complete"]
    labels = rows(out / "labels.jsonl")
    assert [int(row["key"][-7:-4]) for row in labels] == in_order()
    written = {row["key"]: row for row in labels}
    for line in kept.splitlines():
        for row in json.loads(line)["labels"].values():
            assert written[row["key"]] == row, "a label that was there stays as it is"
