"""Run a stage: build the parts it needs, take what earlier stages learned, and hand all to the one loop.

StageConfig -> objective (fresh parts) <- parts of earlier stages' checkpoints
            -> stream of batches       -> groma.train.loop.train -> checkpoints with the parts, or the whole model
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch

from groma.data.scenes.atlas import atlas
from groma.errors import InputError
from groma.image import Preprocessing
from groma.model.config import GromaConfig
from groma.model.encoder import ImageEncoder
from groma.model.groma import GromaModel
from groma.model.proposer import RegionProposer
from groma.pretrained import save_whole
from groma.prompt.chat_format import chat_format
from groma.prompt.tokenizer import PromptTokenizer, load_tokenizer
from groma.train.detection import Detection
from groma.train.distributed import World, current_world
from groma.train.imagination import Imagination, initialize_language
from groma.train.language import AnswerTraining
from groma.train.loop import Hooks, TrainResult, train
from groma.train.models import MODELS
from groma.train.objective import BatchStream, Objective
from groma.train.parts import load_parts, save_parts
from groma.train.pretraining import EncoderPretraining, initialize_from_scratch
from groma.train.region_tables import RegionTables
from groma.train.stage import LANGUAGE_STAGES, StageConfig
from groma.train.streams import COLOUR_NUMBERS, DialogueStream, SceneStream

FINGERPRINT_VALUES = 1024
"""Values of a tensor that its fingerprint is made of, about."""

VALIDATION_BATCHES = 4
"""Batches of the validation split, always the same ones, that an evaluation looks at."""


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
        init: checkpoint folders of earlier stages whose parts this run starts from; later ones win. A resumed run
            needs the same ones, as it takes the frozen parts from there, and is refused with others. Imitation needs
            one of stage "speak".
        resume: see `groma.train.loop.train`.
        may_change_steps: see `groma.train.loop.train`.

    Raises:
        InputError: the configuration does not fit the architecture, or a resumed run's.
        CheckpointError: a folder of `init` holds none of the parts, or parts of other shapes.
    """
    world = current_world()
    torch.manual_seed(config.training.loop.seed)
    objective = build_objective(config)
    loaded = [part for checkpoint in init for part in load_parts(objective.parts(), checkpoint)]
    if config.imitates and "tables" not in loaded:
        raise InputError(
            'Imitation needs the region tokens that stage "speak" imagined: give a checkpoint of it to start from, or '
            "set imitation to 0."
        )
    objective.to(world.device)
    return train(
        objective,
        build_stream(config, world),
        config.training,
        out=out,
        resume=resume,
        may_change_steps=may_change_steps,
        hooks=Hooks(
            save_model=lambda folder: _save_model(objective, config, folder),
            on_evaluate=lambda step: validation_terms(objective, config),
        ),
        recipe=config.to_dict()
        | {"init": [f"{c.parent.name}/{c.name}" for c in init], "frozen": fingerprint_of_frozen(objective)},
    )


