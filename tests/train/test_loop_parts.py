"""The loop's small parts: configuration, schedule, optimizers, log, display."""

import io
import json
import math
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from toy_stage import Stream, Toy, toy_config

from groma import distributed
from groma.distributed import World, current_world
from groma.errors import CheckpointError, InputError
from groma.train.average import WeightAverage
from groma.train.config import LoopConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from groma.train.interruption import interruptions
from groma.train.loop import train
from groma.train.metrics import Meter, MetricsLog
from groma.train.objective import Objective, ParameterGroup
from groma.train.optimizer import OptimizerSet, check_groups
from groma.train.progress import duration, sparkline
from groma.train.randomness import random_state, restore_random_state, seed_everything
from groma.train.schedule import learning_rate_factor


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (LoopConfig, {"steps": 0}, r"LoopConfig\.steps must be a whole number, at least 1, got 0"),
        (LoopConfig, {"steps": 2.5}, r"LoopConfig\.steps must be a whole number"),
        (LoopConfig, {"steps": True}, r"LoopConfig\.steps must be a whole number"),
        (LoopConfig, {"steps": 1, "ema_decay": 1.0}, r"LoopConfig\.ema_decay must be a number, .* below 1, got 1\.0"),
        (LoopConfig, {"steps": 1, "clip_norm": 0.0}, r"LoopConfig\.clip_norm must be above 0"),
        (LoopConfig, {"steps": 1, "precision": "fp16"}, r"LoopConfig\.precision .* got 'fp16'"),
        (LoopConfig, {"steps": 1, "prefetch": -1}, r"LoopConfig\.prefetch"),
        (OptimizerConfig, {"lr": "2e-5"}, r"OptimizerConfig\.lr must be a number, at least 0, got '2e-5'"),
        (OptimizerConfig, {"lr": math.nan}, r"OptimizerConfig\.lr"),
        (OptimizerConfig, {"betas": (0.9, 1.0)}, r"OptimizerConfig\.betas"),
        (OptimizerConfig, {"name": "sgd"}, r"OptimizerConfig\.name"),
        (OptimizerConfig, {"muon_scale": "big"}, r"OptimizerConfig\.muon_scale"),
        (ScheduleConfig, {"final_fraction": 1.5}, r"ScheduleConfig\.final_fraction must be at most 1"),
        (ScheduleConfig, {"warmup_steps": 3, "warmup_fraction": 0.1}, r"ScheduleConfig\.warmup_fraction"),
    ],
)
def test_configuration_errors_name_the_field(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**values)


def test_configuration_survives_json() -> None:
    values = TrainingConfig(loop=LoopConfig(steps=3)).to_dict()
    assert json.loads(json.dumps(values)) == values


