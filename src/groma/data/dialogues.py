"""Scenes with questions -> prompts whose box slots name objects: what the language stages learn from.

B pictures, T_i objects of picture i.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from groma.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from groma.data.cleaning import Fault
from groma.data.scenes.questions import questions_for
from groma.data.scenes.scene import Scene
from groma.errors import InputError
from groma.prompt.chat_format import ChatFormat
from groma.prompt.dialogue import Dialogue
from groma.prompt.render import RenderedPrompt, render
from groma.prompt.tokenizer_base import PromptTokenizer
from groma.prompt.tokens import IGNORE_INDEX


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePrompts:
    """Questions with answers about one picture; T annotated boxes, U of them pointed at."""

    prompts: tuple[RenderedPrompt, ...]
    """Rendered dialogues, at least one; their slots number the rows of `boxes_cxcywh`."""
    boxes_cxcywh: Tensor
    """(T, 4) all annotated boxes of the picture, normalized."""
    user_boxes_cxcywh: Tensor
    """(U, 4) the boxes that the questions point at, as a hand would draw them, in the order of the annotated ones."""
    kinds: tuple[str, ...] = ()
    """What kind of question each prompt is; or nothing."""

    @property
    def num_targets(self) -> int:
        """How many tokens are trained on."""
        return sum(label != IGNORE_INDEX for prompt in self.prompts for label in prompt.labels)


def prompts_about(
    scene: Scene,
    rng: np.random.Generator,
    *,
    tokenizer: PromptTokenizer,
    chat_format: ChatFormat,
    kinds: Mapping[str, float],
    count: int,
    jitter: float,
    max_tokens: int | None = None,
) -> PicturePrompts:
    """Draw questions about a scene and render them.

    Args:
        scene: What is asked about.
        rng: Source of all choices.
        tokenizer: The model's.
        chat_format: The model's.
        kinds: Kind of question -> weight.
        count: How many questions; fewer come where the scene does not give rise to as many.
        jitter: Normal deviation of the centre and size of a box that is pointed at, as a share of its size; no more
            than twice that is drawn.
        max_tokens: Questions stop before all prompts together get longer, so that the rows of a batch are of about
            the same length; one question is always asked. None: no limit.

    Raises:
        InputError: The scene gives rise to no question of these kinds, or a kind does not exist.
    """
    questions = questions_for(scene, rng, kinds=kinds, count=count)
    if not questions:
        names = ", ".join(kinds)
        raise InputError(
            f"A scene gives rise to no question of the kinds {names}: add one that always does, such as describe."
        )
    prompts, length = [], 0
    referred: set[int] = set()
    for question in questions:
        rendered = render(question.dialogue, tokenizer, chat_format)
        length += len(rendered.token_ids)
        if max_tokens is not None and prompts and length > max_tokens:
            break
        refer = tuple(question.box_objects[slot] for slot in rendered.refer_slots)
        ground = tuple(question.box_objects[slot] for slot in rendered.ground_slots)
        referred.update(refer)
        prompts.append(replace(rendered, refer_slots=refer, ground_slots=ground))
    boxes_cxcywh = torch.tensor(scene.boxes_cxcywh, dtype=torch.float32)
    return PicturePrompts(
        prompts=tuple(prompts),
        boxes_cxcywh=boxes_cxcywh,
        user_boxes_cxcywh=_drawn_by_hand(boxes_cxcywh[sorted(referred)], rng, jitter),
        kinds=tuple(question.kind for question in questions[: len(prompts)]),
    )


def prompts_of(
    dialogues: Sequence[Dialogue],
    rng: np.random.Generator,
    *,
    tokenizer: PromptTokenizer,
    chat_format: ChatFormat,
    jitter: float,
    max_tokens: int,
) -> tuple[PicturePrompts | None, int]:
    """Render dialogues about one picture.

    Args:
        dialogues: At least one; boxes of each are its own.
        rng: Source of all choices.
        tokenizer: The model's.
        chat_format: The model's.
        jitter: As for `prompts_about`.
        max_tokens: A dialogue that is longer loses turns at its end.

    Returns:
        The prompts, None if not a single turn fits; and how many turns were left out.
    """
    prompts: list[RenderedPrompt] = []
    rows: dict[tuple[float, float, float, float], int] = {}  # the same box in two dialogues is one
    referred: set[int] = set()
    left_out = 0
    for dialogue in dialogues:
        fitted, lost = _fitted(dialogue, tokenizer, chat_format, max_tokens)
        left_out += lost
        if fitted is None:
            continue
        row_of = [rows.setdefault(box, len(rows)) for box in dialogue.boxes_cxcywh]
        refer, ground = (tuple(row_of[k] for k in slots) for slots in (fitted.refer_slots, fitted.ground_slots))
        prompts.append(replace(fitted, refer_slots=refer, ground_slots=ground))
        referred.update(refer)
    if not prompts:
        return None, left_out
    boxes_cxcywh = torch.tensor(list(rows), dtype=torch.float32).reshape(-1, 4)
    drawn = _drawn_by_hand(boxes_cxcywh[sorted(referred)], rng, jitter)
    return PicturePrompts(prompts=tuple(prompts), boxes_cxcywh=boxes_cxcywh, user_boxes_cxcywh=drawn), left_out


def _fitted(
    dialogue: Dialogue, tokenizer: PromptTokenizer, chat_format: ChatFormat, max_tokens: int
) -> tuple[RenderedPrompt | None, int]:
    """The longest beginning of a dialogue that fits, and how many turns it lacks."""
    for count in range(len(dialogue.turns), 0, -1):
        rendered = render(replace(dialogue, turns=dialogue.turns[:count]), tokenizer, chat_format)
        if len(rendered.token_ids) <= max_tokens:
            return rendered, len(dialogue.turns) - count
    return None, len(dialogue.turns)


def _drawn_by_hand(boxes_cxcywh: Tensor, rng: np.random.Generator, jitter: float) -> Tensor:
    """(U, 4) -> (U, 4) a little beside, within the picture as every box of a user is."""
    if len(boxes_cxcywh) == 0:
        return boxes_cxcywh
    noise = torch.from_numpy(rng.normal(0, jitter, tuple(boxes_cxcywh.shape)).astype(np.float32))
    sizes = boxes_cxcywh[:, 2:].repeat(1, 2)
    drawn_cxcywh = boxes_cxcywh + noise.clamp(-2 * jitter, 2 * jitter) * sizes
    return xyxy_to_cxcywh(cxcywh_to_xyxy(drawn_cxcywh).clamp(0.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogueBatch:
    """B pictures with questions. Labels of the objects serve stages that imagine the pictures."""

    pictures: tuple[PicturePrompts, ...]
    """B pictures' questions."""
    images: Tensor | None
    """(B, S, S, 3) uint8 RGB; None where the pictures are imagined."""
    seeds: tuple[int, ...]
    """What is drawn at random for each picture while it is trained on is drawn from these."""
    source: str
    """The data set."""
    names: tuple[Tensor, ...] = ()
    """B tensors (T_i,) int64 class numbers; or nothing, where no stage imagines or imitates."""
    colours: tuple[Tensor, ...] = ()
    """B tensors (T_i,) int64 class numbers; or nothing."""
    set_name: str = ""
    """What the data set is called in a mixture."""
    faults: tuple[Fault, ...] = ()
    """What was wrong with samples, also with those that were left out."""
    blank: bool = False
    """Nothing could be used: one black picture stands here, and its loss must not count."""

    def __len__(self) -> int:
        return 0 if self.blank else len(self.pictures)

    def to(self, device: torch.device) -> "DialogueBatch":
        """The same batch with its pictures on another device; boxes and labels are small and stay."""
        return self if self.images is None else replace(self, images=self.images.to(device))
