"""Stage 0, for encoders that start from nothing: teach each patch what it shows, where its object lies, its colour.

The published method starts from DINOv2's self-supervised weights. Where those cannot be had, an encoder of the same
architecture is taught here by dense labels. The heads are thrown away afterwards.

B pictures, N patches of a picture, T annotated boxes of a picture (padded), C encoder width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groma.data.collate import VisionBatch
from groma.image import Preprocessing
from groma.model.deformable import grid_centres
from groma.model.encoder import ImageEncoder
from groma.model.proposer import BASE_BOX_SIZE, BoxHead
from groma.train.detection_loss import (
    DetectionLossConfig,
    HeadOutput,
    pad_targets,
    task_aligned_losses,
    weighted_total,
)
from groma.train.groups import parameter_groups
from groma.train.objective import Losses, Objective, ParameterGroup

BOXES = DetectionLossConfig(assignment="task_aligned")


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingConfig:
    """Weights of the dense losses."""

    name_weight: float = 1.0
    """Weight of the cross-entropy over object names."""
    colour_weight: float = 0.5
    """Weight of the cross-entropy over colours."""
    box_weight: float = 1.0
    """Weight of objectness and box losses together."""
    core: float = 0.8
    """A patch is labelled with a box if its centre lies in the middle `core` share of it, in both axes."""
    label_smoothing: float = 0.05
    """Share of the name's target spread over all names."""


class EncoderPretraining(Objective):
    """Dense name, colour, objectness and box losses on the mean of the encoder's last blocks."""

    def __init__(
        self,
        encoder: ImageEncoder,
        preprocessing: Preprocessing,
        *,
        num_names: int,
        num_colours: int,
        config: PretrainingConfig,
    ) -> None:
        """`num_names`, `num_colours`: how many classes the batches' labels have."""
        super().__init__()
        self.encoder, self.preprocessing, self.config = encoder, preprocessing, config
        width = encoder.backbone.config.hidden_size
        self.norm = nn.LayerNorm(width)
        self.name_head, self.colour_head = nn.Linear(width, num_names), nn.Linear(width, num_colours)
        self.object_head, self.box_head = nn.Linear(width, 1), BoxHead(width, width)
        nn.init.constant_(self.object_head.bias, -3.0)

    def weight(self, batch: VisionBatch) -> float:
        """Number of annotated boxes."""
        return float(sum(len(b) for b in batch.boxes_cxcywh))

    def forward(self, batch: VisionBatch, *, total_weight: float) -> Losses:
        """See the module's docstring."""
        maps = self.encoder(self.preprocessing.normalize(batch.images))
        features = self.norm(torch.stack(maps.last).mean(0)).flatten(1, 2)  # (B, N, C)
        targets, present = pad_targets(batch.boxes_cxcywh)
        centres = grid_centres(maps.grid, device=features.device)
        share, chosen = assign_patches(centres, targets, present, core=self.config.core)
        picture, patch = share.nonzero(as_tuple=True)
        labels = (picture, chosen[picture, patch])
        taught, weight = features[picture, patch], share[picture, patch] / total_weight
        names, colours = (_pad_labels(labels, targets.shape[1]) for labels in (batch.names, batch.colours))
        name_logits, colour_logits = self.name_head(taught).float(), self.colour_head(taught).float()
        smoothing = self.config.label_smoothing
        name_loss = F.cross_entropy(name_logits, names[labels], reduction="none", label_smoothing=smoothing)
        colour_loss = F.cross_entropy(colour_logits, colours[labels], reduction="none")
        box_terms = task_aligned_losses(self._boxes(features, centres), batch.boxes_cxcywh, BOXES)
        terms = {
            "name": (name_loss * weight).sum(),
            "colour": (colour_loss * weight).sum(),
            "box": weighted_total({n: v / total_weight for n, v in box_terms.items()}, BOXES),
        }
        total = (
            self.config.name_weight * terms["name"]
            + self.config.colour_weight * terms["colour"]
            + self.config.box_weight * terms["box"]
        )
        right = (name_logits.argmax(-1) == names[labels]) * weight
        return Losses(total, {n: v.detach() for n, v in terms.items()} | {"name_right": right.sum().detach()})

    def _boxes(self, features: Tensor, centres: Tensor) -> HeadOutput:
        guesses = torch.cat((centres, torch.full_like(centres, 4 * BASE_BOX_SIZE)), dim=-1)
        boxes_cxcywh = (self.box_head(features) + torch.logit(guesses)).sigmoid()
        return HeadOutput("", self.object_head(features)[..., 0].float(), boxes_cxcywh)

    def parts(self) -> dict[str, nn.Module]:
        """See Objective."""
        return {"encoder": self.encoder}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The encoder, and the heads that are thrown away."""
        heads = nn.ModuleList((self.norm, self.name_head, self.colour_head, self.object_head, self.box_head))
        return [*parameter_groups("encoder", self.encoder), *parameter_groups("heads", heads)]


def assign_patches(centres: Tensor, targets_cxcywh: Tensor, present: Tensor, *, core: float) -> tuple[Tensor, Tensor]:
    """Which box each patch is labelled with.

    A patch whose centre lies in the core of several boxes belongs to the one whose middle is nearest, in units of
    that box; every box gets at least the patch nearest to its middle.

    Args:
        centres: (N, 2) normalized (x, y).
        targets_cxcywh: (B, T, 4) padded boxes.
        present: (B, T) which of them are real.
        core: share of the box, in each axis, that counts as its core.

    Returns:
        (B, N) weight of the patch, 0 for background; the patches of one box share a weight of 1.
        (B, N) index of the box.
    """
    middle, half = targets_cxcywh[:, None, :, :2], targets_cxcywh[:, None, :, 2:].clamp(min=1e-6) / 2
    distance = ((centres[None, :, None] - middle).abs() / half).amax(-1)  # (B, N, T), below 1: inside
    distance = distance.masked_fill(~present[:, None], float("inf"))
    nearest = distance.argmin(1, keepdim=True)  # (B, 1, T)
    forced = torch.zeros_like(distance, dtype=torch.bool).scatter_(1, nearest, True) & present[:, None]
    distance = torch.where(forced, distance.clamp(max=core) * 1e-3, distance)
    best, chosen = distance.min(-1)
    labelled = best < core
    counts = torch.zeros_like(targets_cxcywh[..., 0]).scatter_add_(1, chosen, labelled.float())
    return labelled / counts.gather(1, chosen).clamp(min=1), chosen


def _pad_labels(labels: tuple[Tensor, ...], length: int) -> Tensor:
    """B tensors (T_i,) int64 -> (B, length)."""
    return torch.stack([F.pad(row, (0, length - len(row))) for row in labels])

