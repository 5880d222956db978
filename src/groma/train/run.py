"""Run a stage: build the parts it needs, take what earlier stages learned, and hand all to the one loop.

StageConfig -> blueprint -> objective (fresh parts) <- parts of earlier stages' checkpoints
            -> stream of batches, of scenes or of a mixture -> groma.train.loop.train -> checkpoints with the parts, or
                                                                                         the whole model
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from groma.data.scenes.atlas import atlas
from groma.distributed import World, process_group
from groma.errors import InputError
from groma.image import Preprocessing
from groma.inference.assistant import Groma
from groma.model.config import GromaConfig
from groma.model.encoder import ImageEncoder
from groma.model.fingerprint import fingerprint
from groma.model.groma import GromaModel
from groma.model.proposer import RegionProposer
from groma.pretrained import save_whole
from groma.prompt.chat_format import chat_format
from groma.storage import atomic_file
from groma.train.blueprint import Blueprint, find_model, find_tokenizer, make_blueprint
from groma.train.detection import Detection
from groma.train.imagination import Imagination, initialize_language
from groma.train.language import AnswerTraining
from groma.train.loop import Hooks, TrainResult, train
from groma.train.mixtures import Mixture, Tally, counts_of, fixed_batches, look_at, make_stream, open_file, steps_of
from groma.train.objective import BatchStream, Objective
from groma.train.parts import load_parts, save_state, state_of_parts
from groma.train.pretraining import EncoderPretraining, initialize_from_scratch
from groma.train.region_tables import RegionTables
from groma.train.sharding import at_hand
from groma.train.specimens import Specimen, answer_specimens, find_specimens
from groma.train.stage import LANGUAGE_STAGES, StageConfig
from groma.train.streams import COLOUR_NUMBERS, DialogueStream, SceneStream
from groma.train.trackers import start_tracker

VALIDATION_BATCHES = 4
"""Batches of the validation split, always the same ones, that an evaluation looks at."""

SPECIMENS = "specimens"
"""Folder of a run with its drawn answers."""


def run_stage(
    config: StageConfig,
    *,
    out: Path,
    init: Sequence[Path] = (),
    resume: Literal["auto", "never"] | Path = "auto",
    may_change_steps: bool = False,
    trackers: Sequence[str] = (),
    tell: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train one stage; under torchrun every process calls this.

    Args:
        config: what defines the run.
        out: folder for checkpoints and metrics.
        init: checkpoint folders of earlier stages, or models that `groma.load` takes, whose parts this run starts from;
            later ones win. A resumed run needs the same ones, as it takes the frozen parts from there, and is refused
            with others. Imitation needs one of stage "speak".
        resume: see `groma.train.loop.train`.
        may_change_steps: see `groma.train.loop.train`.
        trackers: keys of groma.train.trackers.TRACKERS.
        tell: gets sentences about the data, on the first process.

    Raises:
        InputError: the configuration does not fit the architecture, or a resumed run's; or too much of a mixture cannot
            be used.
        CheckpointError: a folder of `init` holds none of the parts, or parts of other shapes.
        MissingExtraError: a tracker needs a package that is not installed.
    """
    with process_group() as world:
        tell = tell if tell is not None and world.is_main else _silence
        config = replace(config, training=config.training.on(world.device.type))
        torch.manual_seed(config.training.loop.seed)
        if not config.model and not config.mixture.file:
            raise InputError(
                "This recipe trains on annotated pictures: give your .jsonl or a mixture's .yaml (--data)."
            )
        blueprint = make_blueprint(config, init)
        mixture = open_file(config.mixture.file) if config.mixture.file else None
        if mixture is not None:
            look_at(mixture, config, world, tell)
            config = _with_steps(config, steps_of(config, mixture, world.size))
        objective = build_objective(config, blueprint)
        loaded = [part for checkpoint in init for part in load_parts(objective.parts(), checkpoint)]
        _check_loaded(config, loaded)
        recipe = _recipe(config, init, objective, mixture)
        if isinstance(objective, AnswerTraining):
            objective.settle()
            _note_origin(objective.model.config, config, blueprint)
        objective.to(world.device)
        tally = Tally(1.0 if mixture is None else mixture.config.max_bad_share)
        draw = partial(_draw, out=out, tell=tell, world=world)
        hooks = Hooks(
            save_model=partial(_save_model, objective, blueprint),
            on_evaluate=_evaluation(objective, config, blueprint, mixture, draw),
            counts=None if mixture is None else counts_of,
            on_log=tally,
            sinks=[start_tracker(name, out, recipe) for name in trackers if world.is_main],
        )
        stream = _stream(config, blueprint, mixture, world)
        result = train(
            objective,
            stream,
            config.training,
            out=out,
            resume=resume,
            may_change_steps=may_change_steps,
            hooks=hooks,
            recipe=recipe,
        )
        for line in tally.told():
            tell(line)
        return result


def _silence(_line: str) -> None:
    pass


def _with_steps(config: StageConfig, steps: int) -> StageConfig:
    training = config.training
    return replace(config, training=replace(training, loop=replace(training.loop, steps=steps)))


def _check_loaded(config: StageConfig, loaded: Sequence[str]) -> None:
    if config.imitates and "tables" not in loaded:
        raise InputError(
            'Imitation needs the region tokens that stage "speak" imagined: give a checkpoint of it to start from, or '
            "set imitation to 0."
        )


def _recipe(config: StageConfig, init: Sequence[Path], objective: Objective, mixture: Mixture | None) -> dict[str, Any]:
    """What defines the run beside the loop's own configuration; a resumed run must have the same."""
    values = config.to_dict()
    if mixture is not None:
        values["mixture"] |= {"resolved": mixture.to_dict()}
    origins = [f"{checkpoint.parent.name}/{checkpoint.name}" for checkpoint in init]
    return values | {"init": origins, "frozen": fingerprint_of_frozen(objective)}


