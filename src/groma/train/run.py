"""Run a stage: build the parts it needs, take what an earlier stage learned, and hand all to the loop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import nn

from groma.data.scenes.atlas import atlas
from groma.errors import CheckpointError
from groma.image import Preprocessing
from groma.model.config import GromaConfig
from groma.model.encoder import ImageEncoder
from groma.model.proposer import RegionProposer
from groma.train.checkpoint import MODEL
from groma.train.detection import Detection
from groma.train.distributed import current_world
from groma.train.loop import Hooks, TrainResult, train
from groma.train.objective import Objective
from groma.train.pretraining import EncoderPretraining
from groma.train.recipes import MODELS
from groma.train.stage import StageConfig
from groma.train.streams import COLOUR_NUMBERS, SceneStream

VALIDATION_BATCHES = 4


def run_stage(
    config: StageConfig,
    *,
    out: Path,
    init: Path | None = None,
    resume: Literal["auto", "never"] | Path = "auto",
    may_change_steps: bool = False,
) -> TrainResult:
    """Train one stage; under torchrun every process calls this.

    Args:
        config: what defines the run.
        out: folder for checkpoints and metrics.
        init: checkpoint folder of an earlier stage whose parts this run starts from.
        resume: see `groma.train.loop.train`.
        may_change_steps: see `groma.train.loop.train`.

    Raises:
        CheckpointError: `init` holds none of the parts, or parts of other shapes.
    """
    world = current_world()
    torch.manual_seed(config.training.loop.seed)
    objective = build_objective(config, MODELS[config.model]())
    if init is not None:
        load_parts(objective, init)
    objective.to(world.device)
    data = config.data
    stream = SceneStream(
        batch_size=data.batch_size,
        size_px=data.size_px,
        seed=data.seed,
        sources=data.sources,
        rank=world.rank,
        world_size=world.size,
    )
    return train(
        objective,
        stream,
        config.training,
        out=out,
        resume=resume,
        may_change_steps=may_change_steps,
        hooks=Hooks(on_evaluate=lambda step: validation_terms(objective, config)),
        recipe=config.to_dict() | {"init": init.name if init else None},
    )


def build_objective(config: StageConfig, model: GromaConfig) -> Objective:
    """The stage's loss with freshly initialized parts."""
    model.encoder._attn_implementation = "eager"  # at this size plain matmuls beat the fused CPU kernel
    encoder = ImageEncoder(model.encoder, model.proposer.num_encoder_blocks)
    preprocessing = Preprocessing(size_px=config.data.size_px)
    if config.stage == "pretrain":
        return EncoderPretraining(
            encoder,
            preprocessing,
            num_names=len(atlas().names),
            num_colours=len(COLOUR_NUMBERS),
            config=config.pretraining,
        )
    return Detection(
        encoder,
        RegionProposer(model.proposer, model.encoder.hidden_size),
        preprocessing,
        config=config.detection,
        encoder_lr_scale=config.encoder_lr_scale,
    )


@torch.no_grad()
def validation_terms(objective: Objective, config: StageConfig) -> Mapping[str, float]:
    """The stage's loss terms on a few fixed validation scenes."""
    stream = SceneStream(
        batch_size=64, size_px=config.data.size_px, seed=0, sources=config.data.sources[:1], split="validation"
    )
    batches = [stream.next() for _ in range(VALIDATION_BATCHES)]
    total = sum(objective.weight(batch) for batch in batches)
    terms: dict[str, float] = {}
    for batch in batches:
        for name, value in objective(batch, total_weight=total).terms.items():
            terms[name] = terms.get(name, 0.0) + value.item()
    return terms


def load_parts(module: nn.Module, checkpoint: Path) -> list[str]:
    """Load every part (direct child) of `module` that the checkpoint has; return their names.

    Raises:
        CheckpointError: no part is there, or one does not fit; names all offenders.
    """
    files = sorted((checkpoint / MODEL).glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"No weights in {checkpoint / MODEL}: give a checkpoint folder of an earlier stage.")
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    loaded = []
    for part, child in module.named_children():
        own = {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
        if not own or part not in PARTS:
            continue
        _check_fit(part, own, child.state_dict(), checkpoint)
        child.load_state_dict(own)
        loaded.append(part)
    if not loaded:
        raise CheckpointError(f"{checkpoint} has none of the parts {', '.join(PARTS)}.")
    return loaded


PARTS = ("encoder", "proposer", "region_encoder", "projector", "language")
"""What a stage hands on to the next; pretraining's heads are not among them."""


def _check_fit(
    part: str, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], checkpoint: Path
) -> None:
    problems = [f"{part}.{n} is missing" for n in wanted.keys() - found.keys()]
    problems += [f"{part}.{n} is not known" for n in found.keys() - wanted.keys()]
    problems += [
        f"{part}.{n} has shape {tuple(found[n].shape)}, expected {tuple(wanted[n].shape)}"
        for n in found.keys() & wanted.keys()
        if found[n].shape != wanted[n].shape
    ]
    if problems:
        raise CheckpointError(f"{checkpoint} does not fit the model: " + "; ".join(sorted(problems)))
