"""The one generation path: embeddings of a left-padded batch -> tokens, step by step.

B samples, T prompt tokens, D width, V + A vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groma.errors import InputError
from groma.inference.constraint import AnswerState
from groma.inference.prefix import Prefix
from groma.inference.request import check_switch
from groma.model.groma import GromaModel, VisualTokens
from groma.model.splice import SplicedBatch
from groma.prompt.tokens import SpecialTokenIds

COLDEST = 1e-6
"""Below this temperature the likeliest token is taken: float32 cannot tell the rest from nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How tokens are chosen."""

    max_new_tokens: int = 512
    """Tokens an answer may have at most, its end included."""
    temperature: float = 0.0
    """0: always the likeliest token. Above: sampled, and `seed` decides."""
    top_p: float = 1.0
    """Sample only from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Seed of the sampling; the same seed gives the same answer, whatever else is in the batch."""
    constrained: bool = True
    """Only well-formed answers about regions that exist (groma.inference.constraint)."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "seed", "temperature", "top_p"):
            value, is_count = getattr(self, name), name in ("max_new_tokens", "seed")
            if not isinstance(value, int if is_count else int | float) or isinstance(value, bool):
                raise InputError(f"{name} must be a {'whole ' if is_count else ''}number, got {value!r}.")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")
        check_switch(self.constrained, "constrained")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature must be 0 (deterministic) or a number above, got {self.temperature}.")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be a whole number from 0 to 2**63 - 1, got {self.seed}.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {self.top_p}.")


def check_decoding(decoding: Decoding | None) -> Decoding:
    """How tokens are chosen; None: deterministic.

    Raises:
        InputError: it is something else, such as a dictionary of options.
    """
    if decoding is None:
        return Decoding()
    if not isinstance(decoding, Decoding):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"decoding must be a groma.Decoding, such as Decoding(max_new_tokens=64), not {decoding!r}")
    return decoding


@dataclass(frozen=True, slots=True)
class Step:
    """One decoding step of a batch."""

    token_ids: tuple[int | None, ...]
    """B tokens; None where the answer had ended before"""
    region_probabilities: tuple[dict[int, float] | None, ...]
    """for a sample that named a region: region number -> probability, over the regions that exist, adding to 1"""
    logits: Tensor
    """(B, V + A) float32, before constraint and sampling"""


@torch.inference_mode()
def decode(
    model: GromaModel,
    batch: SplicedBatch,
    visual: Sequence[VisualTokens],
    *,
    tokens: SpecialTokenIds,
    decoding: Decoding,
    stop_ids: frozenset[int] | None = None,
    silent_ids: frozenset[int] = frozenset(),
    prefix: Prefix | None = None,
) -> Iterator[Step]:
    """Prefill, then one token at a time until every sample has ended or `max_new_tokens` is reached.

    Args:
        model: in evaluation mode.
        batch: left-padded prompts.
        visual: tokens of the pictures, one a sample.
        tokens: ids of the special tokens.
        decoding: how tokens are chosen.
        stop_ids: tokens that end an answer; None: the end token alone.
        silent_ids: base tokens that are no text (`PromptTokenizer.control_ids`); a constrained answer has none.
        prefix: of a batch of one: what was read of its conversation before, which is not read again.

    Yields:
        Step by step what every sample says. Greedy decoding does not depend on what else is in the batch.
    """
    known = 0 if prefix is None else prefix.rewind(batch, visual[0])
    embeddings, positions = model.embed(batch, visual)[:, known:], batch.position_ids[:, known:]
    mask, cache = batch.attention_mask, None if prefix is None else prefix.cache
    stop_ids = stop_ids or frozenset({tokens.eos})
    states = [AnswerState(tokens, len(v.regions), stop_ids, silent_ids) for v in visual]
    generators = [torch.Generator().manual_seed(decoding.seed) for _ in visual]
    ended = [False] * len(visual)
    said: Tensor | None = None
    for remaining in range(decoding.max_new_tokens, 0, -1):
        hidden, cache = model.language(
            embeddings, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        if prefix is not None:
            prefix.keep(cache, said)
        logits = model.language.logits(hidden[:, -1])
        rows = logits.cpu()
        chosen = [
            None if done else _choose(row, state, remaining, decoding, generator)
            for row, state, generator, done in zip(rows, states, generators, ended, strict=True)
        ]
        yield Step(tuple(chosen), tuple(map(_region_probabilities, chosen, rows, states)), logits)
        states = [s if t is None else s.after(t) for s, t in zip(states, chosen, strict=True)]
        ended = [token is None or token in stop_ids for token in chosen]
        if all(ended):
            return
        said = torch.tensor([[tokens.pad if t is None else t] for t in chosen], device=mask.device)
        embeddings = model.language.embed(said).to(embeddings.dtype)
        mask = torch.cat((mask, mask.new_ones(len(visual), 1)), dim=1)
        positions = positions[:, -1:] + 1


def _choose(logits: Tensor, state: AnswerState, remaining: int, decoding: Decoding, generator: torch.Generator) -> int:
    """(V + A,) logits of one sample -> the next token.

    What the model says by itself stands if the grammar allows it, so that the constraint changes no well-formed
    answer, sampled ones included; drawing again among what is allowed gives the renormalized probabilities.
    """
    token = _draw(logits, decoding, generator)
    if decoding.constrained:
        allowed = state.allowed(remaining)
        if not allowed[token]:
            token = _draw(logits.masked_fill(~allowed, float("-inf")), decoding, generator)
    return token


def _draw(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> int:
    """The likeliest token, or one drawn from the likeliest."""
    if decoding.temperature < COLDEST:
        return int(logits.argmax())
    probabilities = ((logits - logits.max()) / decoding.temperature).softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    keep = ordered.cumsum(0) - ordered < decoding.top_p  # the first token always stays
    return int(order[torch.multinomial(ordered * keep, 1, generator=generator)])


def _region_probabilities(token: int | None, logits: Tensor, state: AnswerState) -> dict[int, float] | None:
    """Where a region was named: the probabilities of all regions that exist, renormalized over them."""
    number = None if token is None else state.tokens.region_number(token)
    if number is None:
        return None
    existing = list(state.tokens.region_ids[: max(state.num_regions, number + 1)])
    probabilities: list[float] = logits[existing].softmax(-1).float().numpy(force=True).tolist()
    return dict(enumerate(probabilities))
