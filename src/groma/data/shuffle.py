"""Shuffled orders of any length without a table: position -> number, one to one, a pure function of the seed.

A table of 20 million numbers in every worker and epoch is what this saves. A Feistel network permutes the numbers
below a power of four; those that fall outside the wanted range are permuted again until they are inside ("cycle
walking", Black and Rogaway 2002), at most four times on average.
"""

import hashlib
from typing import Protocol

ROUNDS = 4
"""Rounds of the network; four make a permutation that looks random (Luby and Rackoff 1988)."""


class Order(Protocol):
    """Position -> number, one to one."""

    def __getitem__(self, position: int) -> int: ...


class Permutation:
    """The numbers below `length` in another order."""

    def __init__(self, length: int, *seed: int) -> None:
        """`length` > 0; equal seeds, equal orders."""
        self.length = length
        self._half_bits = max(1, ((length - 1).bit_length() + 1) // 2)
        digest = hashlib.blake2b(repr(seed).encode(), digest_size=8 * ROUNDS).digest()
        self._keys = [int.from_bytes(digest[8 * k : 8 * k + 8], "little") for k in range(ROUNDS)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < self.length:
            raise IndexError(f"position {position} of {self.length}")
        number = self._permuted(position)
        while number >= self.length:
            number = self._permuted(number)
        return number

    def _permuted(self, number: int) -> int:
        mask = (1 << self._half_bits) - 1
        left, right = number >> self._half_bits, number & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return left << self._half_bits | right


def _mixed(value: int) -> int:
    """64 bits, well stirred (the finalizer of splitmix64)."""
    value &= 0xFFFFFFFFFFFFFFFF
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)
