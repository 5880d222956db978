"""Batches that leave the data rooms: plain tensors, one data set a batch."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from groma.data.cleaning import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionBatch:
    """Pictures with boxes; labels where a data set has them. B pictures, T_i boxes of picture i."""

    images: Tensor
    """(B, S, S, 3) uint8 RGB, resized."""
    boxes_cxcywh: tuple[Tensor, ...]
    """B tensors (T_i, 4), normalized."""
    source: str
    """Which objectness head is taught: one source a batch."""
    names: tuple[Tensor, ...] = ()
    """B tensors (T_i,) int64 class numbers, IGNORE_INDEX where a name has none; or nothing."""
    colours: tuple[Tensor, ...] = ()
    """B tensors (T_i,) int64 class numbers; or nothing."""
    set_name: str = ""
    """What the data set is called in a mixture."""
    faults: tuple[Fault, ...] = ()
    """What was wrong with samples, also with those that were left out."""
    blank: bool = False
    """Nothing could be used: one black picture stands here, and its loss must not count."""

    def __len__(self) -> int:
        return 0 if self.blank else len(self.images)

    def to(self, device: torch.device) -> "VisionBatch":
        """The same batch on another device."""
        moved = {
            name: tuple(t.to(device) for t in getattr(self, name)) for name in ("boxes_cxcywh", "names", "colours")
        }
        return replace(self, images=self.images.to(device), **moved)
