"""What the frozen half of the model saw in a series of scenes, kept on disk.

Stages 2 and 3 ask many questions about each picture and need not encode it again every time.

K scenes, B of them at a time, L encoder blocks, H x W patches, C encoder width, Q proposals, S sources.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from groma.data.scenes.scene import make_scene
from groma.errors import CheckpointError
from groma.image import Preprocessing
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
        self.folder = folder
        self.count: int = index["count"]
        self.sources: list[str] = index["sources"]
        self.identity: str = index["identity"]
        self._maps, self._boxes, self._logits = (np.load(folder / n, mmap_mode="r") for n in (MAPS, BOXES, LOGITS))

    def recall(self, indices: Sequence[int], *, device: torch.device | None = None) -> Perception:
        """Scenes of these numbers, each below the count -> what was seen of them, in float32."""
        rows = list(indices)
        maps = torch.from_numpy(self._maps[rows]).to(device).float()  # (B, L, H, W, C)
        logits = torch.from_numpy(self._logits[rows]).to(device)  # (B, S, Q)
        return Perception(
            maps=FeatureMaps(last=tuple(maps.unbind(1))),
            proposals=Proposals(
                boxes_cxcywh=torch.from_numpy(self._boxes[rows]).to(device),
                logits=dict(zip(self.sources, logits.unbind(1), strict=True)),
            ),
        )

    def check_identity(self, identity: str) -> None:
        """Make sure that these are perceptions of the right scenes by the right weights.

        Raises:
            CheckpointError: they are not.
        """
        if self.identity != identity:
            raise CheckpointError(
                f"{self.folder} was perceived by other weights, or of other scenes (seed, size): perceive anew."
            )


def identity_of(model: GromaModel, *, seed: int, size_px: int) -> str:
    """What perceptions of the training scenes of a series depend on, as a digest: weights and scenes."""
    digest = hashlib.sha256(json.dumps({"split": "train", "seed": seed, "size_px": size_px}).encode())
    for part in (model.encoder, model.proposer):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def perceive_scenes(
    model: GromaModel,
    *,
    seed: int,
    size_px: int,
    count: int,
    folder: Path,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Perceptions:
    """Perceive training scenes 0 .. count-1 of a series, as stages with `SceneData.perceptions` want them.

    Args:
        model: whose encoder and proposer see; put into evaluation mode.
        seed: which series, `SceneData.seed`.
        size_px: side of the scenes.
        count: K.
        folder: where; see `perceive_series`.
        on_progress: told how many scenes are done.
    """
    preprocessing = Preprocessing(size_px=size_px)
    device = next(model.parameters()).device

    def pixels_of(numbers: range) -> Tensor:
        images = [make_scene("train", number, seed, size_px=size_px).image for number in numbers]
        return preprocessing.normalize(torch.from_numpy(np.stack(images)).to(device))

    identity = identity_of(model, seed=seed, size_px=size_px)
    return perceive_series(model, pixels_of, count=count, folder=folder, identity=identity, on_progress=on_progress)


@torch.no_grad()
def perceive_series(
    model: GromaModel,
    pixels_of: Callable[[range], Tensor],
    *,
    count: int,
    folder: Path,
    identity: str,
    batch_size: int = 64,
    precision: Literal["fp32", "bf16"] = "bf16",
    on_progress: Callable[[int], None] = lambda done: None,
) -> Perceptions:
    """Perceive scenes 0 .. count-1 and keep the blocks that the region encoder reads (float16) and the proposals.

    Args:
        model: whose encoder and proposer see; put into evaluation mode.
        pixels_of: range of scene numbers -> (B, 3, S, S) normalized pixels on the model's device.
        count: K.
        folder: where; a complete folder of this identity and count is used as it is, any other is replaced.
        identity: what the result depends on (weights, series), as text.
        batch_size: B.
        precision: of the forward pass, as LoopConfig.precision.
        on_progress: told how many scenes are done.
    """
    if (folder / INDEX).exists():
        found = Perceptions(folder)
        if (found.identity, found.count) == (identity, count):
            return found
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)  # written last: it says that all is there
    sources = list(model.config.proposer.sources)
    model.eval()
    arrays: list[np.memmap] = []
    for start in range(0, count, batch_size):
        numbers = range(start, min(start + batch_size, count))
        pixels = pixels_of(numbers)
        with torch.autocast(pixels.device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
            values = _kept(model.perceive(pixels), len(model.config.region_encoder.upsample), sources)
        if not arrays:
            arrays = [
                open_memmap(folder / name, mode="w+", dtype=value.dtype, shape=(count, *value.shape[1:]))
                for name, value in zip((MAPS, BOXES, LOGITS), values, strict=True)
            ]
        for array, value in zip(arrays, values, strict=True):
            array[numbers.start : numbers.stop] = value
        on_progress(numbers.stop)
    for array in arrays:
        array.flush()
    write_json(folder / INDEX, {"count": count, "sources": sources, "identity": identity})
    return Perceptions(folder)


def _kept(seen: Perception, levels: int, sources: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B, L, H, W, C) float16 maps, (B, Q, 4) and (B, S, Q) float32 boxes and logits of the proposals."""
    logits = torch.stack([seen.proposals.logits[source] for source in sources], dim=1)
    return (
        torch.stack(seen.maps.last[-levels:], dim=1).to(torch.float16).cpu().numpy(),
        seen.proposals.boxes_cxcywh.float().cpu().numpy(),
        logits.float().cpu().numpy(),
    )
