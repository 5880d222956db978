"""Deformable attention and the layers of a Deformable DETR (arXiv 2010.04159), in plain PyTorch.

B pictures, S positions of all levels together, Q queries, D width, M heads, L levels, P points a head and level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Feature levels, flattened one after the other (finest first)."""

    features: Tensor
    """(B, S, D)"""
    positions: Tensor
    """(B or 1, S, D) sine position encoding plus level embedding"""
    shapes: tuple[tuple[int, int], ...]
    """(height, width) of each of the L levels; their areas add up to S"""

    def centres(self) -> Tensor:
        """(S, 2) normalized (x, y) of every position's centre."""
        device = self.features.device
        return torch.cat([grid_centres(shape, device=device) for shape in self.shapes])

    def split(self, values: Tensor) -> list[Tensor]:
        """(B, S, ...) -> one (B, h*w, ...) a level."""
        return list(values.split([height * width for height, width in self.shapes], dim=1))


def grid_centres(shape: tuple[int, int], *, device: torch.device) -> Tensor:
    """(height, width) -> (height * width, 2) normalized (x, y) of the cells' centres, row-major."""
    height, width = shape
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((x, y), dim=-1).flatten(0, 1)


def sine_features(angles: Tensor, num_features: int) -> Tensor:
    """(...) angles -> (..., num_features): sin and cos interleaved, temperature 10000."""
    index = torch.arange(num_features, device=angles.device)
    wavelength = 10000 ** (2 * (index // 2) / num_features)
    scaled = angles[..., None] / wavelength
    return torch.stack((scaled[..., 0::2].sin(), scaled[..., 1::2].cos()), dim=-1).flatten(-2)


def sine_positions(shape: tuple[int, int], width: int, *, device: torch.device) -> Tensor:
    """(height, width) of a level -> (height * width, D) encoding, y half first.

    Coordinates are (k + 0.5) / (n + 1e-6) * 2 pi (golden conventions, "Proposer").
    """
    y, x = ((torch.arange(n, device=device, dtype=torch.float32) + 0.5) / (n + 1e-6) * (2 * math.pi) for n in shape)
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.cat((sine_features(y, width // 2), sine_features(x, width // 2)), dim=-1).flatten(0, 1)


class DeformableAttention(nn.Module):
    """Each query reads a few learned sampling points around its reference on every level."""

    def __init__(self, d_model: int, num_heads: int, num_levels: int, num_points: int) -> None:
        """`num_heads` must divide `d_model`."""
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(d_model, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(d_model, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads start out looking in evenly spaced directions, points 1..P cells away (paper, appendix A.4)."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.num_heads) * (2.0 * math.pi / self.num_heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1)[None, None, :, None]
        offsets = directions[:, None, None, :].expand(-1, self.num_levels, self.num_points, -1) * steps
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, references: Tensor, values: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Attend.

        Args:
            queries: (B, Q, D).
            references: (B or 1, Q, 2) normalized points (x, y), or (B, Q, 4) boxes (cx, cy, w, h).
            values: (B, S, D).
            shapes: (height, width) of each level.

        Returns:
            (B, Q, D).
        """
        batch, num_queries, _ = queries.shape
        heads = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(queries).float().view(batch, num_queries, *heads, 2)
        weights = self.attention_weights(queries).float().view(batch, num_queries, self.num_heads, -1)
        weights = weights.softmax(-1).view(batch, num_queries, *heads)
        locations = self._locations(references.float(), offsets, shapes)
        values = self.value_proj(values).unflatten(-1, (self.num_heads, -1))
        return self.output_proj(_sample_and_sum(values, locations, weights, shapes).to(values.dtype))

    def _locations(self, references: Tensor, offsets: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """(B, Q, M, L, P, 2) normalized sampling points."""
        centres = references[:, :, None, None, None, :2]
        if references.shape[-1] == 2:  # the encoder: offsets are in cells of the level
            cells = offsets.new_tensor([(width, height) for height, width in shapes])
            return centres + offsets / cells[:, None, :]
        sizes = references[:, :, None, None, None, 2:]  # the decoder: offsets are in half boxes / P
        return centres + offsets / self.num_points * sizes * 0.5


def _sample_and_sum(values: Tensor, locations: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Bilinear samples (align_corners false, zero outside), weighted and summed -> (B, Q, D), float32.

    values (B, S, M, D/M); locations (B, Q, M, L, P, 2); weights (B, Q, M, L, P).
    """
    batch, num_queries, num_heads = locations.shape[:3]
    levels = values.float().split([height * width for height, width in shapes], dim=1)
    total = values.new_zeros(())
    for index, (level, (height, width)) in enumerate(zip(levels, shapes, strict=True)):
        maps = level.permute(0, 2, 3, 1).reshape(batch * num_heads, -1, height, width)
        points = locations[:, :, :, index].transpose(1, 2).flatten(0, 1)  # (BM, Q, P, 2)
        samples = F.grid_sample(maps, 2.0 * points - 1.0, align_corners=False)  # (BM, D/M, Q, P)
        level_weights = weights[:, :, :, index].transpose(1, 2).flatten(0, 1)  # (BM, Q, P)
        total = total + (samples * level_weights[:, None]).sum(-1)
    return total.view(batch, -1, num_queries).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear, ReLU, Linear, dropout; the residual and LayerNorm belong to the layer."""

    def __init__(self, d_model: int, hidden: int, dropout: float) -> None:
        """`hidden` is the inner width."""
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d_model, hidden), nn.Linear(hidden, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.dropout(self.fc2(F.relu(self.fc1(hidden))))


class EncoderLayer(nn.Module):
    """Deformable self-attention over all positions, then a feed-forward part; post-norm."""

    def __init__(self, d_model: int, heads: int, hidden: int, *, levels: int, points: int, dropout: float) -> None:
        """See DeformableAttention and FeedForward."""
        super().__init__()
        self.self_attn = DeformableAttention(d_model, heads, levels, points)
        self.self_attn_norm = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, hidden, dropout)
        self.final_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, pyramid: Pyramid, centres: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D); the position encoding goes to the queries only, never to the values."""
        attended = self.self_attn(hidden + pyramid.positions, centres, hidden, pyramid.shapes)
        hidden = self.self_attn_norm(hidden + self.dropout(attended))
        return self.final_norm(hidden + self.feed_forward(hidden))


class SelfAttention(nn.Module):
    """Plain multi-head attention among the queries."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        """`num_heads` must divide `d_model`."""
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.v_proj, self.out_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, values: Tensor) -> Tensor:
        """(B, Q, D) queries, which are the keys too, and (B, Q, D) values -> (B, Q, D)."""

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            heads(self.q_proj(queries)), heads(self.k_proj(queries)), heads(self.v_proj(values))
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Attention among the queries, deformable attention to the pyramid, feed-forward; post-norm."""

    def __init__(self, d_model: int, heads: int, hidden: int, *, levels: int, points: int, dropout: float) -> None:
        """See DeformableAttention and FeedForward."""
        super().__init__()
        self.self_attn = SelfAttention(d_model, heads)
        self.self_attn_norm = nn.LayerNorm(d_model)
        self.cross_attn = DeformableAttention(d_model, heads, levels, points)
        self.cross_attn_norm = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, hidden, dropout)
        self.final_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden: Tensor, positions: Tensor, references: Tensor, memory: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """(B, Q, D) queries with (B, Q, D) positions and (B, Q, 4) reference boxes -> (B, Q, D)."""
        attended = self.self_attn(hidden + positions, hidden)
        hidden = self.self_attn_norm(hidden + self.dropout(attended))
        attended = self.cross_attn(hidden + positions, references, memory, shapes)
        hidden = self.cross_attn_norm(hidden + self.dropout(attended))
        return self.final_norm(hidden + self.feed_forward(hidden))
