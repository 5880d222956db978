"""Stop 4 of 6: FeatureMaps + boxes -> one token a region.

    last blocks (B, H, W, C) --resize--> levels (B, C, uH, uW), finest first --fuse--> levels, same shapes
    levels, boxes --RoIAlign--> (R, C, P, P) a level --conv, sum, flatten, linear--> content (R, F)
    boxes --perceptron--> position (R, F)
    content + position --linear--> tokens (R, D)

B pictures, R boxes of all pictures together, C encoder width, H x W patches, u enlargement of a level,
P bins a side, F width of a flattened region, D width of the language model.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groma.boxes import cxcywh_to_xyxy
from groma.errors import InputError
from groma.model.config import RegionEncoderConfig
from groma.model.roi_align import roi_align
from groma.model.types import FeatureMaps

BoxFormat = Literal["cxcywh", "xyxy"]
Strides = Literal["released", "true"]

PUBLISHED_NAMES = {
    "region_encoder.mlvl_fuse.input_conv.": "fusion.input_convs.",
    "region_encoder.mlvl_fuse.fuse_convs.": "fusion.steps.",
    "region_encoder.roi_align.pconvs.": "level_convs.",
    "region_encoder.roi_align.flatten_linear.": "flatten_linear.",
    "region_encoder.roi_align.pos_embedd.": "position_mlp.",
    "region_encoder.roi_align.updims.": "output_linear.",
}
"""Prefix in the published checkpoint -> prefix of RegionEncoder's parameters; what follows is the same."""


class RegionEncoder(nn.Module):
    """Describes boxes by what the encoder's last blocks say inside them and by where they lie.

    Paper, section 3.2; arithmetic: golden README, "Region encoder".

    The published code reads normalized (cx, cy, w, h) as corners and halves the strides of its maps; weights
    that were trained with it need both ("released"). "corrected" hands corners and true strides to RoIAlign
    (docs/deviations.md).
    """

    def __init__(
        self,
        config: RegionEncoderConfig,
        *,
        feature_dim: int,
        image_size: int,
        patch_size: int,
        output_dim: int,
        box_format: BoxFormat | None = None,
        strides: Strides | None = None,
    ) -> None:
        """Build the layers.

        Args:
            config: sizes and geometry.
            feature_dim: C, the encoder's width; a multiple of 4 and of `config.group_norm_groups`.
            image_size: side of the resized picture in pixels.
            patch_size: side of a patch in pixels.
            output_dim: D, the language model's width.
            box_format: what RoIAlign reads as corners, to study the two faults apart; None follows
                `config.geometry`.
            strides: cell sizes RoIAlign assumes, likewise.

        Raises:
            InputError: `feature_dim` cannot be divided into quarters or into the groups of the group norm.
        """
        super().__init__()
        released = config.geometry == "released"
        self.box_format: BoxFormat = box_format or ("cxcywh" if released else "xyxy")
        self.strides: Strides = strides or ("released" if released else "true")
        self.config = config
        self.image_size = image_size
        self.patch_size = patch_size
        self.fusion = LevelFusion(feature_dim, config)
        self.level_convs = nn.ModuleList(
            nn.Conv2d(feature_dim, feature_dim, kernel_size=3, padding=1) for _ in config.upsample
        )
        self.flatten_linear = nn.Linear(feature_dim * config.roi_size**2, config.roi_dim)
        self.position_mlp = nn.Sequential(
            nn.Linear(4, config.position_hidden_dim),
            nn.ReLU(),
            nn.LayerNorm(config.position_hidden_dim),
            nn.Linear(config.position_hidden_dim, config.roi_dim),
            nn.ReLU(),
            nn.LayerNorm(config.roi_dim),
        )
        self.output_linear = nn.Linear(config.roi_dim, output_dim)

    def forward(self, maps: FeatureMaps, boxes_cxcywh: Sequence[Tensor]) -> list[Tensor]:
        """Features and for each picture (R_i, 4) boxes -> for each picture (R_i, D) tokens."""
        return self.encode(self.fusion(maps), boxes_cxcywh)

    def encode(self, levels: Sequence[Tensor], boxes_cxcywh: Sequence[Tensor]) -> list[Tensor]:
        """Fused levels and for each picture (R_i, 4) boxes -> for each picture (R_i, D) tokens."""
        pooled = self.pool(levels, boxes_cxcywh)
        content = self.embed_content(pooled)
        position = self.embed_position(torch.cat(list(boxes_cxcywh)))
        tokens = self.output_linear(content + self.config.position_scale * position)
        return list(tokens.split([len(boxes) for boxes in boxes_cxcywh]))

    def pool(self, levels: Sequence[Tensor], boxes_cxcywh: Sequence[Tensor]) -> list[Tensor]:
        """Fused levels and for each picture (R_i, 4) boxes -> for each level (R, C, P, P)."""
        corners_px = [self.corners_px(boxes) for boxes in boxes_cxcywh]
        size, samples = self.config.roi_size, self.config.sampling_ratio
        return [
            roi_align(level, corners_px, size, stride=stride, sampling_ratio=samples)
            for level, stride in zip(levels, self.strides_px, strict=True)
        ]

    def embed_content(self, pooled: Sequence[Tensor]) -> Tensor:
        """For each level (R, C, P, P) -> (R, F)."""
        mixed = [conv(level) for conv, level in zip(self.level_convs, pooled, strict=True)]
        return self.flatten_linear(torch.stack(mixed).sum(dim=0).relu().flatten(1))  # channel, row, column

    def embed_position(self, boxes_cxcywh: Tensor) -> Tensor:
        """(R, 4) normalized boxes -> (R, F)."""
        return self.position_mlp(boxes_cxcywh.to(self.output_linear.weight.dtype))

    def corners_px(self, boxes_cxcywh: Tensor) -> Tensor:
        """(n, 4) normalized boxes -> (n, 4) what RoIAlign reads as corners, pixels of the resized picture."""
        boxes = boxes_cxcywh if self.box_format == "cxcywh" else cxcywh_to_xyxy(boxes_cxcywh)
        return boxes * self.image_size

    @property
    def strides_px(self) -> tuple[float, ...]:
        """Cell size in pixels that RoIAlign assumes for each level, finest first."""
        factor = 2 if self.strides == "released" else 1
        return tuple(self.patch_size / (factor * upsample) for upsample in self.config.upsample)


