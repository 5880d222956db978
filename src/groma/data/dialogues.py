"""Scenes with questions -> prompts whose box slots name objects: what the language stages learn from.

B pictures, T_i objects of picture i.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from groma.data.scenes.questions import questions_for
from groma.data.scenes.scene import Scene
from groma.prompt.chat_format import ChatFormat
from groma.prompt.render import RenderedPrompt, render
from groma.prompt.tokenizer_base import PromptTokenizer
from groma.prompt.tokens import IGNORE_INDEX


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePrompts:
    """Questions with answers about one picture."""

    prompts: tuple[RenderedPrompt, ...]
    """rendered dialogues; their slots number the rows of `boxes_cxcywh`"""
    boxes_cxcywh: Tensor
    """(T, 4) all annotated boxes of the picture, normalized"""
    user_boxes_cxcywh: Tensor
    """(U, 4) the boxes that the questions point at, as a hand would draw them"""
    kinds: tuple[str, ...] = ()
    """what kind of question each prompt is, for reports"""

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
) -> PicturePrompts:
    """Draw questions about a scene and render them.

    Args:
        scene: what is asked about.
        rng: source of all choices.
        tokenizer: of the model.
        chat_format: of the model.
        kinds: kind of question -> weight.
        count: how many questions.
        jitter: how far the sides of a box that is pointed at move, as a share of its size (normal deviation).
    """
    questions = questions_for(scene, rng, kinds=kinds, count=count)
    prompts = []
    referred: set[int] = set()
    for question in questions:
        rendered = render(question.dialogue, tokenizer, chat_format)
        refer = tuple(question.box_objects[slot] for slot in rendered.refer_slots)
        ground = tuple(question.box_objects[slot] for slot in rendered.ground_slots)
        referred.update(refer)
        prompts.append(replace(rendered, refer_slots=refer, ground_slots=ground))
    boxes_cxcywh = torch.tensor(scene.boxes_cxcywh, dtype=torch.float32)
    chosen = boxes_cxcywh[sorted(referred)]
    noise = torch.from_numpy(rng.normal(0, jitter, (len(chosen), 4)).astype(np.float32)).clamp(-2 * jitter, 2 * jitter)
    sizes = chosen[:, 2:].repeat(1, 2)
    return PicturePrompts(
        prompts=tuple(prompts),
        boxes_cxcywh=boxes_cxcywh,
        user_boxes_cxcywh=chosen + noise * sizes,
        kinds=tuple(question.kind for question in questions),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogueBatch:
    """Pictures with questions. Labels of the objects serve stages that imagine the pictures."""

    pictures: tuple[PicturePrompts, ...]
    """B pictures' questions"""
    images: Tensor
    """(B, S, S, 3) uint8 RGB; (B, 0) where the pictures were perceived before or are imagined"""
    indices: tuple[int, ...]
    """number of each scene in its series"""
    names: tuple[Tensor, ...]
    """B tensors (T_i,) int64 class numbers"""
    colours: tuple[Tensor, ...]
    """B tensors (T_i,) int64 class numbers"""
    source: str
    """the data set"""

    def __len__(self) -> int:
        return len(self.pictures)
