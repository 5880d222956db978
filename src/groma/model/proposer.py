"""Stop 2 of 6: FeatureMaps -> Proposals. A class-agnostic two-stage Deformable DETR (paper, section 3.1).

B pictures, S positions of all levels, Q queries, D width, L decoder layers (feature levels elsewhere).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groma.model.config import ProposerConfig
from groma.model.deformable import DecoderLayer, EncoderLayer, Pyramid, grid_centres, sine_features, sine_positions
from groma.model.types import FeatureMaps, Proposals

BASE_BOX_SIZE = 0.05
"""Side of the first guess at a position of the finest level; it doubles with every coarser level."""
BORDER = 0.01
"""First guesses with a coordinate closer than this to 0 or 1 are not proposed."""


@dataclass(frozen=True, slots=True)
class ProposerOutput:
    """Everything the detection losses look at; `proposals` is what the rest of the model uses."""

    pyramid_shapes: tuple[tuple[int, int], ...]
    """(height, width) of each feature level"""
    levels: Tensor
    """(B, S, D) input of the transformer, levels one after the other"""
    memory: Tensor
    """(B, S, D) output of the transformer's encoder"""
    encoder_logits: Tensor
    """(B, S) objectness logit of every position, from the head that all sources share"""
    encoder_box_logits: Tensor
    """(B, S, 4) box logits, cx cy w h; +inf where a first guess lies on the border"""
    top_positions: Tensor
    """(B, Q) positions with the highest encoder_logits, best first"""
    initial_boxes_cxcywh: Tensor
    """(B, Q, 4) boxes of those positions: the decoder's references, detached"""
    hidden: Tensor
    """(L, B, Q, D) output of every decoder layer"""
    layer_references_cxcywh: Tensor
    """(L, B, Q, 4) each layer's own refinement of the initial boxes"""
    layer_boxes_cxcywh: Tensor
    """(L, B, Q, 4) each layer's predicted boxes, refined from the layer before"""
    layer_logits: dict[str, Tensor]
    """source -> (L, B, Q) objectness logits"""

    @property
    def proposals(self) -> Proposals:
        """Boxes and logits of the last decoder layer."""
        logits = {source: values[-1] for source, values in self.layer_logits.items()}
        return Proposals(boxes_cxcywh=self.layer_boxes_cxcywh[-1], logits=logits)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        """`channels` is C."""
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        last = F.layer_norm(maps.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, eps=1e-6)
        return last.permute(0, 3, 1, 2)


