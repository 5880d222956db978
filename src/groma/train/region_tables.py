"""Region tokens made from labels instead of pixels: what stage "speak" reads, and stage "align" may be shown.

R regions, D width of the language model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARPNESS = 10.0
"""How sure of its name a token is that equals the imagined one: e^10 to 1 against another at the mean distance."""


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


def imitation_losses(
    tables: RegionTables, features: Tensor, names: Tensor, colours: Tensor, boxes_cxcywh: Tensor
) -> dict[str, Tensor]:
    """How far region tokens are from the imagined ones of the same objects, and whether they can be told apart.

    Args:
        tables: what is imitated.
        features: (R, D) region tokens.
        names: (R,) class numbers.
        colours: (R,) class numbers.
        boxes_cxcywh: (R, 4) normalized.

    Returns:
        Sums over R. "imitation": squared error over the imagined tokens' mean square. "naming": cross-entropy over
        names and over colours, each read from the distance to the imagined tokens that differ in it alone; it says
        more than the distance where two names are easily taken for each other. "named_right": how many names are.
    """
    name_rows, colour_rows = tables.names(names), tables.colours(colours)
    places = tables.places(boxes_cxcywh)
    wanted = (name_rows + colour_rows + places).float()
    scale = (wanted.pow(2).sum() / max(wanted.numel(), 1)).clamp(min=1e-6)  # of no regions: not NaN
    error = features.float() - wanted
    name_logits = _logits(error + name_rows, tables.names.weight[: tables.nothing])
    colour_logits = _logits(error + colour_rows, tables.colours.weight)
    return {
        "imitation": error.pow(2).mean(1).sum() / scale,
        "naming": F.cross_entropy(name_logits, names, reduction="sum")
        + F.cross_entropy(colour_logits, colours, reduction="sum"),
        "named_right": (name_logits.argmax(1) == names).sum().detach(),
    }


def _logits(features: Tensor, table: Tensor) -> Tensor:
    """(R, D), (K, D) -> (R, K): the nearer the greater; SHARPNESS between two rows at their mean distance."""
    mean_distance = 2 * table.float().var(0).sum().clamp(min=1e-6)
    return -SHARPNESS * torch.cdist(features.float(), table.float()).pow(2) / mean_distance