def _note_origin(model: GromaConfig, config: StageConfig, blueprint: Blueprint) -> None:
    """Where the weights of a finetuned model come from, for `groma info`."""
    if blueprint.origin:
        step = {"stage": config.stage, "from": Path(blueprint.origin).name, "steps": config.training.loop.steps}
        before = model.provenance or {}
        model.provenance = dict(before) | {"trained_on": [*before.get("trained_on", []), step]}


def _stream(config: StageConfig, blueprint: Blueprint, mixture: Mixture | None, world: World) -> BatchStream:
    return build_stream(config, world) if mixture is None else make_stream(config, mixture, blueprint, world)


def _evaluation(
    objective: Objective,
    config: StageConfig,
    blueprint: Blueprint,
    mixture: Mixture | None,
    draw: Callable[[Groma, Sequence[Specimen], int], None],
) -> Callable[[int], Mapping[str, float]] | None:
    """What an evaluation does; None where there is nothing to look at."""
    if mixture is None:
        return lambda _step: validation_terms(objective, config)
    held_out = open_file(config.mixture.validation) if config.mixture.validation else None
    batches = [] if held_out is None else fixed_batches(config, held_out, blueprint, VALIDATION_BATCHES)
    specimens = []
    if isinstance(objective, AnswerTraining):
        specimens = find_specimens((held_out or mixture).sets, config.mixture.specimens, seed=config.mixture.seed)
    if not batches and not specimens:
        return None

    def evaluate(step: int) -> Mapping[str, float]:
        if specimens and isinstance(objective, AnswerTraining):
            with at_hand(objective):
                draw(Groma(objective.model, blueprint.speaks(), blueprint.preprocessing), specimens, step)
        return mean_terms(objective, batches) if batches else {}

    return evaluate


def _draw(
    groma: Groma, specimens: Sequence[Specimen], step: int, *, out: Path, tell: Callable[[str], None], world: World
) -> None:
    """Answer questions about a few pictures with the weights of now, and write the sheet.

    Where weights are sharded every process answers, as each has a part of them; the first one writes.
    """
    sheet, path = answer_specimens(groma, specimens), out / SPECIMENS / f"step-{step:08d}.png"
    if not world.is_main:
        return
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as file:
        sheet.save(file, format="PNG")
    tell(f"step {step}: answers are drawn in {path}")


def fingerprint_of_frozen(objective: Objective) -> str:
    """Tells whether two runs have the same frozen weights, which no checkpoint of a run brings back."""
    trained = {id(parameter) for group in objective.parameter_groups() for _, parameter in group.parameters}
    return fingerprint(
        (f"{part}.{name}", tensor)
        for part, module in sorted(objective.parts().items())
        for name, tensor in sorted(module.state_dict(keep_vars=True).items())
        if id(tensor) not in trained
    )


def _save_model(objective: Objective, blueprint: Blueprint, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Fill a checkpoint's `model/`: with what `groma.load` takes where the whole model is at hand, else with parts."""
    named = state_of_parts(objective, objective.parts(), state)
    if isinstance(objective, AnswerTraining):
        parts = dict(objective.model.named_children())
        weights = {name: tensor for name, tensor in named.items() if name.partition(".")[0] in parts}
        state = objective.saved(weights)
        save_whole(objective.model, blueprint.speaks(), objective.preprocessing, folder, state=state)
    else:
        save_state(named, folder)


def build_objective(config: StageConfig, blueprint: Blueprint | None = None) -> Objective:
    """The stage's loss with freshly initialized parts.

    Args:
        config: of the run.
        blueprint: what is built; None: what the configuration names.

    Raises:
        InputError: pictures or tokenizer do not fit the architecture.
    """
    blueprint = blueprint or make_blueprint(config)
    model, preprocessing = blueprint.model, blueprint.preprocessing
    if config.model:
        model.encoder._attn_implementation = "eager"  # at the named sizes plain matmuls beat the fused CPU kernel
    if config.stage in LANGUAGE_STAGES:
        return _language_objective(config, blueprint)
    _check_side(config.data.crop_px or preprocessing.size_px, model)
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


def _language_objective(config: StageConfig, blueprint: Blueprint) -> Objective:
    model, preprocessing = blueprint.model, blueprint.preprocessing
    tokens = blueprint.speaks().special
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
    if preprocessing.size_px != model.image_size:
        side = preprocessing.size_px
        raise InputError(f"data.size_px must be the model's image_size, {model.image_size}, got {side}.")
    return AnswerTraining(
        GromaModel(model),
        tokens,
        preprocessing,
        config=replace(config.language, train=config.language_trains),
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


def validation_terms(objective: Objective, config: StageConfig) -> Mapping[str, float]:
    """The stage's loss terms on a few fixed validation scenes."""
    stream = build_stream(config, World(), split="validation")
    return mean_terms(objective, [stream.next() for _ in range(VALIDATION_BATCHES)])


@torch.no_grad()
def mean_terms(objective: Objective, batches: Sequence[Any]) -> Mapping[str, float]:
    """The stage's loss terms over some batches, as if they were one."""
    device = next(objective.parameters()).device
    batches = [batch.to(device) for batch in batches]
    total = sum(objective.weight(batch) for batch in batches) or 1.0
    terms: dict[str, float] = {}
    for batch in batches:
        for name, value in objective(batch, total_weight=total).terms.items():
            terms[name] = terms.get(name, 0.0) + value.item()
    return terms