class BoxHead(nn.Module):
    """Three linear layers to four box logits; starts out predicting no change."""

    def __init__(self, d_model: int, hidden: int) -> None:
        """`hidden` is the width of the two inner layers."""
        super().__init__()
        sizes = (d_model, hidden, hidden, 4)
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
        self.layers = nn.ModuleList(layers)

    @torch.no_grad()
    def start_from_size(self, log_odds: float) -> None:
        """Let an untaught head move width and height by so many logits."""
        self.get_parameter("layers.2.bias")[2:] = log_odds

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., 4)."""
        for layer in self.layers[:-1]:
            hidden = F.relu(layer(hidden))
        return self.layers[-1](hidden).float()


class RegionProposer(nn.Module):
    """Boxes for everything that might be spoken about, each with an objectness logit a source.

    The references are *not* refined from layer to layer: every decoder layer looks around the initial boxes,
    and the final boxes add the offsets of the last two layers (golden conventions, "Proposer").
    """

    def __init__(self, config: ProposerConfig, encoder_dim: int) -> None:
        """`encoder_dim` is the image encoder's width."""
        super().__init__()
        self.config = config
        width = config.d_model
        shared = {"levels": config.num_feature_levels, "points": config.num_points, "dropout": config.dropout}
        self.input_proj = nn.ModuleList(_input_projections(encoder_dim, width, config.num_feature_levels))
        self.level_embed = nn.Parameter(torch.randn(config.num_feature_levels, width))
        self.encoder_layers = nn.ModuleList(
            EncoderLayer(width, config.encoder_attention_heads, config.encoder_ffn_dim, **shared)
            for _ in range(config.encoder_layers)
        )
        self.proposal_proj, self.proposal_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.proposal_head = nn.Linear(width, 1)
        self.query_content = nn.Embedding(config.num_queries, width)
        self.position_proj, self.position_norm = nn.Linear(2 * width, 2 * width), nn.LayerNorm(2 * width)
        self.decoder_layers = nn.ModuleList(
            DecoderLayer(width, config.decoder_attention_heads, config.decoder_ffn_dim, **shared)
            for _ in range(config.decoder_layers)
        )
        # one box head more than decoder layers: the last one is the encoder's
        self.box_heads = nn.ModuleList(BoxHead(width, config.box_head_dim) for _ in range(config.decoder_layers + 1))
        object_heads = {
            source: [nn.Linear(width, 1) for _ in range(config.decoder_layers)] for source in config.sources
        }
        self.object_heads = nn.ModuleDict({source: nn.ModuleList(heads) for source, heads in object_heads.items()})
        for head in (self.proposal_head, *(head for heads in object_heads.values() for head in heads)):
            nn.init.constant_(head.bias, -math.log(99))  # start at probability 0.01 (focal loss, section 4.1)

    def start_from_boxes_of(self, side: float) -> None:
        """Let an untaught proposer guess boxes of this side (a share of the picture's) instead of BASE_BOX_SIZE.

        One-to-many assignment teaches only predictions that overlap an object already.
        """
        wanted, published = (math.log(share / (1 - share)) for share in (side, BASE_BOX_SIZE))
        cast(BoxHead, self.box_heads[-1]).start_from_size(wanted - published)

    def forward(self, maps: FeatureMaps) -> ProposerOutput:
        """Average the last encoder blocks, encode, propose, decode."""
        pyramid = self.build_pyramid(maps)
        memory = self.encode(pyramid)
        logits, box_logits = self.score_positions(memory, pyramid.shapes)
        top = torch.topk(logits, min(self.config.num_queries, logits.shape[1]), dim=1).indices
        top_box_logits = box_logits.gather(1, top[..., None].expand(-1, -1, 4)).detach()
        hidden = self.decode(memory, top_box_logits.sigmoid(), pyramid.shapes)
        references, boxes_cxcywh = self.read_boxes(hidden, top_box_logits.sigmoid())
        object_logits = {
            source: torch.stack([head(h)[..., 0].float() for head, h in zip(heads, hidden, strict=True)])
            for source, heads in cast(Mapping[str, nn.ModuleList], self.object_heads).items()
        }
        return ProposerOutput(
            pyramid_shapes=pyramid.shapes,
            levels=pyramid.features,
            memory=memory,
            encoder_logits=logits,
            encoder_box_logits=box_logits,
            top_positions=top,
            initial_boxes_cxcywh=top_box_logits.sigmoid(),
            hidden=hidden,
            layer_references_cxcywh=references,
            layer_boxes_cxcywh=boxes_cxcywh,
            layer_logits=object_logits,
        )

    def build_pyramid(self, maps: FeatureMaps) -> Pyramid:
        """Mean of the last encoder blocks -> projected levels, flattened, finest first."""
        blocks = torch.stack(maps.last[-self.config.num_encoder_blocks :])
        mean = blocks.to(self.level_embed.dtype).mean(0).permute(0, 3, 1, 2)
        levels = [proj(mean) for proj in self.input_proj]
        shapes = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        positions = [
            sine_positions(shape, self.config.d_model, device=mean.device) + embed
            for shape, embed in zip(shapes, self.level_embed, strict=True)
        ]
        features = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        return Pyramid(features, torch.cat(positions)[None].to(features.dtype), shapes)

    def encode(self, pyramid: Pyramid) -> Tensor:
        """Pyramid -> (B, S, D) memory."""
        hidden, centres = pyramid.features, pyramid.centres()[None]
        for layer in self.encoder_layers:
            hidden = layer(hidden, pyramid, centres)
        return hidden

    def score_positions(self, memory: Tensor, shapes: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
        """(B, S, D) -> (B, S) objectness logits and (B, S, 4) box logits of every position's first guess."""
        guesses = _first_guesses(shapes, memory.device)  # (S, 4)
        inside = ((guesses > BORDER) & (guesses < 1 - BORDER)).all(-1)
        guess_logits = torch.logit(guesses).masked_fill(~inside[:, None], float("inf"))
        features = self.proposal_norm(self.proposal_proj(memory * inside[:, None]))
        return self.proposal_head(features)[..., 0].float(), self.box_heads[-1](features) + guess_logits

    def decode(self, memory: Tensor, initial_boxes_cxcywh: Tensor, shapes: tuple[tuple[int, int], ...]) -> Tensor:
        """Mixed query selection (learned content, proposal position) and the decoder -> (L, B, Q, D)."""
        batch, num_queries, _ = initial_boxes_cxcywh.shape
        features = sine_features(initial_boxes_cxcywh * (2 * math.pi), self.config.d_model // 2).flatten(2)
        projected = self.position_norm(self.position_proj(features.to(memory.dtype)))
        # the second half would be the content in a Deformable DETR without learned content: unused here
        positions = projected[..., : self.config.d_model]
        hidden = self.query_content.weight[:num_queries].to(memory.dtype).expand(batch, -1, -1)
        layers = []
        for layer in self.decoder_layers:
            hidden = layer(hidden, positions, initial_boxes_cxcywh, memory, shapes)
            layers.append(hidden)
        return torch.stack(layers)

    def read_boxes(self, hidden: Tensor, initial_boxes_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
        """(L, B, Q, D) and (B, Q, 4) -> each layer's references and boxes, both (L, B, Q, 4).

        Layer l's reference is its own offset from the *initial* box; its box is its offset from the reference
        of the layer before. References are not detached.
        """
        offsets = [head(layer) for head, layer in zip(self.box_heads[:-1], hidden, strict=True)]
        initial = inverse_sigmoid(initial_boxes_cxcywh)
        references = torch.stack([(offset + initial).sigmoid() for offset in offsets])
        bases = [initial, *(inverse_sigmoid(reference) for reference in references[:-1])]
        boxes = torch.stack([(o + base).sigmoid() for o, base in zip(offsets, bases, strict=True)])
        return references, boxes


def inverse_sigmoid(values: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of values clamped to 0..1, numerator and denominator clamped to at least `eps`."""
    values = values.clamp(0, 1)
    return torch.log(values.clamp(min=eps) / (1 - values).clamp(min=eps))


def _first_guesses(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """(S, 4) a box of BASE_BOX_SIZE * 2^level at every position, cx cy w h."""
    guesses = []
    for level, shape in enumerate(shapes):
        centres = grid_centres(shape, device=device)
        guesses.append(torch.cat((centres, torch.full_like(centres, BASE_BOX_SIZE * 2**level)), dim=-1))
    return torch.cat(guesses)


def _input_projections(encoder_dim: int, width: int, num_levels: int) -> list[nn.Sequential]:
    """Encoder map -> levels of 4, 2, 1 and 1/2 times its resolution; one level is the map's own.

    Fewer than four levels keep the coarse end, as the published code does; a single level is never strided.
    """
    half, quarter = width // 2, width // 4
    if num_levels == 1:
        return [nn.Sequential(nn.Conv2d(encoder_dim, width, 1), ChannelNorm(width))]
    levels = [
        nn.Sequential(
            nn.ConvTranspose2d(encoder_dim, half, 2, stride=2),
            ChannelNorm(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
            nn.Conv2d(quarter, width, 1),
            ChannelNorm(width),
            nn.Conv2d(width, width, 3, padding=1),
        ),
        nn.Sequential(
            nn.ConvTranspose2d(encoder_dim, half, 2, stride=2),
            nn.Conv2d(half, width, 1),
            ChannelNorm(width),
            nn.Conv2d(width, width, 3, padding=1),
        ),
        nn.Sequential(nn.Conv2d(encoder_dim, width, 1), ChannelNorm(width)),
        nn.Sequential(nn.Conv2d(encoder_dim, width, 3, stride=2, padding=1), ChannelNorm(width)),
    ]
    return levels[-num_levels:]
