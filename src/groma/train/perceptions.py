"""What the frozen half of the model saw in a series of scenes, kept on disk: stages 2 and 3 ask many questions
about each picture and need not encode it again every time.

K scenes, B of them at a time, L encoder blocks, H x W patches, C encoder width, Q proposals, S sources.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from groma.errors import CheckpointError
from groma.model.groma import GromaModel, Perception
from groma.model.types import FeatureMaps, Proposals
from groma.storage import read_json, write_json

MAPS, BOXES, LOGITS, INDEX = "maps.npy", "boxes_cxcywh.npy", "logits.npy", "index.json"


class Perceptions:
    """A folder of memory-mapped arrays; only what is asked for is read."""

    def __init__(self, folder: Path) -> None:
        """Open a folder that `perceive_series` filled.

        Raises:
            CheckpointError: the folder is not complete.
        """
        index = read_json(folder / INDEX, error=CheckpointError)
        self.count: int = index["count"]
        self.sources: list[str] = index["sources"]
        self.identity: str = index["identity"]
        self._maps, self._boxes, self._logits = (np.load(folder / n, mmap_mode="r") for n in (MAPS, BOXES, LOGITS))

    def recall(self, indices: Sequence[int]) -> Perception:
        """Scenes of these numbers -> what was seen of them, in float32; numbers are taken modulo the count."""
        rows = [index % self.count for index in indices]
        maps = torch.from_numpy(self._maps[rows].astype(np.float32))  # (B, L, H, W, C)
        logits = torch.from_numpy(np.array(self._logits[rows]))  # (B, S, Q)
        return Perception(
            maps=FeatureMaps(last=tuple(maps.unbind(1))),
            proposals=Proposals(
                boxes_cxcywh=torch.from_numpy(np.array(self._boxes[rows])),
                logits=dict(zip(self.sources, logits.unbind(1), strict=True)),
            ),
        )


@torch.no_grad()
def perceive_series(
    model: GromaModel,
    pixels_of: Callable[[range], Tensor],
    *,
    count: int,
    folder: Path,
    identity: str,
    batch_size: int = 64,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Perceptions:
    """Perceive scenes 0 .. count-1 and keep the blocks that the region encoder reads (float16) and the proposals.

    Args:
        model: whose encoder and proposer see.
        pixels_of: range of scene numbers -> (B, 3, S, S) normalized pixels.
        count: K.
        folder: where; a complete folder of the same identity is used as it is.
        identity: what the result depends on (weights, series), as text.
        batch_size: B.
        on_progress: told how many scenes are done.
    """
    if (folder / INDEX).exists() and read_json(folder / INDEX, error=CheckpointError)["identity"] == identity:
        return Perceptions(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    levels = len(model.config.region_encoder.upsample)
    sources = list(model.config.proposer.sources)
    arrays: list[np.memmap] = []
    for start in range(0, count, batch_size):
        numbers = range(start, min(start + batch_size, count))
        with torch.autocast("cpu", torch.bfloat16):
            seen = model.perceive(pixels_of(numbers))
        values = (
            torch.stack(seen.maps.last[-levels:], dim=1).to(torch.float16),
            seen.proposals.boxes_cxcywh.float(),
            torch.stack([seen.proposals.logits[s] for s in sources], dim=1).float(),
        )
        if not arrays:
            arrays = [
                open_memmap(folder / name, mode="w+", dtype=v.numpy().dtype, shape=(count, *v.shape[1:]))
                for name, v in zip((MAPS, BOXES, LOGITS), values, strict=True)
            ]
        for array, value in zip(arrays, values, strict=True):
            array[numbers.start : numbers.stop] = value.numpy()
        on_progress(numbers.stop)
    for array in arrays:
        array.flush()
    write_json(folder / INDEX, {"count": count, "sources": sources, "identity": identity})
    return Perceptions(folder)
