"""A language model for scenes before it has seen any: regions are imagined from their labels.

The published method starts from Vicuna, which knows language. A small model has to learn words, the grammar of
answers and, hardest, to find the region that fits a phrase. That needs no pixels: a region token is made here from
an object's name, colour and box, noisy, among distractors. The tables are thrown away afterwards.

B pictures, R regions of a picture, D width of the language model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groma.data.dialogues import DialogueBatch, PicturePrompts
from groma.model.groma import AnswerLoss, GromaModel, VisualTokens
from groma.model.splice import pack
from groma.model.types import Regions
from groma.prompt.tokens import SpecialTokenIds
from groma.train.groups import parameter_groups
from groma.train.language import report, splice_all
from groma.train.objective import Losses, Objective, ParameterGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class ImaginationConfig:
    """How much the imagined regions leave to be guessed."""

    noise: float = 0.3
    """Normal noise on a region token, relative to its content."""
    box_jitter: float = 0.05
    """Normal noise on a region's box, relative to its size."""
    distractors: int = 8
    """Regions that show nothing or a piece of an object, at most."""


class Imagination(Objective):
    """Next-token loss on answers about imagined regions; no image tokens."""

    def __init__(
        self, model: GromaModel, tokens: SpecialTokenIds, *, num_names: int, num_colours: int, config: ImaginationConfig
    ) -> None:
        """`num_names`, `num_colours`: how many classes the batches' labels have."""
        super().__init__()
        self.language, self.tokens, self.config = model.language, tokens, config
        self._model = (model,)  # in a tuple: its other parts are no parameters of this objective
        width = model.language.hidden_size
        self.name_table, self.colour_table = nn.Embedding(num_names + 1, width), nn.Embedding(num_colours, width)
        self.box_mlp = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width))
        for table in (self.name_table, self.colour_table):
            nn.init.normal_(table.weight, std=0.5)

    def weight(self, batch: DialogueBatch) -> float:
        """Number of tokens trained on."""
        return float(sum(picture.num_targets for picture in batch.pictures))

    def forward(self, batch: DialogueBatch, *, total_weight: float) -> Losses:
        """See the module."""
        generator = torch.Generator().manual_seed(batch.indices[0])
        visual = [
            self.imagine(picture, names, colours, generator)
            for picture, names, colours in zip(batch.pictures, batch.names, batch.colours, strict=True)
        ]
        rows = [splice_all(p, seen, self.tokens, 0) for p, seen in zip(batch.pictures, visual, strict=True)]
        loss: AnswerLoss = self._model[0](pack(rows, pad_id=self.tokens.pad), visual, total_tokens=total_weight)
        return Losses(loss.total, report(loss, self.tokens, total_weight))

    def imagine(self, picture: PicturePrompts, names: Tensor, colours: Tensor, generator: torch.Generator) -> VisualTokens:
        """Objects and distractors in random order -> their tokens."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        count = int(torch.randint(0, self.config.distractors + 1, (1,), generator=generator))
        nothing = self.name_table.num_embeddings - 1
        piece_of = torch.randint(0, len(names), (count,), generator=generator)
        is_piece = torch.rand(count, generator=generator) < 0.5
        all_names = torch.cat((names, torch.where(is_piece, names[piece_of], nothing)))
        all_colours = torch.cat((colours, torch.where(is_piece, colours[piece_of], 0)))
        whole = picture.boxes_cxcywh
        pieces = whole[piece_of].clone()
        pieces[:, :2] += (torch.rand(count, 2, generator=generator) - 0.5) * pieces[:, 2:]
        pieces[:, 2:] *= 0.3 + 0.4 * torch.rand(count, 2, generator=generator)
        elsewhere = torch.rand(count, 4, generator=generator) * torch.tensor([1.0, 1.0, 0.4, 0.4])
        extra = torch.where(is_piece[:, None], pieces, elsewhere)
        jittered = whole + normal(len(whole), 4) * self.config.box_jitter * whole[:, 2:].repeat(1, 2)
        boxes_cxcywh = torch.cat((jittered, extra))
        order = torch.randperm(len(boxes_cxcywh), generator=generator)[: self.tokens.num_regions]
        strength = torch.cat((torch.ones(len(names)), 0.3 + 0.4 * torch.rand(count, generator=generator)))
        content = (self.name_table(all_names) + self.colour_table(all_colours)) * strength[:, None]
        content = content + self.config.noise * normal(*content.shape)
        features = content + self.box_mlp(boxes_cxcywh)
        regions = Regions(
            boxes_cxcywh=boxes_cxcywh[order],
            scores=torch.ones(len(order)),
            candidate=order,
            num_proposals=len(boxes_cxcywh),
            num_user=0,
        )
        return VisualTokens(regions=regions, features=features[order])

    def parts(self) -> dict[str, nn.Module]:
        """See Objective."""
        return {"language": self.language}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The language model with its added rows, and the tables that are thrown away."""
        tables = nn.ModuleList((self.name_table, self.colour_table, self.box_mlp))
        return [*parameter_groups("language", self.language), *parameter_groups("tables", tables)]
