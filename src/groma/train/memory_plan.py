"""How much memory a run will need on each device, before it is started: `groma train ... --plan`.

    weights + optimizer's averages + running average     what stays; divided by the processes where it is sharded
    gathered                                             sharded runs: layers that are whole while they are needed
    gradients + activations                              the peak of a step on tensors without content (dry_run)

Kernels' own scratch space, and what an allocator holds back, come on top.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groma.data.collate import VisionBatch
from groma.data.dialogues import DialogueBatch
from groma.distributed import BUCKET_ELEMENTS, World
from groma.errors import InputError
from groma.model.groma import VisualTokens
from groma.model.types import Regions
from groma.train.blueprint import Blueprint, make_blueprint
from groma.train.config import OptimizerConfig
from groma.train.dry_run import BatchShape, peak_of_step, without_content
from groma.train.language import AnswerTraining, pack_prompts
from groma.train.mixtures import fixed_batches, open_file
from groma.train.objective import Objective
from groma.train.run import build_objective, build_stream
from groma.train.sharding import blocks, checkpoint_activations
from groma.train.stage import MIXTURE_STAGES, StageConfig

BATCHES = 16
"""Micro-batches that are looked at for the largest."""

EIGHT_BIT_BLOCK, EIGHT_BIT_LEAST = 256, 4096
"""torchao's: values that share a scale of float32; tensors with fewer values keep 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes on each device, and what they are for."""

    processes: int
    """Number of processes, each on a device of its own."""
    sharding: str
    """"replicate" or "full"."""
    parameters: int
    """Number of parameters in all."""
    trained_parameters: int
    """Number of those that learn."""
    batch: BatchShape
    """The largest micro-batch that was looked at."""
    weights: int
    """Parameters and buffers."""
    optimizer: int
    """Averages of the gradient and of its square."""
    average: int
    """Running average of the weights, if there is one."""
    gathered: int
    """Sharded runs: whole layers, while they are needed. Replicated ones: gradients being summed."""
    gradients: int
    """Gradients of everything that learns."""
    activations: int
    """What the backward pass needs, at the peak, beside all that."""

    @property
    def total(self) -> int:
        """Bytes at the peak of a step."""
        return self.weights + self.optimizer + self.average + self.gathered + self.gradients + self.activations

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; bytes."""
        return asdict(self) | {"total": self.total}


def plan_run(config: StageConfig, init: Sequence[Path] = (), *, processes: int = 1) -> MemoryPlan:
    """What a run needs on each device, judged by its first batches.

    Args:
        config: of the run.
        init: what it starts from.
        processes: devices it runs on.

    Raises:
        GromaError: model or data cannot be used, or the stage has no plan.
    """
    if processes < 1:
        raise InputError(f"A plan is for at least one process, got {processes}.")
    if config.stage not in MIXTURE_STAGES:
        raise InputError(f"There is a plan of memory for stages {', '.join(MIXTURE_STAGES)}, not for {config.stage!r}.")
    config = replace(config, training=config.training.on(World().device.type))
    blueprint = make_blueprint(config, init)
    if config.mixture.file:
        batches = fixed_batches(config, open_file(config.mixture.file), blueprint, BATCHES)
    elif config.model:
        stream = build_stream(config, World())
        batches = [stream.next() for _ in range(BATCHES)]
    else:
        raise InputError("A plan looks at the data: give your .jsonl or a mixture's .yaml (--data).")
    return plan_memory(config, blueprint, largest(blueprint, batches), processes=processes)


def plan_memory(config: StageConfig, blueprint: Blueprint, shape: BatchShape, *, processes: int) -> MemoryPlan:
    """What a run needs on each device.

    Args:
        config: of the run.
        blueprint: what is built.
        shape: of its largest micro-batch.
        processes: devices it runs on.
    """
    loop, full = config.training.loop, config.training.loop.sharding == "full" and processes > 1
    with without_content(partial(_objective, config, blueprint)) as objective:
        objective.train()
        groups = objective.parameter_groups()
        trained = [parameter for group in groups for _, parameter in group.parameters]
        muon = {id(parameter) for group in groups if group.muon for _, parameter in group.parameters}
        weights = _bytes((*objective.parameters(), *objective.buffers()))
        optimizer = sum(_momenta(p, config.training.optimizer, id(p) in muon) for p in trained)
        gathered = _gathered(objective, loop.precision) if full else _bucket(trained) if processes > 1 else 0
        if loop.activation_checkpointing:
            checkpoint_activations(objective)
        if full and loop.precision == "bf16":
            _halve(blocks(objective))
        parts, pile_up = processes if full else 1, loop.accumulate == 1
        peak = peak_of_step(
            objective,
            shape,
            side_px=blueprint.preprocessing.size_px,
            precision=loop.precision,
            parts=parts,
            pile_up=pile_up,
        )
    gradients = _part(sum(4 * parameter.numel() for parameter in trained), parts)
    return MemoryPlan(
        processes=processes,
        sharding=loop.sharding,
        parameters=sum(parameter.numel() for parameter in objective.parameters()),
        trained_parameters=sum(parameter.numel() for parameter in trained),
        batch=shape,
        weights=_part(weights, parts),
        optimizer=_part(optimizer, parts),
        average=_part(4 * sum(p.numel() for p in trained), parts) if loop.ema_decay else 0,
        gathered=gathered,
        gradients=gradients,
        activations=max(0, peak - gradients) if pile_up else peak,
    )


def _objective(config: StageConfig, blueprint: Blueprint) -> Objective:
    objective = build_objective(config, blueprint)
    if isinstance(objective, AnswerTraining):
        objective.settle()
    return objective


def _part(size: int, parts: int) -> int:
    return -(-size // parts)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _momenta(parameter: Tensor, config: OptimizerConfig, is_muon: bool) -> int:
    """Bytes of what the optimizer remembers of a parameter."""
    size = parameter.numel()
    if config.name == "muon" and is_muon:
        return 4 * size
    if config.name == "adamw8bit" and size >= EIGHT_BIT_LEAST and size % EIGHT_BIT_BLOCK == 0:
        return 2 * (size + 4 * size // EIGHT_BIT_BLOCK)
    return 8 * size


def _bucket(trained: Sequence[Tensor]) -> int:
    """Bytes of the largest run of gradients that is summed over processes at once."""
    sizes = [parameter.numel() for parameter in trained]
    return 4 * max(min(sum(sizes), BUCKET_ELEMENTS), max(sizes))


def _gathered(objective: nn.Module, precision: str) -> int:
    """Bytes of a layer, of the next one that is gathered meanwhile, and of what is in no layer and whole throughout."""
    layers = blocks(objective)
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    rest = [parameter for parameter in objective.parameters() if id(parameter) not in inside]
    width = 2 if precision == "bf16" else 4
    sizes = sorted((width * sum(p.numel() for p in layer.parameters()) for layer in layers), reverse=True)
    return sum(sizes[:2]) + _bytes(rest)


def _halve(layers: Sequence[nn.Module]) -> None:
    """Weights of layers as sharded runs gather them."""
    for layer in layers:
        for parameter in layer.parameters():
            parameter.data = parameter.data.bfloat16()


# --- how large a micro-batch is ---------------------------------------------------------------------------------------


def largest(blueprint: Blueprint, batches: Iterable[Any]) -> BatchShape:
    """The shape that holds every one of some micro-batches.

    Args:
        blueprint: what is built.
        batches: as the stage's stream gives them.
    """
    shapes = [_shape(blueprint, batch) for batch in batches]
    return BatchShape(
        pictures=max(shape.pictures for shape in shapes),
        tokens=max(shape.tokens for shape in shapes),
        targets=max(shape.targets for shape in shapes),
        packed=any(shape.packed for shape in shapes),
    )


def _shape(blueprint: Blueprint, batch: VisionBatch | DialogueBatch) -> BatchShape:
    if not isinstance(batch, DialogueBatch):
        return BatchShape(pictures=len(batch))
    model, special = blueprint.model, blueprint.speaks().special
    count = model.selection.max_regions
    none = torch.zeros(count)
    regions = Regions(boxes_cxcywh=torch.zeros(count, 4), scores=none, candidate=none, num_proposals=0, num_user=0)
    visual = [VisualTokens(regions=regions, features=torch.zeros(1, 1))] * len(batch)
    matched = [torch.zeros(len(picture.boxes_cxcywh), dtype=torch.long) for picture in batch.pictures]
    prompts = pack_prompts(batch.pictures, visual, matched, tokens=special, num_image_tokens=model.num_image_tokens)
    return BatchShape(
        pictures=len(batch),
        tokens=prompts.ids.shape[1],
        targets=sum(picture.num_targets for picture in batch.pictures),
        packed=prompts.attention_mask.ndim == 4,
    )
