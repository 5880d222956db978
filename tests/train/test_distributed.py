"""Real processes: replicated or fully sharded, they compute what one process computes, and survive being killed."""

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stage_worker import STEPS, stages
from stage_worker import run as run_stages
from toy_stage import Stream, Toy, toy_run

import groma
from groma.errors import InputError
from groma.train.checkpoint import SHARDS, TRAINED, check_same_config, newest_intact, samples_per_step
from groma.train.loop import train
from groma.train.metrics import Meter
from groma.train.run import run_stage
from groma.train.streams import batches_after

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
TOY_STEPS, LAST = 6, "step-00000006"
SHARDING = ("replicate", "full")


def on_two(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", HERE / program]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        list(map(str, [*command, *arguments])), env=variables, capture_output=True, text=True, timeout=240
    )


def on_one(out: Path) -> None:
    """The toy in this process: four micro-batches a step instead of two in each of two processes."""
    train(Toy(), Stream(), toy_run(TOY_STEPS, 4), out=out, recipe={"data": {"batch_size": 1}})


def losses(out: Path) -> list[float]:
    records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if record["kind"] == "train"]


def assert_same_run(one: Path, other: Path) -> None:
    """Loss curve, weights and averaged weights."""
    assert losses(one) == pytest.approx(losses(other), abs=1e-4)
    assert len(losses(one)) == TOY_STEPS
    for folder in ("model", "average"):
        ours, theirs = (load_file(out / LAST / folder / "model.safetensors") for out in (one, other))
        for name in ours.keys() - {"batches_seen"}:  # each process counts its own
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The uninterrupted run of one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    on_one(out)
    return out


@pytest.fixture(scope="module", params=SHARDING)
def killed(request, tmp_path_factory) -> tuple[str, Path]:
    """Two processes, one of which was killed (-9) after step 4 was saved, at a place drawn by a seed."""
    out = tmp_path_factory.mktemp(request.param) / "run"
    draw = random.Random(7)
    victim, micro = draw.randrange(2), draw.randrange(4 * 2, TOY_STEPS * 2)  # two micro-batches a step
    ran = on_two("toy_stage.py", out, TOY_STEPS, 2, request.param, KILL=f"{victim}:{micro}")
    assert ran.returncode != 0 and not (out / LAST).exists()
    assert sorted(folder.name for folder in out.glob("step-*")) == ["step-00000002", "step-00000004"]
    return request.param, out


def test_a_killed_run_goes_on_as_if_nothing_had_happened(killed, whole, tmp_path):
    sharding, out = killed
    shutil.copytree(out, tmp_path / "run")
    ran = on_two("toy_stage.py", tmp_path / "run", TOY_STEPS, 2, sharding)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert_same_run(tmp_path / "run", whole)
    last = tmp_path / "run" / LAST
    assert (last / SHARDS).is_dir() is (sharding == "full") and (last / TRAINED).exists() is (sharding != "full")


