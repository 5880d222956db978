"""Stages 2 and 3, alignment and instruction: next-token loss on answers about pictures.

B pictures, R_i regions, U_i user's boxes, T_i annotated boxes of picture i.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from groma.data.dialogues import DialogueBatch, PicturePrompts
from groma.errors import InputError
from groma.image import Preprocessing
from groma.model.groma import AnswerLoss, GromaModel, PictureTokens, VisualTokens
from groma.model.selection import match_regions
from groma.model.splice import Spliced, SplicedBatch, pack, splice
from groma.prompt.render import RenderedPrompt
from groma.prompt.tokens import SpecialTokenIds
from groma.train.adapters import add_adapters, merged
from groma.train.groups import freeze, parameter_groups
from groma.train.objective import Losses, Objective, ParameterGroup
from groma.train.region_tables import RegionTables, imitation_losses
from groma.train.settings import LanguageConfig


class AnswerTraining(Objective):
    """Localized tokens of pictures, questions packed behind them, loss on the answers.

    Encoder and proposer are frozen.
    """

    def __init__(
        self,
        model: GromaModel,
        tokens: SpecialTokenIds,
        preprocessing: Preprocessing,
        *,
        config: LanguageConfig,
        tables: RegionTables | None = None,
        seed: int = 0,
    ) -> None:
        """Freeze what the stage does not train.

        Args:
            model: the whole model.
            tokens: ids of the special tokens.
            preprocessing: normalizes the batches' pictures.
            config: how it is trained, and what of the language model.
            tables: what region tokens should imitate; needed where `config.imitation` is not 0.
            seed: draws the order of the regions, which training shuffles.
        """
        super().__init__()
        self.model, self.tokens, self.preprocessing = model, tokens, preprocessing
        self.tables, self._config, self._seed = tables, config, seed
        freeze((model.encoder, model.proposer, *([] if tables is None else [tables])))
        model.language.base.requires_grad_(config.train == "all")

    def settle(self) -> None:
        """Give the language model its adapters and its frozen weights their type, now that they are loaded."""
        config, base = self._config, self.model.language.base
        if config.train == "lora":
            add_adapters(base, config.lora, seed=self._seed)
        if config.frozen_precision == "bf16":
            for parameter in base.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()

    def saved(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is stored of the model, from its state as it is trained: adapters are part of the weights."""
        return merged(state, self._config.lora) if self._config.train == "lora" else dict(state)

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
        visual = self.tokenize(batch)
        matched = [match_regions(p.boxes_cxcywh, v.regions) for p, v in zip(batch.pictures, visual, strict=True)]
        image_tokens = self.model.config.num_image_tokens
        prompts = pack_prompts(batch.pictures, visual, matched, tokens=self.tokens, num_image_tokens=image_tokens)
        loss = self.model(prompts, visual, total_tokens=total_weight)
        terms = answer_terms(loss, self.tokens, total_weight)
        if batch.set_name:
            terms[f"answer/{batch.set_name}"] = terms["answer"]
        if self.tables is None:
            return Losses(loss.total, terms)
        share = self.weight(batch) / total_weight
        extra = {name: value * share for name, value in self._imitate(batch, visual, matched).items()}
        total = loss.total + self._config.imitation * (extra["imitation"] + extra["naming"])
        return Losses(total, terms | {name: value.detach() for name, value in extra.items()})

    def _imitate(
        self, batch: DialogueBatch, visual: Sequence[VisualTokens], matched: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """How well the objects' region tokens imitate the imagined ones: means over the batch's objects."""
        assert self.tables is not None
        device = visual[0].features.device
        image_tokens = self.model.config.num_image_tokens
        features = torch.cat([v.features[image_tokens + m.to(device)] for v, m in zip(visual, matched, strict=True)])
        boxes_cxcywh = torch.cat([p.boxes_cxcywh for p in batch.pictures]).to(device)
        names, colours = torch.cat(batch.names).to(device), torch.cat(batch.colours).to(device)
        sums = imitation_losses(self.tables, features, names, colours, boxes_cxcywh)
        return {name: value / max(len(names), 1) for name, value in sums.items()}

    def tokenize(self, batch: DialogueBatch) -> list[VisualTokens]:
        """Localized visual tokens of every picture; all boxes that its questions point at, and all annotated ones,
        are candidates, and regions come in a random order (golden README, "Region selection").
        """
        # a generator of the picture's own: neither resuming nor how a step is cut up changes the order
        shuffle = [torch.Generator().manual_seed((self._seed + seed) % 2**63) for seed in batch.seeds]
        return self.model.tokenize(
            self.read(batch),
            user_boxes_cxcywh=[p.user_boxes_cxcywh for p in batch.pictures],
            annotated_boxes_cxcywh=[p.boxes_cxcywh for p in batch.pictures],
            shuffle=shuffle,
        )

    def read(self, batch: DialogueBatch) -> PictureTokens:
        """Perceive the pictures.

        Raises:
            InputError: the batch has none.
        """
        if batch.images is None:
            raise InputError("The batch has no pictures: its stream was made without them, as stage speak wants them.")
        device = next(self.model.parameters()).device
        return self.model.read(self.model.perceive(self.preprocessing.normalize(batch.images.to(device))))

    def parts(self) -> dict[str, nn.Module]:
        """The model's, and the tables if there are any."""
        parts = dict(self.model.named_children())
        return parts if self.tables is None else parts | {"tables": self.tables}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Projector, region encoder, added token rows; what else learns of the language model in stage 3."""
        model, config = self.model, self._config
        groups = parameter_groups("projector", model.projector)
        groups += parameter_groups("region_encoder", model.region_encoder)
        scale = 1.0 if config.train == "added" else config.language_lr_scale
        return groups + parameter_groups("language", model.language, lr_scale=scale)


def pack_prompts(
    pictures: Sequence[PicturePrompts],
    visual: Sequence[VisualTokens],
    matched: Sequence[Tensor],
    *,
    tokens: SpecialTokenIds,
    num_image_tokens: int,
) -> SplicedBatch:
    """All questions about B pictures, one row a picture.

    Args:
        pictures: questions whose slots name objects.
        visual: what the model is given of each picture.
        matched: B tensors (T_i,) int64, for each object of a picture the region that stands for it.
        tokens: ids of the special tokens.
        num_image_tokens: image tokens of a picture.

    Returns:
        The batch, on the device of the visual tokens.
    """
    rows = [
        [_splice(prompt, regions, seen, tokens, num_image_tokens) for prompt in picture.prompts]
        for picture, seen, regions in zip(pictures, visual, [m.cpu() for m in matched], strict=True)
    ]
    return pack(rows, pad_id=tokens.pad).to(visual[0].features.device)


def _splice(
    prompt: RenderedPrompt, matched: Tensor, seen: VisualTokens, tokens: SpecialTokenIds, num_image_tokens: int
) -> Spliced:
    return splice(
        prompt.token_ids,
        prompt.labels,
        refer_regions=matched[list(prompt.refer_slots)],
        ground_regions=matched[list(prompt.ground_slots)],
        num_image_tokens=num_image_tokens,
        num_regions=len(seen.regions),
        tokens=tokens,
    )


def answer_terms(loss: AnswerLoss, tokens: SpecialTokenIds, total_weight: float) -> dict[str, Tensor]:
    """What is reported of a micro-batch: terms that add up over the micro-batches of a step.

    Returns:
        "answer": the loss. "right": share of the tokens that were predicted. "region_right": the same among the
        region tokens alone; micro-batches count by their tokens.
    """
    right = (loss.predicted == loss.targets).float()
    is_region = (loss.targets >= tokens.region_ids[0]) & (loss.targets <= tokens.region_ids[-1])
    regions_right = (right * is_region).sum() / is_region.sum().clamp(min=1)
    return {
        "answer": loss.total.detach(),
        "right": right.sum() / total_weight,
        "region_right": regions_right * (len(right) / total_weight),
    }
