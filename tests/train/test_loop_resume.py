"""Stopping and resuming changes nothing; damage, other settings and mix-ups are refused by name."""

import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from toy_stage import Batch, Stream, Toy, toy_config

from groma.errors import CheckpointError, InputError
from groma.storage import write_checksums, write_json
from groma.train.loop import Hooks, TrainResult, train
from groma.train.prefetch import PrefetchingStream

LAST = "step-00000008"


def run(
    out: Path,
    *,
    toy: Toy | None = None,
    stream: Stream | None = None,
    train_options: dict[str, Any] | None = None,
    **config: Any,
) -> tuple[Toy, TrainResult]:
    """Train a toy; `config` changes the loop's configuration."""
    toy = toy or Toy(dropout=0.3)
    quiet = Console(file=io.StringIO())
    options = train_options or {}
    return toy, train(toy, stream or Stream(), toy_config(**config), out=out, console=quiet, **options)


class Killed(Exception):
    """Stands for a crash."""


def run_until_killed(out: Path, step: int, **config: Any) -> None:
    """Train, and die right after the given step, which also draws random numbers and evaluates."""

    def die(current: int) -> dict[str, float]:
        torch.rand(3)
        if current == step:
            raise Killed
        return {}

    with pytest.raises(Killed):
        run(out, train_options={"hooks": Hooks(on_evaluate=die)}, evaluate_every=1, **config)


def records(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The log without its clocks."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    clocks = ("wall_s", "samples_per_s")
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines if line["kind"] == kind]


@pytest.mark.parametrize(
    ("optimizer", "precision", "prefetch"),
    [("adamw", "fp32", 0), ("muon", "fp32", 3), ("adamw", "bf16", 3), ("muon", "bf16", 0)],
)
def test_resuming_is_bit_exact(tmp_path: Path, optimizer: str, precision: str, prefetch: int) -> None:
    """Weights, buffers, average, dropout, stream and even half-filled lines of the log go on where they were."""
    options = {"optimizer": optimizer, "precision": precision, "prefetch": prefetch}
    options |= {"ema_decay": 0.9, "save_every": 3, "log_every": 4}
    whole, _ = run(tmp_path / "whole", **options)
    run_until_killed(tmp_path / "parts", 5, **options)  # the newest checkpoint is that of step 3
    torch.manual_seed(99)  # a new process would be in another state
    resumed, result = run(tmp_path / "parts", **options)
    assert result.finished and result.step == 8 and result.checkpoint.name == LAST
    assert whole.weights()["batches_seen"] == 16
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, resumed.weights()[name]), name
    for folder in ("model", "average"):
        one, two = (load_file(tmp_path / r / LAST / folder / "model.safetensors") for r in ("whole", "parts"))
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert records(tmp_path / "whole") == records(tmp_path / "parts")


