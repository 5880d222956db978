"""What the language model has read before, kept so that a prompt which begins the same costs only what is new.

    prompt of turn n = [picture, regions, turns before] + [new question]
                        ^ read already: keys and values are kept     ^ read now

Prompts are compared by their signature: words by their id, pictures and regions by what they show.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from groma.inference.row_cache import KeysValues
from groma.model.splice import WORD, Spliced

_MIX = (0x9E3779B97F4A7C15 - (1 << 64), 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
"""Odd numbers with their bits well spread, as signed 64-bit numbers (golden ratio, and SplitMix64's two)."""


QUANTA = 1 << 16
"""Steps of a side in which boxes are told apart: far less than a pixel."""


def signature(prompt: Spliced, *, picture: int, num_image_tokens: int, boxes_cxcywh: Tensor) -> Tensor:
    """What each token of a prompt is, as one number: two prompts read the same as long as their numbers are the same.

    Args:
        prompt: T tokens.
        picture: number of the picture (`Seen.number`); another picture has another.
        num_image_tokens: N.
        boxes_cxcywh: (R, 4) float32 of its regions.

    Returns:
        (T,) int64 on the CPU: a word's id; below 0 for what a picture shows.
    """
    places = quantized(boxes_cxcywh)
    regions = torch.full((len(places),), picture + 1)
    for column in places.T:
        regions = _mixed(regions ^ (column + _MIX[0]))
    image = _mixed((torch.arange(num_image_tokens) << 32) + picture + 1)
    shown = torch.cat((image, regions)) | torch.iinfo(torch.int64).min  # the sign tells them from words
    index = prompt.feature_index.cpu()
    return torch.where(index == WORD, prompt.ids.cpu(), shown[index.clamp(min=0)])


def quantized(boxes_cxcywh: Tensor) -> Tensor:
    """(n, 4) -> (n, 4) int64 on the CPU: the same for boxes that only differ by rounding.

    An earlier answer's boxes come back in pixels, and are not what they were to the last bit.
    """
    return (boxes_cxcywh.double().cpu() * QUANTA).round().long()


def _mixed(numbers: Tensor) -> Tensor:
    """(n,) int64 -> well spread over all of their bits."""
    numbers = (numbers ^ (numbers >> 30)) * _MIX[1]
    numbers = (numbers ^ (numbers >> 27)) * _MIX[2]
    return numbers ^ (numbers >> 31)


@dataclass(frozen=True, slots=True)
class Kept:
    """One conversation as far as it was read."""

    signature: Tensor
    """(T,) int64"""
    layers: KeysValues

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return sum(t.numel() * t.element_size() for layer in self.layers for t in layer)


class PrefixStore:
    """Conversations by how they begin, the least recently used forgotten first."""

    def __init__(self, max_bytes: int | None = None, max_entries: int = 1024) -> None:
        """Keep so much at most; None: no limit of bytes."""
        self.max_bytes, self.max_entries = max_bytes, max_entries
        self.num_bytes = 0
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._of_picture: dict[int, list[int]] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, signature: Tensor) -> tuple[Kept | None, int]:
        """What shares the longest beginning with a prompt of T tokens, and how many tokens of it.

        At most T - 1, as the last one says what comes next.
        """
        best, most = -1, 0
        for number in self._of_picture.get(_picture(signature), ()):
            shared = min(_shared(self._kept[number].signature, signature), len(signature) - 1)
            if shared > most:
                best, most = number, shared
        if best < 0:
            return None, 0
        self._kept.move_to_end(best)
        return self._kept[best], most

    def keep(self, kept: Kept) -> None:
        """Keep a conversation; it takes the place of those that it continues."""
        size, picture = kept.num_bytes, _picture(kept.signature)
        if self.max_bytes is not None and size > self.max_bytes:
            return
        for number in list(self._of_picture.get(picture, ())):
            other = self._kept[number].signature
            if len(other) <= len(kept.signature) and _shared(other, kept.signature) == len(other):
                self._forget(number)
        number = next(self._numbers)
        self._kept[number] = kept
        self._of_picture.setdefault(picture, []).append(number)
        self.num_bytes += size
        while len(self._kept) > self.max_entries or (self.max_bytes is not None and self.num_bytes > self.max_bytes):
            self._forget(next(iter(self._kept)))

    def _forget(self, number: int) -> None:
        kept = self._kept.pop(number)
        self.num_bytes -= kept.num_bytes
        picture = _picture(kept.signature)
        self._of_picture[picture].remove(number)
        if not self._of_picture[picture]:
            del self._of_picture[picture]


def _picture(signature: Tensor) -> int:
    """What tells prompts about one picture from those about another: its first token; 0 without a picture."""
    shown = (signature < 0).nonzero()
    return int(signature[shown[0]]) if len(shown) else 0


def _shared(one: Tensor, other: Tensor) -> int:
    """Length of the common beginning."""
    length = min(len(one), len(other))
    differs = (one[:length] != other[:length]).nonzero()
    return int(differs[0]) if len(differs) else length
