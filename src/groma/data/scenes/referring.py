"""Expressions that single out one object of a scene, each true of exactly that object by a clear margin.

Positions are centres of visible boxes, sizes the geometric means of their sides, both as shares of the
picture's side.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from groma.data.scenes.scene import Scene
from groma.data.scenes.wording import ORDINALS, thing_of

SIZE_RATIO = 1.3
"""The largest object is this many times as large as the next, the smallest as many times smaller."""
CLEARLY_BESIDE = 0.08
"""What is left of something lies at least this much farther left."""
CLEARLY_NOT_BESIDE = 0.02
"""What is not left of it lies at least this much farther right."""
ROW_GAP = 0.06
"""Objects that are counted from one side lie at least this far apart in that direction."""

DIRECTIONS: dict[str, tuple[int, int]] = {
    "left of": (0, -1),
    "right of": (0, 1),
    "above": (1, -1),
    "below": (1, 1),
}
"""Relation -> axis (0 = x, 1 = y) and the sign of the difference along it."""
SIDES: dict[str, tuple[int, int, str]] = {
    "left": (0, 1, "leftmost"),
    "right": (0, -1, "rightmost"),
    "top": (1, 1, "topmost"),
    "bottom": (1, -1, "bottommost"),
}
"""Side that one counts from -> axis, sign of the order along it, and the word for the first in the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """Words that fit exactly one object."""

    text: str
    """The words without a leading article: "red dog", "dog left of the cat"."""
    target: int
    """Index of the object in Scene.objects."""
    definite: bool = False
    """Only "the" can stand in front, not "a": "the largest dog"."""


def by_name(scene: Scene) -> Iterator[Expression]:
    """Expressions such as "dog", where there is one dog."""
    counts = Counter(entry.name for entry in scene.objects)
    for index, entry in enumerate(scene.objects):
        if counts[entry.name] == 1:
            yield Expression(text=entry.name, target=index)


def by_colour(scene: Scene) -> Iterator[Expression]:
    """Such as "red dog", where the one dog is red; "red object", where nothing else may be called red."""
    counts = Counter(entry.name for entry in scene.objects)
    for index, entry in enumerate(scene.objects):
        if entry.colour is None:
            continue
        if counts[entry.name] == 1:
            yield Expression(text=thing_of(entry.name, entry.colour), target=index)
        others = (other for other in scene.objects if other is not entry)
        if not any(entry.colour in other.may_be_called for other in others):
            yield Expression(text=f"{entry.colour} object", target=index)


def by_attribute(scene: Scene) -> Iterator[Expression]:
    """Such as "red dog", "largest dog" and "smallest dog", where there are several dogs."""
    for name, group in groups(scene).items():
        if len(group) < 2:
            continue
        for index in group:
            colour = scene.objects[index].colour
            if colour is not None and only_one_called(scene, group, colour):
                yield Expression(text=thing_of(name, colour), target=index)
        sizes = _sizes(scene)
        by_size = sorted(group, key=lambda index: sizes[index])
        if sizes[by_size[-1]] >= SIZE_RATIO * sizes[by_size[-2]]:
            yield Expression(text=f"largest {name}", target=by_size[-1], definite=True)
            yield Expression(text=f"biggest {name}", target=by_size[-1], definite=True)
        if sizes[by_size[1]] >= SIZE_RATIO * sizes[by_size[0]]:
            yield Expression(text=f"smallest {name}", target=by_size[0], definite=True)


def by_relation(scene: Scene) -> Iterator[Expression]:
    """Such as "dog left of the cat", where exactly one of several dogs is, and the cat is the only one."""
    centres = _centres(scene)
    for name, group in groups(scene).items():
        if len(group) < 2:
            continue
        for anchor, phrase in _anchors(scene):
            if scene.objects[anchor].name == name:
                continue
            for relation, (axis, sign) in DIRECTIONS.items():
                ahead = {k: sign * (centres[k][axis] - centres[anchor][axis]) for k in group}
                there = [index for index in group if ahead[index] > -CLEARLY_NOT_BESIDE]
                if len(there) != 1 or ahead[there[0]] < CLEARLY_BESIDE:
                    continue
                across = abs(centres[there[0]][1 - axis] - centres[anchor][1 - axis])
                if across <= 2 * ahead[there[0]]:  # otherwise nobody would put it that way
                    yield Expression(text=f"{name} {relation} the {phrase}", target=there[0], definite=True)
                    if axis == 0:
                        yield Expression(text=f"{name} to the {relation} the {phrase}", target=there[0], definite=True)


def by_order(scene: Scene) -> Iterator[Expression]:
    """Such as "leftmost dog", "dog on the left" (of two), "second dog from the left" (of three or four)."""
    centres = _centres(scene)
    for name, group in groups(scene).items():
        if len(group) < 2:
            continue
        for side, (axis, sign, first) in SIDES.items():
            row = sorted(group, key=lambda index: sign * centres[index][axis])
            steps = [abs(centres[b][axis] - centres[a][axis]) for a, b in pairwise(row)]
            if steps[0] >= ROW_GAP:
                yield Expression(text=f"{first} {name}", target=row[0], definite=True)
                if len(row) == 2 and axis == 0:
                    yield Expression(text=f"{name} on the {side}", target=row[0], definite=True)
            if len(row) > 2 and min(steps) >= ROW_GAP:
                for place in range(1, len(row) - 1):
                    yield Expression(text=f"{ORDINALS[place]} {name} from the {side}", target=row[place], definite=True)


EXPRESSIONS: dict[str, Callable[[Scene], Iterator[Expression]]] = {
    "refer_name": by_name,
    "refer_colour": by_colour,
    "refer_attribute": by_attribute,
    "refer_relation": by_relation,
    "refer_ordinal": by_order,
}
"""Kind of question -> all expressions of that kind that fit a scene."""


def groups(scene: Scene) -> dict[str, tuple[int, ...]]:
    """Name -> indices of the objects of that name, from left to right."""
    found: dict[str, tuple[int, ...]] = {}
    for index in left_to_right(scene):
        name = scene.objects[index].name
        found[name] = (*found.get(name, ()), index)
    return found


def left_to_right(scene: Scene) -> list[int]:
    """Indices of all objects, by the centres of their boxes."""
    centres = _centres(scene)
    return sorted(range(len(centres)), key=lambda index: centres[index])


def top_to_bottom(scene: Scene) -> list[int]:
    """The same from the highest to the lowest."""
    centres = _centres(scene)
    return sorted(range(len(centres)), key=lambda index: (centres[index][1], centres[index][0]))


def only_one_called(scene: Scene, group: tuple[int, ...], colour: str) -> bool:
    """Whether exactly one object of the group may be called by that colour."""
    return sum(colour in scene.objects[index].may_be_called for index in group) == 1


def size_of(scene: Scene, index: int) -> float:
    """Geometric mean of the sides of an object's box, as a share of the picture's side."""
    return _sizes(scene)[index]


def _centres(scene: Scene) -> list[tuple[float, float]]:
    return [(box[0], box[1]) for box in scene.boxes_cxcywh]


def _sizes(scene: Scene) -> list[float]:
    return [math.sqrt(box[2] * box[3]) for box in scene.boxes_cxcywh]


def _anchors(scene: Scene) -> Iterator[tuple[int, str]]:
    """Objects that others can be placed beside, with the words that single them out."""
    for name, group in groups(scene).items():
        if len(group) == 1:
            yield group[0], name
        for index in group:
            colour = scene.objects[index].colour
            if colour is not None and only_one_called(scene, group, colour):
                yield index, thing_of(name, colour)
