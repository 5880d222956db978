"""A task without a model, for workers in this or other processes: it says how wide pictures are, at a cost of its own.

What an assistant sees is a line of a log, so that a picture labelled twice, by any process, shows.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from groma.errors import CheckpointError
from groma.label.labeller import Setup
from groma.label.tasks import Label, LabelTask


@dataclass
class Watcher:
    """Sees pictures, and writes down which."""

    log: Path | None = None
    seconds: float = 0.0
    """A picture's cost."""
    deadly: frozenset[int] = frozenset()
    """Widths of pictures that kill who sees them."""
    endless: frozenset[int] = frozenset()
    """Widths of pictures that nobody gets through with."""
    wrong: frozenset[int] = frozenset()
    """Widths of pictures that raise an error."""
    model: torch.nn.Module = field(default_factory=lambda: torch.nn.Linear(1, 1))
    batch_size: int = 1

    def see(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        for image in images:
            if image.width in self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            if image.width in self.endless:
                time.sleep(3600)
            if image.width in self.wrong:
                raise RuntimeError("wrong\nin two lines")
            time.sleep(self.seconds)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write("".join(f"{image.width}\n" for image in images))
        return list(images)


class Echo(LabelTask):
    """Says how wide a picture is."""

    name, uses = "echo", ("question", "max_boxes")

    def settings(self) -> dict[str, Any]:
        return {"question": self.options.question}

    def label(self, assistant: Any, pictures: Sequence[Any], boxes: Sequence[Any]) -> list[Label]:
        return [Label(text=str(picture.width)) for picture in pictures]


def watcher(setup: Setup, worker: int, *, weight: float = 0.0, **options: Any) -> Watcher:
    """Loads one; several of the same weight have the same fingerprint."""
    made = Watcher(**options)
    torch.nn.init.constant_(made.model.weight, weight)
    torch.nn.init.zeros_(made.model.bias)
    return made


def nobody(setup: Setup, worker: int) -> Watcher:
    """A model that cannot be loaded."""
    raise CheckpointError("there is no such model")
