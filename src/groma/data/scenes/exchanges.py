"""One question about a scene and its answer, for every kind of question.

Segments point at objects by their index in Scene.objects; `questions` turns those into boxes of a dialogue.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from groma.data.scenes import wording
from groma.data.scenes.referring import (
    DIRECTIONS,
    EXPRESSIONS,
    SIDES,
    SIZE_RATIO,
    Expression,
    groups,
    left_to_right,
    size_of,
    top_to_bottom,
)
from groma.data.scenes.scene import Scene, SceneObject
from groma.data.scenes.wording import COLOURS, thing_of
from groma.data.wording import fill, join, pick, plural, with_article
from groma.prompt.dialogue import Phrase, Referred, Segment, Text

_T = TypeVar("_T")
_PLAIN_SHARE = 0.15  # of phrases that are not tagged with <p> in the canonical wording
_PLAIN_SHARE_OF_OTHERS = 0.7  # ... and in the other wordings, which people type
_GROUNDED_SHARE = 0.5  # of the typed questions that ask for [grounding]
_COLOURED_SHARE = 0.4  # questions about things that are not there, with a colour in front


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A question and its answer, with what an evaluation needs to know about them."""

    kind: str
    """Which of EXCHANGES made it."""
    question: tuple[Segment, ...]
    """What the user says; boxes are indices into Scene.objects, as in the answer."""
    answer: tuple[Segment, ...]
    """What is to be answered."""
    grounded: bool = False
    """Whether the question asks for grounded phrases."""
    name: str | None = None
    """The name that is asked for or about, if there is one."""
    colour: str | None = None
    """The colour that is part of the question or of the right answer."""
    about: int | None = None
    """The object that "it" would mean in the next question."""


Maker = Callable[[Scene, np.random.Generator], Exchange | None]


