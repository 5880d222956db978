"""The stages of an answer timed one by one, each by the code that answers, and whole answers to compare the sum with.

    picture   encoder   proposer   fusion   projector     once a picture
    selection   regions   prompt   prefill                once a question
    decode                                                once a token after the first

`fusion` and `regions` are the two halves of the region encoder: the levels of a picture, the tokens of its regions.

B pictures, N image tokens, R regions of each, T tokens of a prompt.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import nn

from groma.bench.counting import counted
from groma.bench.machine import Machine, dtype_name, median_seconds, wait
from groma.bench.work import Work, bytes_of, count_flops, weight_bytes, without_gradients
from groma.inference.assistant import Groma
from groma.inference.decoder import Decoder, Prompt, Said, decode
from groma.inference.generate import Decoding
from groma.inference.pictures import Seen
from groma.model.groma import Perception, PictureTokens, VisualTokens
from groma.model.selection import select_regions

T = TypeVar("T")

QUESTION = "Describe the image in detail."
"""What every picture is asked."""

DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is measured."""

    assistant: Groma
    """The model."""
    image: Image.Image
    """The picture; a batch is made of copies, so that all its answers are equally long."""
    repeats: int = 5
    """Measurements of which the median counts."""
    new_tokens: int = 64
    """Tokens of an answer at most; the stage `decode` makes exactly so many."""

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.assistant.device

    @property
    def decoding(self) -> Decoding:
        """How answers are made."""
        return Decoding(max_new_tokens=self.new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a batch of answers."""

    name: str
    """Which, see above."""
    seconds: float
    """Median time of one run."""
    work: Work
    """What it has to do at least."""

    def to_dict(self, machine: Machine) -> dict[str, Any]:
        """As JSON values, beside its floor on that machine."""
        floor = self.work.floor_seconds(machine)
        return {
            "name": self.name,
            "seconds": self.seconds,
            "floor_seconds": floor,
            "fraction_of_floor": floor / self.seconds,
            "flops": self.work.flops,
            "moved_bytes": self.work.moved_bytes,
            "dtype": self.work.dtype,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """All stages of a batch of answers."""

    pictures: int
    """B"""
    regions: int
    """R of the picture"""
    prompt_tokens: int
    """T"""
    stages: tuple[Stage, ...]
    """In the order in which they run."""

    def seconds(self, language_calls: int) -> float:
        """Time of all stages for answers that took so many calls of the language model."""
        return sum(stage.seconds * _times(stage.name, language_calls) for stage in self.stages)

    def floor_seconds(self, machine: Machine, language_calls: int) -> float:
        """The same of their floors."""
        return sum(stage.work.floor_seconds(machine) * _times(stage.name, language_calls) for stage in self.stages)

    def of(self, *names: str) -> float:
        """Seconds of some stages, run once each."""
        return sum(stage.seconds for stage in self.stages if stage.name in names)


def _times(name: str, language_calls: int) -> int:
    return language_calls - 1 if name == DECODE else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A batch of whole answers, from pictures to text."""

    pictures: int
    """B"""
    seconds: float
    """Median time of the batch."""
    language_calls: int
    """Of the prompt and of every token but the last."""


class _Watch:
    """Runs stages: counts what each has to do, times it, and passes on what it made."""

    def __init__(self, task: Task) -> None:
        """Nothing is measured yet."""
        self.task = task
        self.stages: list[Stage] = []

    def take(self, name: str, run: Callable[[], T], *, reads: Any, part: nn.Module | None = None) -> T:
        """One stage.

        Args:
            name: of the stage.
            run: the stage; it returns what the next ones need, which is what it writes.
            reads: everything that it reads, beside weights.
            part: module whose weights it needs; None: of none.
        """
        flops, result = count_flops(run)
        seconds = median_seconds(run, self.task.device, repeats=self.task.repeats, warm=True)
        moved = bytes_of(reads) + bytes_of(result) + (0 if part is None else weight_bytes(part))
        self.add(name, seconds, flops, moved, part)
        return result

    def add(self, name: str, seconds: float, flops: float, moved_bytes: float, part: nn.Module | None) -> None:
        """A stage that was measured otherwise."""
        module = self.task.assistant.model if part is None else part
        dtype = dtype_name(next(module.parameters()).dtype)
        work = Work(flops=flops, moved_bytes=moved_bytes, dtype=dtype)
        self.stages.append(Stage(name=name, seconds=seconds, work=work))


@torch.inference_mode()
def measure_stages(task: Task, *, pictures: int) -> Stages:
    """Time every stage of answers about so many pictures at once.

    Args:
        task: what is measured.
        pictures: B.

    Raises:
        InputError: the prompt and the answer do not fit into the model's context.
    """
    watch = _Watch(task)
    with without_gradients(task.assistant.model):
        tokens = _see(watch, pictures)
        visual = _tokenize(watch, tokens)
        written = watch.take("prompt", lambda: prompts(task, tokens, visual), reads=[v.features for v in visual])
        _speak(watch, written)
    return Stages(
        pictures=pictures,
        regions=max(len(v.regions) for v in visual),
        prompt_tokens=max(map(len, written)),
        stages=tuple(watch.stages),
    )


def _see(watch: _Watch, pictures: int) -> PictureTokens:
    """What `Groma.see` does."""
    task, model = watch.task, watch.task.assistant.model
    images, weight = [task.image] * pictures, next(model.parameters())

    def prepare() -> torch.Tensor:
        return task.assistant.preprocessing(images).to(device=weight.device, dtype=weight.dtype)

    raw = torch.empty(pictures, *task.image.size, 3, dtype=torch.uint8)
    pixels = watch.take("picture", prepare, reads=raw)
    maps = watch.take("encoder", lambda: model.encoder(pixels), reads=pixels, part=model.encoder)
    proposals = watch.take("proposer", lambda: model.proposer(maps).proposals, reads=maps, part=model.proposer)
    fusion = model.region_encoder.fusion
    last = maps.last[-len(model.config.region_encoder.upsample) :]
    watch.take("fusion", lambda: fusion(maps), reads=last, part=fusion)
    watch.take("projector", lambda: model.projector(maps.final), reads=maps.final, part=model.projector)
    return model.read(Perception(maps=maps, proposals=proposals))


def _tokenize(watch: _Watch, tokens: PictureTokens) -> list[VisualTokens]:
    """What `GromaModel.tokenize` does."""
    model = watch.task.assistant.model
    chosen = watch.take(
        "selection",
        lambda: select_regions(tokens.proposals, config=model.config.selection),
        reads=tokens.proposals,
    )
    boxes_cxcywh = [regions.boxes_cxcywh for regions in chosen]
    part = nn.ModuleList(module for name, module in model.region_encoder.named_children() if name != "fusion")
    reads = [tokens.levels, boxes_cxcywh]
    watch.take("regions", lambda: model.region_encoder.encode(tokens.levels, boxes_cxcywh), reads=reads, part=part)
    return model.tokenize(tokens)


def prompts(task: Task, tokens: PictureTokens, visual: Sequence[VisualTokens]) -> list[Prompt]:
    """The question, written and spliced for each picture, as `Groma.ask` does it.

    Args:
        task: what is measured.
        tokens: of B pictures.
        visual: the same with their regions.

    Raises:
        InputError: the prompt and the answer do not fit into the model's context.
    """
    assistant = task.assistant
    size_px, identity = task.image.size, assistant.identity
    seen = [Seen(size_px=size_px, tokens=tokens, seen_by=identity) for _ in visual]
    requests = [assistant.to_ask(one, QUESTION, decoding=task.decoding) for one in seen]
    return [assistant.preparer.prompt(request, v) for request, v in zip(requests, visual, strict=True)]


def _speak(watch: _Watch, written: Sequence[Prompt]) -> None:
    """Prefill and decode: the steps of `decode`, the first one and the others."""
    task, language = watch.task, watch.task.assistant.model.language
    special, steps = task.assistant.tokenizer.special, task.new_tokens

    def generate(tokens: int) -> Iterator[dict[int, Said]]:
        # only padding ends these answers, so that they are as long as was asked for
        decoder = Decoder(task.assistant.model, tokens=special, stop_ids=frozenset({special.pad}))
        decoding = Decoding(max_new_tokens=tokens)
        return decode(decoder, [replace(prompt, decoding=decoding) for prompt in written])

    with counted(task.assistant.model) as counts:
        first_flops, first = count_flops(lambda: next(generate(1)))
        prompt_cache = counts.cache_bytes
    flops, made = count_flops(lambda: sum(1 for _ in generate(steps)))
    runs = [_times_of(generate(steps), task.device) for _ in range(task.repeats)]
    rows = len(written) * language.hidden_size * batch_item_bytes(language)
    weights = weight_bytes(language, without=(language.base.get_input_embeddings(), language.added_embeddings))
    length = max(map(len, written))
    words, said = length * rows, bytes_of([one.logits for one in first.values()])
    watch.add("prefill", median(r[0] for r in runs), first_flops, weights + words + prompt_cache + said, language)
    others = max(1, made - 1)
    longer = 1 + others / 2 / length  # the conversation on the way, in prompts
    moved = weights + rows + prompt_cache * longer + said
    watch.add(DECODE, median(r[1] for r in runs), (flops - first_flops) / others, moved, language)


def batch_item_bytes(language: nn.Module) -> int:
    """Bytes of one number that the language model computes with."""
    return next(language.parameters()).element_size()


def _times_of(steps: Iterator[object], device: torch.device) -> tuple[float, float]:
    """Seconds of the first step, and on average of each other one."""
    wait(device)
    began = time.perf_counter()
    next(steps)
    wait(device)
    prefilled = time.perf_counter()
    others = sum(1 for _ in steps)
    wait(device)
    return prefilled - began, (time.perf_counter() - prefilled) / max(1, others)


# --- whole answers ---------------------------------------------------------------------------------------------------


def measure_answers(task: Task, *, pictures: int) -> Answers:
    """Time `Groma.ask` for a batch of pictures that were not seen before.

    Args:
        task: what is measured.
        pictures: B.
    """
    with counted(task.assistant.model) as counts:
        ask_all(task, pictures)
    seconds = median_seconds(lambda: ask_all(task, pictures), task.device, repeats=task.repeats, warm=True)
    return Answers(pictures=pictures, seconds=seconds, language_calls=len(counts.processed))


def ask_all(task: Task, pictures: int) -> None:
    """Ask about so many pictures in one batch."""
    with together(task.assistant, pictures):
        task.assistant.ask([task.image] * pictures, QUESTION, decoding=task.decoding)


@contextmanager
def together(assistant: Groma, pictures: int) -> Iterator[None]:
    """So many pictures are one batch in this `with` block."""
    before = assistant.batch_size
    assistant.batch_size = pictures
    try:
        yield
    finally:
        assistant.batch_size = before
