"""The model: picture and prompts in, logits and loss out. `forward` is the flow of the package.

    pixels -> encoder -> proposer -> selection -> region encoder --+
                |                                                   +-> splice -> language model
                +-> projector ------------------------------------+

B pictures, N image tokens, R regions of a picture, D width of the language model, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from groma.model.config import GromaConfig
from groma.model.encoder import ImageEncoder
from groma.model.language import LanguageModel
from groma.model.projector import ImageProjector
from groma.model.proposer import RegionProposer
from groma.model.region_encoder import RegionEncoder
from groma.model.selection import select_regions
from groma.model.splice import SplicedBatch, insert_features
from groma.model.types import FeatureMaps, Proposals, Regions
from groma.prompt.tokens import IGNORE_INDEX


@dataclass(frozen=True, slots=True, kw_only=True)
class Perception:
    """What the frozen half sees in B pictures: enough for any number of questions and boxes."""

    maps: FeatureMaps
    """features of the encoder's last blocks"""
    proposals: Proposals
    """all proposals, before selection"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureTokens:
    """What of B pictures does not depend on the boxes of a question."""

    proposals: Proposals
    """all proposals, before selection"""
    levels: tuple[Tensor, ...]
    """fused levels of the region encoder, each (B, C, h, w)"""
    image: Tensor
    """(B, N, D) image tokens"""

    def __len__(self) -> int:
        return len(self.image)

    def take(self, numbers: Sequence[int]) -> "PictureTokens":
        """The pictures of these numbers, in this order."""
        rows = torch.as_tensor(list(numbers), device=self.image.device)
        levels = tuple(level[rows] for level in self.levels)
        return PictureTokens(proposals=self.proposals.take(numbers), levels=levels, image=self.image[rows])

    @staticmethod
    def join(parts: Sequence["PictureTokens"]) -> "PictureTokens":
        """Pictures seen apart as one batch."""
        logits = {s: torch.cat([p.proposals.logits[s] for p in parts]) for s in parts[0].proposals.logits}
        return PictureTokens(
            proposals=Proposals(boxes_cxcywh=torch.cat([p.proposals.boxes_cxcywh for p in parts]), logits=logits),
            levels=tuple(torch.cat(levels) for levels in zip(*(p.levels for p in parts), strict=True)),
            image=torch.cat([p.image for p in parts]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualTokens:
    """What the language model is given of one picture."""

    regions: Regions
    """the regions that have a number"""
    features: Tensor
    """(N + R, D) image tokens, then one token a region"""


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """Next-token loss on answers; K supervised tokens, sample by sample in order."""

    total: Tensor
    """() summed loss over the divisor"""
    per_token: Tensor
    """(K,) negative log-likelihoods"""
    predicted: Tensor
    """(K,) the likeliest tokens"""
    targets: Tensor
    """(K,) the right tokens"""


class GromaModel(PreTrainedModel):
    """Groma as a transformers model: `from_pretrained`, `save_pretrained`, device maps and peft work."""

    config_class = GromaConfig
    config: GromaConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Dinov2Layer", "EncoderLayer", "DecoderLayer"]  # noqa: RUF012
    # a model loaded in half precision keeps its proposer in float32: boxes are worth more than three digits, and the
    # proposer is a small part of the work
    _keep_in_fp32_modules_strict = ["proposer"]  # noqa: RUF012

    def __init__(
        self,
        config: GromaConfig,
        *,
        base: PreTrainedModel | None = None,
        backbone: PreTrainedModel | None = None,
    ) -> None:
        """Build all parts with fresh weights.

        Args:
            config: the architecture.
            base: a causal LM of it that is there already, with its weights.
            backbone: the same for the encoder.
        """
        super().__init__(config)
        self.language = LanguageModel(config.language, config.num_new_tokens, base=base)
        num_blocks = max(config.proposer.num_encoder_blocks, len(config.region_encoder.upsample))
        self.encoder = ImageEncoder(config.encoder, num_blocks, backbone=backbone)
        self.proposer = RegionProposer(config.proposer, config.encoder.hidden_size)
        self.region_encoder = RegionEncoder(
            config.region_encoder,
            feature_dim=config.encoder.hidden_size,
            image_size=config.image_size,
            patch_size=config.patch_size,
            output_dim=self.language.hidden_size,
        )
        self.projector = ImageProjector(config.encoder.hidden_size, self.language.hidden_size)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Every part initializes itself when it is built."""

    @torch.no_grad()
    def perceive(self, pixel_values: Tensor) -> Perception:
        """(B, 3, S, S) -> features and proposals. Encoder and proposer never get gradients here (section 3.4)."""
        maps = self.encoder(pixel_values)
        return Perception(maps=maps, proposals=self.proposer(maps).proposals)

    def read(self, perception: Perception) -> PictureTokens:
        """Everything that the boxes of a question do not change: projected picture, fused levels."""
        return PictureTokens(
            proposals=perception.proposals,
            levels=tuple(self.region_encoder.fusion(perception.maps)),
            image=self.projector(perception.maps.final),
        )

    def tokenize(
        self,
        pictures: PictureTokens,
        *,
        numbers: Sequence[int] | None = None,
        user_boxes_cxcywh: Sequence[Tensor] | None = None,
        annotated_boxes_cxcywh: Sequence[Tensor] | None = None,
        shuffle: Sequence[torch.Generator] | None = None,
    ) -> list[VisualTokens]:
        """Localized visual tokenization: choose the regions of each request, one token each.

        Args:
            pictures: B pictures.
            numbers: which picture each of K requests is about; None: one request a picture, in order.
            user_boxes_cxcywh: for each request (U_i, 4) boxes that the user points at.
            annotated_boxes_cxcywh: for each request (A_i, 4) annotated boxes, in training.
            shuffle: for each request what draws the order of its regions (training); None keeps them best first.

        Returns:
            K results.
        """
        numbers = range(len(pictures)) if numbers is None else numbers
        regions = select_regions(
            pictures.proposals.take(numbers),
            config=self.config.selection,
            user_boxes_cxcywh=user_boxes_cxcywh,
            annotated_boxes_cxcywh=annotated_boxes_cxcywh,
            shuffle=shuffle,
        )
        tokens = self._region_tokens(pictures.levels, numbers, [r.boxes_cxcywh for r in regions])
        return [
            VisualTokens(regions=r, features=torch.cat((pictures.image[number], t)))
            for r, number, t in zip(regions, numbers, tokens, strict=True)
        ]

    def _region_tokens(
        self, levels: Sequence[Tensor], numbers: Sequence[int], boxes_cxcywh: Sequence[Tensor]
    ) -> list[Tensor]:
        """Encode the boxes of all requests about a picture together: no level is copied."""
        count = levels[0].shape[0]
        requests = [[k for k, number in enumerate(numbers) if number == picture] for picture in range(count)]
        nothing = boxes_cxcywh[0][:0]
        together = [torch.cat([nothing, *(boxes_cxcywh[k] for k in ks)]) for ks in requests]
        tokens: dict[int, Tensor] = {}
        for ks, encoded in zip(requests, self.region_encoder.encode(levels, together), strict=True):
            parts = encoded.split([len(boxes_cxcywh[k]) for k in ks])
            tokens.update(zip(ks, parts, strict=True))
        return [tokens[k] for k in range(len(numbers))]

    def embed(self, batch: SplicedBatch, visual: Sequence[VisualTokens]) -> Tensor:
        """(B, T) spliced prompts and the pictures' tokens -> (B, T, D) input of the language model."""
        words = self.language.embed(batch.ids)
        return insert_features(words, batch.feature_index, [v.features for v in visual])

    def forward(
        self, batch: SplicedBatch, visual: Sequence[VisualTokens], *, total_tokens: float | None = None
    ) -> AnswerLoss:
        """Next-token loss on the answers.

        Args:
            batch: B spliced prompts with labels.
            visual: tokens of their B pictures.
            total_tokens: divisor of the summed loss; None: the supervised tokens of this batch.
        """
        embeddings = self.embed(batch, visual)
        mask = batch.attention_mask
        if mask.ndim == 4:
            mask = self.language.layer_masks(mask, batch.position_ids, embeddings.dtype)
        hidden, _ = self.language(
            embeddings,
            attention_mask=mask,
            position_ids=batch.position_ids,
            use_cache=False,
        )
        targets = batch.labels[:, 1:]
        taught = targets != IGNORE_INDEX
        logits = self.language.logits(hidden[:, :-1][taught])  # only where there is something to learn
        losses = F.cross_entropy(logits, targets[taught], reduction="none")
        total = losses.sum() / (total_tokens or max(len(losses), 1))
        return AnswerLoss(total, losses, logits.argmax(-1), targets[taught])