def make_exchange(kind: str, scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """A question of that kind about the scene, or None where the scene gives rise to none.

    Args:
        kind: One of EXCHANGES; KeyError otherwise.
        scene: What is asked about.
        rng: Source of all choices.
    """
    return EXCHANGES[kind](scene, rng)


def _refer(kind: str) -> Maker:
    """A maker of "locate" questions with expressions of one kind."""

    def make(scene: Scene, rng: np.random.Generator) -> Exchange | None:
        expressions = list(EXPRESSIONS[kind](scene))
        if not expressions:
            return None
        expression = expressions[rng.integers(len(expressions))]
        return _locate(kind, scene, expression, rng)

    return make


def _locate(kind: str, scene: Scene, expression: Expression, rng: np.random.Generator) -> Exchange:
    phrase, question, grounded = _ask_for(expression.text, expression.definite, rng)
    entry = scene.objects[expression.target]
    return Exchange(
        kind=kind,
        question=question,
        answer=(Phrase(phrase, boxes=(expression.target,)),),
        grounded=grounded,
        name=entry.name,
        colour=entry.colour,
        about=expression.target,
    )


def _ask_for(text: str, definite: bool, rng: np.random.Generator) -> tuple[str, tuple[Segment, ...], bool]:
    """Asks where something is; returns the phrase as asked for, the question and whether it is grounded."""
    chosen = pick(wording.LOCATE, rng)
    plain = _is_plain(chosen == wording.LOCATE[0], rng)
    style = rng.random()
    if style < 0.15 and not definite:
        phrase = with_article(text)
    elif style > 0.85 and not plain:
        phrase = text  # a bare "dog" only where tags set it apart
    else:
        phrase = f"the {text}"
    return phrase, *_tagged(chosen, phrase, plain, rng)


def _ask_for_all(thing: str, rng: np.random.Generator) -> tuple[str, tuple[Segment, ...], bool]:
    """Asks where all of a kind are; the phrase is in the plural where the wording wants that."""
    wordings = wording.LOCATE_ALL if rng.random() < 0.6 else wording.LOCATE_ALL_PLURAL
    chosen = pick(wordings, rng)
    is_canonical = chosen == wording.LOCATE_ALL[0]
    plain = _is_plain(is_canonical, rng)
    in_plural = wordings is wording.LOCATE_ALL_PLURAL or (is_canonical and plain)
    phrase = plural(thing) if in_plural else thing
    return phrase, *_tagged(chosen, phrase, plain, rng)


def _is_plain(is_canonical: bool, rng: np.random.Generator) -> bool:
    """Whether a phrase stands in the question as plain text, as people type it."""
    return bool(rng.random() < (_PLAIN_SHARE if is_canonical else _PLAIN_SHARE_OF_OTHERS))


def _tagged(chosen: str, phrase: str, plain: bool, rng: np.random.Generator) -> tuple[tuple[Segment, ...], bool]:
    """The question with the phrase in it, and whether [grounding] stands in front (typed questions only)."""
    grounded = bool(plain and rng.random() < _GROUNDED_SHARE)
    return fill(chosen, {"phrase": phrase if plain else Phrase(phrase)}), grounded


def _locate_all(scene: Scene, rng: np.random.Generator) -> Exchange:
    """Such as "Locate all dogs", sometimes "all red dogs"."""
    found = groups(scene)
    names = [name for name, group in found.items() for _ in group]  # groups of several are asked for more often
    name = names[rng.integers(len(names))]
    group, colour = found[name], None
    colours = _exact_colours(scene, group)
    if colours and rng.random() < 0.35:
        colour = colours[rng.integers(len(colours))]
        group = tuple(index for index in group if scene.objects[index].colour == colour)
    phrase, question, grounded = _ask_for_all(thing_of(name, colour), rng)
    answer = (Phrase(phrase, boxes=group),)
    return Exchange(kind="locate_all", question=question, answer=answer, grounded=grounded, name=name, colour=colour)


def _exact_colours(scene: Scene, group: tuple[int, ...]) -> list[str]:
    """Colours of a group's tinted objects that no untinted one of the group comes near to."""
    entries = [scene.objects[index] for index in group]
    untinted = [entry for entry in entries if entry.colour is None]
    colours = sorted({entry.colour for entry in entries if entry.colour is not None})
    return [colour for colour in colours if not any(colour in entry.may_be_called for entry in untinted)]


def _absent(scene: Scene, rng: np.random.Generator) -> Exchange:
    """A "locate" question for something that is not there."""
    name, colour = _draw_absent_object(scene, rng)
    thing = thing_of(name, colour)
    style = rng.random()
    if style < 0.5:
        _, question, grounded = _ask_for(thing, False, rng)
    elif style < 0.88:
        _, question, grounded = _ask_for_all(thing, rng)
    else:
        name, colour = _draw_absent_name(scene, rng), None
        thing = name
        _, question, grounded = _ask_for(_decorated(name, scene, rng), True, rng)
    answer = (Text(wording.ABSENT.format(thing=thing)),)
    return Exchange(kind="absent", question=question, answer=answer, grounded=grounded, name=name, colour=colour)


def _decorated(name: str, scene: Scene, rng: np.random.Generator) -> str:
    """An expression that would single out one of several objects of that name, if there were any."""
    anchor = _one_of(scene.objects, rng).name
    return _one_of(
        (
            *(f"{word} {name}" for word in ("largest", "smallest")),
            *(f"{first} {name}" for _, _, first in SIDES.values()),
            *(f"{name} {relation} the {anchor}" for relation in DIRECTIONS),
        ),
        rng,
    )


def _draw_absent_object(scene: Scene, rng: np.random.Generator) -> tuple[str, str | None]:
    """As `_draw_absent`, now and then just "object" with a colour that nothing there comes near to."""
    if rng.random() < 0.08:
        called = frozenset().union(*(entry.may_be_called for entry in scene.objects))
        colours = [colour for colour in COLOURS if colour not in called]
        if colours:
            return "object", _one_of(colours, rng)
    return _draw_absent(scene, rng)


def _draw_absent(scene: Scene, rng: np.random.Generator) -> tuple[str, str | None]:
    """A name that is not there, or one that is, with a colour that it does not have."""
    present = groups(scene)
    if rng.random() < 0.45:
        tinted = [name for name, group in present.items() if all(scene.objects[k].colour for k in group)]
        if tinted:
            name = tinted[rng.integers(len(tinted))]
            shown = {scene.objects[index].colour for index in present[name]}
            return name, _one_of([colour for colour in COLOURS if colour not in shown], rng)
    return _draw_absent_name(scene, rng), _one_of(COLOURS, rng) if rng.random() < _COLOURED_SHARE else None


def _draw_absent_name(scene: Scene, rng: np.random.Generator) -> str:
    """A name that is not there, held out if those that are there are."""
    present = {entry.name for entry in scene.objects}
    pool = wording.HELD_OUT_NAMES if present & set(wording.HELD_OUT_NAMES) else wording.NAMES
    return _one_of([name for name in pool if name not in present], rng)


def _describe(scene: Scene, rng: np.random.Generator) -> Exchange:
    """A box to be named: "Please briefly describe <box>." -> "a red dog"."""
    index = int(rng.integers(len(scene.objects)))
    entry = scene.objects[index]
    return Exchange(
        kind="describe",
        question=fill(pick(wording.DESCRIBE, rng), {"box": Referred(index)}),
        answer=(Text(with_article(thing_of(entry.name, entry.colour))),),
        name=entry.name,
        colour=entry.colour,
        about=index,
    )


def _compare(scene: Scene, rng: np.random.Generator) -> Exchange:
    """A question about two boxes: same kind, which is larger, or same colour."""
    first, second = _draw_pair(scene, rng)
    entries = scene.objects[first], scene.objects[second]
    ways: list[tuple[tuple[str, ...], str]] = [(wording.SAME_KIND, _same_kind(*entries))]
    larger = _larger(scene, first, second)
    if larger:
        ways.append((wording.LARGER, larger))
    if entries[0].colour and entries[1].colour:
        ways.append((wording.SAME_COLOUR, _same_colour(*entries)))
    wordings, answer = ways[rng.integers(len(ways))]
    slots = {"first": Referred(first), "second": Referred(second)}
    return Exchange(kind="compare", question=fill(pick(wordings, rng), slots), answer=(Text(answer),))


def _draw_pair(scene: Scene, rng: np.random.Generator) -> tuple[int, int]:
    """Two objects, in half of the scenes where that is possible two of one kind."""
    alike = [group for group in groups(scene).values() if len(group) > 1]
    pool = alike[rng.integers(len(alike))] if alike and rng.random() < 0.5 else range(len(scene.objects))
    first, second = rng.choice(np.asarray(pool), size=2, replace=False).tolist()
    return first, second


def _called_apart(first: SceneObject, second: SceneObject) -> tuple[str, str]:
    """What to call them: "the dog", "the cat"; if both are dogs, "the first dog", "the second dog"."""
    if first.name != second.name:
        return f"the {first.name}", f"the {second.name}"
    return f"the first {first.name}", f"the second {second.name}"


def _same_kind(first: SceneObject, second: SceneObject) -> str:
    if first.name == second.name:
        return f"Yes, both are {plural(first.name)}."
    return f"No, the first is {with_article(first.name)} and the second is {with_article(second.name)}."


def _same_colour(first: SceneObject, second: SceneObject) -> str:
    one, other = _called_apart(first, second)
    if first.colour == second.colour:
        return f"Yes, {one} and {other} are both {first.colour}."
    return f"No, {one} is {first.colour} and {other} is {second.colour}."


def _larger(scene: Scene, first: int, second: int) -> str | None:
    """Which is larger; None where that is not clear."""
    ratio = size_of(scene, first) / size_of(scene, second)
    if 1 / SIZE_RATIO < ratio < SIZE_RATIO:
        return None
    one, other = _called_apart(scene.objects[first], scene.objects[second])
    larger, smaller = (one, other) if ratio > 1 else (other, one)
    return f"{larger[0].upper()}{larger[1:]} is larger than {smaller}."


def _describe_all(
    kind: str,
    *,
    grounded: bool,
    ordered: Callable[[Scene], list[int]] = left_to_right,
    wordings: Sequence[str] = wording.CAPTION,
) -> Maker:
    """A maker of descriptions of the scene: all objects in an order, with regions or without."""

    def make(scene: Scene, rng: np.random.Generator) -> Exchange:
        pieces: list[Segment | str] = []
        order = ordered(scene)
        for place, index in enumerate(order):
            entry = scene.objects[index]
            words = with_article(thing_of(entry.name, entry.colour))
            pieces.append("The image shows " if place == 0 else " and " if index == order[-1] else ", ")
            pieces.append(Phrase(words, boxes=(index,)) if grounded else words)
        question = fill(pick(wordings, rng), {})
        return Exchange(kind=kind, question=question, answer=join((*pieces, ".")), grounded=grounded)

    return make


def _count(scene: Scene, rng: np.random.Generator) -> Exchange:
    """How many dogs are there? -> "There are two dogs.", with their regions if asked with [grounding]."""
    grounded = bool(rng.random() < 0.5)
    if rng.random() < 0.15:
        words = wording.counted(len(scene.objects), "object")
        group, asked = tuple(left_to_right(scene)), "object"
    else:
        asked, group = _draw_asked(scene, rng)
        words = wording.counted(len(group), asked)
    verb = "is" if len(group) == 1 else "are"
    said = Phrase(words, boxes=group) if grounded and group else words
    question = fill(pick(wording.COUNT, rng), {"things": plural(asked)})
    answer = fill(f"There {verb} {{things}}.", {"things": said})
    return Exchange(kind="count", question=question, answer=answer, grounded=grounded, name=asked)


def _draw_asked(scene: Scene, rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
    """A thing, with or without a colour, and the objects that are one: mostly several, or one, or none."""
    if rng.random() < 0.2:
        return thing_of(*_draw_absent(scene, rng)), ()
    found = groups(scene)
    several = [name for name, group in found.items() if len(group) > 1]
    name = _one_of(several if several and rng.random() < 0.6 else list(found), rng)
    colours = _exact_colours(scene, found[name])
    if colours and rng.random() < 0.25:
        colour = _one_of(colours, rng)
        return thing_of(name, colour), tuple(k for k in found[name] if scene.objects[k].colour == colour)
    return name, found[name]


def _exists(scene: Scene, rng: np.random.Generator) -> Exchange:
    """Is there a cat? -> "Yes, there is a cat." or, as often, "No, there is no cat."."""
    grounded = bool(rng.random() < 0.5)
    if rng.random() < 0.5:
        name, colour = _draw_absent(scene, rng)
        thing = thing_of(name, colour)
        answer = fill("No, there is no {thing}.", {"thing": thing})
    else:
        index = int(rng.integers(len(scene.objects)))
        name, colour = scene.objects[index].name, scene.objects[index].colour
        group = groups(scene)[name]
        colour = colour if colour in _exact_colours(scene, group) and rng.random() < 0.7 else None
        shown = tuple(k for k in group if colour is None or scene.objects[k].colour == colour)
        thing = thing_of(name, colour)
        words = with_article(thing) if len(shown) == 1 else wording.counted(len(shown), thing)
        said = Phrase(words, boxes=shown) if grounded else words
        answer = fill("Yes, there is {it}." if len(shown) == 1 else "Yes, there are {it}.", {"it": said})
    question = fill(pick(wording.EXISTS, rng), {"a_thing": with_article(thing)})
    return Exchange(kind="exists", question=question, answer=answer, grounded=grounded, name=name, colour=colour)


def _colour(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """What colour is the dog? -> "The dog is red."; the same of a box that the user points at."""
    counts = Counter(entry.name for entry in scene.objects)
    tinted = [index for index, entry in enumerate(scene.objects) if entry.colour]
    if not tinted:
        return None
    index = _one_of(tinted, rng)
    entry = scene.objects[index]
    if counts[entry.name] > 1 or rng.random() < 0.4:
        question = fill(pick(wording.COLOUR_OF_BOX, rng), {"box": Referred(index)})
        answer: tuple[Segment, ...] = (Text(f"It is {entry.colour}."),)
        return Exchange(kind="colour", question=question, answer=answer, colour=entry.colour, about=index)
    grounded = bool(rng.random() < 0.5)
    words = f"the {entry.name}"
    question = fill(pick(wording.COLOUR_OF, rng), {"phrase": words})
    said = Phrase(f"The {entry.name}", boxes=(index,)) if grounded else f"The {entry.name}"
    answer = fill("{thing} is {colour}.", {"thing": said, "colour": str(entry.colour)})
    return Exchange(
        kind="colour",
        question=question,
        answer=answer,
        grounded=grounded,
        name=entry.name,
        colour=entry.colour,
        about=index,
    )


EXCHANGES: dict[str, Maker] = {
    **{kind: _refer(kind) for kind in EXPRESSIONS},
    "locate_all": _locate_all,
    "absent": _absent,
    "describe": _describe,
    "compare": _compare,
    "caption": _describe_all("caption", grounded=True),
    "caption_down": _describe_all("caption_down", grounded=True, ordered=top_to_bottom, wordings=wording.CAPTION_DOWN),
    "summary": _describe_all("summary", grounded=False),
    "count": _count,
    "exists": _exists,
    "colour": _colour,
}
"""Kind -> what makes an exchange of that kind."""


def _one_of(choices: Sequence[_T], rng: np.random.Generator) -> _T:
    return choices[int(rng.integers(len(choices)))]
