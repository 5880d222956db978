"""Everything that `groma bench` measures, in order, as one value."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from PIL import Image

from groma.bench.counting import counted
from groma.bench.growth import BATCHES, Growth, Turn, measure_conversation, measure_growth
from groma.bench.machine import Machine, best_of, dtype_name, measure_machine, unsteadiness
from groma.bench.memory import Memory, model_bytes, peak_of
from groma.bench.report import Report
from groma.bench.stages import QUESTION, Stages, Task, ask_all, measure_answers, measure_stages
from groma.bench.work import bytes_of
from groma.data.scenes.scene import make_scene
from groma.errors import InputError
from groma.inference.assistant import Groma

PICTURE_PX = 640
"""Side of the picture: larger than what encoders see, as photographs are."""

SHORT_CONVERSATION = 3
"""Turns that are always measured."""

PACKAGES = ("groma", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user can choose beside the model."""

    batch_size: int = 8
    """Pictures that are answered about together."""
    repeats: int = 5
    """Measurements of which the median counts."""
    new_tokens: int = 64
    """Tokens of an answer at most."""
    growth: bool = False
    """Measure how cost grows, too: takes several times as long."""
    seed: int = 0
    """Of the picture and of the numbers that matrices hold."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("repeats", 1), ("new_tokens", 2)):
            if getattr(self, name) < least:
                raise InputError(
                    f"--{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}: give a larger one"
                )


def bench(
    assistant: Groma,
    options: Options,
    *,
    model: str,
    weights: str,
    tell: Callable[[str], None] = lambda what: None,
) -> Report:
    """Measure an assistant.

    Args:
        assistant: whose speed it is.
        options: how much is measured.
        model: what it is called.
        weights: where they come from, "checkpoint" or "random".
        tell: is told what is measured next.

    Raises:
        InputError: a prompt and an answer of so many tokens do not fit into the model's context, or so many pictures
            not into the device's memory.
    """
    image = Image.fromarray(make_scene("test", 0, options.seed, size_px=PICTURE_PX).image)
    task = Task(assistant=assistant, image=image, repeats=options.repeats, new_tokens=options.new_tokens)
    machines: list[Machine] = []

    def next_is(what: str) -> None:  # rates are measured between all parts: other programs come and go
        tell("matrix rate and bandwidth")
        machines.append(_machine(task, options))
        tell(what)

    sizes = sorted({1, options.batch_size})
    try:
        next_is("stages")
        stages = {size: measure_stages(task, pictures=size) for size in sizes}
        next_is("answers")
        answers = {size: measure_answers(task, pictures=size) for size in sizes}
        next_is("memory")
        memory = measure_memory(task, pictures=options.batch_size)
        next_is("a conversation")
        conversation = measure_conversation(task, SHORT_CONVERSATION)
        growth, turns = _growth(task, next_is) if options.growth else (None, None)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{model} does not fit on {task.device} with {options.batch_size} pictures: give a smaller --batch-size"
        ) from error
    next_is("nothing more")
    return Report(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        machine=best_of(machines),
        unsteadiness=unsteadiness(machines),
        configuration=_configuration(task, options, stages[1], model=model, weights=weights),
        stages=stages,
        answers=answers,
        memory=memory,
        conversation=conversation,
        growth=growth,
        turns=turns,
    )


def _machine(task: Task, options: Options) -> Machine:
    dtypes = [parameter.dtype for parameter in task.assistant.model.parameters()]
    return measure_machine(task.device, dtypes, repeats=options.repeats, seed=options.seed)


def _growth(task: Task, tell: Callable[[str], None]) -> tuple[dict[str, Growth], tuple[Turn, ...]]:
    tell(f"growth: regions, batches up to {BATCHES[-1]}, pictures")
    growth = measure_growth(task)
    tell("growth: turns")
    return growth, measure_conversation(task)


@torch.inference_mode()
def measure_memory(task: Task, *, pictures: int) -> Memory:
    """Memory at the peak of a batch of whole answers.

    Args:
        task: what is measured.
        pictures: of the batch.
    """
    model = task.assistant.model
    pixels = task.assistant.preprocessing([task.image]).to(device=task.device, dtype=model.dtype)
    perception = model.perceive(pixels)
    levels = bytes_of(perception.maps) + bytes_of(model.read(perception).levels)
    del perception
    with counted(model) as counts:
        peak, how = peak_of(lambda: ask_all(task, pictures), model)
    return Memory(
        weights_bytes=model_bytes(model),
        cache_bytes=counts.cache_bytes,
        levels_bytes=levels * pictures,
        peak_bytes=peak,
        measured_by=how,
    )


def _configuration(task: Task, options: Options, stages: Stages, *, model: str, weights: str) -> dict[str, Any]:
    """What was measured, as JSON values."""
    own = task.assistant.model
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in own.named_children()}
    return {
        "model": model,
        "weights": weights,
        "device": str(task.device),
        "dtype": dtype_name(own.dtype),
        "parameters": {**parameters, "total": sum(parameters.values())},
        "language": own.config.language.model_type,
        "image_size_px": own.config.image_size,
        "image_tokens": own.config.num_image_tokens,
        "regions": stages.regions,
        "prompt_tokens": stages.prompt_tokens,
        "question": QUESTION,
        "new_tokens": options.new_tokens,
        "batch_size": options.batch_size,
        "repeats": options.repeats,
        "seed": options.seed,
    }


def versions() -> dict[str, str]:
    """Of everything that the figures depend on."""
    return {**{name: _version(name) for name in PACKAGES}, "python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
