"""Questions as dialogues, earlier answers as turns, and what "locate" makes of an answer."""

from dataclasses import replace

import pytest

from groma.errors import InputError
from groma.inference.result import Entity, GroundedAnswer, Region
from groma.inference.turns import asking, located, locating
from groma.prompt.dialogue import Grounding, Phrase, Referred, Text

SIZE = (200, 100)


def answer(text, *entities, numbered=(), question="What?", size=SIZE, grounded=True):
    """An answer over four regions; `numbered` maps a region's id to its number in the question."""
    regions = tuple(
        Region(
            id=k,
            box_xyxy_px=(10.0 * k, 0.0, 10.0 * k + 20, 50.0),
            objectness=0.5,
            source="user" if k in dict(numbered) else "proposal",
            numbers=(dict(numbered)[k],) if k in dict(numbered) else (),
        )
        for k in range(4)
    )
    return GroundedAnswer(
        text=text,
        entities=entities,
        regions=regions,
        finish_reason="stop",
        raw_text="",
        image_size_px=size,
        question=question,
        grounded=grounded,
    )


def entity(phrase, start, *ids):
    scores = tuple(0.5 + 0.1 * k for k in ids)
    return Entity(
        phrase=phrase,
        start=start,
        end=start + len(phrase),
        region_ids=ids,
        score=sum(scores) / len(scores),
        region_scores=scores,
    )


def test_a_question_with_boxes():
    exchange = asking(
        "Is [1] on [2]?", [(0, 0, 100, 50), (100, 50, 200, 100)], size_px=SIZE, max_regions=5, grounded=True
    )
    (turn,) = exchange.dialogue.turns
    assert turn.question == (Text("Is "), Referred(0), Text(" on "), Referred(1), Text("?"))
    assert turn.grounded and exchange.grounded
    assert exchange.asked == exchange.user_boxes == (0, 1)
    assert exchange.boxes_cxcywh.tolist() == [[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]


def test_earlier_turns_bring_their_boxes():
    past = answer(
        "A dog by a tree", entity("A dog", 0, 2), entity("tree", 11, 1, 3), numbered=[(3, 1)], question="What is [1]?"
    )
    exchange = asking("And [1]?", (0, 0, 20, 20), size_px=SIZE, max_regions=5, grounded=False, history=[past])
    first, last = exchange.dialogue.turns
    assert first.question == (Text("What is "), Referred(0), Text("?"))
    assert first.grounded and not last.grounded
    assert first.answer == (Phrase("A dog", boxes=(1,)), Text(" by a "), Phrase("tree", boxes=(2, 3)))
    assert last.question == (Text("And "), Referred(4), Text("?"))
    assert (exchange.user_boxes, exchange.asked) == ((4, 0), (4,)), "of boxes that overlap much, today's stays"
    assert exchange.user_boxes_cxcywh.shape == (2, 4)
    assert exchange.asked_boxes_cxcywh.tolist() == [pytest.approx([0.05, 0.1, 0.1, 0.2])]
    assert exchange.dialogue.boxes_cxcywh[2] == pytest.approx((0.1, 0.25, 0.1, 0.5))


def test_bare_groups_and_text_without_regions_are_told_again():
    past = answer("Here. ", entity("", 5, 1))
    exchange = asking("And?", None, size_px=SIZE, max_regions=5, grounded=True, history=[past, answer("No.")])
    assert exchange.dialogue.turns[0].answer == (Text("Here."), Grounding(boxes=(0,)), Text(" "))
    assert exchange.dialogue.turns[1].answer == (Text("No."),)
    assert exchange.user_boxes == ()


def test_history_that_cannot_be_told():
    with pytest.raises(InputError, match="stays with one picture"):
        asking("And?", None, size_px=SIZE, max_regions=5, grounded=True, history=[answer("No.", size=(5, 5))])
    crowded = answer("x", numbered=[(0, 1), (1, 2), (2, 3)], question="[1] [2] [3]?")
    with pytest.raises(InputError, match="earlier turns point at 3 regions, but at most 2 fit"):
        asking("And?", None, size_px=SIZE, max_regions=2, grounded=True, history=[crowded])


def test_locating_speaks_as_in_training():
    exchange = locating("  the red dog ", all=False)
    assert exchange.dialogue.turns[0].question == (Text("Locate "), Phrase("the red dog"), Text(" in the image."))
    assert exchange.question == "Locate the red dog in the image."
    assert locating("dog", all=True).question == "Locate all dog in this image."


@pytest.mark.parametrize("every", [False, True])
def test_what_was_located_is_told_again_in_the_same_words(every):
    asked = locating("dog", all=every)
    found = located(answer("dog", entity("dog", 0, 2)), "dog", all=every)
    again = asking("And?", None, size_px=SIZE, max_regions=5, grounded=True, history=[found]).dialogue.turns[0]
    assert again.question == asked.dialogue.turns[0].question
    assert again.grounded == asked.grounded
    assert again.answer == (Phrase("dog", boxes=(0,)),)


@pytest.mark.parametrize("history", [answer("No."), None, 3])
def test_history_is_a_list(history):
    with pytest.raises(InputError, match="history must be a list of earlier answers"):
        asking("And?", None, size_px=SIZE, max_regions=5, grounded=True, history=history)


def test_located_keeps_the_first_region_or_all():
    said = answer("the dog", entity("the dog", 0, 2, 1))
    (one,) = located(said, "the dog", all=False).entities
    assert (one.region_ids, one.region_scores, one.score) == ((2,), (0.7,), 0.7)
    assert one.boxes_xyxy_px == ((20.0, 0.0, 40.0, 50.0),)
    assert located(said, "the dog", all=True) == replace(said, looked_for="the dog", looked_for_all=True)
    assert located(answer("There is none."), "the dog", all=False).entities == ()


def test_regions_without_a_phrase_get_the_phrase_that_was_asked_for():
    bare = answer("", entity("", 0, 3), entity("", 0, 1, 3))
    every = located(bare, "dogs", all=True)
    assert every.text == "dogs"
    (found,) = every.entities
    assert (found.phrase, found.start, found.end, found.region_ids) == ("dogs", 0, 4, (3, 1))
    assert found.region_scores == (0.8, 0.6)
    assert found.score == pytest.approx(0.7)
    assert located(bare, "dogs", all=False).entities[0].region_ids == (3,)
