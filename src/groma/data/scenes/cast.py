"""Who is in a scene: the objects' names, colours and styles, and which split such a cast may belong to.

Training and evaluation never share a scene because they never share a *cast*: the digest of the names and
colours (`cast_residue`), modulo 8, says which splits may show them, whatever index and seed led there. Every
scene can be checked afterwards, since names and colours are all that the digest needs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from groma.data.scenes.atlas import atlas
from groma.data.scenes.colours import COLOURS
from groma.errors import InputError

_RESIDUES = 8
_COUNT_WEIGHTS = (10, 14, 16, 17, 15, 12, 9, 7)  # of 2, 3, ... 9 objects
_REPEATED_SHARE = 0.46  # scenes with at least two of one kind
_TINTED_SHARE = 0.55  # of objects; more of those that are repeated, so that "the red dog" among dogs is common
_COLOUR_NAMES = tuple(COLOURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What a split may show."""

    identity: int
    """Number that goes into the seed."""
    residues: frozenset[int]
    """Values of `cast_residue` that belong to it."""
    held_out_style: bool = False
    """Drawn in the style that training never shows."""
    held_out_objects: bool = False
    """Made of objects that training never shows."""


SPLITS: dict[str, Split] = {
    "train": Split(identity=1, residues=frozenset(range(2, 8))),
    "validation": Split(identity=2, residues=frozenset({0})),
    "test": Split(identity=3, residues=frozenset({1})),
    "test_style": Split(identity=4, residues=frozenset({1}), held_out_style=True),
    "test_objects": Split(identity=5, residues=frozenset({1}), held_out_objects=True),
    "example": Split(identity=6, residues=frozenset(range(2, 8)), held_out_objects=True),
    "example_test": Split(identity=7, residues=frozenset({0}), held_out_objects=True),
}
"""Name -> split. The three test splits share a residue: no cast of theirs appears in the others. The examples show what
the small model has no names for, as a user's own pictures do: a first thing to finetune on (docs/finetune.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One object of a cast."""

    name: str
    colour: str | None
    style: str


def find_split(name: str) -> Split:
    """The split of that name; InputError if there is none."""
    if name not in SPLITS:
        raise InputError(f"There is no split {name!r} of scenes; use one of {', '.join(SPLITS)}.")
    return SPLITS[name]


def cast_residue(names_and_colours: Iterable[tuple[str, str | None]]) -> int:
    """A number 0..7 that depends on nothing but which names are there in which colours (None = untinted)."""
    text = ";".join(sorted(f"{name}/{colour or ''}" for name, colour in names_and_colours))
    return blake2b(text.encode(), digest_size=8).digest()[0] % _RESIDUES


def draw_cast(split: Split, rng: np.random.Generator) -> tuple[Member, ...]:
    """Draws 2 to 9 objects until their digest belongs to the split."""
    sprites = atlas()
    names = sprites.held_out_names if split.held_out_objects else sprites.names
    styles = sprites.held_out_styles if split.held_out_style else sprites.styles
    while True:
        pairs = _draw_names_and_colours(names, rng)
        if cast_residue(pairs) in split.residues:
            break
    if rng.random() < 0.4:  # a scene in one style; otherwise every object has its own
        styles = (styles[rng.integers(len(styles))],)
    picks = rng.integers(len(styles), size=len(pairs)).tolist()
    return tuple(
        Member(name=name, colour=colour, style=styles[pick]) for (name, colour), pick in zip(pairs, picks, strict=True)
    )


def _draw_names_and_colours(names: tuple[str, ...], rng: np.random.Generator) -> list[tuple[str, str | None]]:
    weights = np.cumsum(_COUNT_WEIGHTS)
    count = 2 + int(np.searchsorted(weights, rng.integers(weights[-1]), side="right"))
    sizes = _group_sizes(count, rng)
    kinds = rng.choice(len(names), size=len(sizes), replace=False).tolist()
    picks = rng.integers(len(COLOURS), size=len(sizes)).tolist()
    tinted = (rng.random(len(sizes)) < _TINTED_SHARE).tolist()
    pairs: list[tuple[str, str | None]] = []
    for kind, size, pick, is_tinted in zip(kinds, sizes, picks, tinted, strict=True):
        if size == 1:
            pairs.append((names[kind], _COLOUR_NAMES[pick] if is_tinted else None))
        else:
            pairs += [(names[kind], colour) for colour in _draw_group_colours(size, rng)]
    return pairs


def _group_sizes(count: int, rng: np.random.Generator) -> list[int]:
    """How many objects there are of each kind."""
    if rng.random() >= _REPEATED_SHARE:
        return [1] * count
    draw = rng.random()
    sizes = [min(count, 2 if draw < 0.55 else 3 if draw < 0.85 else 4)]
    if count - sizes[0] >= 3 and rng.random() < 0.25:
        sizes.append(2)
    return sizes + [1] * (count - sum(sizes))


def _draw_group_colours(size: int, rng: np.random.Generator) -> list[str | None]:
    """Colours of several objects of one kind: mostly different from each other, half of the time all tinted."""
    picks = rng.choice(len(COLOURS), size=size, replace=bool(rng.random() < 0.25)).tolist()
    share = 1.0 if rng.random() < 0.5 else _TINTED_SHARE
    tinted = (rng.random(size) < share).tolist()
    return [_COLOUR_NAMES[pick] if is_tinted else None for pick, is_tinted in zip(picks, tinted, strict=True)]