def test_training_moves_the_weights_and_lowers_the_loss(tmp_path: Path) -> None:
    """Without this the comparisons above could be between runs that do nothing."""
    toy, _ = run(tmp_path, toy=Toy(), steps=200, log_every=20)
    _, first, *_, last = records(tmp_path)  # the very first line is of one step alone
    assert last["loss"] < 0.5 * first["loss"]
    assert not torch.equal(toy.weights()["heads.right.weight"], Toy().weights()["heads.right.weight"])
    assert torch.equal(toy.weights()["frozen.weight"], Toy().weights()["frozen.weight"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_a_saved_step(tmp_path: Path, number: int) -> None:
    def interrupt(step: int) -> dict[str, float]:
        if step == 3:
            os.kill(os.getpid(), number)
        return {}

    before = signal.getsignal(number)
    _, result = run(tmp_path / "parts", train_options={"hooks": Hooks(on_evaluate=interrupt)}, evaluate_every=1)
    assert not result.finished and result.step == 3 and result.checkpoint.is_dir()
    assert signal.getsignal(number) is before
    resumed, result = run(tmp_path / "parts")
    assert result.finished
    whole, _ = run(tmp_path / "whole")
    assert all(torch.equal(tensor, resumed.weights()[name]) for name, tensor in whole.weights().items())


def test_old_checkpoints_are_pruned_and_leftovers_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-00000002.12345678.tmp").mkdir()
    run(tmp_path, save_every=1, keep_checkpoints=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "step-00000007", LAST]


def test_the_average_is_evaluated_and_saved(tmp_path: Path) -> None:
    toy = Toy()
    seen = {}

    def look(step: int) -> dict[str, float]:
        seen[step] = toy.weights() | {"training": torch.tensor(toy.training)}
        return {"nothing": float("nan")}

    hooks = Hooks(on_evaluate=look)
    run(tmp_path, toy=toy, ema_decay=0.9, evaluate_every=5, train_options={"hooks": hooks})
    average = load_file(tmp_path / LAST / "average/model.safetensors")
    assert sorted(seen) == [5, 8] and not seen[8]["training"] and toy.training
    assert torch.equal(seen[8]["trunk.0.weight"], average["trunk.0.weight"])
    assert not torch.equal(toy.weights()["trunk.0.weight"], average["trunk.0.weight"])
    assert torch.equal(
        toy.weights()["trunk.0.weight"], load_file(tmp_path / LAST / "model/model.safetensors")["trunk.0.weight"]
    )
    assert [record["values"] for record in records(tmp_path, "evaluate")] == [{"nothing": None}] * 2


def test_damage_is_named_and_auto_falls_back(tmp_path: Path) -> None:
    whole, _ = run(tmp_path, save_every=4)
    damaged = tmp_path / LAST / "trained.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step-00000008: damaged: trained\.safetensors has changed"):
        run(tmp_path, train_options={"resume": tmp_path / LAST})
    resumed, result = run(tmp_path, save_every=4)  # from step 4, and over the damaged folder
    assert result.finished
    assert all(torch.equal(tensor, resumed.weights()[name]) for name, tensor in whole.weights().items())
    run(tmp_path, train_options={"resume": tmp_path / LAST})  # intact again


def test_no_intact_checkpoint_is_an_error_and_not_a_new_run(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / LAST / "trainer_state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint is intact.*trainer_state\.pt is missing"):
        run(tmp_path)


def test_tensors_that_do_not_fit_are_all_listed(tmp_path: Path) -> None:
    run(tmp_path)
    tensors = load_file(tmp_path / LAST / "trained.safetensors")
    tensors["parameter.trunk.0.bias"] = torch.zeros(3)
    del tensors["parameter.trunk.3.bias"]
    save_file(tensors, tmp_path / LAST / "trained.safetensors")
    write_checksums(tmp_path / LAST)
    with pytest.raises(CheckpointError) as error:
        run(tmp_path)
    assert "parameter.trunk.3.bias is missing" in str(error.value)
    assert "parameter.trunk.0.bias: expected (8,) torch.float32, got (3,) torch.float32" in str(error.value)


def test_another_configuration_is_refused_by_field(tmp_path: Path) -> None:
    run(tmp_path, train_options={"recipe": {"data": {"seed": 1}}})
    with pytest.raises(InputError, match=r"loop\.clip_norm was 1\.0 and is now 0\.5"):
        run(tmp_path, clip_norm=0.5, train_options={"recipe": {"data": {"seed": 1}}})
    with pytest.raises(InputError, match=r"recipe\.data\.seed was 1 and is now 2"):
        run(tmp_path, train_options={"recipe": {"data": {"seed": 2}}})
    with pytest.raises(InputError, match=r"loop\.steps was 8 and is now 9 \(to train longer on purpose"):
        run(tmp_path, steps=9, train_options={"recipe": {"data": {"seed": 1}}})
    with pytest.raises(InputError, match="cannot be written as JSON"):
        run(tmp_path / "other", train_options={"recipe": {"out": tmp_path}})


def test_steps_may_be_extended_on_purpose(tmp_path: Path) -> None:
    run(tmp_path, train_options={"recipe": {"sizes": (1, 2)}})
    _, result = run(
        tmp_path, steps=10, log_every=1, train_options={"may_change_steps": True, "recipe": {"sizes": (1, 2)}}
    )
    assert result.step == 10 and [record["step"] for record in records(tmp_path)][-2:] == [9, 10]


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    run(tmp_path, save_every=4)
    with pytest.raises(InputError, match=r"holds a run already \(8 steps\)"):
        run(tmp_path, train_options={"resume": "never"})
    with pytest.raises(InputError, match="holds later checkpoints"):
        run(tmp_path, train_options={"resume": tmp_path / "step-00000004"})
    shutil.copytree(tmp_path / "step-00000004", tmp_path / "elsewhere/step-00000004")
    _, result = run(tmp_path / "branch", train_options={"resume": tmp_path / "elsewhere/step-00000004"})
    assert result.step == 8


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    write_json(tmp_path / LAST / "config.json", {"format": 99, "step": 8})
    write_checksums(tmp_path / LAST)
    with pytest.raises(CheckpointError, match="expected checkpoint format 1"):
        run(tmp_path)


def test_prefetching_gives_the_same_batches_and_states() -> None:
    direct, ahead = Stream(), PrefetchingStream(Stream(), 3)
    for _ in range(5):
        assert torch.equal(direct.next().inputs, ahead.next().inputs)
        assert direct.state_dict() == ahead.state_dict()
    ahead.load_state_dict({"position": 1})
    direct.load_state_dict({"position": 1})
    assert torch.equal(direct.next().inputs, ahead.next().inputs)
    ahead.close()
    assert torch.equal(direct.next().inputs, ahead.next().inputs)  # closing loses nothing
    ahead.close()


def test_an_error_in_the_prefetching_thread_reaches_the_caller(tmp_path: Path) -> None:
    class Broken(Stream):
        def make(self, index: int) -> Batch:
            if index == 4:
                raise InputError("picture 4 is missing")
            return super().make(index)

    with pytest.raises(InputError, match="picture 4 is missing"):
        run(tmp_path, stream=Broken(), prefetch=2)
