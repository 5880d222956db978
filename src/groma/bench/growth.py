"""How cost grows: with regions, pictures of a batch, pictures seen, turns of a conversation.

Cost is taken to be size ^ exponent; the exponent is the slope of a line through the logarithms. Fixed costs hide in
small sizes, so the slope between the two largest ones is given as well: it is what quadratic growth would show in.
"""

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from groma.bench.counting import Counts, counted
from groma.bench.machine import median_seconds, wait
from groma.bench.stages import QUESTION, Task, ask_all, together
from groma.errors import InputError
from groma.inference.conversation import Conversation
from groma.inference.turns import asking
from groma.model.groma import VisualTokens
from groma.model.selection import select_regions
from groma.model.splice import SplicedBatch, pad, splice
from groma.model.types import Proposals, Regions
from groma.prompt.render import RenderedPrompt, render
from groma.prompt.tokens import SpecialTokenIds

REGIONS = (10, 30, 100, 300)
BATCHES = (1, 2, 4, 8, 16, 32)
PICTURES = (1, 2, 4, 8, 16, 32)
TURNS = 8

GROWTH_REPEATS = 3
"""Measurements of a point at most: a slope over many points needs fewer than a figure."""

BOX_SIDE = 0.08
"""Of the boxes that stand for regions, a share of the picture's side: none of 300 overlaps its neighbours too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What a cost does as something grows."""

    sizes: tuple[int, ...]
    """How many there were."""
    seconds: tuple[float, ...]
    """Median time of each."""

    @property
    def exponent(self) -> float | None:
        """Over all sizes; None if there is only one."""
        return fit_exponent(self.sizes, self.seconds) if len(self.sizes) > 1 else None

    @property
    def last_exponent(self) -> float | None:
        """Between the two largest sizes; None if there is only one."""
        return fit_exponent(self.sizes[-2:], self.seconds[-2:]) if len(self.sizes) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "sizes": list(self.sizes),
            "seconds": list(self.seconds),
            "exponent": self.exponent,
            "last_exponent": self.last_exponent,
        }


def fit_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the least squares line through (log size, log cost).

    Args:
        sizes: at least two different numbers above 0.
        costs: one for each, above 0.

    Raises:
        InputError: there are too few, or no logarithm exists.
    """
    if len(sizes) != len(costs) or len(set(sizes)) < 2 or min(*sizes, *costs) <= 0:
        raise InputError(f"an exponent takes two sizes or more with a cost each, all above 0, got {sizes} and {costs}")
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - x_mean) ** 2 for x in xs)


def measure_growth(task: Task) -> dict[str, Growth]:
    """Everything but turns: name of the cost -> how it grows."""
    task = replace(task, repeats=min(task.repeats, GROWTH_REPEATS))
    return {
        **{f"regions.{name}": growth for name, growth in region_growth(task).items()},
        "batch": _grow(task, BATCHES, lambda size: ask_all(task, size)),
        "pictures": _grow(task, PICTURES, lambda size: task.assistant.see([task.image] * size)),
    }


def _grow(task: Task, sizes: Sequence[int], run: Callable[[int], object]) -> Growth:
    """Time `run` for every size that the device's memory holds."""
    seconds: list[float] = []
    for size in sizes:
        try:
            seconds.append(median_seconds(lambda n=size: run(n), task.device, repeats=task.repeats))
        except torch.OutOfMemoryError:  # the sizes that were measured are in the result
            break
    return Growth(sizes=tuple(sizes[: len(seconds)]), seconds=tuple(seconds))


# --- regions ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def region_growth(task: Task, sizes: Sequence[int] = REGIONS) -> dict[str, Growth]:
    """What each stage that regions go through costs for so many of them.

    More regions than the model has numbers for are named by its last number: the work is the same.

    Args:
        task: what is measured.
        sizes: numbers of regions; those whose prompt does not fit into the model's context are left out.
    """
    text = len(_question(task).token_ids)
    room = task.assistant.model.config.context_tokens - task.assistant.model.config.num_image_tokens - text
    sizes = [size for size in sizes if 2 * size <= room]
    rows = [_region_stages(task, size) for size in sizes]
    return {
        name: Growth(sizes=tuple(sizes), seconds=tuple(row[name] for row in rows)) for name in (rows[0] if rows else ())
    }


