"""Run a stage: build the parts it needs, take what earlier stages learned, and hand all to the one loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from groma.data.scenes.atlas import atlas
from groma.image import Preprocessing
from groma.model.config import GromaConfig
from groma.model.encoder import ImageEncoder
from groma.model.groma import GromaModel
from groma.model.proposer import RegionProposer
from groma.prompt.chat_format import chat_format
from groma.prompt.tokenizer import PromptTokenizer, load_tokenizer
from groma.train.detection import Detection
from groma.train.distributed import World, current_world
from groma.train.imagination import Imagination
from groma.train.language import AnswerTraining
from groma.train.loop import Hooks, TrainResult, train
from groma.train.objective import BatchStream, Objective
from groma.train.parts import load_parts, save_parts
from groma.train.perceptions import Perceptions
from groma.train.pretraining import EncoderPretraining
from groma.train.recipes import MODELS
from groma.train.stage import LANGUAGE_STAGES, StageConfig
from groma.train.streams import COLOUR_NUMBERS, DialogueStream, SceneStream

VALIDATION_BATCHES = 4


def run_stage(
    config: StageConfig,
    *,
    out: Path,
    init: Sequence[Path] = (),
    resume: Literal["auto", "never"] | Path = "auto",
    may_change_steps: bool = False,
) -> TrainResult:
    """Train one stage; under torchrun every process calls this.

    Args:
        config: what defines the run.
        out: folder for checkpoints and metrics.
        init: checkpoint folders of earlier stages whose parts this run starts from; later ones win.
        resume: see `groma.train.loop.train`.
        may_change_steps: see `groma.train.loop.train`.

    Raises:
        CheckpointError: a folder of `init` holds none of the parts, or parts of other shapes.
    """
    world = current_world()
    torch.manual_seed(config.training.loop.seed)
    objective = build_objective(config, MODELS[config.model]())
    for checkpoint in init:
        load_parts(objective.parts(), checkpoint)
    objective.to(world.device)
    return train(
        objective,
        build_stream(config, world),
        config.training,
        out=out,
        resume=resume,
        may_change_steps=may_change_steps,
        hooks=Hooks(
            save_model=lambda folder: save_parts(objective.parts(), folder),
            on_evaluate=lambda step: validation_terms(objective, config),
        ),
        recipe=config.to_dict() | {"init": [f"{c.parent.name}/{c.name}" for c in init]},
    )


def build_objective(config: StageConfig, model: GromaConfig) -> Objective:
    """The stage's loss with freshly initialized parts."""
    model.encoder._attn_implementation = "eager"  # at this size plain matmuls beat the fused CPU kernel
    preprocessing = Preprocessing(size_px=config.data.size_px)
    if config.stage in LANGUAGE_STAGES:
        return _language_objective(config, model, preprocessing)
    encoder = ImageEncoder(model.encoder, model.proposer.num_encoder_blocks)
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


def _language_objective(config: StageConfig, model: GromaConfig, preprocessing: Preprocessing) -> Objective:
    tokens = tokenizer_of(config).special
    whole = GromaModel(model)
    if config.stage == "speak":
        return Imagination(
            whole,
            tokens,
            num_names=len(atlas().names),
            num_colours=len(COLOUR_NUMBERS),
            config=config.imagination,
        )
    return AnswerTraining(
        whole,
        tokens,
        preprocessing,
        config=config.language,
        perceptions=Perceptions(Path(config.data.perceptions)) if config.data.perceptions else None,
        seed=config.data.seed,
    )


def tokenizer_of(config: StageConfig) -> PromptTokenizer:
    """The tokenizer that a language stage is told to use."""
    return load_tokenizer(Path(config.tokenizer))


def build_stream(config: StageConfig, world: World, *, split: str = "train") -> BatchStream:
    """This process's batches. Evaluation splits are given without crops' companions of training: no series, no cache."""
    data = config.data
    place = {"rank": world.rank, "world_size": world.size, "split": split}
    if config.stage not in LANGUAGE_STAGES:
        return SceneStream(
            batch_size=data.batch_size,
            size_px=data.size_px,
            seed=data.seed,
            sources=data.sources,
            crop_px=data.crop_px,
            **place,
        )
    tokenizer = tokenizer_of(config)
    cached = bool(data.perceptions) and split == "train"
    return DialogueStream(
        tokenizer=tokenizer,
        chat_format=chat_format(MODELS[config.model]().chat_format, tokenizer),
        batch_size=data.batch_size,
        size_px=data.size_px,
        seed=data.seed,
        kinds=data.kinds,
        questions=data.questions,
        series=Perceptions(Path(data.perceptions)).count if cached else None,
        with_images=config.stage != "speak" and not cached,
        **place,
    )


@torch.no_grad()
def validation_terms(objective: Objective, config: StageConfig) -> Mapping[str, float]:
    """The stage's loss terms on a few fixed validation scenes."""
    stream = build_stream(config, World(), split="validation")
    batches = [stream.next() for _ in range(VALIDATION_BATCHES)]
    total = sum(objective.weight(batch) for batch in batches)
    terms: dict[str, float] = {}
    for batch in batches:
        for name, value in objective(batch, total_weight=total).terms.items():
            terms[name] = terms.get(name, 0.0) + value.item()
    return terms
