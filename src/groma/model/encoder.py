"""Stop 1 of 6: picture -> FeatureMaps. DINOv2 from transformers, read block by block.

B pictures, H x W grid of patches, C encoder width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from groma.model.types import FeatureMaps

POSITION_OFFSET = 0.1
"""Added to the wanted grid before the scale factor is taken, as DINOv2's first release in transformers did."""


class ImageEncoder(nn.Module):
    """A DINOv2 (with or without registers) whose last block outputs are the picture's features.

    The blocks are run here instead of through the backbone's `forward` for two reasons: features are taken
    *before* the final LayerNorm (golden conventions, "Vision encoder"), and the position embeddings must be
    interpolated as the published weights saw it, which later transformers releases changed.
    """

    def __init__(
        self, config: PreTrainedConfig, num_blocks: int = 4, *, backbone: PreTrainedModel | None = None
    ) -> None:
        """Build the backbone of `config`, or take one; `num_blocks` last block outputs are returned."""
        super().__init__()
        self.backbone: Any = AutoModel.from_config(config) if backbone is None else backbone
        self.num_blocks = num_blocks

    def forward(self, pixel_values: Tensor) -> FeatureMaps:
        """(B, 3, S, S) normalized pixels -> the last `num_blocks` maps, each (B, H, W, C), oldest first."""
        hidden = self.embed(pixel_values)
        layers = self.backbone.encoder.layer
        height, width = (side // self.backbone.config.patch_size for side in pixel_values.shape[-2:])
        maps = []
        for index, layer in enumerate(layers):
            hidden = layer(hidden)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            if index >= len(layers) - self.num_blocks:
                maps.append(hidden[:, -height * width :].unflatten(1, (height, width)))
        return FeatureMaps(last=tuple(maps))

    def embed(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1 + registers + HW, C): class token, registers if any, patches row-major."""
        embeddings = self.backbone.embeddings
        patches = embeddings.patch_embeddings(pixel_values)
        grid = tuple(side // self.backbone.config.patch_size for side in pixel_values.shape[-2:])
        class_token = embeddings.cls_token.expand(len(patches), -1, -1).to(patches.dtype)
        positions = interpolate_positions(embeddings.position_embeddings, grid).to(patches.dtype)
        hidden = torch.cat((class_token, patches), dim=1) + positions
        registers = getattr(embeddings, "register_tokens", None)
        if registers is not None:
            registers = registers.expand(len(patches), -1, -1).to(patches.dtype)
            hidden = torch.cat((hidden[:, :1], registers, hidden[:, 1:]), dim=1)
        return embeddings.dropout(hidden)


def interpolate_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, 1 + n*n, C) trained position embeddings -> (1, 1 + H*W, C) for another grid.

    Bicubic with the scale factor (side + 0.1) / n handed to the kernel, which differs from resizing to (H, W)
    by up to 0.01 (golden conventions, "Vision encoder"). The class position is kept.
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return positions
    patches = positions[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = tuple((wanted + POSITION_OFFSET) / side for wanted in grid)
    patches = F.interpolate(patches, scale_factor=scale, mode="bicubic", align_corners=False)
    patches = patches.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
    return torch.cat((positions[:, :1], patches), dim=1)