def test_what_two_processes_began_one_can_end(killed, whole, tmp_path):
    shutil.copytree(killed[1], tmp_path / "run")
    on_one(tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("sharding", SHARDING)
def test_what_one_process_began_two_can_end(sharding, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for later in ("step-00000006",):
        shutil.rmtree(tmp_path / "run" / later)
    ran = on_two("toy_stage.py", tmp_path / "run", TOY_STEPS, 2, sharding)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert_same_run(tmp_path / "run", whole)


def test_a_damaged_shard_is_passed_over_and_told(killed, whole, tmp_path, caplog):
    sharding, out = killed
    shutil.copytree(out, tmp_path / "run")
    newest = tmp_path / "run" / "step-00000004"
    file = next((newest / SHARDS).glob("*.distcp")) if sharding == "full" else newest / TRAINED
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (tmp_path / "run" / ".step-00000006.tmp").mkdir()  # half-written
    with caplog.at_level(logging.WARNING):
        found = newest_intact(tmp_path / "run")
    assert found is not None and found.step == 2
    assert "passing over a damaged checkpoint" in caplog.text and file.name in caplog.text
    on_one(tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_stages_on_two_processes_equal_those_on_one(tmp_path):
    run_stages(tmp_path / "one", "replicate", 4)
    for sharding in SHARDING:
        ran = on_two("stage_worker.py", tmp_path / sharding, sharding, 2)
        assert ran.returncode == 0, ran.stderr[-3000:]
        for stage in ("detect", "instruct"):
            ours, theirs = losses(tmp_path / sharding / stage), losses(tmp_path / "one" / stage)
            assert ours == pytest.approx(theirs, rel=1e-4) and len(ours) == STEPS
        one, two = (groma.load(tmp_path / run / "instruct" / "step-00000004" / "model") for run in ("one", sharding))
        for name, tensor in one.model.state_dict().items():
            torch.testing.assert_close(two.model.state_dict()[name], tensor, rtol=0, atol=1e-4, msg=name)
    for stage, term in (("detect", "loss_ce"), ("instruct", "answer")):
        measured = [evaluations(tmp_path / sharding / stage, term) for sharding in SHARDING]
        assert measured[0] == pytest.approx(measured[1], rel=1e-3) and len(measured[0]) == STEPS // 2


def test_sharded_stages_in_bfloat16(tmp_path):
    """Weights that are gathered in bfloat16, in training and evaluation, next to float32's."""
    run_stages(tmp_path / "one", "replicate", 4)
    ran = on_two("stage_worker.py", tmp_path / "two", "full", 2, "bf16")
    assert ran.returncode == 0, ran.stderr[-3000:]
    for stage, term, tolerance in (("detect", "loss_ce", 5e-2), ("instruct", "answer", 2e-3)):
        one, two = (tmp_path / run / stage for run in ("one", "two"))
        assert losses(two) == pytest.approx(losses(one), rel=tolerance) and len(losses(one)) == STEPS
        # one process validates on batches twice as large, so on other scenes
        assert evaluations(two, term) == pytest.approx(evaluations(one, term), rel=0.3)


def evaluations(out: Path, term: str) -> list[float]:
    records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [record["values"][term] for record in records if record["kind"] == "evaluate"]


# --- how a step may be cut up ----------------------------------------------------------------------------------------


def resolved(world_size: int, accumulate: int, batch_size: int, **more) -> dict:
    return {
        "loop": {"accumulate": accumulate, "steps": 6, "sharding": "replicate"} | more,
        "world_size": world_size,
        "recipe": {"mixture": {"file": ""}, "data": {"batch_size": batch_size}},
    }


def test_a_step_may_be_cut_up_otherwise_if_it_has_the_same_samples():
    before = resolved(8, 1, 4)
    for now in (resolved(4, 2, 4), resolved(1, 4, 8), resolved(16, 1, 2, sharding="full")):
        check_same_config(now, before, folder=Path("run"), may_change_steps=False)
    with pytest.raises(InputError, match="world_size was 8 and is now 4"):
        check_same_config(resolved(4, 1, 4), before, folder=Path("run"), may_change_steps=False)
    mixed = {"world_size": 2, "loop.accumulate": 3, "recipe.mixture.file": "x", "recipe.mixture.batch_size": 5}
    assert samples_per_step(mixed) == 30
    assert samples_per_step({"world_size": 2, "loop.accumulate": 3}) is None


def test_scenes_seen_decide_where_a_stream_goes_on():
    assert batches_after(24, 8) == 3
    with pytest.raises(InputError, match="no multiple of the 10"):
        batches_after(24, 10)


def test_what_a_process_that_is_gone_measured_is_not_lost():
    mine, gone = Meter(steps=2, grad_norm=4.0), Meter(steps=2, grad_norm=4.0)
    mine.add({"loss": 1.0}, grad_norm=2.0, samples=4, seconds=1.0)
    gone.add({"loss": 3.0, "only_here": 1.0}, grad_norm=2.0, samples=4, seconds=1.0)
    gone.count({"set/used": 4})
    mine.merge(gone)
    assert (mine.sums, mine.counts) == ({"loss": 4.0, "only_here": 1.0}, {"loss": 1, "only_here": 1})
    assert (mine.samples, mine.steps, mine.grad_norm, mine.counted) == (8, 3, 6.0, {"set/used": 4})


def test_compiled_blocks_compute_the_same(tmp_path, monkeypatch):
    """Traced and differentiated by torch.compile; its code generator, which takes minutes, is left out."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *a, **k: compile_module(*a, backend="aot_eager", **k))
    config = stages("replicate", 4, "fp32")["instruct"]
    training = config.training
    run_stage(config, out=tmp_path / "plain")
    run_stage(
        replace(config, training=replace(training, loop=replace(training.loop, compile=True))),
        out=tmp_path / "compiled",
    )
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
