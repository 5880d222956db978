"""A dialogue that makes no sense cannot be built."""

import pytest

from groma.errors import InputError
from groma.prompt.dialogue import Dialogue, Grounding, Phrase, Referred, Text, Turn

BOX = (0.5, 0.5, 0.1, 0.1)
HELLO = (Text("hello"),)


def test_a_phrase_needs_text():
    with pytest.raises(InputError, match="no text"):
        Phrase("")


def test_a_grounding_needs_a_box_or_region():
    with pytest.raises(InputError, match="no box and no region"):
        Grounding()


def test_an_answer_cannot_point_at_a_users_box():
    with pytest.raises(InputError, match="Referred"):
        Turn(question=HELLO, answer=(Referred(0),))


def test_only_the_last_turn_may_be_open():
    Dialogue(turns=(Turn(HELLO, HELLO), Turn(HELLO)))
    with pytest.raises(InputError, match="turn 0 of 2 has no answer"):
        Dialogue(turns=(Turn(HELLO), Turn(HELLO)))


def test_no_turn():
    with pytest.raises(InputError, match="at least one turn"):
        Dialogue(turns=())


@pytest.mark.parametrize("box", [(0.1, 0.2, 0.3), (0.1, 0.2, 0.3, float("nan")), (0, 0, float("inf"), 1)])
def test_boxes_are_four_finite_numbers(box):
    with pytest.raises(InputError, match="box 0"):
        Dialogue(turns=(Turn(HELLO),), boxes_cxcywh=(box,))


@pytest.mark.parametrize(
    "turn",
    [
        Turn((Referred(1),)),
        Turn(HELLO, (Phrase("a", boxes=(0, 1)),)),
        Turn(HELLO, (Grounding(boxes=(-1,)),)),
    ],
)
def test_every_index_has_its_box(turn):
    with pytest.raises(InputError, match="the dialogue has 1 boxes"):
        Dialogue(turns=(turn,), boxes_cxcywh=(BOX,))
