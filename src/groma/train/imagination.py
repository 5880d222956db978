"""A language model for scenes before it has seen any: regions are imagined from their labels.

The published method starts from Vicuna, which knows language. A small model has to learn words, the grammar of
answers and, hardest, to find the region that fits a phrase. That needs no pixels: a region token is made here from
an object's name, colour and box (`groma.train.region_tables`), noisy, among distractors, and hints show where to look
(`groma.train.hints`).

B pictures, R regions of a picture, D width of the language model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groma.data.dialogues import DialogueBatch
from groma.errors import InputError
from groma.model.groma import AnswerLoss, GromaModel, VisualTokens
from groma.model.language import LanguageModel
from groma.model.types import Regions
from groma.prompt.tokens import SpecialTokenIds
from groma.train.groups import parameter_groups
from groma.train.hints import hint_losses, resolve_hints, watch
from groma.train.language import answer_terms, pack_prompts
from groma.train.objective import Losses, Objective, ParameterGroup
from groma.train.region_tables import RegionTables
from groma.train.settings import ImaginationConfig


@dataclass(frozen=True, slots=True)
class ImaginedRegions:
    """What the regions of one picture are meant to show; R regions, the objects first."""

    boxes_cxcywh: Tensor
    """(R, 4) normalized."""
    names: Tensor
    """(R,) int64 class numbers; the number behind the last class: nothing."""
    colours: Tensor
    """(R,) int64 class numbers."""
    strength: Tensor
    """(R,) how much of it is seen, 0..1."""


@torch.no_grad()
def initialize_language(language: LanguageModel) -> None:
    """Let every token start with equal rows in the embedding and the head: what is copied is what is spoken."""
    base = language.base.get_input_embeddings().weight
    nn.init.normal_(language.added_embeddings.weight, std=float(base.std()))
    language.base.get_output_embeddings().weight.copy_(base)
    language.added_head.weight.copy_(language.added_embeddings.weight)


class Imagination(Objective):
    """Next-token loss on answers about imagined regions; no image tokens."""

    def __init__(
        self, model: GromaModel, tokens: SpecialTokenIds, *, tables: RegionTables, config: ImaginationConfig
    ) -> None:
        """`tables` make the region tokens and learn with the language model.

        Raises:
            InputError: the language model cannot be given the hints (see `resolve_hints`).
        """
        super().__init__()
        self.language, self.tables, self.tokens, self.config = model.language, tables, tokens, config
        self._hints = resolve_hints(config.hints, model.language) if config.hints.weight else None
        self._model = (model,)  # in a tuple: its other parts are no parameters of this objective

    def weight(self, batch: DialogueBatch) -> float:
        """Number of tokens trained on."""
        return float(sum(picture.num_targets for picture in batch.pictures))

    def forward(self, batch: DialogueBatch, *, total_weight: float) -> Losses:
        """See the module."""
        # a generator of the picture's own: neither resuming nor how a step is cut up changes what is imagined
        visual = [
            self.imagine(picture.boxes_cxcywh, names, colours, torch.Generator().manual_seed(seed))
            for picture, names, colours, seed in zip(
                batch.pictures, batch.names, batch.colours, batch.seeds, strict=True
            )
        ]
        # object t was drawn as candidate t
        matched = [v.regions.candidate.argsort()[: len(names)] for v, names in zip(visual, batch.names, strict=True)]
        prompts = pack_prompts(batch.pictures, visual, matched, tokens=self.tokens, num_image_tokens=0)
        hints = self._hints
        if hints is None:
            loss: AnswerLoss = self._model[0](prompts, visual, total_tokens=total_weight)
            return Losses(loss.total, answer_terms(loss, self.tokens, total_weight))
        with watch(self.language, hints) as watched:
            loss = self._model[0](prompts, visual, total_tokens=total_weight)
        share = self.weight(batch) / total_weight
        extra = {
            name: value * share
            for name, value in hint_losses(prompts, watched, self.language, self.tokens, hints).items()
        }
        terms = answer_terms(loss, self.tokens, total_weight) | {name: value.detach() for name, value in extra.items()}
        return Losses(loss.total + hints.weight * sum(extra.values()), terms)

    def imagine(self, boxes_cxcywh: Tensor, names: Tensor, colours: Tensor, generator: torch.Generator) -> VisualTokens:
        """Objects and distractors in random order -> their tokens.

        Args:
            boxes_cxcywh: (T, 4) the objects' boxes.
            names: (T,) int64 class numbers.
            colours: (T,) int64 class numbers.
            generator: source of all choices, on the CPU.

        Returns:
            At most as many regions as there are region tokens; a `candidate` below T is the object of that number.

        Raises:
            InputError: there are more objects than region tokens.
        """
        shown = self._draw(boxes_cxcywh, names, colours, generator)
        count = len(shown.names)
        order = torch.randperm(count, generator=generator)
        noise = self.config.noise * torch.randn(count, self.language.hidden_size, generator=generator)
        device = self.tables.names.weight.device
        content = self.tables.content(shown.names.to(device), shown.colours.to(device))
        features = content * shown.strength.to(device)[:, None] + noise.to(device)
        features = features + self.tables.places(shown.boxes_cxcywh.to(device))
        regions = Regions(
            boxes_cxcywh=shown.boxes_cxcywh[order],
            scores=torch.ones(count),
            candidate=order,
            num_proposals=count,
            num_user=0,
        )
        return VisualTokens(regions=regions, features=features[order.to(device)])

    def _draw(
        self, boxes_cxcywh: Tensor, names: Tensor, colours: Tensor, generator: torch.Generator
    ) -> ImaginedRegions:
        """The objects, seen inexactly, and up to `distractors` regions that show a piece of one, or nothing."""
        objects, room = len(names), self.tokens.num_regions
        if objects > room:
            raise InputError(f"{objects} objects cannot be imagined: the vocabulary has {room} region tokens.")

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        most, jitter = min(self.config.distractors, room - objects), self.config.box_jitter
        count = int(torch.randint(0, most + 1, (1,), generator=generator))
        piece_of = torch.randint(0, objects, (count,), generator=generator)
        is_piece = uniform(count) < 0.5
        pieces = boxes_cxcywh[piece_of].clone()
        pieces[:, :2] += (uniform(count, 2) - 0.5) * pieces[:, 2:]
        pieces[:, 2:] *= 0.3 + 0.4 * uniform(count, 2)
        elsewhere = uniform(count, 4) * torch.tensor([1.0, 1.0, 0.4, 0.4])
        shift = (torch.randn(objects, 4, generator=generator) * jitter).clamp(-2 * jitter, 2 * jitter)
        seen = boxes_cxcywh + shift * boxes_cxcywh[:, 2:].repeat(1, 2)
        return ImaginedRegions(
            boxes_cxcywh=torch.cat((seen, torch.where(is_piece[:, None], pieces, elsewhere))),
            names=torch.cat((names, torch.where(is_piece, names[piece_of], self.tables.nothing))),
            colours=torch.cat((colours, torch.where(is_piece, colours[piece_of], 0))),
            strength=torch.cat((torch.ones(objects), 0.3 + 0.4 * uniform(count))),
        )

    def parts(self) -> dict[str, nn.Module]:
        """The language model, and the tables for a stage that imitates them."""
        return {"language": self.language, "tables": self.tables}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The language model with its added rows, and the tables."""
        return [*parameter_groups("language", self.language), *parameter_groups("tables", self.tables)]