class LevelFusion(nn.Module):
    """Makes a pyramid of the encoder's last blocks and lets neighbouring levels exchange channels."""

    def __init__(self, feature_dim: int, config: RegionEncoderConfig) -> None:
        """`feature_dim` is C; the number of levels is the length of `config.upsample`."""
        super().__init__()
        if feature_dim % 4 or feature_dim % config.group_norm_groups:
            raise InputError(
                f"the region encoder needs an encoder width that is a multiple of 4 and of group_norm_groups "
                f"({config.group_norm_groups}), got {feature_dim}; choose another group_norm_groups."
            )
        self.upsample = config.upsample
        self.input_convs = nn.ModuleList(nn.Conv2d(feature_dim + 2, feature_dim, 1) for _ in self.upsample)
        self.steps = nn.ModuleList(
            FusionStep(feature_dim, config.group_norm_groups) for _ in range(config.num_fuse_steps)
        )

    def forward(self, maps: FeatureMaps) -> list[Tensor]:
        """Last blocks, each (B, H, W, C) -> levels, each (B, C, uH, uW), oldest block and finest first."""
        blocks = maps.last[-len(self.upsample) :]
        levels = []
        for block, upsample, conv in zip(blocks, self.upsample, self.input_convs, strict=True):
            # contiguous: on CPU the convolutions are as fast either way, but the group norm's backward is 4
            # to 10 times slower with channels last
            level = block.permute(0, 3, 1, 2).contiguous()
            level = _resize(level, (level.shape[2] * upsample, level.shape[3] * upsample))
            levels.append(conv(_with_coordinates(level)))
        for step in self.steps:
            levels = step(levels)
        return levels


class FusionStep(nn.Module):
    """One exchange of channels between neighbouring levels; the convolution is shared by all levels."""

    def __init__(self, feature_dim: int, groups: int) -> None:
        """`feature_dim` is C; `groups` is the number of groups of the group norm."""
        super().__init__()
        self.conv = nn.Conv2d(feature_dim, feature_dim, kernel_size=3, padding=1, bias=False)
        self.gn = nn.GroupNorm(groups, feature_dim)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels, each (B, C, h, w), finest first -> the same shapes; all are read before any is replaced."""
        return [self.gn(self.conv(_exchange(levels, index))).relu() for index in range(len(levels))]


def _exchange(levels: Sequence[Tensor], index: int) -> Tensor:
    """What level `index` works on: (B, C, h, w) of its own first half and a quarter of either neighbour.

    At the two ends a level is its own neighbour (golden README, "Region encoder").
    """
    own = levels[index]
    coarser, finer = levels[min(index + 1, len(levels) - 1)], levels[max(index - 1, 0)]
    quarter = own.shape[1] // 4
    size = (own.shape[2], own.shape[3])
    borrowed = (_resize(coarser[:, -quarter:], size), _resize(finer[:, -2 * quarter : -quarter], size))
    return torch.cat((own[:, : 2 * quarter], *borrowed), dim=1)


def _resize(level: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear between corner centres."""
    if tuple(level.shape[2:]) == size:
        return level
    return F.interpolate(level, size=size, mode="bilinear", align_corners=True)


def _with_coordinates(level: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C + 2, h, w): x, then y, each from -1 at the first cell to 1 at the last."""
    pictures, _, height, width = level.shape
    x = torch.linspace(-1, 1, width, device=level.device, dtype=level.dtype)
    y = torch.linspace(-1, 1, height, device=level.device, dtype=level.dtype)[:, None]
    plane = (pictures, 1, height, width)
    return torch.cat((level, x.expand(plane), y.expand(plane)), dim=1)
