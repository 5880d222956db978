"""Words of the scenes' questions and answers: articles, plurals, numbers, several wordings of each question.

The first wording of each kind is the canonical one (the published prompt where there is one) and is used half
of the time; the others are what people type.
"""

import re
from collections.abc import Iterator

import numpy as np

from groma.data.scenes.atlas import atlas
from groma.data.scenes.colours import COLOURS as _COLOUR_RGB
from groma.data.wording import pick, plural, with_article

NAMES: tuple[str, ...] = atlas().names
"""Object names seen in training."""
HELD_OUT_NAMES: tuple[str, ...] = atlas().held_out_names
"""Object names of the split `test_objects`."""
COLOURS: tuple[str, ...] = tuple(_COLOUR_RGB)
"""The ten colour words."""
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""Count -> word, 0 to 9."""
ORDINALS = ("first", "second", "third", "fourth")
"""Place in a row, from 0 -> word."""

LOCATE = (
    "Locate {phrase} in the image.",
    "Where is {phrase}?",
    "Find {phrase}.",
    "Locate {phrase}.",
    "Show me {phrase}.",
    "Point to {phrase}.",
    "Can you find {phrase}?",
    "Find {phrase} in the picture.",
)
LOCATE_ALL = (
    "Locate all {phrase} in this image.",
    "Locate every {phrase}.",
    "Find every {phrase} in the picture.",
)
LOCATE_ALL_PLURAL = (
    "Find all {phrase}.",
    "Where are the {phrase}?",
    "Show me all {phrase}.",
    "Locate all {phrase} in the image.",
    "Point to the {phrase}.",
)
ABSENT = "There is no {thing} in the image."
DESCRIBE = (
    "Please briefly describe {box}.",
    "What is {box}?",
    "What is this? {box}",
    "Describe {box}.",
    "What do you see in {box}?",
    "What object is {box}?",
)
SAME_KIND = (
    "Are {first} and {second} the same kind?",
    "Are {first} and {second} the same kind of object?",
    "Do {first} and {second} show the same kind of thing?",
)
LARGER = (
    "Which is larger, {first} or {second}?",
    "Which is bigger, {first} or {second}?",
    "Compare the sizes of {first} and {second}.",
)
SAME_COLOUR = (
    "Do {first} and {second} have the same colour?",
    "Do {first} and {second} have the same color?",
    "Are {first} and {second} the same color?",
)
CAPTION = (
    "Describe the image in detail.",
    "Give me a concise description of the image.",
    "What do you see?",
    "Describe this picture.",
    "What is in the image?",
    "What is in the picture?",
)
CAPTION_DOWN = (
    "Describe the image from top to bottom.",
    "What do you see from top to bottom?",
    "What is in the picture, from top to bottom?",
)
COUNT = (
    "How many {things} are there?",
    "How many {things} do you see?",
    "How many {things} are in the image?",
    "Count the {things}.",
)
EXISTS = (
    "Is there {a_thing}?",
    "Is there {a_thing} in the image?",
    "Can you see {a_thing}?",
    "Do you see {a_thing}?",
)
COLOUR_OF = (
    "What colour is {phrase}?",
    "What color is {phrase}?",
    "Which colour does {phrase} have?",
)
COLOUR_OF_BOX = ("What colour is {box}?", "What color is {box}?", "What color is this? {box}")
COLOUR_OF_IT = ("What colour is it?", "What color is it?", "And which color does it have?")


def thing_of(name: str, colour: str | None) -> str:
    """Name with its colour, if it has one: "red dog" or "dog"."""
    return name if colour is None else f"{colour} {name}"


def counted(count: int, thing: str) -> str:
    """Number word and thing: "one dog", "two dogs", "no dogs"."""
    return f"{NUMBERS[count]} {thing if count == 1 else plural(thing)}"


def vocabulary_texts(repeats: int = 3, seed: int = 0) -> Iterator[str]:
    """Texts that contain every word of the scenes' questions and answers, for training a tokenizer.

    Args:
        repeats: How often every name appears with other random colours and wordings.
        seed: Of the random choices.

    Yields:
        Single questions and answers, without any special token.
    """
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        for name in NAMES + HELD_OUT_NAMES:
            yield from _texts_about(name, rng)
    for questions in (DESCRIBE, SAME_KIND, LARGER, SAME_COLOUR, CAPTION, COLOUR_OF_BOX, COLOUR_OF_IT):
        yield from (re.sub(r"\{\w+\}", "", question) for question in questions)
    yield from (f"There are {number} objects." for number in NUMBERS)


def _texts_about(name: str, rng: np.random.Generator) -> Iterator[str]:
    """Questions and answers about a name, with another name and colours drawn at random."""
    other = NAMES[int(rng.integers(len(NAMES)))]
    colour, other_colour = (COLOURS[k] for k in rng.integers(len(COLOURS), size=2).tolist())
    number = int(rng.integers(2, 5))
    thing, other_thing = thing_of(name, colour), thing_of(other, other_colour)
    sides = ("left", "right", "top", "bottom")
    phrases = [
        f"the {name}",
        f"the {thing}",
        f"the {colour} object",
        f"the {name} on the {sides[number % 2]}",
    ]
    phrases += [f"the {ORDINALS[number - 1]} {name} from the {side}" for side in sides]
    for word in ("leftmost", "rightmost", "topmost", "bottommost", "largest", "biggest", "smallest"):
        phrases.append(f"the {word} {name}")
    for relation in ("left of", "right of", "above", "below", "to the left of", "to the right of"):
        phrases.append(f"the {name} {relation} the {other_thing}")
    for phrase in phrases:
        yield pick((*LOCATE, *COLOUR_OF), rng).format(phrase=phrase)
        yield phrase
    yield pick(LOCATE_ALL, rng).format(phrase=name)
    yield pick(LOCATE_ALL_PLURAL, rng).format(phrase=plural(name))
    yield pick(EXISTS, rng).format(a_thing=with_article(thing))
    yield pick(COUNT, rng).format(things=plural(name))
    yield ABSENT.format(thing=thing)
    yield f"There are {counted(number, name)}. There is {counted(1, thing)}. It is {colour}."
    yield f"Yes, both are {plural(name)}. No, the first is {with_article(name)} and the second is {other}."
    yield f"The {name} is {colour}. The first {name} is larger than the second {other}."
    yield f"The image shows {with_article(thing)}, {with_article(other)} and {with_article(name)}."
    yield f"Yes, there is {with_article(name)}. No, there is no {other}. They are both {other_colour}."
