"""Scenes with questions -> prompts whose box slots name objects: what the language stages learn from.

B pictures, T_i objects of picture i.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from groma.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from groma.data.scenes.questions import questions_for
from groma.data.scenes.scene import Scene
from groma.errors import InputError
from groma.prompt.chat_format import ChatFormat
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
    kinds: tuple[str, ...]
    """What kind of question each prompt is."""

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


def _drawn_by_hand(boxes_cxcywh: Tensor, rng: np.random.Generator, jitter: float) -> Tensor:
    """(U, 4) -> (U, 4) a little beside, within the picture as every box of a user is."""
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
    indices: tuple[int, ...]
    """Number of each scene in its series."""
    names: tuple[Tensor, ...]
    """B tensors (T_i,) int64 class numbers."""
    colours: tuple[Tensor, ...]
    """B tensors (T_i,) int64 class numbers."""
    source: str
    """The data set."""

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, device: torch.device) -> "DialogueBatch":
        """The same batch with its pictures on another device; boxes and labels are small and stay."""
        return self if self.images is None else replace(self, images=self.images.to(device))
