"""A run that is killed in the middle goes on, pays for nothing twice, and leaves the same files in the end."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from made_up import quick_job

from chat_server import ChatServer, Hold, well_behaved
from groma.curate.annotations import read_annotations
from groma.curate.endpoint import OpenAIEndpoint, find_access
from groma.curate.run import curate

PICTURES = 14
WORKERS = 3
COMMAND = (
    "import sys, tyro; from groma.cli.boundary import guarded; from groma.cli.curate import Curate; "
    "sys.exit(guarded(lambda arguments: tyro.cli(Curate, args=arguments).run(), sys.argv[1:]))"
)


class Gate:
    """Answers a number of requests in all, and keeps every further one waiting."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.release = threading.Event()
        self._lock = threading.Lock()
        self._let_in = 0

    def __call__(self, body: dict[str, Any], before: int):
        with self._lock:
            self._let_in += 1
            if self._let_in > self.limit:
                return Hold(until=self.release, answers=False)
        return well_behaved(body, before)


def start(server: ChatServer, files: tuple[Path, Path], out: Path) -> subprocess.Popen[str]:
    options = ["--base-url", server.url, "--model", "test-vision", "--line.concurrency", str(WORKERS), "--json"]
    options += ["--picture.min-side-px", "240", "--picture.max-side-px", "480"]
    arguments = [str(files[0]), "--pictures", str(files[1]), "--out", str(out), *options]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answered(out: Path) -> int:
    """Answers that are on the disk, in whole lines."""
    file = out / "answers.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return sum('"event": "answered"' in line and line.endswith("\n") for line in lines)


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_twice_it_pays_for_nothing_twice(server, made_up_set, tmp_path):
    files, out = made_up_set(PICTURES), tmp_path / "out"
    for share in (4, 9):  # so many answers are there when the process is killed
        gate = server.behaviour = Gate(share - answered(out))
        seen = len(server.bodies)
        process = start(server, files, out)
        wait_for(lambda s=share, n=seen, g=gate: answered(out) == s and len(server.bodies) == n + g.limit + WORKERS,
                 process)  # fmt: skip
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        gate.release.set()
        assert not (out / "instruct.json").exists()
        with (out / "answers.jsonl").open("ab") as file:
            file.write(b'{"event": "answered", "key": "')  # as if the kill had come in the middle of a line
    server.behaviour = well_behaved
    process = start(server, files, out)
    printed, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    report = json.loads(printed)
    assert report["pictures"]["kept"] == PICTURES
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == PICTURES
    assert report["paid_in_all_runs"]["answers"] == PICTURES
    # what was under way when it was killed may have been paid for without our knowing: it is on the bill, at its most
    assert report["paid_in_all_runs"]["perhaps_paid"]["requests"] == 2 * WORKERS
    assert len(server.bodies) == PICTURES + 2 * WORKERS

    endpoint = OpenAIEndpoint(find_access(url=server.url), timeout_s=60)
    annotations = read_annotations(files[0], "coco_region_captions")
    curate(annotations, endpoint, quick_job(files[1], tmp_path / "straight"))
    for name in ("instruct.json", "left_out.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_waits_for_what_is_paid_and_writes(server, made_up_set, tmp_path):
    gate = server.behaviour = Gate(2)
    behaviour = gate.__call__

    def held(body: dict[str, Any], before: int):
        action = behaviour(body, before)
        return Hold(until=gate.release) if isinstance(action, Hold) else action

    server.behaviour = held
    out = tmp_path / "out"
    process = start(server, made_up_set(8), out)
    wait_for(lambda: len(server.bodies) == 2 + WORKERS, process)
    process.send_signal(signal.SIGINT)
    time.sleep(3.0)  # in which it is heard of
    gate.release.set()
    printed, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    report = json.loads(printed)
    assert (report["stopped"], report["pictures"]["kept"]) == ("interrupted", 2 + WORKERS)
    assert len(json.loads((out / "instruct.json").read_text())) == 2 + WORKERS
    assert "interrupted, all saved; the same command goes on" in told
    assert "Traceback" not in told
