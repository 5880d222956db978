"""Runs: the same on any number of processes, killed and resumed, each case counted once; folders of other runs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from knowing import Knowing
from test_referring import BOX, pairs, pictures

from groma.errors import InputError
from groma.evaluate import BENCHMARKS, open_benchmark
from groma.evaluate.comparison import check_comparable, compare, read_answers
from groma.evaluate.data_folder import Place
from groma.evaluate.report import SHEETS, measure, write_report
from groma.evaluate.run_folder import ANSWERS, PARTS, RUN, RunFolder
from groma.evaluate.runner import run_benchmark

CASES = 23
"""No number of processes and no batch divides it."""
FILES = ("metrics.json", "report.md", "report.html", "reliability.svg", ANSWERS, *(f"{name}.png" for name in SHEETS))


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))
    pictures(tmp_path / "data", CASES)
    pairs(tmp_path / "data", "refcoco_val.json", {k: f"phrase {k}" for k in range(1, CASES + 1)})
    return tmp_path / "data"


def command(processes: int, *arguments: object) -> list[str]:
    worker = str(Path(__file__).parent / "run_worker.py")
    start = [sys.executable, worker]
    if processes > 1:
        start = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
            worker,
        ]
    return [*start, *map(str, arguments)]


def run_to_the_end(processes: int, *arguments: object) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command(processes, *arguments), env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.slow
def test_one_and_three_processes_give_the_same_files(data, tmp_path):
    for processes in (1, 3):
        run_to_the_end(processes, data, tmp_path / f"run{processes}", tmp_path / f"log{processes}", 0)
        asked = (tmp_path / f"log{processes}").read_text().splitlines()
        assert sorted(asked) == sorted(f"phrase {k}" for k in range(1, CASES + 1)), "each once, none padded"
    figures = json.loads((tmp_path / "run1" / "metrics.json").read_text())["sections"]["val"]["accuracy50"]
    assert figures["value"] == (CASES // 2) / CASES and figures["cases"] == CASES
    for name in FILES:
        contents = {(tmp_path / f"run{processes}" / name).read_bytes() for processes in (1, 3)}
        assert len(contents) == 1, name
    assert not (tmp_path / "run1" / PARTS).exists()


@pytest.mark.slow
def test_a_killed_run_asks_nothing_twice_that_was_finished(data, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command(1, data, out, log, 0.4), env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (log.exists() and len(log.read_text().splitlines()) > 10):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    (part,) = (out / PARTS).glob("*.jsonl")
    finished = [int(number) for line in part.read_text().splitlines() for number in json.loads(line)]
    assert 0 < len(finished) < CASES
    before = len(log.read_text().splitlines())
    with part.open("a") as file:
        file.write('{"7": {"answ')  # killed in the middle of a line
    run_to_the_end(2, data, out, log, 0)  # on another number of processes
    asked = Counter(log.read_text().splitlines())
    assert set(asked) == {f"phrase {k}" for k in range(1, CASES + 1)}
    order = [case.phrase for _, case in open_benchmark("refcoco", Place(data=data)).cases]
    assert all(asked[order[number]] == 1 for number in finished)
    assert sum(asked.values()) == before + CASES - len(finished)
    run_to_the_end(1, data, tmp_path / "whole", tmp_path / "log2", 0)
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_finished_run_is_measured_again_without_asking(data, tmp_path):
    benchmark = open_benchmark("refcoco", Place(data=data))
    assistant = Knowing(lambda *_: [(BOX, 0.5)])
    first = run_benchmark(assistant, benchmark, out=tmp_path / "run", batch_size=4)
    assistant.asked.clear()
    assert run_benchmark(assistant, benchmark, out=tmp_path / "run", batch_size=4) == first and not assistant.asked


def test_folders_of_other_runs_are_refused(data, tmp_path):
    benchmark = open_benchmark("refcoco", Place(data=data))
    run_benchmark(Knowing(), benchmark, out=tmp_path / "run")
    with pytest.raises(InputError, match=r"holds another run: batch_size is 5, there 16"):
        run_benchmark(Knowing(), benchmark, out=tmp_path / "run", batch_size=5)
    other = Knowing()
    torch.nn.init.ones_(other.model.weight)
    with pytest.raises(InputError, match="holds another run: model is"):
        run_benchmark(other, benchmark, out=tmp_path / "run")
    with pytest.raises(InputError, match="holds another run: cases is"):
        run_benchmark(Knowing(), open_benchmark("refcoco", Place(data=data, n=5)), out=tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="something else than a benchmark's run"):
        run_benchmark(Knowing(), benchmark, out=tmp_path / "full")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        run_benchmark(Knowing(), benchmark, out=tmp_path / "file" / "run")


def test_answers_that_are_missing_are_told(data, tmp_path):
    """Machines that do not share the folder."""
    folder = RunFolder(tmp_path / "run", {"any": "thing"})
    folder.begin()
    folder.append({0: {"answers": []}, 1: {"answers": []}})
    assert set(folder.finished()) == {0, 1}
    benchmark = open_benchmark("refcoco", Place(data=data))
    from groma.evaluate.runner import _collect

    with pytest.raises(InputError, match=f"{CASES - 2} of {CASES} answers are missing, the first is case 2"):
        _collect(folder, len(benchmark))


def test_two_runs_are_compared_in_pairs(data, tmp_path):
    """The second is right wherever the first is, and in five more cases."""
    benchmark = open_benchmark("refcoco", Place(data=data))
    for name, limit in (("worse", 8), ("better", 13)):
        assistant = Knowing(lambda k, *_, limit=limit: [(BOX, 0.9)] if k <= limit else [])
        records = run_benchmark(assistant, benchmark, out=tmp_path / name)
        write_report(measure(benchmark, records, model=name), benchmark, records, tmp_path / name)
    check_comparable(tmp_path / "worse", tmp_path / "better")
    answers = [read_answers(tmp_path / name) for name in ("worse", "better")]
    found = compare(benchmark, *answers)["val"]["accuracy50"]
    assert (found.first, found.second) == (8 / CASES, 13 / CASES)
    change = found.difference
    assert change.value == pytest.approx(5 / CASES) and 0 < change.low < change.value < change.high and change.is_clear
    # apart, the two intervals overlap: pairing is what makes it clear
    (one, two) = (measure(benchmark, own, model="x").sections["val"]["accuracy50"] for own in answers)
    assert one.high > two.low
    same = compare(benchmark, answers[0], answers[0])["val"]["accuracy50"].difference
    assert (same.value, same.low, same.high) == (0, 0, 0) and not same.is_clear


def test_runs_that_cannot_be_compared(data, tmp_path):
    benchmark = open_benchmark("refcoco", Place(data=data))
    run_benchmark(Knowing(), benchmark, out=tmp_path / "one")
    run_benchmark(Knowing(), open_benchmark("refcoco", Place(data=data, n=5)), out=tmp_path / "other")
    with pytest.raises(InputError, match="cannot be compared: cases is"):
        check_comparable(tmp_path / "one", tmp_path / "other")
    with pytest.raises(InputError, match=f"no run of a benchmark: there is no {RUN}"):
        check_comparable(tmp_path / "one", tmp_path)
    (tmp_path / "other" / ANSWERS).unlink()
    with pytest.raises(InputError, match="is not finished"):
        check_comparable(tmp_path / "one", tmp_path / "other")


def test_every_benchmark_is_refused_without_its_data(tmp_path):
    for name in BENCHMARKS:
        if name != "scenes":
            with pytest.raises(InputError, match="give --data FOLDER"):
                open_benchmark(name, Place())
            with pytest.raises(InputError, match="lacks annotation files"):
                open_benchmark(name, Place(data=tmp_path))
    with pytest.raises(InputError, match="did you mean 'refcoco'"):
        open_benchmark("refcooc", Place())
