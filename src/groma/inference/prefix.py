"""What the language model has read of a conversation, so that the next turn costs only what is new.

    prompt of turn n = [picture, regions, turns before] + [new question]
                        ^ read already: keys and values are kept     ^ read now

A prompt is compared token by token, pictures' features included: whatever differs, such as the regions once a new box
is pointed at, is read anew from there on.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from groma.model.groma import VisualTokens
from groma.model.splice import WORD, SplicedBatch


class Prefix:
    """Of one conversation at a time.

    Attributes:
        read: how many tokens the language model has read in all turns.
    """

    def __init__(self) -> None:
        """Nothing was read."""
        self.read = 0
        self.cache: Any = None
        self._ids: Tensor = torch.zeros(0, dtype=torch.int64)
        self._index: Tensor = torch.zeros(0, dtype=torch.int64)
        self._features: Tensor | None = None

    def rewind(self, batch: SplicedBatch, visual: VisualTokens) -> int:
        """Go back to where a prompt differs from what was read.

        Args:
            batch: one prompt of T tokens.
            visual: its picture's tokens.

        Returns:
            How many tokens need not be read again: at most T - 1, as the last one says what comes next.
        """
        ids, index = batch.ids[0], batch.feature_index[0]
        shared = min(self._shared(ids, index, visual.features), len(ids) - 1)
        if not _cut(self.cache, shared):
            shared, self.cache = 0, None
        self._ids, self._index, self._features = ids, index, visual.features
        self.read += len(ids) - shared
        return shared

    def keep(self, cache: Any, said: Tensor | None = None) -> None:
        """Keys and values of all that was read; `said` (1, 1) is what the model has said itself and just read.

        The last token of an answer that was cut is said, but never read.
        """
        self.cache = cache
        if said is not None:
            self._ids = torch.cat((self._ids, said[0]))
            self._index = torch.cat((self._index, torch.full_like(said[0], WORD)))
            self.read += 1

    def _shared(self, ids: Tensor, index: Tensor, features: Tensor) -> int:
        """Length of the common beginning."""
        length = min(len(ids), len(self._ids))
        if not length or self._features is None or self.cache is None:
            return 0
        rows = min(len(features), len(self._features))
        same_rows = torch.zeros(max(len(features), len(self._features)), dtype=torch.bool, device=ids.device)
        same_rows[:rows] = (features[:rows] == self._features[:rows]).all(dim=1)
        old, new = self._index[:length], index[:length]
        same = (ids[:length] == self._ids[:length]) & (old == new)
        same &= (new == WORD) | same_rows[new.clamp(min=0)]
        return int(same.long().cumprod(0).sum())


def _cut(cache: Any, length: int) -> bool:
    """Keep the first tokens of a cache; False where it cannot be cut, as sliding windows and states cannot."""
    layers: Sequence[Any] = getattr(cache, "layers", ())
    if not length or not layers or not all(type(layer) is DynamicLayer for layer in layers):
        return False
    for layer in layers:
        layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]
    return True