def test_schedule_rises_to_the_peak_and_falls_to_the_floor() -> None:
    config = ScheduleConfig(warmup_fraction=0.1, final_fraction=0.2)
    factors = [learning_rate_factor(config, step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.6)  # half way down
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert learning_rate_factor(config, 100, 100) == pytest.approx(0.2)
    assert factors[99] == pytest.approx(0.2, abs=1e-3)
    constant = ScheduleConfig(final_fraction=1.0)
    assert {learning_rate_factor(constant, step, 7) for step in range(7)} == {1.0}
    assert learning_rate_factor(ScheduleConfig(warmup_steps=50), 9, 10) == 1.0  # longer than the run


def test_groups_have_their_own_rates_and_decay() -> None:
    toy = Toy()
    optimizers = OptimizerSet(
        toy.parameter_groups(), OptimizerConfig(name="muon", lr=0.1, muon_lr=0.3, weight_decay=0.7)
    )
    optimizers.set_learning_rates(0.5)
    (muon,), (adamw,) = (optimizers.members[name].param_groups for name in ("muon", "adamw"))
    assert (muon["lr"], muon["weight_decay"]) == (pytest.approx(0.15), 0.7)
    assert (adamw["lr"], adamw["weight_decay"]) == (pytest.approx(0.025), 0.0)
    assert {p.ndim for p in muon["params"]} == {2} and len(muon["params"]) == 2


def test_muon_makes_orthogonal_steps() -> None:
    parameter = nn.Parameter(torch.zeros(16, 8))
    groups = [ParameterGroup(name="matrix", parameters=[("weight", parameter)], muon=True, weight_decay=0.0)]
    optimizers = OptimizerSet(groups, OptimizerConfig(name="muon", lr=1.0, muon_scale="match_rms_adamw"))
    parameter.grad = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    optimizers.step()
    singular = torch.linalg.svdvals(parameter.detach()) / (0.2 * math.sqrt(16))
    assert singular.min() > 0.5 and singular.max() < 1.5  # the iteration's own tolerance


def test_muon_refuses_what_is_not_a_matrix() -> None:
    group = ParameterGroup(name="conv", parameters=[("kernel", nn.Parameter(torch.zeros(2, 2, 3, 3)))], muon=True)
    with pytest.raises(InputError, match=r"group conv: kernel has shape \(2, 2, 3, 3\), but Muon trains matrices"):
        OptimizerSet([group], OptimizerConfig(name="muon"))
    OptimizerSet([group], OptimizerConfig(name="adamw"))  # there the mark means nothing


def test_groups_must_cover_what_is_trained_exactly_once() -> None:
    toy = Toy()
    named = dict(toy.named_parameters())
    groups = [
        ParameterGroup(name="a", parameters=[(n, named[n]) for n in ("trunk.0.weight", "frozen.bias")]),
        ParameterGroup(name="b", parameters=[("again", named["trunk.0.weight"])]),
    ]
    with pytest.raises(InputError) as error:
        check_groups(toy, groups)
    text = str(error.value)
    assert "frozen.bias (group a) does not require a gradient" in text
    assert "again (group b) is already trained as trunk.0.weight" in text
    assert "heads.left.bias requires a gradient but is in no group" in text
    frozen: Objective = Toy().requires_grad_(False)
    with pytest.raises(InputError, match="nothing to train"):
        check_groups(frozen, [])


def test_optimizer_state_of_other_parameters_is_refused() -> None:
    def make(names: list[str]) -> OptimizerSet:
        pairs = [(name, nn.Parameter(torch.zeros(2))) for name in names]
        return OptimizerSet([ParameterGroup(name="all", parameters=pairs)], OptimizerConfig())

    with pytest.raises(CheckpointError, match="is of 'b' where 'a' is trained now"):
        make(["a", "b"]).load_state_dict(make(["b", "a"]).state_dict())
    with pytest.raises(CheckpointError, match="is of 1 parameters, but 2 are trained now"):
        make(["a", "b"]).load_state_dict(make(["a"]).state_dict())


def test_average_follows_its_formula_and_gives_the_weights_back() -> None:
    parameter = nn.Parameter(torch.tensor([1.0], dtype=torch.bfloat16))
    average = WeightAverage([("w", parameter)], decay=0.25)
    expected = 1.0
    for count, value in enumerate((2.0, 3.0, 5.0), start=1):
        with torch.no_grad():
            parameter.fill_(value)
        average.update()
        decay = min(0.25, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
    assert average.state_dict()["average.w"].item() == pytest.approx(expected)
    with average.applied():
        assert parameter.item() == pytest.approx(expected, rel=1e-2)
    assert parameter.item() == 5.0


def test_random_generators_all_come_back() -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()]

    seed_everything(3, rank=0)
    draw()  # leaves a half-used pair of normal numbers behind
    state = random_state()
    first = draw()
    restore_random_state(state)
    assert draw() == first
    seed_everything(3, rank=1)
    assert draw() != first


def test_terms_are_averaged_over_the_steps_that_had_them() -> None:
    meter = Meter()
    meter.add({"loss": 2.0, "left": 2.0}, grad_norm=1.0, samples=3, seconds=0.5)
    meter.add({"loss": 4.0, "right": 4.0}, grad_norm=3.0, samples=5, seconds=1.5)
    summary = meter.summary(World())
    assert summary == {"loss": 3.0, "terms": {"left": 2.0, "right": 4.0}, "grad_norm": 2.0, "samples_per_s": 4.0}


def test_log_drops_later_and_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, upto=0)
    for step in (1, 2, 3):
        log.append({"step": step, "kind": "train", "loss": math.inf if step == 1 else 0.5})
    path.write_text(path.read_text() + '{"step": 2, "kind": "tr')
    reopened = MetricsLog(path, upto=2)
    reopened.append({"step": 3, "kind": "train", "loss": 0.25})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, None), (2, 0.5), (3, 0.25)]
    assert reopened.records == lines


def test_sparkline_and_duration() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█"
    assert sparkline([1.0], 5) == "▁" and sparkline([], 5) == ""
    assert [duration(s) for s in (9.6, 61, 3725)] == ["10s", "1m01s", "1h02m"]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_terms_and_curves(tmp_path: Path, terminal: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120)
    train(Toy(), Stream(), toy_config(log_every=1), out=tmp_path, console=console)
    text = file.getvalue()
    assert "8/8" in text and "square_left" in text and "samples/s" in text
    assert ("▁" in text) == terminal
    if not terminal:
        assert len(text.splitlines()) == 8 and "\x1b" not in text


def test_torchrun_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_world() == World()
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert current_world() == World(rank=3, size=4, local_rank=1) and not current_world().is_main
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(InputError, match="environment variable RANK must be a whole number, got 'x'"):
        current_world()


def test_buckets_hold_every_gradient_once_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET_ELEMENTS", 10)
    sizes = (4, 6, 1, 25, 3, 3)
    tensors = [torch.zeros(size) for size in sizes] + [torch.zeros(2, dtype=torch.float64)]
    buckets = list(distributed._buckets(tensors))
    assert [[tensor.numel() for tensor in bucket] for bucket in buckets] == [[4, 6], [1], [25], [3, 3], [2]]
    assert list(distributed._buckets([])) == []


def test_a_second_ctrl_c_ends_at_once_where_allowed() -> None:
    with pytest.raises(KeyboardInterrupt), interruptions(can_force=True) as event:
        signal.raise_signal(signal.SIGINT)
        assert event.is_set()
        signal.raise_signal(signal.SIGINT)
    with interruptions(can_force=False) as event:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert event.is_set()


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    """Where signal handlers cannot be set."""
    quiet = Console(file=io.StringIO())
    with ThreadPoolExecutor() as pool:
        result = pool.submit(train, Toy(), Stream(), toy_config(), out=tmp_path, console=quiet).result()
    assert result.finished
