"""One step's gradient is that of one big batch, however it is cut; what is unused or broken is treated as such."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from toy_stage import PER_STEP, Batch, Stream, Toy

from groma.distributed import World
from groma.errors import InputError
from groma.train.config import LoopConfig, OptimizerConfig
from groma.train.gradient import DivergenceError, StepReport, compute_gradient
from groma.train.optimizer import OptimizerSet

Change = Callable[[Batch], None]


def gradient_of(toy: Toy, batches: list[Batch], **loop: object) -> StepReport:
    named = [pair for group in toy.parameter_groups() for pair in group.parameters]
    config = LoopConfig(**({"steps": 1, "clip_norm": None} | loop))
    return compute_gradient(toy, batches, named, config=config, world=World(), step=12)


def gradients(toy: Toy) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in toy.named_parameters() if p.grad is not None}


def step_batches() -> list[Batch]:
    stream = Stream()
    return [stream.next() for _ in range(PER_STEP)]


def joined(batches: list[Batch]) -> Batch:
    inputs, targets = (torch.cat([getattr(b, name) for b in batches]) for name in ("inputs", "targets"))
    return Batch(batches[0].source, inputs, targets)


def test_accumulation_equals_one_big_batch() -> None:
    cut, whole = Toy(), Toy()
    batches = step_batches()
    assert len({len(batch) for batch in batches}) > 1  # otherwise averaging averages would pass too
    report_cut, report_whole = gradient_of(cut, batches), gradient_of(whole, [joined(batches)])
    assert gradients(cut).keys() == gradients(whole).keys()
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(cut)[name], gradient, rtol=0, atol=1e-6)
    assert report_cut.grad_norm == pytest.approx(report_whole.grad_norm, abs=1e-6)
    assert report_cut.terms == pytest.approx(report_whole.terms, abs=1e-6)


def test_clipping_scales_the_gradient_but_not_the_report() -> None:
    free, clipped = Toy(), Toy()
    report = gradient_of(free, step_batches())
    assert report.grad_norm > 0.1
    assert gradient_of(clipped, step_batches(), clip_norm=0.1).grad_norm == pytest.approx(report.grad_norm)
    norm = torch.cat([g.flatten() for g in gradients(clipped).values()]).norm()
    assert norm.item() == pytest.approx(0.1, rel=1e-4)
    direction = torch.cosine_similarity(gradients(free)["trunk.0.bias"], gradients(clipped)["trunk.0.bias"], dim=0)
    assert direction.item() == pytest.approx(1.0)


def test_a_batch_with_nothing_to_learn_gives_a_zero_gradient() -> None:
    toy = Toy()
    report = gradient_of(toy, [Batch("left", torch.zeros(0, 6), torch.zeros(0))])
    assert report.terms["loss"] == 0 and report.grad_norm == 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_unused_head_does_not_move(optimizer: str) -> None:
    """Neither momentum from earlier steps nor weight decay may touch what a step did not use."""
    toy = Toy()
    groups = toy.parameter_groups()
    optimizers = OptimizerSet(groups, OptimizerConfig(name=optimizer, lr=0.1, weight_decay=0.5))
    batch = step_batches()[0]
    for source in ("left", "right"):  # both heads now have momentum
        gradient_of(toy, [Batch(source, batch.inputs, batch.targets)])
        optimizers.step()
        optimizers.zero_grad()
    before = toy.weights()
    gradient_of(toy, [Batch("left", batch.inputs, batch.targets)])
    optimizers.step()
    after = toy.weights()
    assert torch.equal(before["heads.right.weight"], after["heads.right.weight"])
    assert not torch.equal(before["heads.left.weight"], after["heads.left.weight"])


def test_divergence_names_step_source_terms_and_parameters() -> None:
    toy = Toy()
    batches = step_batches()
    batches[1].targets[0] = float("nan")
    with pytest.raises(DivergenceError) as error:
        gradient_of(toy, batches)
    for expected in ("step 12", "'left'", "square_left nan", "heads.left.weight"):
        assert expected in str(error.value)


def test_a_finite_loss_with_an_infinite_gradient_is_found() -> None:
    toy = Toy()
    toy.heads["left"].weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DivergenceError, match=r"Gradients not finite: heads\.left\.weight\."):
        gradient_of(toy, step_batches())


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_an_impossible_weight_is_refused(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "weight", lambda self, batch: weight)
    with pytest.raises(InputError, match=r"step 12: the weight of a batch of source 'left' must be a number >= 0"):
        gradient_of(Toy(), step_batches())


def test_a_loss_that_nothing_trained_can_change_is_refused() -> None:
    toy = Toy()
    with torch.no_grad(), pytest.raises(InputError, match="depends on nothing that is trained"):
        gradient_of(toy, step_batches())


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Real processes under torchrun: 2 x 2 micro-batches a step against 1 x 4, heads taking turns, AdamW, average."""
    program = str(Path(__file__).with_name("toy_stage.py"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command in (
        [*launcher, program, str(tmp_path / "two"), "6", "2"],
        [sys.executable, program, str(tmp_path / "one"), "6", "4"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    for folder in ("model", "average"):
        one, two = (
            load_file(tmp_path / run / "step-00000006" / folder / "model.safetensors") for run in ("one", "two")
        )
        del one["batches_seen"], two["batches_seen"]  # each process counts its own: buffers are not summed
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6, msg=name)
    assert (tmp_path / "two" / "metrics.jsonl").read_text().count("\n") == 6
