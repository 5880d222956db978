"""What may come next: answers whose tags close and whose regions exist, enforced while decoding.

    answer  = ( text | "<p>" text+ "</p>" | "<roi>" region+ "</roi>" )* end
    text    = a base token that spells something: no begin or unknown token, no marker of a chat template
    region  = <rk> with k below the number of regions, each at most once in a group

An answer of that form is never changed: every one of its tokens is allowed where it stands. Near the limit of tokens
nothing is opened that could not be closed, and what is open is closed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import lru_cache

import torch
from torch import Tensor

from groma.prompt.tokens import SpecialTokenIds

UNLIMITED = 1 << 30
"""`remaining` of an answer without a limit."""


class Place(Enum):
    """Where in the grammar an answer stands."""

    TEXT = auto()
    PHRASE_START = auto()
    PHRASE = auto()
    GROUP_START = auto()
    GROUP = auto()


TOKENS_TO_CLOSE = {
    Place.TEXT: 0,
    Place.PHRASE_START: 2,
    Place.PHRASE: 1,
    Place.GROUP_START: 2,
    Place.GROUP: 1,
}
"""Tokens that the shortest way back to plain text takes."""


@dataclass(frozen=True, slots=True)
class AnswerState:
    """The grammar's memory of one answer. Immutable: `after` gives the next one."""

    tokens: SpecialTokenIds
    """ids of the special tokens"""
    num_regions: int
    """regions of the picture, R; <r0> .. <rR-1> exist"""
    stop_ids: frozenset[int]
    """tokens that end an answer"""
    silent_ids: frozenset[int] = frozenset()
    """further base tokens that spell nothing"""
    place: Place = Place.TEXT
    used: frozenset[int] = frozenset()
    """region tokens of the group that is open"""

    def after(self, token_id: int) -> "AnswerState":
        """The state once `token_id` has been said; tokens that are not allowed here leave it as it is."""
        tokens = self.tokens
        opened = {tokens.phrase_open: Place.PHRASE_START, tokens.roi_open: Place.GROUP_START}
        match self.place:
            case Place.TEXT if token_id in opened:
                return replace(self, place=opened[token_id])
            case Place.PHRASE_START if token_id < tokens.base_vocab_size:
                return replace(self, place=Place.PHRASE)
            case Place.PHRASE if token_id == tokens.phrase_close:
                return replace(self, place=Place.TEXT)
            case Place.GROUP if token_id == tokens.roi_close:
                return replace(self, place=Place.TEXT, used=frozenset())
            case Place.GROUP_START | Place.GROUP if tokens.region_number(token_id) is not None:
                return replace(self, place=Place.GROUP, used=self.used | {token_id})
            case _:
                return self

    def allowed(self, remaining: int) -> Tensor:
        """(V + A,) bool: which tokens may come next when `remaining` tokens (this one included) may be said."""
        tokens = self.tokens
        if self.place is not Place.TEXT and remaining <= TOKENS_TO_CLOSE[self.place]:
            return self._closing()
        mask = self._anything().clone()
        if self.used:
            mask[list(self.used)] = False
        if self.place is Place.TEXT and remaining < 1 + TOKENS_TO_CLOSE[Place.PHRASE_START]:
            mask[tokens.phrase_open] = mask[tokens.roi_open] = False
        return mask

    def allows(self, token_id: int, remaining: int) -> bool:
        """Whether a token may come next; `allowed` for one token alone, which takes no mask."""
        if self.place is not Place.TEXT and remaining <= TOKENS_TO_CLOSE[self.place]:
            return bool(self._closing()[token_id])
        tokens = self.tokens
        opens = token_id in (tokens.phrase_open, tokens.roi_open)
        if opens and self.place is Place.TEXT and remaining < 1 + TOKENS_TO_CLOSE[Place.PHRASE_START]:
            return False
        return token_id not in self.used and bool(self._anything()[token_id])

    def _anything(self) -> Tensor:
        """What the place allows, without regard to the limit and to what the open group already holds."""
        return _allowed(self.place, self.num_regions, self.tokens, self.stop_ids, self.silent_ids)

    def _closing(self) -> Tensor:
        """Only what leads back to plain text."""
        tokens = self.tokens
        if self.place in (Place.PHRASE_START, Place.GROUP_START):
            return self._anything()
        mask = torch.zeros(tokens.vocab_size, dtype=torch.bool)
        mask[tokens.phrase_close if self.place is Place.PHRASE else tokens.roi_close] = True
        return mask


@lru_cache(maxsize=256)
def _allowed(
    place: Place,
    num_regions: int,
    tokens: SpecialTokenIds,
    stop_ids: frozenset[int],
    silent_ids: frozenset[int],
) -> Tensor:
    """(V + A,) bool for a place. It is shared: do not change it."""
    mask = torch.zeros(tokens.vocab_size, dtype=torch.bool)
    if place in (Place.TEXT, Place.PHRASE_START, Place.PHRASE):
        mask[: tokens.base_vocab_size] = True
        no_text = {tokens.bos, tokens.eos, tokens.unk, *stop_ids, *silent_ids}
        mask[[token_id for token_id in no_text if token_id is not None]] = False
    match place:
        case Place.TEXT:
            mask[[*stop_ids, tokens.phrase_open, tokens.roi_open]] = True
        case Place.PHRASE:
            mask[tokens.phrase_close] = True
        case Place.GROUP_START | Place.GROUP:
            mask[list(tokens.region_ids[:num_regions])] = True
            mask[tokens.roi_close] = place is Place.GROUP
        case Place.PHRASE_START:
            pass  # text alone: a phrase is not empty
    return mask


def is_well_formed(token_ids: Sequence[int], start: AnswerState) -> bool:
    """Whether a generated answer (with or without its end token) follows the grammar and leaves nothing open."""
    state = start
    for position, token_id in enumerate(token_ids, start=1):
        if not state.allowed(remaining=UNLIMITED)[token_id]:
            return False
        if token_id in state.stop_ids:
            return position == len(token_ids)
        state = state.after(token_id)
    return state.place is Place.TEXT
