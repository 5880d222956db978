"""Seeded batches of procedural scenes for the stages of the small model."""

from typing import Any

import numpy as np
import torch

from groma.data.collate import VisionBatch
from groma.data.scenes.atlas import atlas
from groma.data.scenes.colours import COLOURS
from groma.data.scenes.scene import Scene, make_scene
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
    ) -> None:
        """`batch_size` is a micro-batch of this process; `sources` name the objectness heads to teach in turn."""
        self.batch_size, self.size_px, self.seed, self.sources = batch_size, size_px, seed, sources
        self.rank, self.world_size, self.split = rank, world_size, split
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
        return vision_batch(scenes, source)

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
