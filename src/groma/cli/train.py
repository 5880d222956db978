"""`groma train RECIPE`: a recipe, changed by a file and by flags, handed to the training loop.

recipe function -> StageConfig <- --config file.yaml <- --training.loop.steps 100 ... -> run_stage
"""

import os
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from groma.cli.arguments import Switch
from groma.cli.output import figures_table, note, show, write_json, write_line
from groma.errors import InputError
from groma.strict_yaml import read_overrides, to_yaml

if TYPE_CHECKING:
    from groma.train.loop import TrainResult
    from groma.train.stage import StageConfig

CONFIG_FLAG, DATA_FLAG = "--config", "--data"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run starts and where it goes."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for checkpoints and metrics. None: runs/ and the recipe's name."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Annotated pictures to train on: your own .jsonl, or a mixture's .yaml; the same as --mixture.file."""
    init: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="from", metavar="CHECKPOINT")] = ()
    """Checkpoint folder of an earlier stage, or any model such as groma-tiny, whose parts this run starts from. Of
    several, later ones win."""
    resume: Switch = False
    """Go on from the newest checkpoint in the folder; without it the folder must not hold a run."""
    may_change_steps: Switch = False
    """Let the resumed run have another number of steps than before."""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE.yaml")] = None
    """YAML with fields that differ from the recipe's; flags go before it."""
    track: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")] = ()
    """Draw curves elsewhere, too: tensorboard or wandb."""
    plan: Switch = False
    """Print what the run needs of each device's memory, and do not train."""
    processes: int = 1
    """Processes that the plan is for, each on a device of its own; training itself asks torchrun."""
    print_config: Switch = False
    """Print the resulting configuration as YAML (with --json as JSON) and do not train."""
    json: Switch = False
    """Print one JSON value and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Train(RunOptions):
    """Train a stage; `groma train detect --help` lists what can be set."""

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
    """A stage (detect, align, instruct; pretrain and speak for models that start from nothing) or a recipe's name. It
    comes right after `train`."""

    def run(self) -> int:
        """Only reached if something stands before the recipe."""
        raise InputError("the recipe comes right after `train`: groma train RECIPE [OPTIONS]")


def run_training(name: str, arguments: list[str]) -> int:
    """Train by the recipe of that name.

    Args:
        name: A recipe or a stage.
        arguments: What follows it on the command line.

    Returns:
        0; 130 if the run was interrupted and saved.

    Raises:
        GromaError: Recipe, configuration, checkpoint or folder cannot be used, or the loss is not finite.
    """
    recipe = find_recipe(name, from_files=_value_of(DATA_FLAG, arguments) is not None)
    options, config = _parse(recipe, arguments)
    if options.print_config:
        if options.json:
            write_json(asdict(config))
        else:
            write_line(to_yaml(config).rstrip())
        return 0
    if options.plan:
        _show_plan(config, options)
        return 0
    from groma.train.run import run_stage

    out = options.out or Path("runs") / recipe
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be written to: {error.strerror}") from None
    result = run_stage(
        config,
        out=out,
        init=options.init,
        resume="auto" if options.resume else "never",
        may_change_steps=options.may_change_steps,
        trackers=options.track,
        tell=note,
    )
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks
        _present(result, as_json=options.json)
    return 0 if result.finished else 130


def _show_plan(config: "StageConfig", options: RunOptions) -> None:
    from groma.train.memory_plan import plan_run

    plan = plan_run(config, options.init, processes=options.processes)
    if options.json:
        write_json(plan.to_dict())
        return
    batch = plan.batch
    each = f"{batch.pictures} pictures" + (f" of {batch.tokens} tokens each" if batch.tokens else "")
    rows = {
        "trained": f"{plan.trained_parameters:,} of {plan.parameters:,} parameters",
        "micro-batch": f"{each}, the largest of the first, with every region there is room for",
        "processes": f"{plan.processes}, {plan.sharding}" if plan.processes > 1 else "1",
    }
    parts = ("weights", "optimizer", "average", "gathered", "gradients", "activations", "total")
    show(figures_table(rows | {part: _size(getattr(plan, part)) for part in parts}, "memory of each device", ""))


def _size(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def find_recipe(name: str, *, from_files: bool = False) -> str:
    """The name of a recipe; a stage's name stands for the small model's recipe of that stage, or for the one that
    finetunes on annotated pictures.

    Args:
        name: A recipe or a stage.
        from_files: There are annotated pictures to train on.

    Raises:
        InputError: There is none; names the nearest, or all.
    """
    from groma.train.recipes import RECIPES

    for candidate in (name, f"{'finetune' if from_files else 'tiny'}-{name}"):
        if candidate in RECIPES:
            return candidate
    close = get_close_matches(name, RECIPES, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(RECIPES)}."
    raise InputError(f"there is no recipe {name!r}; {hint}")


def _parse(recipe: str, arguments: list[str]) -> "tuple[RunOptions, StageConfig]":
    """Options of the run, and the recipe's configuration as file and flags change it."""
    from groma.train.recipes import RECIPES
    from groma.train.stage import StageConfig

    config = RECIPES[recipe]()
    file = _value_of(CONFIG_FLAG, arguments)
    if file is not None:
        config = read_overrides(Path(file), config)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Run(RunOptions):
        stage_config: Annotated[StageConfig, tyro.conf.arg(name="")]

    run = tyro.cli(
        Run,
        prog=f"groma train {recipe}",
        description=f"Train by the recipe {recipe}. Every field of its configuration is a flag.",
        default=Run(stage_config=config),
        args=arguments,
    )
    return run, _with_data(run.stage_config, run.data)


def _with_data(config: "StageConfig", data: Path | None) -> "StageConfig":
    """The configuration with the pictures to train on, if they were given."""
    return config if data is None else replace(config, mixture=replace(config.mixture, file=str(data)))


def _value_of(flag: str, arguments: list[str]) -> str | None:
    """What stands behind a flag that must be known before the others' defaults are; None: it is not given."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
        if argument == flag and place + 1 < len(arguments):
            return arguments[place + 1]
    return None


def _present(result: "TrainResult", *, as_json: bool) -> None:
    values = asdict(result) | {"checkpoint": str(result.checkpoint)}
    if as_json:
        write_json(values)
    else:
        show(figures_table(values, "training", ""))
    if not result.finished:
        note(f"interrupted at step {result.step}, all saved; the same command with --resume goes on")
