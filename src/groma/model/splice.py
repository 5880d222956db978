"""Where pictures enter prompts: slots -> region numbers, image tokens and region tokens. Pure, count-checked.

    prompt ids      ... <image> ... <region> ... <refer_box> ... <refer_feat> ... <ground_box> ...
    spliced ids     ... <image> x N ... <r0> <region> <r1> <region> ... <r4> ... <refer_feat> ... <r2> ...
    feature_index           0..N-1         -1   N+0     -1   N+1        -1        N+4             -1

N image tokens, R regions of the picture, T tokens after splicing, D width of the language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from groma.errors import InputError
from groma.prompt.tokens import IGNORE_INDEX, SpecialTokenIds

WORD = -1
"""feature_index of a token that keeps its word embedding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spliced:
    """One prompt with its picture's tokens in place."""

    ids: Tensor
    """(T,) token ids"""
    labels: Tensor
    """(T,) the id itself where it is trained on, IGNORE_INDEX elsewhere; not shifted"""
    feature_index: Tensor
    """(T,) row of [image tokens, region tokens] that replaces the word embedding, or WORD"""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplicedBatch:
    """Prompts of one length; what the language model is run on."""

    ids: Tensor
    """(B, T)"""
    labels: Tensor
    """(B, T)"""
    feature_index: Tensor
    """(B, T)"""
    attention_mask: Tensor
    """(B, T) 1 for real tokens; or (B, 1, T, T) bool, true where a token may look, for packed prompts"""
    position_ids: Tensor
    """(B, T) positions counted from 0 at the first real token"""

    def to(self, device: torch.device) -> "SplicedBatch":
        """The same batch on another device."""
        return SplicedBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def splice(
    token_ids: Sequence[int],
    labels: Sequence[int] | None,
    *,
    refer_regions: Tensor,
    ground_regions: Tensor,
    num_image_tokens: int,
    num_regions: int,
    tokens: SpecialTokenIds,
) -> Spliced:
    """Put region numbers and feature slots into a rendered prompt (golden conventions, "Prompt").

    Args:
        token_ids: prompt ids with one <image>, one <region> after it, and box slots.
        labels: as long as `token_ids`, or None: nothing is trained.
        refer_regions: (k,) region of the k-th <refer_box> and of the k-th <refer_feat>.
        ground_regions: (m,) region of the m-th <ground_box>.
        num_image_tokens: N.
        num_regions: R.
        tokens: ids of the special tokens.

    Raises:
        InputError: the slots do not match what is to be put into them; names both counts.
    """
    ids = torch.as_tensor(list(token_ids))
    marks = torch.full_like(ids, IGNORE_INDEX) if labels is None else torch.as_tensor(list(labels))
    region_ids = torch.as_tensor(tokens.region_ids)
    _check_slots(ids, tokens, len(refer_regions), len(ground_regions), num_regions)
    features = torch.full_like(ids, WORD)
    features[ids == tokens.refer_feat] = num_image_tokens + refer_regions
    is_ground = ids == tokens.ground_box
    ids[ids == tokens.refer_box] = region_ids[refer_regions]
    ids[is_ground] = region_ids[ground_regions]
    # the label of an annotated box is set even where it was masked: the published code does so
    if labels is not None:
        marks[is_ground] = region_ids[ground_regions]
    image_at, region_at = (ids == tokens.image).nonzero().item(), (ids == tokens.region_list).nonzero().item()
    numbers = torch.arange(num_regions)
    pairs = torch.stack((region_ids[numbers], torch.full_like(numbers, tokens.region_list)), dim=1).flatten()
    pair_features = torch.stack((torch.full_like(numbers, WORD), num_image_tokens + numbers), dim=1).flatten()
    image_features = torch.arange(num_image_tokens)

    def expand(values: Tensor, image: Tensor, regions: Tensor) -> Tensor:
        return torch.cat((values[:image_at], image, values[image_at + 1 : region_at], regions, values[region_at + 1 :]))

    return Spliced(
        ids=expand(ids, torch.full_like(image_features, tokens.image), pairs),
        labels=expand(marks, torch.full_like(image_features, IGNORE_INDEX), torch.full_like(pairs, IGNORE_INDEX)),
        feature_index=expand(features, image_features, pair_features),
    )


def _check_slots(ids: Tensor, tokens: SpecialTokenIds, num_refer: int, num_ground: int, num_regions: int) -> None:
    wanted = {
        "<image>": (tokens.image, 1),
        "<region>": (tokens.region_list, 1),
        "<refer_box>": (tokens.refer_box, num_refer),
        "<refer_feat>": (tokens.refer_feat, num_refer),
        "<ground_box>": (tokens.ground_box, num_ground),
    }
    for name, (token, count) in wanted.items():
        found = int((ids == token).sum())
        if found != count:
            raise InputError(f"The prompt has {found} {name} slots, but {count} are to be filled.")
    if (ids == tokens.image).nonzero().item() > (ids == tokens.region_list).nonzero().item():
        raise InputError("The prompt has <region> before <image>; the picture's tokens come first.")
    if num_regions > tokens.num_regions:
        raise InputError(f"{num_regions} regions, but the vocabulary has {tokens.num_regions} region tokens.")


