"""The exact gradient of one optimizer step, however its samples are cut into micro-batches and processes.

weights of all micro-batches --sum over processes--> total_weight
micro-batch --objective(total_weight), backward--> adds to the gradients
gradients --sum over processes--> the gradient of one big batch --> norm, check, clip
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from groma.distributed import World
from groma.errors import GromaError, InputError
from groma.train.config import LoopConfig
from groma.train.objective import Losses, Objective
from groma.train.sharding import local


class DivergenceError(GromaError, ArithmeticError):
    """A loss or gradient became infinite or not a number; the text names step, source and terms."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step measured."""

    terms: dict[str, float]
    """"loss" and each term -> its sum over this process's micro-batches."""
    grad_norm: float
    """L2 norm of the whole gradient, before clipping."""


def compute_gradient(
    objective: Objective,
    batches: Sequence[Any],
    named_parameters: Sequence[tuple[str, nn.Parameter]],
    *,
    config: LoopConfig,
    world: World,
    step: int,
) -> StepReport:
    """Leave in each parameter's `grad` the (clipped) gradient over all `batches` of all processes.

    Args:
        objective: The loss.
        batches: This process's micro-batches.
        named_parameters: All trained parameters, the same in each process; their `grad` is None on entry. It stays
            None where no micro-batch of any process used the parameter.
        config: Precision and clipping.
        world: The processes.
        step: Number of the step, for errors.

    Raises:
        DivergenceError: A loss or the gradient is not finite.
        InputError: A batch's weight is not a number >= 0, or its loss depends on nothing that is trained.
    """
    parameters = [parameter for _, parameter in named_parameters]
    weights = [_weight(objective, batch, step) for batch in batches]
    # Where nothing at all is supervised, losses of zero are divided by 1 and stay zero.
    total_weight = world.sum(sum(weights)) or 1.0
    device = parameters[0].device
    losses = []
    for batch, weight in zip(batches, weights, strict=True):
        losses.append(_forward(objective, batch, total_weight, device=device, precision=config.precision))
        if losses[-1].total.requires_grad:
            losses[-1].total.backward()
        elif weight > 0:
            raise InputError(f"step {step}: the loss of a {_name(batch)} depends on nothing that is trained.")
    if config.sharding == "replicate" or world.size == 1:
        world.sum_gradients(parameters)  # sharded ones are summed in the backward pass
    norm = _total_norm([p.grad for p in parameters if p.grad is not None], world)
    reports, grad_norm = _to_numbers(losses, norm)
    if not math.isfinite(grad_norm) or not all(math.isfinite(report["loss"]) for report in reports):
        raise DivergenceError(_describe_divergence(batches, reports, named_parameters, step=step, rank=world.rank))
    if config.clip_norm is not None:
        _clip(parameters, config.clip_norm, norm)
    return StepReport(terms=_summed(reports), grad_norm=grad_norm)


def _total_norm(gradients: Sequence[Tensor], world: World) -> Tensor:
    """() the L2 norm of all gradients together; of sharded ones over all processes."""
    norm = torch.nn.utils.get_total_norm([local(gradient) for gradient in gradients])
    return world.root_of_squares(norm) if any(isinstance(gradient, DTensor) for gradient in gradients) else norm


def _clip(parameters: Sequence[nn.Parameter], most: float, norm: Tensor) -> None:
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            local(parameter.grad).mul_(factor)


def _weight(objective: Objective, batch: Any, step: int) -> float:
    weight = float(objective.weight(batch))
    if not (math.isfinite(weight) and weight >= 0):
        raise InputError(f"step {step}: the weight of a {_name(batch)} must be a number >= 0, got {weight}.")
    return weight


def _forward(objective: Objective, batch: Any, total_weight: float, *, device: torch.device, precision: str) -> Losses:
    if hasattr(batch, "to"):
        batch = batch.to(device)
    with computing(device, precision):
        return objective(batch, total_weight=total_weight)


def computing(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A `with` block in which a run of this precision ("fp32", "bf16") computes."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _to_numbers(losses: Sequence[Losses], norm: Tensor) -> tuple[list[dict[str, float]], float]:
    """Each micro-batch's loss and terms, and the gradient's norm, in one transfer from the device."""
    tensors = [norm]
    for item in losses:
        tensors += [item.total, *item.terms.values()]
    numbers = torch.stack([t.detach().float().reshape(()).to(norm.device) for t in tensors]).tolist()
    reports, start = [], 1
    for item in losses:
        names = ("loss", *item.terms)
        reports.append(dict(zip(names, numbers[start : start + len(names)], strict=True)))
        start += len(names)
    return reports, numbers[0]


def _summed(reports: Sequence[dict[str, float]]) -> dict[str, float]:
    """Term -> its sum over micro-batches."""
    sums: dict[str, float] = {}
    for report in reports:
        for name, value in report.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _describe_divergence(
    batches: Sequence[Any],
    reports: Sequence[dict[str, float]],
    named_parameters: Sequence[tuple[str, nn.Parameter]],
    *,
    step: int,
    rank: int,
) -> str:
    shown = "; ".join(
        f"{_name(batch)}: " + ", ".join(f"{name} {value:.6g}" for name, value in report.items())
        for batch, report in zip(batches, reports, strict=True)
    )
    bad = [name for name, p in named_parameters if p.grad is not None and not local(p.grad).isfinite().all()]
    where = f" Gradients not finite: {', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}." if bad else ""
    return (
        f"step {step} (process {rank}): the loss or its gradient is not finite. {shown}.{where} "
        "The last checkpoint is unharmed; a lower learning rate or clip_norm may help."
    )


def _name(batch: Any) -> str:
    """What an error calls a batch."""
    return f"batch of source {batch.source!r}" if hasattr(batch, "source") else "batch"
