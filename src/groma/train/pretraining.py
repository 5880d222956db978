"""Stage 0, for encoders that start from nothing: teach the features of a region what it shows, and each patch where
its object lies.

The published method starts from DINOv2's self-supervised weights. Where those cannot be had, an encoder of the same
architecture is taught here by labels. The heads are thrown away afterwards.

B pictures, N patches of a picture, T_i annotated boxes of picture i, R boxes of all pictures, C encoder width.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groma import boxes
from groma.data.collate import VisionBatch
from groma.image import Preprocessing
from groma.model.deformable import grid_centres
from groma.model.encoder import ImageEncoder
from groma.model.proposer import BASE_BOX_SIZE, BoxHead
from groma.model.region_encoder import RegionEncoder
from groma.model.roi_align import roi_align
from groma.train.detection_loss import (
    HeadOutput,
    task_aligned_losses,
    weighted_total,
)
from groma.train.groups import freeze, parameter_groups
from groma.train.objective import Losses, Objective, ParameterGroup
from groma.train.region_tables import RegionTables, imitation_losses
from groma.train.settings import DetectionLossConfig, PretrainingConfig

BOX_LOSSES = DetectionLossConfig(assignment="task_aligned")
"""How the patches' boxes are taught; PretrainingConfig weights them against names and colours."""

ROI_SIZE = 3
"""Bins along each side of the box that a name is read from."""

FIRST_GUESS = 4 * BASE_BOX_SIZE
"""Side of the box that an untaught patch proposes: a common size of objects."""