def _region_stages(task: Task, count: int) -> dict[str, float]:
    """Name of a stage -> seconds for one picture with so many regions; and of all together."""
    model = task.assistant.model
    seen = task.assistant.see(task.image).tokens
    config = deepcopy(model.config.selection)
    config.max_regions, config.score_threshold = count, 0.0
    proposals = Proposals(
        boxes_cxcywh=_grid(count).to(task.device)[None],
        logits={source: torch.zeros(1, count, device=task.device) for source in seen.proposals.logits},
    )
    (regions,) = select_regions(proposals, config=config)
    boxes_cxcywh = [regions.boxes_cxcywh]
    (encoded,) = model.region_encoder.encode(seen.levels, boxes_cxcywh)
    visual = [VisualTokens(regions=regions, features=torch.cat((seen.image[0], encoded)))]
    batch = _region_prompt(task, regions)

    def prefill() -> None:
        hidden, _ = model.language(
            model.embed(batch, visual),
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=True,
        )
        model.language.logits(hidden[:, -1])

    runs: dict[str, Callable[[], object]] = {
        "selection": lambda: select_regions(proposals, config=config),
        "regions": lambda: model.region_encoder.encode(seen.levels, boxes_cxcywh),
        "prompt": lambda: _region_prompt(task, regions),
        "prefill": prefill,
    }
    seconds = {name: median_seconds(run, task.device, repeats=task.repeats) for name, run in runs.items()}
    return seconds | {"all": sum(seconds.values())}


def _grid(count: int) -> torch.Tensor:
    """(count, 4) cxcywh, normalized: boxes of one size in a square grid."""
    side = math.ceil(math.sqrt(count))
    places = torch.arange(count)
    centres = torch.stack((places % side, places // side), dim=1).add(0.5) / side
    return torch.cat((centres, torch.full((count, 2), BOX_SIDE)), dim=1)


def _question(task: Task) -> RenderedPrompt:
    size_px, limit = task.image.size, task.assistant.max_regions
    exchange = asking(QUESTION, None, size_px=size_px, max_regions=limit, grounded=True)
    return render(exchange.dialogue, task.assistant.tokenizer, task.assistant.chat_format)


def _region_prompt(task: Task, regions: Regions) -> SplicedBatch:
    """The question with so many regions, as rows that the model has."""
    special = task.assistant.tokenizer.special
    wider = SpecialTokenIds.after(
        special.base_vocab_size,
        num_regions=max(len(regions), special.num_regions),
        bos=special.bos,
        eos=special.eos,
        unk=special.unk,
    )
    none = torch.zeros(0, dtype=torch.long)
    sample = splice(
        _question(task).token_ids,
        None,
        refer_regions=none,
        ground_regions=none,
        num_image_tokens=task.assistant.model.config.num_image_tokens,
        num_regions=len(regions),
        tokens=wider,
    )
    sample.ids.clamp_(max=special.vocab_size - 1)
    return pad([sample], pad_id=special.pad, side="left").to(task.device)


# --- turns -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question of a conversation about one picture."""

    number: int
    """From 1."""
    seconds: float
    """Median time of the turn, the picture's encoding in the first included."""
    encoded_pictures: int
    """Pictures that went through the encoder."""
    encoded_regions: int
    """Regions that were described."""
    prompt_tokens: int
    """Length of the conversation up to the answer."""
    new_tokens: int
    """Of these, how many the language model had not processed in an earlier turn."""
    prefilled_tokens: int
    """How many it processed before the answer's first token."""


def measure_conversation(task: Task, turns: int = TURNS) -> tuple[Turn, ...]:
    """Ask about one picture again and again, in one conversation (groma.Conversation).

    Args:
        task: what is measured.
        turns: questions; fewer if the model's context holds no more.
    """
    runs = [_converse(task, turns) for _ in range(min(task.repeats, GROWTH_REPEATS))]
    return tuple(
        replace(turn, seconds=median(run[place].seconds for run in runs)) for place, turn in enumerate(runs[0])
    )


def _converse(task: Task, turns: int) -> list[Turn]:
    asked: list[Turn] = []
    known, context = 0, task.assistant.model.config.context_tokens
    began = time.perf_counter()
    with counted(task.assistant.model) as counts, together(task.assistant, 1):
        conversation = Conversation(task.assistant, task.image)
        for number in range(1, turns + 1):
            conversation.ask(QUESTION, decoding=task.decoding)
            wait(task.device)
            now = time.perf_counter()
            turn, known = _turn(number, now - began, counts, known)
            asked.append(turn)
            if counts.positions[-1] + turn.new_tokens + 2 * task.new_tokens > context:
                break
            _clear(counts)
            began = time.perf_counter()
    return asked


def _turn(number: int, seconds: float, counts: Counts, known: int) -> tuple[Turn, int]:
    """What a turn did, and how many tokens the model has processed after it."""
    turn = Turn(
        number=number,
        seconds=seconds,
        encoded_pictures=counts.encoded,
        encoded_regions=counts.region_tokens,
        prompt_tokens=counts.positions[0],
        new_tokens=counts.positions[0] - known,
        prefilled_tokens=counts.processed[0],
    )
    return turn, counts.positions[-1]


def _clear(counts: Counts) -> None:
    counts.encoded = counts.proposed = counts.region_tokens = 0
    counts.processed.clear()
    counts.positions.clear()
