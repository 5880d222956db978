"""Seeded batches of procedural scenes for the stages of the small model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groma.data.collate import VisionBatch
from groma.data.dialogues import DialogueBatch, PicturePrompts, prompts_about
from groma.data.scenes.atlas import atlas
from groma.data.scenes.closeups import close_ups
from groma.data.scenes.colours import COLOURS
from groma.data.scenes.scene import Scene, make_scene
from groma.errors import InputError
from groma.prompt.chat_format import ChatFormat
from groma.prompt.tokenizer_base import PromptTokenizer
from groma.prompt.tokens import IGNORE_INDEX
from groma.train.objective import BatchStream

NAME_NUMBERS = {name: number for number, name in enumerate(atlas().names)}
"""Name that training shows -> class number."""
COLOUR_NUMBERS = {None: 0} | {colour: number for number, colour in enumerate(COLOURS, start=1)}
"""Colour -> class number; 0 is "its natural colours"."""
USER_JITTER = 0.04
"""How inexact boxes are drawn that questions point at; see `prompts_about`."""


class SceneStream(BatchStream):
    """Scenes of one split, each shown once; consecutive optimizer steps take the sources in turn.

    Scene `index` is a pure function of (split, index, seed): batch number b of process r of w takes the indices
    after (b * w + r) * batch_size, so nothing is shared between processes and a resumed run goes on exactly.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        size_px: int,
        seed: int,
        sources: tuple[str, ...] = ("coco",),
        batches_per_source: int = 1,
        rank: int = 0,
        world_size: int = 1,
        split: str = "train",
        crop_px: int | None = None,
    ) -> None:
        """Start a series.

        Args:
            batch_size: scenes in a micro-batch of this process.
            size_px: side of a scene.
            seed: which series.
            sources: objectness heads to teach in turn.
            batches_per_source: so many batches of one source follow each other: those of one optimizer step.
            rank: number of this process.
            world_size: number of processes.
            split: see `make_scene`.
            crop_px: give one close-up of this side for every object, instead of the scenes.
        """
        self.batch_size, self.size_px, self.seed, self.sources = batch_size, size_px, seed, sources
        self.batches_per_source = batches_per_source
        self.rank, self.world_size, self.split, self.crop_px = rank, world_size, split, crop_px
        self.number = 0

    def next(self) -> VisionBatch:
        """The next micro-batch."""
        first = (self.number * self.world_size + self.rank) * self.batch_size
        scenes = [
            make_scene(self.split, index, self.seed, size_px=self.size_px)
            for index in range(first, first + self.batch_size)
        ]
        source = self.sources[self.number // self.batches_per_source % len(self.sources)]
        self.number += 1
        if self.crop_px is None:
            return vision_batch(scenes, source)
        rng = np.random.default_rng((self.seed, first))
        return vision_batch([close for s in scenes for close in close_ups(s, self.crop_px, rng)], source)

    def state_dict(self) -> dict[str, Any]:
        """How many scenes all processes were given."""
        return {"scenes": self.number * self.world_size * self.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many scenes; see `batches_after`."""
        self.number = batches_after(int(state["scenes"]), self.world_size * self.batch_size)


def batches_after(scenes: int, at_once: int) -> int:
    """How many batches a process was given, when all were given that many scenes.

    Args:
        scenes: by all processes.
        at_once: scenes of one batch of each process.

    Raises:
        InputError: batches are cut otherwise now, and one of them would have begun already.
    """
    if scenes % at_once:
        raise InputError(
            f"The run saw {scenes} scenes, which is no multiple of the {at_once} that all processes take at once now: "
            "choose a batch size that divides what a step had before."
        )
    return scenes // at_once


def vision_batch(scenes: Sequence[Scene], source: str) -> VisionBatch:
    """Scenes -> pictures, boxes and labels as tensors; names that training never shows have no number."""
    names, colours = scene_labels(scenes)
    return VisionBatch(
        images=torch.from_numpy(np.stack([scene.image for scene in scenes])),
        boxes_cxcywh=tuple(torch.tensor(scene.boxes_cxcywh, dtype=torch.float32) for scene in scenes),
        source=source,
        names=names,
        colours=colours,
    )


def scene_labels(scenes: Sequence[Scene]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """B scenes -> B tensors (T_i,) int64 numbers of names, and B of colours."""
    names = [[NAME_NUMBERS.get(entry.name, IGNORE_INDEX) for entry in scene.objects] for scene in scenes]
    colours = [[COLOUR_NUMBERS[entry.colour] for entry in scene.objects] for scene in scenes]
    return tuple(map(torch.tensor, names)), tuple(map(torch.tensor, colours))


class DialogueStream(BatchStream):
    """Scenes of one split with fresh questions.

    Every scene is new; batch number b depends on nothing but b and the constructor's arguments.
    """

    def __init__(
        self,
        *,
        tokenizer: PromptTokenizer,
        chat_format: ChatFormat,
        batch_size: int,
        size_px: int,
        seed: int,
        kinds: Mapping[str, float],
        questions: int,
        max_tokens: int | None = None,
        jitter: float = USER_JITTER,
        with_images: bool = True,
        rank: int = 0,
        world_size: int = 1,
        split: str = "train",
    ) -> None:
        """Start a series.

        Args:
            tokenizer: the model's.
            chat_format: the model's.
            batch_size: scenes in a micro-batch of this process.
            size_px: side of a scene.
            seed: which series.
            kinds: kind of question -> how often it is drawn.
            questions: how many questions about each scene, at most.
            max_tokens: see `prompts_about`.
            jitter: see `prompts_about`.
            with_images: False leaves the pictures out of the batch.
            rank: number of this process.
            world_size: number of processes.
            split: see `make_scene`.
        """
        self.tokenizer, self.chat_format = tokenizer, chat_format
        self.batch_size, self.size_px, self.seed, self.kinds = batch_size, size_px, seed, dict(kinds)
        self.questions, self.max_tokens, self.jitter = questions, max_tokens, jitter
        self.with_images = with_images
        self.rank, self.world_size, self.split = rank, world_size, split
        self.number = 0

    def next(self) -> DialogueBatch:
        """The next micro-batch."""
        first = (self.number * self.world_size + self.rank) * self.batch_size
        indices = tuple(range(first, first + self.batch_size))
        scenes = [make_scene(self.split, index, self.seed, size_px=self.size_px) for index in indices]
        self.number += 1
        names, colours = scene_labels(scenes)
        return DialogueBatch(
            pictures=tuple(self._ask(scene, index) for scene, index in zip(scenes, indices, strict=True)),
            images=torch.from_numpy(np.stack([scene.image for scene in scenes])) if self.with_images else None,
            seeds=indices,
            names=names,
            colours=colours,
            source="scenes",
        )

    def _ask(self, scene: Scene, index: int) -> PicturePrompts:
        return prompts_about(
            scene,
            np.random.default_rng((self.seed, index)),
            tokenizer=self.tokenizer,
            chat_format=self.chat_format,
            kinds=self.kinds,
            count=self.questions,
            jitter=self.jitter,
            max_tokens=self.max_tokens,
        )

    def state_dict(self) -> dict[str, Any]:
        """How many scenes all processes were given."""
        return {"scenes": self.number * self.world_size * self.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many scenes; see `batches_after`."""
        self.number = batches_after(int(state["scenes"]), self.world_size * self.batch_size)
