"""Questions about scenes: true, unambiguous, well worded, and complete for an evaluation."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from groma.data.scenes import wording
from groma.data.scenes.exchanges import EXCHANGES
from groma.data.scenes.questions import KINDS, Question, plain_text, question_of, questions_for
from groma.data.scenes.referring import DIRECTIONS
from groma.data.scenes.scene import Scene, make_scene
from groma.data.wording import plural, with_article
from groma.errors import InputError
from groma.prompt.dialogue import Grounding, Phrase, Referred, Text

LOCATE_KINDS = ("refer_name", "refer_colour", "refer_attribute", "refer_relation", "refer_ordinal")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene("train", index, 11, size_px=96) for index in range(150)]


@pytest.fixture(scope="module")
def asked(scenes: list[Scene]) -> dict[str, list[tuple[Scene, Question]]]:
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[Scene, Question]]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        for scene in scenes:
            for _ in range(2):
                question = question_of(kind, scene, rng)
                if question is not None:
                    found[kind].append((scene, question))
    return found


# What follows decides by itself what a phrase means, from the pixel boxes.


def centre(scene: Scene, k: int) -> tuple[float, float]:
    x1, y1, x2, y2 = scene.objects[k].box_xyxy_px
    return (x1 + x2) / 2 / scene.size_px, (y1 + y2) / 2 / scene.size_px


def area(scene: Scene, k: int) -> float:
    x1, y1, x2, y2 = scene.objects[k].box_xyxy_px
    return (x2 - x1) * (y2 - y1)


def matches(scene: Scene, thing: str) -> list[int]:
    """Objects that "dog", "red dog" or "red object" may mean, to whoever is generous about colours."""
    found = []
    for k, entry in enumerate(scene.objects):
        for colour in ("", *(f"{colour} " for colour in entry.may_be_called)):
            if thing in (colour + entry.name, f"{colour}object"):
                found.append(k)
    return found


def meaning(scene: Scene, phrase: str) -> list[int]:
    """All objects that an expression may mean."""
    text = re.sub(r"^(the|an|a) ", "", phrase)
    relation = re.fullmatch(r"(.+?) (?:to the )?(left of|right of|above|below) the (.+)", text)
    if relation:
        axis, sign = DIRECTIONS[relation[2]]
        (anchor,) = matches(scene, relation[3])
        ahead = {k: sign * (centre(scene, k)[axis] - centre(scene, anchor)[axis]) for k in matches(scene, relation[1])}
        assert all(distance > 0.05 or distance < -0.015 for distance in ahead.values())
        return [k for k, distance in ahead.items() if distance > 0]
    superlative = re.fullmatch(r"(largest|biggest|smallest) (.+)", text)
    if superlative:
        group = sorted(matches(scene, superlative[2]), key=lambda k: area(scene, k))
        group = group if superlative[1] == "smallest" else group[::-1]
        ratio = area(scene, group[0]) / area(scene, group[1])
        assert max(ratio, 1 / ratio) > 1.6
        return group[:1]
    order = re.fullmatch(r"(leftmost|rightmost|topmost|bottommost) (.+)", text)
    side = re.fullmatch(r"(.+) on the (left|right)", text)
    place = re.fullmatch(r"(second|third|fourth) (.+) from the (left|right|top|bottom)", text)
    if order or side or place:
        words = {"leftmost": "left", "rightmost": "right", "topmost": "top", "bottommost": "bottom"}
        thing = order[2] if order else side[1] if side else place[2]  # type: ignore[index]
        start = words[order[1]] if order else side[2] if side else place[3]  # type: ignore[index]
        rank = wording.ORDINALS.index(place[1]) if place else 0
        axis = 0 if start in ("left", "right") else 1
        row = sorted(matches(scene, thing), key=lambda k: centre(scene, k)[axis])
        row = row if start in ("left", "top") else row[::-1]
        assert not side or len(row) == 2
        return row[rank : rank + 1]
    return matches(scene, text)


@pytest.mark.parametrize("kind", LOCATE_KINDS)
def test_an_expression_means_its_target_and_nothing_else(kind: str, asked: dict) -> None:
    assert len(asked[kind]) > 50
    for scene, question in asked[kind]:
        (target,) = question.targets
        assert meaning(scene, target.phrase) == list(target.objects)
        (turn,) = question.dialogue.turns
        assert turn.answer == (Phrase(target.phrase, boxes=(0,)),)
        assert target.phrase in plain_text(turn.question)
        assert question.name == scene.objects[target.objects[0]].name
        if kind in ("refer_attribute", "refer_relation", "refer_ordinal"):
            assert len(matches(scene, question.name)) >= 2
        else:
            assert question.name is not None
            assert kind == "refer_colour" or matches(scene, question.name) == list(target.objects)


def test_positions_in_a_row_are_clear(asked: dict) -> None:
    for scene, question in asked["refer_ordinal"]:
        (target,) = question.targets
        axis = 0 if re.search(r"left|right", target.phrase) else 1
        places = sorted(centre(scene, k)[axis] for k in matches(scene, question.name))
        mine = places.index(centre(scene, target.objects[0])[axis])
        steps = [b - a for a, b in pairwise(places)]
        assert all(step >= 0.059 for step in steps[max(mine - 1, 0) : mine + 1])


def test_locate_all_finds_all_from_left_to_right(asked: dict) -> None:
    for scene, question in asked["locate_all"]:
        (target,) = question.targets
        thing = wording.thing_of(question.name, question.colour)
        assert target.phrase in (thing, plural(thing))
        assert sorted(target.objects) == matches(scene, thing)
        across = [centre(scene, k)[0] for k in target.objects]
        assert across == sorted(across)
    sizes = Counter(len(question.targets[0].objects) for _, question in asked["locate_all"])
    assert set(sizes) == {1, 2, 3, 4}


def test_what_is_absent_is_absent(asked: dict) -> None:
    described = 0
    for scene, question in asked["absent"]:
        thing = wording.thing_of(question.name, question.colour)
        assert matches(scene, thing) == []
        (turn,) = question.dialogue.turns
        assert turn.answer == (Text(f"There is no {thing} in the image."),)
        assert question.targets == () and question.dialogue.boxes_cxcywh == ()
        if question.name != "object":
            described += bool(matches(scene, question.name))
            assert all(scene.objects[k].colour for k in matches(scene, question.name))
    assert described > 0.2 * len(asked["absent"])


def test_absent_things_are_asked_for_in_the_same_words(asked: dict) -> None:
    def patterns(kinds: tuple[str, ...]) -> Counter:
        found: Counter = Counter()
        for kind in kinds:
            for _, question in asked[kind]:
                segments = question.dialogue.turns[0].question
                if len(segments) == 3 and isinstance(segments[1], Phrase):
                    found[plain_text(segments[::2])] += 1
        return found

    absent, present = patterns(("absent",)), patterns((*LOCATE_KINDS, "locate_all"))
    assert set(absent) <= set(present)
    canonical = ("Locate  in the image.", "Locate all  in this image.")
    assert all(absent[words] > 10 and present[words] > 10 for words in canonical)


def test_descriptions_name_what_is_pointed_at(asked: dict) -> None:
    for scene, question in asked["describe"]:
        (k,) = question.box_objects
        entry = scene.objects[k]
        assert question.answer_text == with_article(wording.thing_of(entry.name, entry.colour))
        assert Referred(0) in question.dialogue.turns[0].question
        assert question.dialogue.boxes_cxcywh == (scene.boxes_cxcywh[k],)


def test_comparisons_are_true(asked: dict) -> None:
    seen = Counter()
    for scene, question in asked["compare"]:
        first, second = (scene.objects[k] for k in question.box_objects)
        words, answer = plain_text(question.dialogue.turns[0].question), question.answer_text
        assert (first.name in answer and second.name in answer) or answer.startswith("Yes, both")
        if "kind" in words:
            assert answer.startswith("Yes") == (first.name == second.name)
        elif re.search("colou?r", words):
            assert answer.startswith("Yes") == (first.colour == second.colour)
            assert str(first.colour) in answer and str(second.colour) in answer
        else:
            ratio = area(scene, question.box_objects[0]) / area(scene, question.box_objects[1])
            assert max(ratio, 1 / ratio) > 1.6
            larger = first if ratio > 1 else second
            name = (
                larger.name if first.name != second.name else f"{'first' if larger is first else 'second'} {first.name}"
            )
            assert answer.startswith(f"The {name} is larger")
        seen[answer.split()[0]] += 1
    assert min(seen[word] for word in ("Yes,", "No,", "The")) > 20


@pytest.mark.parametrize(("kind", "axis"), [("caption", 0), ("summary", 0), ("caption_down", 1)])
def test_captions_name_every_object_in_their_order(kind: str, axis: int, asked: dict) -> None:
    for scene, question in asked[kind]:
        (turn,) = question.dialogue.turns
        order = sorted(range(len(scene.objects)), key=lambda k: (centre(scene, k)[axis], centre(scene, k)))
        words = [with_article(wording.thing_of(scene.objects[k].name, scene.objects[k].colour)) for k in order]
        assert question.answer_text == f"The image shows {', '.join(words[:-1])} and {words[-1]}."
        assert turn.grounded == (kind != "summary")
        grounded = [(target.phrase, target.objects) for target in question.targets]
        assert grounded == ([(w, (k,)) for w, k in zip(words, order, strict=True)] if turn.grounded else [])


def test_counts_are_right(asked: dict) -> None:
    for scene, question in asked["count"]:
        count = len(matches(scene, question.name)) if question.name != "object" else len(scene.objects)
        verb = "is" if count == 1 else "are"
        assert question.answer_text == f"There {verb} {wording.counted(count, question.name)}."
        grounded = question.dialogue.turns[0].grounded
        assert sum(len(target.objects) for target in question.targets) == (count if grounded else 0)


def test_yes_and_no_are_right(asked: dict) -> None:
    answers = Counter()
    for scene, question in asked["exists"]:
        found = matches(scene, wording.thing_of(question.name, question.colour))
        answers[question.answer_text[:3]] += 1
        assert question.answer_text.startswith("Yes, there " if found else "No, there is no ")
        if question.dialogue.turns[0].grounded and found:
            assert sorted(question.targets[0].objects) == found
    assert 0.35 < answers["Yes"] / answers.total() < 0.65


def test_colours_are_right(asked: dict) -> None:
    for scene, question in asked["colour"]:
        words = plain_text(question.dialogue.turns[0].question)
        if question.name is None:
            (k,) = question.box_objects
        else:
            assert question.name in words
            (k,) = matches(scene, question.name)
        assert question.answer_text.endswith(f" is {scene.objects[k].colour}.")
        assert question.colour == scene.objects[k].colour


def test_conversations_have_two_to_four_turns_and_carry_their_boxes_once(asked: dict) -> None:
    lengths, follow_ups = Counter(), 0
    for scene, question in asked["conversation"]:
        turns = question.dialogue.turns
        lengths[len(turns)] += 1
        assert len(question.turn_kinds) == len(turns)
        assert set(question.turn_kinds) <= set(EXCHANGES)
        assert len(set(question.box_objects)) == len(question.box_objects)
        expected = tuple(scene.boxes_cxcywh[k] for k in question.box_objects)
        assert question.dialogue.boxes_cxcywh == expected
        for number, (before, turn) in enumerate(pairwise(turns), start=1):
            if re.search(r"is it\?|it have\?", plain_text(turn.question)):
                follow_ups += 1
                pointed = [s.box for s in before.question if isinstance(s, Referred)]
                pointed += [s.boxes[0] for s in before.answer or () if isinstance(s, Phrase) and s.boxes]
                (k,) = {question.box_objects[box] for box in pointed}
                assert plain_text(turn.answer or ()) == f"It is {scene.objects[k].colour}."
                assert question.turn_kinds[number] == "colour"
    assert set(lengths) == {2, 3, 4}
    assert follow_ups > 5


def test_targets_are_the_grounded_phrases_of_the_answers(asked: dict) -> None:
    for scene, question in (pair for pairs in asked.values() for pair in pairs):
        phrases = [
            (number, segment.text, tuple(question.box_objects[box] for box in segment.boxes))
            for number, turn in enumerate(question.dialogue.turns)
            for segment in turn.answer or ()
            if isinstance(segment, Phrase) and segment.boxes
        ]
        assert phrases == [(target.turn, target.phrase, target.objects) for target in question.targets]
        used = {
            box
            for turn in question.dialogue.turns
            for segment in (*turn.question, *(turn.answer or ()))
            if isinstance(segment, Phrase | Grounding | Referred)
            for box in ((segment.box,) if isinstance(segment, Referred) else segment.boxes)
        }
        assert used == set(range(len(question.dialogue.boxes_cxcywh)))
        assert all(k < len(scene.objects) for k in question.box_objects)


def test_sentences_are_well_formed(asked: dict) -> None:
    for _, question in (pair for pairs in asked.values() for pair in pairs):
        for turn in question.dialogue.turns:
            for segments in (turn.question, turn.answer or ()):
                text = plain_text(segments)
                assert not re.search(r"\b[aA] [aeio]|\b[aA]n [^aeiouh]|[ ][ .,?]{1}[.,?]|\bNone\b", text), text
                plain = [isinstance(segment, Text) for segment in segments]
                assert not any(a and b for a, b in pairwise(plain))
                assert all(not isinstance(s, Text | Phrase) or s.text for s in segments)
            if turn.answer and isinstance(turn.answer[0], Text) and "describe" not in question.turn_kinds:
                assert plain_text(turn.answer).endswith(".")


def test_the_canonical_wording_is_used_half_of_the_time(asked: dict) -> None:
    questions = [plain_text(question.dialogue.turns[0].question) for _, question in asked["refer_name"]]
    assert 0.4 < np.mean([re.fullmatch(r"Locate .+ in the image\.", text) is not None for text in questions]) < 0.6
    captions = [plain_text(question.dialogue.turns[0].question) for _, question in asked["caption"]]
    assert 0.4 < np.mean([text == "Describe the image in detail." for text in captions]) < 0.6
    assert set(captions) == set(wording.CAPTION)


@pytest.mark.parametrize(
    ("thing", "many", "one"),
    [
        ("dog", "dogs", "a dog"),
        ("red bus", "red buses", "a red bus"),
        ("octopus", "octopuses", "an octopus"),
        ("leaf", "leaves", "a leaf"),
        ("orange butterfly", "orange butterflies", "an orange butterfly"),
        ("fish", "fish", "a fish"),
        ("hourglass", "hourglasses", "an hourglass"),
        ("house", "houses", "a house"),
        ("ice cream", "ice creams", "an ice cream"),
        ("gray snowman", "gray snowmen", "a gray snowman"),
    ],
)
def test_plurals_and_articles(thing: str, many: str, one: str) -> None:
    assert plural(thing) == many
    assert with_article(thing) == one


def test_questions_for_is_deterministic_and_never_repeats_itself(scenes: list[Scene]) -> None:
    for scene in scenes[:30]:
        first, again = (questions_for(scene, np.random.default_rng(5), count=8) for _ in range(2))
        assert first == again
        keys = [(q.box_objects, tuple(turn.question for turn in q.dialogue.turns)) for q in first]
        assert len(set(keys)) == len(keys) > 4


def test_kinds_are_drawn_by_weight(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    weights = {"describe": 3.0, "locate_all": 1.0, "caption": 0.0}
    kinds = Counter(q.kind for s in scenes for q in questions_for(s, rng, kinds=weights, count=3))
    assert set(kinds) == {"describe", "locate_all"}
    assert 1.5 < kinds["describe"] / kinds["locate_all"] < 4.5


def test_kinds_that_a_scene_cannot_have_are_passed_over(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    plain = next(s for s in scenes if max(Counter(e.name for e in s.objects).values()) == 1)
    assert questions_for(plain, rng, kinds=("refer_relation", "refer_attribute"), count=2) == []
    found = questions_for(plain, rng, kinds=("refer_relation", "describe"), count=1)
    assert [question.kind for question in found] == ["describe"]


def test_impossible_wishes_are_refused(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="describ,"):
        questions_for(scenes[0], rng, kinds=("describ,",))
    with pytest.raises(InputError, match="Weights"):
        questions_for(scenes[0], rng, kinds={"describe": 0.0})
    with pytest.raises(InputError, match="no kind"):
        question_of("riddle", scenes[0], rng)


def test_held_out_objects_are_asked_about_by_name() -> None:
    rng = np.random.default_rng(0)
    for index in range(10):
        scene = make_scene("test_objects", index, 0, size_px=96)
        question = question_of("absent", scene, rng)
        assert question is not None
        assert question.name in (*wording.HELD_OUT_NAMES, "object")


def test_the_vocabulary_has_every_word_that_is_used(asked: dict) -> None:
    def words(text: str) -> set[str]:
        return set(re.findall(r"\w+|[^\w\s]", text))

    known = set().union(*(words(text) for text in wording.vocabulary_texts()))
    for _, question in (pair for pairs in asked.values() for pair in pairs):
        for turn in question.dialogue.turns:
            assert words(plain_text(turn.question)) | words(plain_text(turn.answer or ())) <= known
    assert all(f"the {name}" in set(wording.vocabulary_texts(repeats=1)) for name in wording.NAMES[:3])