class PretrainingHeads(nn.Module):
    """What reads names, colours and boxes from the encoder's features."""

    def __init__(self, width: int, *, num_names: int, num_colours: int) -> None:
        """`width` is C."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.region_linear = nn.Linear(width * ROI_SIZE**2, 2 * width)
        self.name_head, self.colour_head = nn.Linear(2 * width, num_names), nn.Linear(2 * width, num_colours)
        self.object_head, self.box_head = nn.Linear(width, 1), BoxHead(width, width)
        nn.init.constant_(self.object_head.bias, -3.0)


class EncoderPretraining(Objective):
    """Names and colours of boxes, read by RoIAlign from the mean of the encoder's last blocks; boxes from patches.

    A region encoder may learn with the encoder: its tokens imitate the ones that a language model learned from.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        preprocessing: Preprocessing,
        *,
        num_names: int,
        num_colours: int,
        config: PretrainingConfig,
        region_encoder: RegionEncoder | None = None,
        tables: RegionTables | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            encoder: what is taught.
            preprocessing: normalizes the batches' pictures.
            num_names: how many names the batches' labels have.
            num_colours: how many colours.
            config: weights of the losses.
            region_encoder: learns as well where `config.imitation` is not 0.
            tables: what it imitates; frozen.
        """
        super().__init__()
        self.encoder, self.preprocessing, self.config = encoder, preprocessing, config
        self.region_encoder, self.tables = region_encoder, tables
        if tables is not None:
            freeze((tables,))
        width = encoder.backbone.config.hidden_size
        self.heads = PretrainingHeads(width, num_names=num_names, num_colours=num_colours)

    def weight(self, batch: VisionBatch) -> float:
        """Number of annotated boxes."""
        return float(sum(len(b) for b in batch.boxes_cxcywh))

    def forward(self, batch: VisionBatch, *, total_weight: float) -> Losses:
        """See the module's docstring."""
        maps = self.encoder(self.preprocessing.normalize(batch.images))
        features = self.heads.norm(torch.stack(maps.last).mean(0))  # (B, H, W, C)
        names, colours = torch.cat(batch.names), torch.cat(batch.colours)
        seen = [self._jitter(boxes_cxcywh) for boxes_cxcywh in batch.boxes_cxcywh]
        regions = F.relu(self.heads.region_linear(_pool(features, seen)))
        name_logits, colour_logits = self.heads.name_head(regions).float(), self.heads.colour_head(regions).float()
        smoothing = self.config.label_smoothing
        box_terms = task_aligned_losses(self._boxes(features), batch.boxes_cxcywh, BOX_LOSSES)
        terms = {
            "name": F.cross_entropy(name_logits, names, reduction="sum", label_smoothing=smoothing) / total_weight,
            "colour": F.cross_entropy(colour_logits, colours, reduction="sum") / total_weight,
            "box": weighted_total({n: v / total_weight for n, v in box_terms.items()}, BOX_LOSSES),
        }
        total = (
            self.config.name_weight * terms["name"]
            + self.config.colour_weight * terms["colour"]
            + self.config.box_weight * terms["box"]
        )
        terms["name_right"] = (name_logits.argmax(-1) == names).sum() / total_weight
        if self.region_encoder is not None and self.tables is not None:
            tokens = torch.cat(self.region_encoder(maps, seen))
            sums = imitation_losses(self.tables, tokens, names, colours, torch.cat(batch.boxes_cxcywh))
            terms |= {name: value / total_weight for name, value in sums.items()}
            total = total + self.config.imitation * (terms["imitation"] + terms["naming"])
        return Losses(total, {n: v.detach() for n, v in terms.items()})

    def _jitter(self, boxes_cxcywh: Tensor) -> Tensor:
        """(T, 4) boxes, moved a little in training."""
        if not self.training:
            return boxes_cxcywh
        return boxes_cxcywh + self.config.jitter * torch.randn_like(boxes_cxcywh) * boxes_cxcywh[:, 2:].repeat(1, 2)

    def _boxes(self, features: Tensor) -> HeadOutput:
        centres = grid_centres((features.shape[1], features.shape[2]), device=features.device)
        guesses = torch.cat((centres, torch.full_like(centres, FIRST_GUESS)), dim=-1)
        flat = features.flatten(1, 2)
        boxes_cxcywh = (self.heads.box_head(flat) + torch.logit(guesses)).sigmoid()
        return HeadOutput("", self.heads.object_head(flat)[..., 0].float(), boxes_cxcywh)

    def parts(self) -> dict[str, nn.Module]:
        """The encoder, a region encoder and its tables, and the heads for a further run of the same stage."""
        parts = {"encoder": self.encoder, "heads": self.heads}
        learned = {"region_encoder": self.region_encoder, "tables": self.tables}
        return parts | {name: part for name, part in learned.items() if part is not None}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The encoder, the heads that are thrown away in the end, and a region encoder."""
        groups = [*parameter_groups("encoder", self.encoder), *parameter_groups("heads", self.heads)]
        if self.region_encoder is not None:
            groups += parameter_groups("region_encoder", self.region_encoder)
        return groups


def _pool(features: Tensor, boxes_cxcywh: Sequence[Tensor]) -> Tensor:
    """(B, H, W, C) -> (R, C * P * P) features inside every box."""
    corners_px = [boxes.cxcywh_to_xyxy(own) * features.shape[1] for own in boxes_cxcywh]
    return roi_align(features.permute(0, 3, 1, 2), corners_px, ROI_SIZE, stride=1.0).flatten(1)


@torch.no_grad()
def initialize_from_scratch(encoder: ImageEncoder) -> None:
    """Start an untrained DINOv2 where small transformers learn fastest.

    Sine positions of a strength that attention can use at once, weights scaled by fan-in, and attention that begins
    by looking at similar (so near) patches: "mimetic" initialization (arXiv 2305.09828, section 3).
    """
    backbone = encoder.backbone
    width, heads = backbone.config.hidden_size, backbone.config.num_attention_heads
    positions = backbone.embeddings.position_embeddings
    positions[:, 1:] = _sine_grid(round((positions.shape[1] - 1) ** 0.5), width, strength=0.5)
    for module in backbone.encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.7 * module.in_features**-0.5)
    for layer in backbone.encoder.layer:
        query, key, value, output = _attention_weights(layer)
        rows = width // heads
        for head in range(heads):
            place = slice(head * rows, (head + 1) * rows)
            left, right = _factors(0.7 * _noise(width) + 0.7 * torch.eye(width), rank=rows)
            query[place], key[place] = left, right
        left, right = _factors(0.4 * _noise(width) - 0.4 * torch.eye(width), rank=width)
        value.copy_(left)
        output.copy_(right.T)


def _attention_weights(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value and output matrices of a block, whatever the installed transformers calls them."""
    attention = cast(nn.Module, layer.attention)
    found = {name.rsplit(".", 2)[-2]: p for name, p in attention.named_parameters() if name.endswith("weight")}
    names = ("q_proj", "k_proj", "v_proj", "o_proj") if "q_proj" in found else ("query", "key", "value", "dense")
    query, key, value, output = (found[name] for name in names)
    return query, key, value, output


def _factors(matrix: Tensor, *, rank: int) -> tuple[Tensor, Tensor]:
    """(n, n) -> two (rank, n) whose product left.T @ right comes nearest to it."""
    u, s, v = torch.linalg.svd(matrix)
    scale = s[:rank].sqrt()
    return (u[:, :rank] * scale).T, (v[:rank].T * scale).T


def _noise(width: int) -> Tensor:
    return torch.randn(width, width) / math.sqrt(width)


def _sine_grid(side: int, width: int, *, strength: float) -> Tensor:
    """(1, side * side, width) sines and cosines of x and y, from half a wave over the picture to 8 waves."""
    frequencies = math.pi * 2 ** torch.linspace(-1, 3, width // 4)
    x, y = grid_centres((side, side), device=torch.device("cpu")).unbind(-1)
    angles = torch.cat((x[:, None] * frequencies, y[:, None] * frequencies), dim=-1)
    return strength * torch.cat((angles.sin(), angles.cos()), dim=-1)[None]
