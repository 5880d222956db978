"""What the parts of the model hand to one another.

Shape legend: B pictures, Q proposals a picture, R kept regions of one picture, C channels, H x W patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMaps:
    """What the image encoder sees: patch features of its last blocks.

    Block outputs before the final LayerNorm, class token dropped (golden README, "Vision encoder").
    """

    last: tuple[Tensor, ...]
    """The last blocks' outputs, oldest first, each (B, H, W, C) floating point."""

    @property
    def final(self) -> Tensor:
        """(B, H, W, C) output of the last block."""
        return self.last[-1]

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W), rows and columns of patches."""
        height, width = self.final.shape[1:3]
        return height, width


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """Boxes of the region proposer's last layer, before any selection."""

    boxes_cxcywh: Tensor
    """(B, Q, 4) normalized centre and size."""

    logits: dict[str, Tensor]
    """Source of supervision ("coco", "sa1b") -> (B, Q) objectness logits of that source's head."""

    def take(self, numbers: Sequence[int]) -> "Proposals":
        """The pictures of these numbers, in this order."""
        rows = torch.as_tensor(list(numbers), device=self.boxes_cxcywh.device)
        logits = {source: values[rows] for source, values in self.logits.items()}
        return Proposals(boxes_cxcywh=self.boxes_cxcywh[rows], logits=logits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """The kept regions of one picture: row k is the region that `<rk>` names.

    Candidates are numbered over [proposals, user's boxes, annotated boxes]; the two counts tell them apart.
    """

    boxes_cxcywh: Tensor
    """(R, 4) normalized centre and size."""

    scores: Tensor
    """(R,) objectness in 0..1; a user's or annotated box carries the score it entered with."""

    candidate: Tensor
    """(R,) int64, which candidate each region is."""

    num_proposals: int
    """Q, how many of the candidates are proposals."""

    num_user: int
    """How many of the candidates are boxes the user gave."""

    num_added: int = 0
    """How many of the regions, the last ones, came in a later turn: they do not stand at the prompt's beginning."""

    def __len__(self) -> int:
        """R, the number of kept regions."""
        return self.boxes_cxcywh.shape[0]

    @property
    def num_listed(self) -> int:
        """Regions that stand at the prompt's beginning."""
        return len(self) - self.num_added

    @property
    def from_user(self) -> Tensor:
        """(R,) bool, true where the region is a box the user gave."""
        end = self.num_proposals + self.num_user
        return (self.candidate >= self.num_proposals) & (self.candidate < end)

    @property
    def from_annotation(self) -> Tensor:
        """(R,) bool, true where the region is an annotated box (training only)."""
        return self.candidate >= self.num_proposals + self.num_user