def pad(samples: Sequence[Spliced], *, pad_id: int, side: str) -> SplicedBatch:
    """Prompts of several lengths -> one batch, padded on the "left" (generation) or "right" (training)."""
    length = max(len(sample) for sample in samples)

    def stack(field: str, fill: int) -> Tensor:
        rows = []
        for sample in samples:
            values = getattr(sample, field)
            gap = length - len(values)
            rows.append(F.pad(values, (gap, 0) if side == "left" else (0, gap), value=fill))
        return torch.stack(rows)

    ids = stack("ids", pad_id)
    mask = (ids != pad_id).long()
    return SplicedBatch(
        ids=ids,
        labels=stack("labels", IGNORE_INDEX),
        feature_index=stack("feature_index", WORD),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
    )


def pack(samples: Sequence[Sequence[Spliced]], *, pad_id: int) -> SplicedBatch:
    """Several prompts about each picture -> one row a picture that holds what they share only once.

    The prompts of a picture begin with the same tokens (opening, image and region tokens); what follows branches.
    A branch sees the shared part and itself, never another branch, and its positions go on from the shared part:
    every token sees exactly what it would see in a row of its own.

    Args:
        samples: B pictures, each with one or more prompts.
        pad_id: id of the padding.

    Returns:
        Batch whose attention mask is (B, 1, T, T).
    """
    rows, branches, positions = [], [], []
    for prompts in samples:
        shared = _shared_length(prompts)
        tails = [len(prompt) - shared for prompt in prompts]
        first = prompts[0]
        rows.append(
            Spliced(
                ids=torch.cat([first.ids[:shared], *(p.ids[shared:] for p in prompts)]),
                labels=torch.cat([first.labels[:shared], *(p.labels[shared:] for p in prompts)]),
                feature_index=torch.cat([first.feature_index[:shared], *(p.feature_index[shared:] for p in prompts)]),
            )
        )
        branches.append(torch.repeat_interleave(torch.arange(len(tails) + 1), torch.tensor([shared, *tails])))
        positions.append(torch.cat([torch.arange(shared), *(shared + torch.arange(tail) for tail in tails)]))
    batch = pad(rows, pad_id=pad_id, side="right")
    length = batch.ids.shape[1]
    branch = torch.stack([F.pad(b, (0, length - len(b)), value=-1) for b in branches])
    may_look = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    # padding looks at itself, since a row without anything to look at has no softmax
    visible = (may_look & causal & (branch[:, None, :] >= 0)) | torch.eye(length, dtype=torch.bool)
    return SplicedBatch(
        ids=batch.ids,
        labels=batch.labels,
        feature_index=batch.feature_index,
        attention_mask=visible[:, None],
        position_ids=torch.stack([F.pad(p, (0, length - len(p))) for p in positions]),
    )


def _shared_length(prompts: Sequence[Spliced]) -> int:
    """Length of the longest common beginning of several prompts that is surely before anything is trained on.

    Every branch keeps at least the token before its first target: a target is predicted from the token before it in
    the row, which must be of the same branch, and what is trained on must occur as often as it is asked.
    """
    first = prompts[0]
    longest = min(min(len(prompt) - 1, _first_target(prompt) - 1) for prompt in prompts)
    if longest <= 0:
        return 0
    same = torch.ones(longest, dtype=torch.bool)
    for prompt in prompts[1:]:
        same &= prompt.ids[:longest] == first.ids[:longest]
        same &= prompt.feature_index[:longest] == first.feature_index[:longest]
    return int(same.long().cumprod(0).sum())


def _first_target(prompt: Spliced) -> int:
    """Place of the first token that is trained on; the prompt's length if none is."""
    places = (prompt.labels != IGNORE_INDEX).nonzero()
    return int(places[0]) if len(places) else len(prompt)


def insert_features(word_embeddings: Tensor, feature_index: Tensor, features: Sequence[Tensor]) -> Tensor:
    """Replace word embeddings by image and region tokens.

    Args:
        word_embeddings: (B, T, D).
        feature_index: (B, T) row of the picture's features, or WORD.
        features: B tensors (N + R_i, D), image tokens before region tokens.

    Returns:
        (B, T, D).
    """
    starts = torch.tensor([0, *(len(f) for f in features[:-1])], device=feature_index.device).cumsum(0)
    flat = torch.cat(list(features)).to(word_embeddings.dtype)
    rows = flat[(feature_index.clamp(min=0) + starts[:, None])]
    return torch.where((feature_index == WORD)[..., None], word_embeddings, rows)
