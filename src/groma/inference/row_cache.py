"""Keys and values of many answers at once, one row each; a row joins and leaves while the others go on.

    row 0   [ k k k k k k . . . ]     an answer of 6 tokens
    row 1   [ k k k . . . . . . ]     of 3; what lies behind its end is never looked at
            every row begins at the left, so that a newcomer moves nobody

It stands in for transformers' own caches, whose rows all have one length.
"""

# here keys and values are never None
# pyright: reportIncompatibleVariableOverride=false

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

LENGTH_STEP = 128
"""Room for tokens is made in such steps."""

KeysValues = tuple[tuple[Tensor, Tensor], ...]
"""Of one row: for each layer keys and values, each (H, T, D)."""


@dataclass(slots=True)
class _Window:
    """Rows that the language model runs on next, and where each goes on."""

    first: int = 0
    starts: list[int] = field(default_factory=list[int])
    new: int = 0
    """tokens that each row got in the last run"""

    def length(self, new: int) -> int:
        """Tokens of the longest row once `new` are added to each."""
        return max(self.starts, default=0) + new


class RowCache(Cache):
    """The cache of all layers. Before the language model runs, `aim` says on which rows."""

    def __init__(self) -> None:
        """Without any row."""
        self._window = _Window()
        layer: Any = partial(_RowLayer, self._window)
        super().__init__(layer_class_to_replicate=layer)

    def aim(self, first: int, starts: Sequence[int]) -> None:
        """The next run is on the rows from `first` on; row `first + i` has `starts[i]` tokens already."""
        self._window.first, self._window.starts = first, list(starts)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` tokens into another row."""
        for layer in self._rows():
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def clear(self, row: int) -> None:
        """Forget a row that holds what is no number: it would spoil whoever comes after, masked or not."""
        for layer in self._rows():
            layer.keys[row].zero_()
            layer.values[row].zero_()

    def save(self, row: int, length: int) -> KeysValues:
        """A copy of a row's first `length` tokens."""
        return tuple(
            (layer.keys[row, :, :length].clone(), layer.values[row, :, :length].clone()) for layer in self._rows()
        )

    def load(self, row: int, kept: KeysValues, length: int) -> None:
        """Begin a row with the first `length` tokens of what was saved."""
        make: Any = self.layer_class_to_replicate
        while len(self.layers) < len(kept):
            self.layers.append(make())
        for layer, (keys, values) in zip(self._rows(), kept, strict=True):
            layer.make_room(row + 1, length, keys, values)
            layer.keys[row, :, :length] = keys[:, :length]
            layer.values[row, :, :length] = values[:, :length]

    @property
    def num_bytes(self) -> int:
        """Keys and values that the last run looked at."""
        rows, length = len(self._window.starts), self._window.length(self._window.new)
        sizes = (t[:rows, :, :length] for layer in self._rows() for t in (layer.keys, layer.values))
        return sum(t.numel() * t.element_size() for t in sizes)

    def _rows(self) -> "list[_RowLayer]":
        return self.layers  # pyright: ignore[reportReturnType]  # all of them are made above


class _RowLayer(CacheLayerMixin):
    """One layer: keys and values (rows, H, room, D)."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, window: _Window) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.window = window

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Room for nothing yet, of the type and on the device of what comes."""
        self._empty(key_states[0], value_states[0])

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add (b, H, q, D) to the b rows that are aimed at.

        Returns:
            (b, H, T, D) keys and values, T as long as the longest of these rows. They are views, good until the next
            call.
        """
        count, new = len(key_states), key_states.shape[2]
        self.window.new = new
        first, starts, length = self.window.first, self.window.starts, self.window.length(new)
        self.make_room(first + count, length, key_states[0], value_states[0])
        keys, values = self.keys[first : first + count], self.values[first : first + count]
        if len(set(starts)) == 1:
            keys[:, :, starts[0] : length] = key_states
            values[:, :, starts[0] : length] = value_states
        else:
            rows = torch.arange(count, device=keys.device)[:, None]
            places = torch.tensor(starts, device=keys.device)[:, None] + torch.arange(new, device=keys.device)
            keys[rows, :, places] = key_states.transpose(1, 2)
            values[rows, :, places] = value_states.transpose(1, 2)
        return keys[:, :, :length], values[:, :, :length]

    def make_room(self, rows: int, length: int, key: Tensor, value: Tensor) -> None:
        """Grow if it must; `key` and `value` (H, ..., D) tell the shape."""
        if not self.is_initialized:
            self._empty(key, value)
        old_rows, heads, old_length, width = self.keys.shape
        if rows <= old_rows and length <= old_length:
            return
        rows = old_rows if rows <= old_rows else max(rows, min(2 * old_rows, old_rows + 16))
        steps = -(-max(length, old_length * 5 // 4) // LENGTH_STEP)
        length = old_length if length <= old_length else steps * LENGTH_STEP
        # zeros: what is masked is still multiplied by nothing, and nothing times not-a-number is not a number
        keys = self.keys.new_zeros(rows, heads, length, width)
        values = self.values.new_zeros(rows, heads, length, self.values.shape[3])
        keys[:old_rows, :, :old_length] = self.keys
        values[:old_rows, :, :old_length] = self.values
        self.keys, self.values = keys, values  # both or, if there is no memory, none

    def _empty(self, key: Tensor, value: Tensor) -> None:
        self.dtype, self.device = key.dtype, key.device
        self.keys = key.new_zeros(0, key.shape[0], 0, key.shape[-1])
        self.values = value.new_zeros(0, value.shape[0], 0, value.shape[-1])
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Tokens before what comes next, of the longest row that is aimed at."""
        return self.window.length(0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what is looked at."""
        return self.window.length(query_length), 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1
