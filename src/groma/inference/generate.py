"""How the next token of an answer is chosen."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from groma.errors import InputError
from groma.inference.constraint import AnswerState
from groma.inference.request import check_switch

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


def choose(
    logits: Tensor,
    likeliest: int,
    state: AnswerState,
    remaining: int,
    decoding: Decoding,
    generator: torch.Generator,
) -> int:
    """The next token of an answer.

    What the model says by itself stands if the grammar allows it, so that the constraint changes no well-formed
    answer, sampled ones included; drawing again among what is allowed gives the renormalized probabilities.

    Args:
        logits: (V + A,).
        likeliest: the token of the largest.
        state: where the answer stands.
        remaining: tokens that it may have, this one included.
        decoding: how tokens are chosen.
        generator: what draws.
    """
    token = likeliest if decoding.temperature < COLDEST else _draw(logits.cpu(), decoding, generator)
    if decoding.constrained and not state.allows(token, remaining):
        allowed = state.allowed(remaining)
        token = _draw(logits.cpu().masked_fill(~allowed, float("-inf")), decoding, generator)
    return token


def _draw(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> int:
    """The likeliest token, or one drawn from the likeliest."""
    if decoding.temperature < COLDEST:
        return int(logits.argmax())
    probabilities = ((logits - logits.max()) / decoding.temperature).softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    keep = ordered.cumsum(0) - ordered < decoding.top_p
    keep[0] = True  # also where the smallest top_p is nothing in float32
    return int(order[torch.multinomial(ordered * keep, 1, generator=generator)])


def region_probabilities(token: int, logits: Tensor, state: AnswerState) -> dict[int, float] | None:
    """Where a region was named: the probabilities of all regions that exist, renormalized over them."""
    number = state.tokens.region_number(token)
    if number is None:
        return None
    existing = list(state.tokens.region_ids[: max(state.num_regions, number + 1)])
    probabilities: list[float] = logits[existing].softmax(-1).float().numpy(force=True).tolist()
    return dict(enumerate(probabilities))