def fingerprint_of_frozen(objective: Objective) -> str:
    """Tells whether two runs have the same frozen weights, which no checkpoint of a run brings back.

    A digest of up to FINGERPRINT_VALUES values of each tensor that is not trained.
    """
    digest = hashlib.sha256()
    trained = {id(parameter) for group in objective.parameter_groups() for _, parameter in group.parameters}
    for part, module in sorted(objective.parts().items()):
        for name, tensor in sorted(module.state_dict(keep_vars=True).items()):
            if id(tensor) not in trained:
                flat = tensor.detach().flatten()
                values = flat[:: max(1, len(flat) // FINGERPRINT_VALUES)].float().cpu().contiguous()
                digest.update(f"{part}.{name} {tuple(tensor.shape)}".encode())
                digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]


def _save_model(objective: Objective, config: StageConfig, folder: Path) -> None:
    """Fill a checkpoint's `model/`: with what `groma.load` takes where the whole model is at hand, else with parts."""
    if isinstance(objective, AnswerTraining):
        save_whole(objective.model, find_tokenizer(config.tokenizer), objective.preprocessing, folder)
    else:
        save_parts(objective.parts(), folder)


def find_model(name: str) -> GromaConfig:
    """The architecture of that name, a key of MODELS.

    Raises:
        InputError: there is none.
    """
    if name not in MODELS:
        raise InputError(f"There is no architecture {name!r}; known are {', '.join(MODELS)}.")
    return MODELS[name]()


def find_tokenizer(name: str) -> PromptTokenizer:
    """A tokenizer that comes with the package, or that of a folder.

    Raises:
        CheckpointError: there is none.
    """
    packaged = Path(str(files("groma") / "assets" / name))
    return load_tokenizer(packaged if packaged.is_dir() else Path(name))


def build_objective(config: StageConfig) -> Objective:
    """The stage's loss with freshly initialized parts.

    Raises:
        InputError: pictures or tokenizer do not fit the architecture.
    """
    model = find_model(config.model)
    model.encoder._attn_implementation = "eager"  # at this size plain matmuls beat the fused CPU kernel
    preprocessing = Preprocessing(size_px=config.data.size_px)
    if config.stage in LANGUAGE_STAGES:
        return _language_objective(config, model, preprocessing)
    _check_side(config.data.crop_px or config.data.size_px, model)
    if config.stage == "pretrain":
        return _pretraining_objective(config, model, preprocessing)
    encoder = ImageEncoder(model.encoder, model.proposer.num_encoder_blocks)
    proposer = RegionProposer(model.proposer, model.encoder.hidden_size)
    if config.first_guess is not None:
        proposer.start_from_boxes_of(config.first_guess)
    return Detection(
        encoder,
        proposer,
        preprocessing,
        config=config.detection,
        encoder_lr_scale=config.encoder_lr_scale,
    )


def _pretraining_objective(config: StageConfig, model: GromaConfig, preprocessing: Preprocessing) -> Objective:
    whole = GromaModel(model)
    initialize_from_scratch(whole.encoder)
    return EncoderPretraining(
        whole.encoder,
        preprocessing,
        num_names=len(atlas().names),
        num_colours=len(COLOUR_NUMBERS),
        config=config.pretraining,
        region_encoder=whole.region_encoder if config.imitates else None,
        tables=_tables(model) if config.imitates else None,
    )


def _language_objective(config: StageConfig, model: GromaConfig, preprocessing: Preprocessing) -> Objective:
    tokens = find_tokenizer(config.tokenizer).special
    regions, words = model.selection.max_regions, model.language.get_text_config().vocab_size
    if (tokens.num_regions, tokens.base_vocab_size) != (regions, words):
        raise InputError(
            f"The tokenizer {config.tokenizer} has {tokens.num_regions} region tokens beside {tokens.base_vocab_size} "
            f"others, but the architecture {config.model!r} has {regions} beside {words}."
        )
    if config.stage == "speak":
        model.language._attn_implementation = "eager"  # gives the weights that hints are about
        whole = GromaModel(model)
        initialize_language(whole.language)
        return Imagination(whole, tokens, tables=_tables(model), config=config.imagination)
    if config.data.size_px != model.image_size:
        raise InputError(f"data.size_px must be the model's image_size, {model.image_size}, got {config.data.size_px}.")
    return AnswerTraining(
        GromaModel(model),
        tokens,
        preprocessing,
        train_language=config.stage == "instruct",
        config=config.language,
        tables=_tables(model) if config.imitates else None,
        seed=config.data.seed,
    )


def _tables(model: GromaConfig) -> RegionTables:
    width = model.language.get_text_config().hidden_size
    return RegionTables(width, num_names=len(atlas().names), num_colours=len(COLOUR_NUMBERS))


def _check_side(side_px: int, model: GromaConfig) -> None:
    if side_px % model.patch_size:
        raise InputError(
            f"Pictures of {side_px} px cannot be cut into patches of {model.patch_size} px: choose a multiple."
        )


def build_stream(config: StageConfig, world: World, *, split: str = "train") -> BatchStream:
    """This process's batches of a split; stage "speak" needs no pictures."""
    data = config.data
    if config.stage not in LANGUAGE_STAGES:
        return SceneStream(
            batch_size=data.batch_size,
            size_px=data.size_px,
            seed=data.seed,
            sources=data.sources,
            batches_per_source=config.training.loop.accumulate,
            crop_px=data.crop_px,
            rank=world.rank,
            world_size=world.size,
            split=split,
        )
    tokenizer = find_tokenizer(config.tokenizer)
    return DialogueStream(
        tokenizer=tokenizer,
        chat_format=chat_format(find_model(config.model).chat_format, tokenizer),
        batch_size=data.batch_size,
        size_px=data.size_px,
        seed=data.seed,
        kinds=data.kinds,
        questions=data.questions,
        max_tokens=data.question_tokens,
        with_images=config.stage != "speak",
        rank=world.rank,
        world_size=world.size,
        split=split,
    )


@torch.no_grad()
def validation_terms(objective: Objective, config: StageConfig) -> Mapping[str, float]:
    """The stage's loss terms on a few fixed validation scenes."""
    device = next(objective.parameters()).device
    stream = build_stream(config, World(), split="validation")
    batches = [stream.next().to(device) for _ in range(VALIDATION_BATCHES)]
    total = sum(objective.weight(batch) for batch in batches)
    terms: dict[str, float] = {}
    for batch in batches:
        for name, value in objective(batch, total_weight=total).terms.items():
            terms[name] = terms.get(name, 0.0) + value.item()
    return terms
