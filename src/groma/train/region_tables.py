"""Region tokens made from labels instead of pixels: what stage "speak" reads, and stage "align" may be shown.

R regions, D width of the language model.
"""

import torch
from torch import Tensor, nn


class RegionTables(nn.Module):
    """Name + colour + place. The tables serve training alone; no model keeps them."""

    def __init__(self, width: int, *, num_names: int, num_colours: int) -> None:
        """`width` is D; one name more than `num_names` stands for a region that shows nothing."""
        super().__init__()
        self.names, self.colours = nn.Embedding(num_names + 1, width), nn.Embedding(num_colours, width)
        self.places = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width))
        for table in (self.names, self.colours):
            nn.init.normal_(table.weight, std=0.5)

    @property
    def nothing(self) -> int:
        """Number of the name of a region that shows nothing."""
        return self.names.num_embeddings - 1

    def content(self, names: Tensor, colours: Tensor) -> Tensor:
        """(R,) class numbers of both -> (R, D) what regions show."""
        return self.names(names) + self.colours(colours)

    def forward(self, names: Tensor, colours: Tensor, boxes_cxcywh: Tensor) -> Tensor:
        """(R,), (R,) class numbers and (R, 4) normalized boxes -> (R, D) region tokens."""
        return self.content(names, colours) + self.places(boxes_cxcywh)


def imitation_loss(features: Tensor, wanted: Tensor) -> Tensor:
    """How far region tokens are from the ones wanted: squared error over the wanted ones' mean square, summed over R.

    Args:
        features: (R, D).
        wanted: (R, D).
    """
    scale = wanted.float().pow(2).mean().clamp(min=1e-6)
    return (features.float() - wanted.float()).pow(2).mean(1).sum() / scale if len(wanted) else torch.zeros(())
