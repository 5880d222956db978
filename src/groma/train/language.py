"""Stages 2 and 3, alignment and instruction: next-token loss on answers about pictures.

B pictures, R_i regions, U_i user's boxes, T_i annotated boxes of picture i.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groma.data.dialogues import DialogueBatch, PicturePrompts
from groma.image import Preprocessing
from groma.model.groma import AnswerLoss, GromaModel, PictureTokens, VisualTokens
from groma.model.selection import match_regions
from groma.model.splice import Spliced, pack, splice
from groma.prompt.tokens import SpecialTokenIds
from groma.train.groups import freeze, parameter_groups
from groma.train.objective import Losses, Objective, ParameterGroup
from groma.train.perceptions import Perceptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageConfig:
    """What a language stage trains."""

    train_language: bool = False
    """Stage 3: the language model as well; stage 2 keeps it frozen (paper, section 3.4)."""
    language_lr_scale: float = 1.0
    """Factor on the language model's learning rate, where it is trained."""


class AnswerTraining(Objective):
    """Localized tokens of pictures, questions packed behind them, loss on the answers.

    Encoder and proposer are frozen, so pictures may have been perceived before (`perceptions`).
    """

    def __init__(
        self,
        model: GromaModel,
        tokens: SpecialTokenIds,
        preprocessing: Preprocessing,
        *,
        config: LanguageConfig,
        perceptions: Perceptions | None = None,
        seed: int = 0,
    ) -> None:
        """`seed` draws the order of the regions, which training shuffles."""
        super().__init__()
        self.model, self.tokens, self.preprocessing, self.config = model, tokens, preprocessing, config
        self.perceptions = perceptions
        self._seed = seed
        freeze((model.encoder, model.proposer))
        model.language.base.requires_grad_(config.train_language)

    def train(self, mode: bool = True) -> nn.Module:
        """The frozen half stays in evaluation mode."""
        super().train(mode)
        self.model.encoder.eval()
        self.model.proposer.eval()
        return self

    def weight(self, batch: DialogueBatch) -> float:
        """Number of tokens trained on."""
        return float(sum(picture.num_targets for picture in batch.pictures))

    def forward(self, batch: DialogueBatch, *, total_weight: float) -> Losses:
        """See the class."""
        loss = self._answer_loss(batch, self.read(batch), total_weight)
        return Losses(loss.total, report(loss, self.tokens, total_weight))

    def read(self, batch: DialogueBatch) -> PictureTokens:
        """Perceive the pictures, or recall what was perceived of them."""
        if self.perceptions is not None:
            return self.model.read(self.perceptions.recall(batch.indices))
        return self.model.read(self.model.perceive(self.preprocessing.normalize(batch.images)))

    def _answer_loss(self, batch: DialogueBatch, pictures: PictureTokens, total_weight: float) -> AnswerLoss:
        # a generator of the batch's own, so that a resumed run shuffles as the uninterrupted one
        shuffle = torch.Generator().manual_seed(self._seed + batch.indices[0])
        visual = self.model.tokenize(
            pictures,
            user_boxes_cxcywh=[p.user_boxes_cxcywh for p in batch.pictures],
            annotated_boxes_cxcywh=[p.boxes_cxcywh for p in batch.pictures],
            shuffle=shuffle,
        )
        rows = [
            splice_all(picture, seen, self.tokens, self.model.config.num_image_tokens)
            for picture, seen in zip(batch.pictures, visual, strict=True)
        ]
        return self.model(pack(rows, pad_id=self.tokens.pad), visual, total_tokens=total_weight)

    def parts(self) -> dict[str, nn.Module]:
        """See Objective."""
        return dict(self.model.named_children())

    def parameter_groups(self) -> list[ParameterGroup]:
        """Projector, region encoder, added token rows; the language model in stage 3."""
        model = self.model
        groups = parameter_groups("projector", model.projector)
        groups += parameter_groups("region_encoder", model.region_encoder)
        scale = self.config.language_lr_scale if self.config.train_language else 1.0
        return groups + parameter_groups("language", model.language, lr_scale=scale)


def splice_all(
    picture: PicturePrompts, seen: VisualTokens, tokens: SpecialTokenIds, num_image_tokens: int
) -> list[Spliced]:
    """All prompts about a picture; slots that name object t get the region that covers it best."""
    matched = match_regions(picture.boxes_cxcywh, seen.regions).cpu()
    return [
        splice(
            prompt.token_ids,
            prompt.labels,
            refer_regions=matched[list(prompt.refer_slots)],
            ground_regions=matched[list(prompt.ground_slots)],
            num_image_tokens=num_image_tokens,
            num_regions=len(seen.regions),
            tokens=tokens,
        )
        for prompt in picture.prompts
    ]


def report(loss: AnswerLoss, tokens: SpecialTokenIds, total_weight: float) -> dict[str, Tensor]:
    """Loss, share of right tokens, and of right region tokens among all region tokens times their share."""
    right = (loss.predicted == loss.targets).float()
    is_region = loss.targets >= tokens.region_ids[0]
    return {
        "answer": loss.total.detach(),
        "right": right.sum() / total_weight,
        "region_right": (right * is_region).sum() / is_region.sum().clamp(min=1) * (len(right) / total_weight),
    }

