"""Judging answers: what is kept, what is mended, what is rejected, each with its reason."""

import json

import pytest

from chat_server import conversation
from groma.curate.checking import REJECTED, REPAIRED, Verdict, judge
from groma.curate.instructions import WORKED_EXAMPLES, complaint, instructions
from groma.curate.notation import read_phrases, write_conversation
from groma.curate.settings import Rules
from groma.data.annotation import Passage, Span
from groma.prompt.tokens import NEW_TOKENS

RULES = Rules()
GOOD = ("Who waits?", "[A dog](2) waits by [the door](1).", "For whom?", "For [the two children](3,4), it seems.")


def verdict(*texts: str, rules: Rules = RULES, num_regions: int = 5) -> Verdict:
    return judge(conversation(*texts), num_regions, rules)


def kinds(remarks) -> list[str]:
    return [remark.kind for remark in remarks]


def with_answer(text: str) -> Verdict:
    """A conversation whose third exchange has this answer."""
    return verdict(*GOOD, "And what else?", text)


def alone(text: str) -> list[str]:
    """What is wrong with an answer, where no exchange can be spared."""
    judged = verdict("Who waits?", text, "For whom?", GOOD[3], rules=Rules(min_phrases=1))
    return kinds(judged.faults)


def test_a_good_conversation():
    judged = verdict(*GOOD)
    assert (judged.faults, judged.repairs) == ((), ())
    first, second = judged.exchanges
    assert first.question == Passage("Who waits?")
    assert first.answer == Passage("A dog waits by the door.", (Span(0, 5, (1,)), Span(15, 23, (0,))))
    assert second.answer.spans == (Span(4, 20, (2, 3)),)
    assert first.grounded and second.grounded


@pytest.mark.parametrize("example", WORKED_EXAMPLES, ids=lambda example: example.regions[0])
def test_worked_examples_keep_the_rules_to_the_letter(example):
    judged = judge(write_conversation(example.turns), len(example.regions), RULES)
    assert (judged.faults, judged.repairs) == ((), ())
    assert 2 * len(judged.exchanges) == len(example.turns)
    named = {box for exchange in judged.exchanges for span in exchange.answer.spans for box in span.boxes}
    assert named == set(range(len(example.regions)))
    for caption in example.captions:
        assert all(0 <= box < len(example.regions) for s in read_phrases(caption).passage.spans for box in s.boxes)


def test_the_rules_are_told():
    told = instructions(Rules(min_exchanges=3, max_exchanges=7, min_phrases=4, max_phrase_words=9))
    assert "3 to 7 questions" in told and "at least 4 phrases" in told and "at most 9 words" in told
    assert '{"conversation": [' in told
    assert "- one\n- two" in complaint(("one", "two"))


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("[A cat](9) waits.", "unknown_region"),
        ("[A cat](0) waits.", "unknown_region"),
        ("[Two cats](1,17) wait.", "unknown_region"),
        ("[The dog](2) in region 2 waits.", "bare_number"),
        ("[The dog](2) in box #2 waits.", "bare_number"),
        ("[The dog](2), number 2, waits.", "bare_number"),
        ("[The dog](2) of boxes 2 and 3.", "bare_number"),
        ("[The dog](2) in frame three waits.", "bare_number"),
        ("(2) waits by [the door](1).", "bare_number"),
        ("Well: [2] waits by [the door](1).", "bare_number"),
        ("[the door](1) and <2>", "bare_number"),
        ("[Region 2](2) waits.", "bare_number"),
        ("[The dog](2) is in the bounding box.", "mark_in_text"),
        ("[The dog](2) is in the numbered frame.", "mark_in_text"),
        ("[The dog](2) is marked with the number on it.", "mark_in_text"),
        ("[The dog](2) waits, the caption says.", "mark_in_text"),
        ("According to the description, [the dog](2) waits.", "mark_in_text"),
        ("[](2) waits.", "empty_phrase"),
        ("[12](2) waits.", "empty_phrase"),
        ("[" + "very " * 12 + "old dog](2) waits.", "long_phrase"),
        ("[A dog](2) " + "waits and " * 200, "long_answer"),
        ("", "empty_turn"),
        ("  \n ", "empty_turn"),
        ("[A dog](2) <roi> waits", "markup"),
        ("[A dog](2) <r3> waits", "markup"),
        ("[grounding] [A dog](2) waits", "markup"),
        ("- [A dog](2)\n- [A door](1)", "markup"),
        ("There are: \n1. [A dog](2)\n2. [A door](1)", "markup"),
        ("## Scene\n[A dog](2) waits.", "markup"),
        ("[A dog](2) waits [for", "unreadable"),
        ("[A [big] dog](2) waits", "bare_number"),
    ],
)
def test_what_an_answer_must_not_hold(answer, fault):
    """The reason is given; where enough came before, what came before is kept."""
    assert fault in alone(answer)
    judged = with_answer(answer)
    assert len(judged.exchanges) == 2 and judged.faults == ()
    assert kinds(judged.repairs) == ["cut_before_fault"]


@pytest.mark.parametrize(
    "answer",
    [
        "[A bus](2) of line 25 waits.",
        "[A dog](2) and 3 cups.",
        "[A dog](2) waits at gate 7.",
        "It is (almost) [a dog](2).",
        "[A dog](2) waits; 2 * 3 * 4 is 24.",
        "[A box](2) of 12 eggs.",
        "[The player with the number 23](2) runs.",
        '[A label](2) says "5 kg".',
        "[The region](2) is mountainous.",
        "[Pad](2) and [grounding] (1) are words.",
    ],
)
def test_what_an_answer_may_hold(answer):
    judged = with_answer(answer)
    assert len(judged.exchanges) == 3
    assert set(kinds(judged.repairs)) <= {"loose_phrase"} and judged.faults == ()


