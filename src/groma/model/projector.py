"""Stop 5 of 6, the picture's half: FeatureMaps -> image tokens. 2x2 merge and a two-layer perceptron.

B pictures, H x W patches, C encoder width, D width of the language model.
"""

from torch import Tensor, nn

from groma.errors import InputError

PUBLISHED_NAMES = {
    "img_txt_bridge.0.": "hidden.",
    "img_txt_bridge.2.": "output.",
}
"""Prefix in the published checkpoint -> prefix of ImageProjector's parameters."""


def merge_patches(final: Tensor) -> Tensor:
    """(B, H, W, C) patch features -> (B, H/2 * W/2, 4C), row-major: each 2x2 block becomes one vector.

    A block's patches (row, column) are joined in the order (0, 0), (1, 0), (0, 1), (1, 1): down first, then
    right (golden README, "Vision encoder").

    Raises:
        InputError: the grid has an odd side.
    """
    _, height, width, _ = final.shape
    if height % 2 or width % 2:
        raise InputError(
            f"the encoder's grid of {height} x {width} patches cannot be merged 2x2: choose an image_size "
            "that is an even multiple of the encoder's patch_size."
        )
    blocks = final.unflatten(2, (width // 2, 2)).unflatten(1, (height // 2, 2))
    # (B, H/2, row, W/2, column, C) -> (B, H/2, W/2, column, row, C): the row varies faster
    return blocks.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)


class ImageProjector(nn.Module):
    """Merged patches to the language model's width: linear, exact GELU, linear (paper, section 3.1)."""

    def __init__(self, feature_dim: int, output_dim: int) -> None:
        """`feature_dim` is C, the encoder's width; `output_dim` is D."""
        super().__init__()
        self.hidden = nn.Linear(4 * feature_dim, output_dim)
        self.output = nn.Linear(output_dim, output_dim)
        self.activation = nn.GELU()

    def forward(self, final: Tensor) -> Tensor:
        """(B, H, W, C) last block's patch features -> (B, H/2 * W/2, D) image tokens."""
        return self.output(self.activation(self.hidden(merge_patches(final))))
