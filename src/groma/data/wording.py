"""Words that questions and answers are made of: wordings of each task with slots, articles, plurals.

The first wording of a task is the canonical one: the published prompt where there is one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from groma.prompt.dialogue import Segment, Text

LOCATE = ("Locate {phrase} in the image.",)
LOCATE_ALL = ("Locate all {phrase} in this image.",)
DESCRIBE_REGION = ("Please briefly describe {box}.",)
DESCRIBE_IMAGE = (
    "Describe the image in detail.",
    "Give me a concise description of the image.",
    "What is in the picture?",
    "What does the image show?",
    "Tell me what you see.",
)
EXISTS = ("Is there {a_thing} in the image?", "Can you see {a_thing}?", "Does the image show {a_thing}?")
ABSENT = "There is no {thing} in the image."
PRESENT = "Yes, there is {phrase}."
NOT_PRESENT = "No, there is no {thing} in the image."

TASK_WORDINGS: Mapping[str, tuple[str, ...]] = {
    "locate": LOCATE,
    "locate_all": LOCATE_ALL,
    "describe_region": DESCRIBE_REGION,
    "describe_image": DESCRIBE_IMAGE,
    "exists": EXISTS,
}
"""What can be worded otherwise for a set -> the wordings, with the slots that any wording must have."""

_IRREGULAR = {
    "leaf": "leaves",
    "fish": "fish",
    "jellyfish": "jellyfish",
    "snowman": "snowmen",
    "cactus": "cacti",
}


def plural(thing: str) -> str:
    """The plural of a name, with or without words in front: "red leaf" -> "red leaves"."""
    *before, last = thing.split(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join((*before, last))


def with_article(thing: str) -> str:
    """The thing with "a" or "an" in front, by sound: "an hourglass"."""
    sounds_like_vowel = thing[:1].lower() in tuple("aeiou") or thing.startswith("hour")
    return f"an {thing}" if sounds_like_vowel else f"a {thing}"


def pick(wordings: Sequence[str], rng: np.random.Generator) -> str:
    """One of the wordings: the first half of the time."""
    if len(wordings) == 1 or rng.random() < 0.5:
        return wordings[0]
    return wordings[int(rng.integers(1, len(wordings)))]


def slots_of(wording: str) -> frozenset[str]:
    """The names in braces."""
    return frozenset(re.findall(r"\{(\w+)\}", wording))


def fill(wording: str, slots: Mapping[str, Segment | str]) -> tuple[Segment, ...]:
    """Puts segments or plain words into a wording's {slots}."""
    pieces = re.split(r"\{(\w+)\}", wording)  # text, slot, text, slot, ..., text
    return join(slots[piece] if position % 2 else piece for position, piece in enumerate(pieces))


def join(pieces: Iterable[Segment | str]) -> tuple[Segment, ...]:
    """Segments and plain words, in order; neighbouring words become one Text."""
    segments: list[Segment] = []
    for piece in pieces:
        if not isinstance(piece, str):
            segments.append(piece)
        elif segments and isinstance(segments[-1], Text):
            segments[-1] = Text(segments[-1].text + piece)
        elif piece:
            segments.append(Text(piece))
    return tuple(segments)
