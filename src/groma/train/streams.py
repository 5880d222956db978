"""Seeded batches of procedural scenes for the stages of the small model."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from groma.data.collate import VisionBatch
from groma.data.dialogues import DialogueBatch, prompts_about
from groma.data.scenes.atlas import atlas
from groma.data.scenes.colours import COLOURS
from groma.data.scenes.closeups import close_ups
from groma.data.scenes.scene import Scene, make_scene
from groma.prompt.chat_format import ChatFormat
from groma.prompt.tokenizer_base import PromptTokenizer
from groma.train.objective import BatchStream

NAME_NUMBERS = {name: number for number, name in enumerate(atlas().names)}
COLOUR_NUMBERS = {None: 0} | {colour: number for number, colour in enumerate(COLOURS, start=1)}
"""0 is "its natural colours"."""


class SceneStream(BatchStream):
    """Scenes of one split, each shown once; consecutive batches take the sources in turn.

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
            rank: number of this process.
            world_size: number of processes.
            split: see `make_scene`.
            crop_px: give one close-up of this side for every object, instead of the scenes.
        """
        self.batch_size, self.size_px, self.seed, self.sources = batch_size, size_px, seed, sources
        self.rank, self.world_size, self.split, self.crop_px = rank, world_size, split, crop_px
        self.number = 0

    def next(self) -> VisionBatch:
        """The next micro-batch."""
        first = (self.number * self.world_size + self.rank) * self.batch_size
        scenes = [
            make_scene(self.split, index, self.seed, size_px=self.size_px)
            for index in range(first, first + self.batch_size)
        ]
        source = self.sources[self.number % len(self.sources)]
        self.number += 1
        if self.crop_px is None:
            return vision_batch(scenes, source)
        rng = np.random.default_rng((self.seed, first))
        return vision_batch([close for s in scenes for close in close_ups(s, self.crop_px, rng)], source)

    def state_dict(self) -> dict[str, Any]:
        """How many batches were given."""
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after `number` batches."""
        self.number = int(state["number"])


def vision_batch(scenes: list[Scene], source: str) -> VisionBatch:
    """Scenes -> pictures, boxes and labels as tensors."""
    return VisionBatch(
        images=torch.from_numpy(np.stack([scene.image for scene in scenes])),
        boxes_cxcywh=tuple(torch.tensor(scene.boxes_cxcywh, dtype=torch.float32) for scene in scenes),
        source=source,
        names=tuple(torch.tensor([NAME_NUMBERS.get(o.name, 0) for o in scene.objects]) for scene in scenes),
        colours=tuple(torch.tensor([COLOUR_NUMBERS[o.colour] for o in scene.objects]) for scene in scenes),
    )


class DialogueStream(BatchStream):
    """Scenes of one split with fresh questions.

    With `series` the scenes 0 .. series-1 come again and again, in another order and with other questions each time;
    without, every scene is new. Batch number b depends on nothing but b and the constructor's arguments.
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
        jitter: float = 0.04,
        series: int | None = None,
        with_images: bool = True,
        rank: int = 0,
        world_size: int = 1,
        split: str = "train",
    ) -> None:
        """`questions` a picture; `with_images` False leaves the pictures out of the batch."""
        self.tokenizer, self.chat_format = tokenizer, chat_format
        self.batch_size, self.size_px, self.seed, self.kinds = batch_size, size_px, seed, dict(kinds)
        self.questions, self.jitter, self.series, self.with_images = questions, jitter, series, with_images
        self.rank, self.world_size, self.split = rank, world_size, split
        self.number = 0

    def next(self) -> DialogueBatch:
        """The next micro-batch."""
        first = (self.number * self.world_size + self.rank) * self.batch_size
        places = range(first, first + self.batch_size)
        indices = tuple(self._scene_index(place) for place in places)
        scenes = [make_scene(self.split, index, self.seed, size_px=self.size_px) for index in indices]
        pictures = tuple(
            prompts_about(
                scene,
                np.random.default_rng((self.seed, place)),
                tokenizer=self.tokenizer,
                chat_format=self.chat_format,
                kinds=self.kinds,
                count=self.questions,
                jitter=self.jitter,
            )
            for scene, place in zip(scenes, places, strict=True)
        )
        self.number += 1
        seen = vision_batch(scenes, "scenes")
        return DialogueBatch(
            pictures=pictures,
            images=seen.images if self.with_images else seen.images[:, :0, 0, 0],
            indices=indices,
            names=seen.names,
            colours=seen.colours,
            source="scenes",
        )

    def _scene_index(self, place: int) -> int:
        if self.series is None:
            return place
        epoch, position = divmod(place, self.series)
        # an affine map modulo a number is a permutation when the factor shares no divisor with it
        factor = int(np.random.default_rng((self.seed, epoch)).integers(1, self.series)) | 1
        while math.gcd(factor, self.series) != 1:
            factor += 2
        return (position * factor + epoch) % self.series

    def state_dict(self) -> dict[str, Any]:
        """How many batches were given."""
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after `number` batches."""
        self.number = int(state["number"])