@pytest.mark.parametrize(
    ("answer", "repair", "text"),
    [
        ("[A dog](2)\n\nwaits.  There.", "blanks", "A dog waits. There."),
        ("**[A dog](2)** *waits*.", "emphasis", "A dog waits."),
        ("[A dog](2) waits for [its friend].", "brackets", "A dog waits for its friend."),
        ("[A dog](2) waits, and the cat (3) too.", "number_removed", "A dog waits, and the cat too."),
        ("[A dog](2) waits, and the cat [3].", "number_removed", "A dog waits, and the cat."),
        ("[A dog] (2) waits.", "loose_phrase", "A dog waits."),
    ],
)
def test_what_is_mended(answer, repair, text):
    judged = with_answer(answer)
    assert kinds(judged.repairs) == [repair]
    passage = judged.exchanges[2].answer
    assert passage.text == text
    assert [(text[s.start : s.end], s.boxes) for s in passage.spans] == [("A dog", (1,))]


def test_spans_follow_when_something_before_them_is_taken_out():
    judged = with_answer("The cat (3) and [its toy] lie before [the dog](2), near [the door](1) (1), see.")
    passage = judged.exchanges[2].answer
    assert passage.text == "The cat and its toy lie before the dog, near the door, see."
    phrases = [passage.text[span.start : span.end] for span in passage.spans]
    assert phrases == ["the dog", "the door"]
    assert [span.boxes for span in passage.spans] == [(1,), (0,)]


def test_questions_are_plain():
    judged = verdict("What is [the dog](2) (2) doing?", *GOOD[1:])
    assert judged.exchanges[0].question == Passage("What is the dog doing?")
    assert sorted(kinds(judged.repairs)) == ["loose_phrase", "tied_question"]
    assert kinds(verdict("What is in region 2?", *GOOD[1:]).faults) == ["bare_number"]
    assert kinds(verdict("x" * 301, *GOOD[1:]).faults) == ["long_question"]


def test_repeated_questions():
    assert kinds(verdict("Who waits?", GOOD[1], "who  waits?", GOOD[3]).faults) == ["repeated_question"]


def raw(*turns: tuple[str, str]) -> Verdict:
    entries = [{"role": role, "text": text} for role, text in turns]
    return judge(json.dumps({"conversation": entries}), 5, RULES)


def test_turns():
    user, assistant = [("user", text) for text in GOOD[::2]], [("assistant", text) for text in GOOD[1::2]]
    assert kinds(raw(assistant[0], user[0], assistant[1], user[1]).faults) == ["wrong_turns"]
    assert kinds(raw(user[0], assistant[0], assistant[1], user[1]).faults) == ["wrong_turns"]
    assert kinds(raw(user[0], user[1], assistant[0], assistant[1]).faults) == ["wrong_turns"]
    assert kinds(raw().faults) == ["few_exchanges"]
    judged = raw(user[0], assistant[0], user[1], assistant[1], ("user", "Really?"))
    assert (len(judged.exchanges), kinds(judged.repairs)) == (2, ["open_question"])


def test_limits_of_the_whole():
    assert kinds(verdict(*GOOD[:2]).faults) == ["few_exchanges"]
    assert kinds(verdict("Who?", "A dog.", "And?", "[A cat](1).").faults) == ["few_phrases"]
    many = [text for number in range(8) for text in (f"Question {number} x?", "[A dog](2) waits.")]
    judged = verdict(*many)
    assert (len(judged.exchanges), kinds(judged.repairs)) == (6, ["cut_to_length"])


def test_nothing_behind_a_fault_is_kept():
    """It may build on what was wrong."""
    judged = verdict(*GOOD, "And the cat?", "[It](9) sleeps.", "Where?", "On [the door](1).")
    assert [exchange.question.text for exchange in judged.exchanges] == ["Who waits?", "For whom?"]


def test_all_faults_are_named_so_that_the_model_can_mend_them_together():
    judged = verdict("Who waits?", "[A cat](9) in box 1.", "For whom?", "For [nobody](0).")
    assert kinds(judged.faults) == ["bare_number", "unknown_region", "unknown_region"]
    assert "answer 1 ties 'A cat' to 9, but there are regions 1 to 5 only" in judged.faults[1].told
    assert judged.exchanges == ()


@pytest.mark.parametrize(
    ("content", "fault"),
    [("", "empty"), (" \n", "empty"), ("I cannot help with that.", "unreadable"), ('{"conversation": [', "unreadable")],
)
def test_no_conversation_at_all(content, fault):
    assert kinds(judge(content, 5, RULES).faults) == [fault]


def test_a_loose_form_is_counted():
    judged = judge(f"Sure!\n```json\n{conversation(*GOOD)}\n```", 5, RULES)
    assert (len(judged.exchanges), kinds(judged.repairs)) == (2, ["loose_form"])


def test_every_tag_of_the_prompts_is_refused():
    for token in NEW_TOKENS:
        assert "markup" in alone(f"[A dog](2) {token.value} waits")


def test_kinds_are_documented():
    """What the other tests of this file meet is what is documented; "refused" and "cut_off" come from endpoints."""
    assert {"refused", "cut_off", "few_phrases", "repeated_question"} <= set(REJECTED)
    assert set(REJECTED).isdisjoint(REPAIRED)
