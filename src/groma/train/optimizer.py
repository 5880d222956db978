"""From an objective's parameter groups to an optimizer: AdamW, or Muon for hidden matrices with AdamW for the rest.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers") replaces a matrix's momentum by the nearest
(semi-)orthogonal matrix. `torch.optim.Muon` exists since torch 2.9 and takes 2-D parameters only.
A parameter without a gradient (a head that this step's data does not touch) is skipped: neither its weights nor its
momentum move.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from groma.errors import CheckpointError, InputError, MissingExtraError
from groma.train.config import OptimizerConfig
from groma.train.objective import Objective, ParameterGroup


def check_groups(objective: Objective, groups: Sequence[ParameterGroup]) -> None:
    """Make sure that each trained parameter is in exactly one group.

    Raises:
        InputError: Lists parameters that are frozen, doubly named, in two groups, or trained but in no group.
    """
    names: set[str] = set()
    seen: dict[int, str] = {}
    faults: list[str] = []
    for group in groups:
        for name, parameter in group.parameters:
            label = f"{name} (group {group.name})"
            if not parameter.requires_grad:
                faults.append(f"{label} does not require a gradient")
            if name in names:
                faults.append(f"{label} is a name used twice")
            if id(parameter) in seen:
                faults.append(f"{label} is already trained as {seen[id(parameter)]}")
            names.add(name)
            seen.setdefault(id(parameter), name)
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad and id(parameter) not in seen:
            faults.append(f"{name} requires a gradient but is in no group")
    if faults:
        raise InputError(f"{type(objective).__name__}.parameter_groups: {'; '.join(faults)}.")
    if not seen:
        raise InputError(f"{type(objective).__name__}.parameter_groups: there is nothing to train.")


class OptimizerSet:
    """One or two torch optimizers that step together under one schedule.

    Attributes:
        members: Name -> torch optimizer: "adamw", "muon" or both.
    """

    def __init__(self, groups: Sequence[ParameterGroup], config: OptimizerConfig) -> None:
        for_muon = [group for group in groups if group.muon and config.name == "muon"]
        for_adamw = [group for group in groups if not (group.muon and config.name == "muon")]
        self._names = {
            "adamw": [name for group in for_adamw for name, _ in group.parameters],
            "muon": [name for group in for_muon for name, _ in group.parameters],
        }
        self.members: dict[str, torch.optim.Optimizer] = {}
        if self._names["adamw"]:
            self.members["adamw"] = _make_adamw(for_adamw, config)
        if self._names["muon"]:
            self.members["muon"] = _make_muon(for_muon, config)

    def set_learning_rates(self, factor: float) -> None:
        """Set each group's learning rate to its peak times `factor`."""
        for optimizer in self.members.values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # part of a compiled step, which another number would compile anew
                    group["lr"].fill_(group["peak_lr"] * factor)
                else:
                    group["lr"] = group["peak_lr"] * factor

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for optimizer in self.members.values():
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget all gradients (set to None, so that unused parameters are skipped by the next step)."""
        for optimizer in self.members.values():
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Plain containers and tensors: loadable with `weights_only=True`."""
        return {
            name: {"parameters": self._names[name], "state": optimizer.state_dict()}
            for name, optimizer in self.members.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the momenta.

        Raises:
            CheckpointError: The state is of other parameters, or of the same in another order.
        """
        for name in sorted(state.keys() | self.members.keys()):
            theirs = state[name]["parameters"] if name in state else []
            ours = self._names.get(name, [])
            for their, our in zip(theirs, ours, strict=False):
                if their != our:
                    raise CheckpointError(f"optimizer state ({name}) is of {their!r} where {our!r} is trained now.")
            if len(theirs) != len(ours):
                raise CheckpointError(
                    f"optimizer state ({name}) is of {len(theirs)} parameters, but {len(ours)} are trained now."
                )
        for name, optimizer in self.members.items():
            optimizer.load_state_dict(state[name]["state"])


def _torch_group(group: ParameterGroup, lr: float, config: OptimizerConfig) -> dict[str, Any]:
    """A group in torch's own form; `peak_lr` is ours, for the schedule."""
    decay = config.weight_decay if group.weight_decay is None else group.weight_decay
    peak_lr = lr * group.lr_scale
    parameters = [parameter for _, parameter in group.parameters]
    return {"params": parameters, "lr": peak_lr, "peak_lr": peak_lr, "weight_decay": decay}


def _make_adamw(groups: Sequence[ParameterGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    if config.name == "adamw8bit":
        return _make_adamw8bit(groups, config)
    devices = {parameter.device.type for group in groups for _, parameter in group.parameters}
    # The fused kernel is one pass over memory instead of a dozen: several times faster on CPUs too.
    fused = devices <= {"cpu", "cuda"}
    torch_groups = [_torch_group(group, config.lr, config) for group in groups if group.parameters]
    return torch.optim.AdamW(torch_groups, betas=config.betas, eps=config.eps, fused=fused)


def _make_adamw8bit(groups: Sequence[ParameterGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    try:
        from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError(
            "optimizer.name adamw8bit needs the package torchao: pip install 'groma[8bit]'"
        ) from None
    torch_groups = [_torch_group(group, config.lr, config) for group in groups if group.parameters]
    return AdamW8bit(torch_groups, betas=config.betas, eps=config.eps)


def _make_muon(groups: Sequence[ParameterGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    for group in groups:
        for name, parameter in group.parameters:
            if isinstance(parameter, DTensor):
                raise InputError(
                    f"group {group.name}: Muon needs whole matrices, but {name} is sharded: choose optimizer.name "
                    "adamw, or loop.sharding replicate."
                )
            if parameter.ndim != 2:
                raise InputError(
                    f"group {group.name}: {name} has shape {tuple(parameter.shape)}, but Muon trains matrices only; "
                    "put it in a group without `muon`."
                )
    lr = config.lr if config.muon_lr is None else config.muon_lr
    return torch.optim.Muon(
        [_torch_group(group, lr, config) for group in groups if group.parameters],
        momentum=config.muon_momentum,
        nesterov=True,
        ns_steps=config.muon_iterations,
        adjust_lr_fn=config.muon_scale,
    )
