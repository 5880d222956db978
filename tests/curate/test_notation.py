"""The notation: written and read back, read leniently where one meaning is possible, refused elsewhere."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_server import conversation
from groma.curate.notation import (
    NotationError,
    Turn,
    read_conversation,
    read_phrases,
    write_conversation,
    write_phrases,
)
from groma.data.annotation import Passage, Span

TURNS = (Turn("user", "Who waits?"), Turn("assistant", "[A dog](2) does.\u00e9"))
EXACT = write_conversation(TURNS)


def test_written_and_read_back():
    read = read_conversation(EXACT)
    assert (read.turns, read.loose) == (TURNS, ())
    assert json.loads(EXACT)["conversation"][1] == {"role": "assistant", "text": "[A dog](2) does.\u00e9"}


@pytest.mark.parametrize(
    ("content", "loose"),
    [
        (f"```json\n{EXACT}\n```", "words around the JSON"),
        (f"Here you are:\n\n{EXACT}\nEnjoy!", "words around the JSON"),
        (f"  {EXACT}\n", None),
        (f"<think>Is {{this}} a dog?</think>\n{EXACT}", "reasoning in front of the answer"),
        (json.dumps(json.loads(EXACT)["conversation"]), "a list without its object"),
        (EXACT.replace('"conversation"', '"turns"'), "another name for the conversation"),
        (EXACT.replace('"user"', '"human"').replace('"assistant"', '"gpt"'), "other names for roles or texts"),
        (EXACT.replace('"role"', '"from"').replace('"text"', '"value"'), "other names for roles or texts"),
        (EXACT.replace('"user"', '"User"'), "other names for roles or texts"),
    ],
)
def test_one_meaning_is_enough(content, loose):
    read = read_conversation(content)
    assert read.turns == TURNS
    assert read.loose == (() if loose is None else (loose,))


def test_line_breaks_inside_a_text():
    read = read_conversation(conversation("Who?", "One.\nTwo.").replace("\\n", "\n"))
    assert read.turns[1].text == "One.\nTwo."
    assert read.loose == ("unescaped line breaks in the JSON",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no JSON"),
        ("I am sorry, I cannot do that.", "no JSON"),
        (EXACT[:-20], "not valid JSON"),
        (EXACT.replace(":", "=", 1), "not valid JSON"),
        ('{"conversation": "none"}', "no list 'conversation', but conversation"),
        ('{"a": [], "b": []}', "no list 'conversation', but a, b"),
        ('{"conversation": ["What?", "That."]}', "turn 1 is no object"),
        ('{"conversation": [{"role": "system", "text": "x"}]}', "turn 1 has the role 'system'"),
        ('{"conversation": [{"text": "x"}]}', "turn 1 has the role None"),
        ('{"conversation": [{"role": "user", "text": ["x"]}]}', "turn 1 has no text"),
    ],
)
def test_refused(content, expected):
    with pytest.raises(NotationError, match=expected):
        read_conversation(content)


@pytest.mark.parametrize(
    ("text", "plain", "spans", "loose"),
    [
        ("[A dog](2) waits.", "A dog waits.", [(0, 5, (1,))], False),
        ("See [two cups](4,5)", "See two cups", [(4, 12, (3, 4))], False),
        ("[A](1)[B](2)", "AB", [(0, 1, (0,)), (1, 2, (1,))], False),
        ("[A](1)[2](3)", "A2", [(0, 1, (0,)), (1, 2, (2,))], False),
        ("[A dog] (2) waits", "A dog waits", [(0, 5, (1,))], True),
        ("[A dog](2, 3) waits", "A dog waits", [(0, 5, (1, 2))], True),
        ("[A dog](2 and 3)", "A dog", [(0, 5, (1, 2))], True),
        ("[Dogs](1, 2, and 3)", "Dogs", [(0, 4, (0, 1, 2))], True),
        ("[A dog](2)(3)", "A dog", [(0, 5, (1, 2))], True),
        ("[A dog][2] waits", "A dog waits", [(0, 5, (1,))], True),
        ("[A dog](2,2)", "A dog", [(0, 5, (1,))], True),
        ("[ A dog ](2)", "A dog", [(0, 5, (1,))], True),
        ("[A dog](0)", "A dog", [(0, 5, (-1,))], False),
        ("[](3) there", " there", [(0, 0, (2,))], False),
        ("[A dog] waits (2 of them)", "[A dog] waits (2 of them)", [], False),
        ("[see](http://a)", "[see](http://a)", [], False),
        ("plain", "plain", [], False),
    ],
)
def test_phrases(text, plain, spans, loose):
    read = read_phrases(text)
    assert read.passage == Passage(plain, tuple(Span(*span) for span in spans))
    assert read.loose is loose


WORDS = st.text(st.characters(blacklist_characters="[]()", blacklist_categories=("Cs",)), max_size=12)


@given(
    st.lists(
        st.tuples(
            WORDS,
            WORDS.filter(lambda text: text.strip() == text and text),
            st.lists(st.integers(0, 98), min_size=1, max_size=4, unique=True),
        ),
        max_size=5,
    ),
    WORDS,
)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read(pieces, end):
    text, spans = "", []
    for before, phrase, boxes in pieces:
        spans.append(Span(len(text + before), len(text + before + phrase), tuple(boxes)))
        text += before + phrase
    passage = Passage(text + end, tuple(spans))
    read = read_phrases(write_phrases(passage))
    assert (read.passage, read.loose) == (passage, False)
