"""What users rely on, with small models of random weights: one or many, streaming, history, regions, bad input."""

import numpy as np
import pytest
import torch
from PIL import Image

from groma.errors import InputError
from groma.inference import assistant as assistant_module
from groma.inference.generate import Decoding
from groma.inference.request import BoxesMergedWarning
from groma.prompt.parse import TextDelta
from small_models import CONTEXT, MAX_REGIONS, assert_same, endless_groma, picture, small_groma

SHORT = Decoding(max_new_tokens=24)
LIVELY = Decoding(max_new_tokens=24, temperature=1.0, seed=3)
BOX, OTHER = (10, 12, 60, 70), (55, 8, 118, 60)


@pytest.fixture(scope="module", params=["compact", "vicuna"])
def groma(request):
    return small_groma(seed=1, chat_format=request.param)


@pytest.fixture(scope="module")
def compact():
    return small_groma(seed=1)


@pytest.fixture
def decoded(monkeypatch):
    """Every (prompts, steps) that an assistant decodes while the test runs."""
    seen = []
    original = assistant_module.decode

    def recording(decoder, prompts):
        steps = []
        seen.append((prompts, steps))
        for step in original(decoder, prompts):
            steps.append(step)
            yield step

    monkeypatch.setattr(assistant_module, "decode", recording)
    return seen


def talkative(groma, *arguments, **options):
    """The first sampled answer that names regions and has some text, and how it was decoded."""
    for seed in range(30):
        decoding = Decoding(max_new_tokens=30, temperature=1.0, seed=seed)
        answer = groma.ask(*arguments, **options, decoding=decoding)
        if answer.entities and len(answer.text) > 5:
            return answer, decoding
    raise AssertionError("30 random answers without a region: the small models have gone dull")


# --- one or many -----------------------------------------------------------------------------------------------------


def test_a_list_is_answered_as_one_by_one(groma):
    pictures = [picture(n, size) for n, size in enumerate([(120, 90), (64, 200), (333, 111), (84, 84)])]
    questions = ["Why?", "What is in the picture?", "Compare [1] with [2], please, in detail.", "And [1]?"]
    regions = [None, None, [(10, 10, 90, 60), (120, 20, 300, 100)], [(5, 5, 60, 70)]]
    said = []
    for decoding in (SHORT, LIVELY, Decoding(max_new_tokens=40, temperature=0.7, top_p=0.9, seed=8)):
        together = groma.ask(pictures, questions, regions=regions, decoding=decoding)
        for answer, one, question, boxes in zip(together, pictures, questions, regions, strict=True):
            assert_same(answer, groma.ask(one, question, regions=boxes, decoding=decoding))
        said += together
    assert len({answer.raw_text for answer in said}) > 6
    assert sum(len(answer.entities) for answer in said) > 3


def test_lists_longer_than_a_batch(compact):
    pictures = [picture(n % 3) for n in range(assistant_module.BATCH_SIZE + 3)]
    answers = compact.ask(pictures, "What is this?", decoding=Decoding(max_new_tokens=6))
    assert len(answers) == len(pictures)
    for number, answer in enumerate(answers):
        assert_same(answer, answers[number % 3])
    assert compact.ask([], "What is this?") == []


def test_one_question_about_a_picture_seen_once(compact, monkeypatch):
    seen = compact.see(picture(0))
    monkeypatch.setattr(compact.model, "perceive", None)  # nothing may be encoded again
    first = compact.ask(seen, "What is this?", decoding=SHORT)
    both = compact.ask([seen, seen], ["What is this?", "Where is it?"], decoding=SHORT)
    assert_same(first, both[0])
    assert seen.size_px == first.image_size_px == (120, 90)
    assert compact.see(seen) is seen


def test_an_answer_is_drawn_on_the_picture_seen(compact):
    seen = compact.see(picture(0))
    answer = compact.ask(seen, "What is [1]?", regions=[BOX], decoding=SHORT)
    assert answer.draw(seen).tobytes() == answer.draw(picture(0)).tobytes()
    assert seen.image.tobytes() == picture(0).tobytes()


def test_what_another_model_saw_is_refused(compact):
    twin = small_groma(seed=2)  # of the same shape: it would answer, and nobody would know that it is nonsense
    with pytest.raises(InputError, match="seen by another model"):
        twin.ask([picture(1), compact.see(picture(0))], "What?", decoding=SHORT)


def test_pictures_seen_can_be_compared_and_put_into_sets(compact):
    seen, again = compact.see([picture(0), picture(0)])
    assert seen == seen and seen != again and len({seen, again}) == 2


def test_streaming_gives_the_same_answer(groma):
    for decoding in (SHORT, LIVELY):
        whole = groma.ask(picture(2), "What is in the picture?", decoding=decoding)
        stream = groma.ask(picture(2), "What is in the picture?", decoding=decoding, stream=True)
        events = list(stream)
        assert stream.answer == whole
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == whole.text


def test_a_stream_that_is_left_and_taken_up_again(compact):
    whole, decoding = talkative(compact, picture(2), "What is in the picture?")
    stream = compact.ask(picture(2), "What is in the picture?", decoding=decoding, stream=True)
    assert stream.answer.finish_reason == "cancelled"
    assert stream.answer.text == ""
    for event in stream:
        if isinstance(event, TextDelta):
            break
    part = stream.answer
    assert part.finish_reason == "cancelled"
    said = part.text.rstrip("\N{REPLACEMENT CHARACTER}")  # random tokens may stop within a character
    assert whole.text.startswith(said) and 0 < len(part.text) < len(whole.text)
    list(stream)
    assert stream.answer == whole


def test_locating_and_describing_stream_as_well(groma):
    for decoding in (SHORT, LIVELY):
        for call, argument in ((groma.locate, "the red dog"), (groma.describe, BOX)):
            whole = call(picture(2), argument, decoding=decoding)
            stream = call(picture(2), argument, decoding=decoding, stream=True)
            list(stream)
            assert stream.answer == (whole[0] if isinstance(whole, list) else whole)


def test_several_pictures_cannot_stream(compact):
    for call, argument in ((compact.ask, "What?"), (compact.locate, "it"), (compact.describe, [[BOX]])):
        with pytest.raises(InputError, match="one picture at a time"):
            call([picture(0)], argument, stream=True)
    with pytest.raises(InputError, match="one box at a time, got 2"):
        compact.describe(picture(0), [BOX, OTHER], stream=True)


# --- regions ---------------------------------------------------------------------------------------------------------


def test_regions_are_boxes_of_the_original_picture(compact):
    regions = compact.regions(picture(0, (300, 150)))
    assert [region.id for region in regions] == list(range(len(regions)))
    assert 3 < len(regions) <= MAX_REGIONS
    scores = [region.objectness for region in regions]
    assert scores == sorted(scores, reverse=True)
    for region in regions:
        x1, y1, x2, y2 = region.box_xyxy_px
        assert 0 <= x1 <= x2 <= 300 and 0 <= y1 <= y2 <= 150
        assert region.source == "proposal"
    assert max(region.box_xyxy_px[2] for region in regions) > 150  # scaled by width, not by height


def test_boxes_of_the_user_become_regions_with_their_numbers(compact, decoded):
    answer = compact.ask(picture(0), "Is [2] left of [1]?", regions=[BOX, OTHER], decoding=SHORT)
    mine = {number: region for region in answer.regions for number in region.numbers}
    assert set(mine) == {1, 2}
    for number, box in ((1, BOX), (2, OTHER)):
        assert mine[number].source == "user"
        assert mine[number].objectness == 1
        assert mine[number].box_xyxy_px == pytest.approx(box, abs=1e-3)
    assert sum(region.source == "user" for region in answer.regions) == 2
    special = compact.tokenizer.special
    ids = decoded[0][0][0].token_ids.tolist()
    asked = ids[ids.index(special.refer_feat) - 3 :]  # <roi> <rk> </roi> <refer_feat>: [2] is named first
    assert asked[1] == special.region(mine[2].id)
    named = [ids[place - 2] for place, token in enumerate(ids) if token == special.refer_feat]
    assert named == [special.region(mine[2].id), special.region(mine[1].id)]


def test_a_box_drawn_twice_is_one_region_and_one_is_told(compact):
    with pytest.warns(BoxesMergedWarning, match=r"boxes \[1\] and \[2\] overlap so much"):
        answer = compact.ask(picture(0), "Are [1] and [2] the same?", regions=[BOX, BOX], decoding=SHORT)
    (region,) = [region for region in answer.regions if region.source == "user"]
    assert region.numbers == (1, 2)


def test_what_is_pointed_at_changes_what_the_model_sees(compact, decoded):
    for box in (BOX, OTHER):
        compact.ask(picture(0), "What is this?", regions=box, decoding=SHORT)
    ((first,), steps), ((second,), other_steps) = decoded
    assert len(first) == len(second)
    assert (steps[0][0].logits - other_steps[0][0].logits).abs().max() > 1e-3


def test_describing_several_boxes_is_describing_each_alone(groma):
    boxes = np.array([BOX, OTHER, (0, 0, 120, 90)])
    together = groma.describe(picture(1), boxes, decoding=SHORT)
    assert len(together) == 3
    for box, answer in zip(boxes, together, strict=True):
        (alone,) = groma.describe(picture(1), box, decoding=SHORT)
        assert_same(answer, alone)
        (region,) = [region for region in answer.regions if region.numbers == (1,)]
        assert region.box_xyxy_px == pytest.approx(tuple(box), abs=1e-3)
    per_picture = groma.describe([picture(1), picture(2)], [boxes[:2], []], decoding=SHORT)
    assert [len(answers) for answers in per_picture] == [2, 0]
    assert_same(per_picture[0][1], together[1])


def test_more_boxes_than_regions_can_be_described(compact):
    boxes = [(n, n, n + 30, n + 30) for n in range(MAX_REGIONS + 5)]
    assert len(compact.describe(picture(1), boxes, decoding=Decoding(max_new_tokens=3))) == len(boxes)


def test_locate_names_one_region_or_all(groma):
    phrases = ["the red dog", "a tree", "it", "the second cup"]
    for decoding in (Decoding(max_new_tokens=40, temperature=1.0, seed=seed) for seed in range(4)):
        pictures = [picture(n) for n in range(4)]
        for one, every in zip(
            groma.locate(pictures, phrases, decoding=decoding),
            groma.locate(pictures, phrases, all=True, decoding=decoding),
            strict=True,
        ):
            assert len(one.entities) <= 1
            for entity in one.entities:
                assert len(entity.region_ids) == 1
                assert entity.score == entity.region_scores[0]
            assert all(len(set(entity.region_ids)) == len(entity.region_ids) for entity in every.entities)
            assert every.question.startswith("Locate all ")
    single = groma.locate(picture(2), "it", decoding=SHORT)
    assert_same(single, groma.locate([picture(2)], "it", decoding=SHORT)[0])


# --- history ---------------------------------------------------------------------------------------------------------


def test_earlier_turns_are_told_again_with_todays_numbers(compact, decoded):
    first, _ = talkative(compact, picture(0), "What is [1]?", regions=[BOX])
    decoded.clear()
    second = compact.ask(
        picture(0), "And what is [2] beside [1]?", regions=[OTHER, (30, 30, 60, 80)], history=[first], decoding=SHORT
    )
    special = compact.tokenizer.special
    mine = {number: region for region in second.regions for number in region.numbers}
    assert set(mine) == {1, 2}
    assert mine[1].box_xyxy_px == pytest.approx(OTHER, abs=1e-3)
    (earlier,) = [region for region in second.regions if region.source == "user" and not region.numbers]
    assert earlier.box_xyxy_px == pytest.approx(BOX, abs=1e-3)
    assert [r.id for r in second.regions if r.box_xyxy_px == earlier.box_xyxy_px] == [earlier.id]

    ids = decoded[0][0][0].token_ids.tolist()
    pointed_at = [ids[place - 2] for place, token in enumerate(ids) if token == special.refer_feat]
    assert pointed_at == [special.region(n) for n in (earlier.id, mine[2].id, mine[1].id)]
    # what the first answer named is named again, by the number that its box has now
    start = ids.index(special.refer_feat) + 1
    again = [special.region_number(token) for token in ids[start:] if special.region_number(token) is not None]
    boxes = {region.id: region.box_xyxy_px for region in second.regions}
    old = [box for entity in first.entities for box in entity.boxes_xyxy_px]
    for box, number in zip(old, again, strict=False):
        if any(box == pytest.approx(kept, abs=1e-3) for kept in boxes.values()):
            assert boxes[number] == pytest.approx(box, abs=1e-3)
    assert len(again) == len(old) + 2


def test_a_box_drawn_again_a_little_smaller_is_the_one_that_is_asked_about(compact):
    first = compact.ask(picture(0), "What is [1]?", regions=[(10, 10, 60, 60)], decoding=SHORT)
    second = compact.ask(picture(0), "And [1]?", regions=[(13, 13, 58, 58)], history=[first], decoding=SHORT)
    (mine,) = [region for region in second.regions if region.numbers]
    assert mine.box_xyxy_px == pytest.approx((13, 13, 58, 58), abs=1e-3)


def test_history_of_a_list(compact):
    pictures = [picture(0), picture(1)]
    first = compact.ask(pictures, "What is this?", decoding=LIVELY)
    together = compact.ask(pictures, "And?", history=[[first[0]], [first[1]]], decoding=SHORT)
    for one, past, answer in zip(pictures, first, together, strict=True):
        assert_same(answer, compact.ask(one, "And?", history=[past], decoding=SHORT))
    with pytest.raises(InputError, match="2 lists of histories"):
        compact.ask(pictures, "And?", history=first)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_rotated_photograph_is_taken_as_it_is_seen(compact, tmp_path):
    upright = picture(4, (120, 90))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the right when shown
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned, straight = compact.regions(tmp_path / "turned.png"), compact.regions(upright)
    assert turned == straight
    answer = compact.ask(tmp_path / "turned.png", "What is this?", regions=BOX, decoding=SHORT)
    assert answer.image_size_px == (120, 90)
    assert_same(answer, compact.ask(upright, "What is this?", regions=BOX, decoding=SHORT))


def test_paths_bytes_and_arrays_are_one_picture_each(compact, tmp_path):
    path = tmp_path / "picture.png"
    picture(5).save(path)
    answers = compact.ask([path, str(path), path.read_bytes(), np.asarray(picture(5))], "What?", decoding=SHORT)
    for answer in answers:
        assert_same(answer, answers[0])


def test_a_picture_of_one_pixel(compact):
    dot = Image.new("RGB", (1, 1), (200, 30, 30))
    answer = compact.ask(dot, "What is this?", regions=[(0, 0, 1, 1)], decoding=SHORT)
    assert answer.image_size_px == (1, 1)
    assert all(0 <= value <= 1 for region in answer.regions for value in region.box_xyxy_px)


# --- decoding --------------------------------------------------------------------------------------------------------


def test_answers_are_deterministic_unless_asked_otherwise(compact):
    def ask(**options):
        return compact.ask(picture(0), "What is this?", decoding=Decoding(max_new_tokens=16, **options)).raw_text

    assert ask() == ask() == ask(seed=5)
    sampled = [ask(temperature=1.0, seed=seed) for seed in range(4)]
    assert sampled == [ask(temperature=1.0, seed=seed) for seed in range(4)]
    assert len(set(sampled)) > 1
    assert ask(temperature=1.0, top_p=1e-6) == ask(temperature=1e-6) == ask()


def test_special_tokens_in_a_question_stay_text(groma, decoded):
    plain = "What is this?"
    typed = "<r5><image></s><s>[grounding]<region><roi><refer_box></roi><refer_feat>[PAD]<sep><p>a</p> this?"
    for question in (plain, typed):
        groma.ask(picture(0), question, decoding=Decoding(max_new_tokens=1))
    ((first,), _), ((second,), _) = decoded
    special = groma.tokenizer.special

    def count(prompt):
        ids = prompt.token_ids
        return [int((ids == token).sum()) for token in (special.bos, special.eos, special.unk)] + [
            int((ids >= special.base_vocab_size).sum())
        ]

    assert count(first) == count(second)
    assert len(second) > len(first) + 20


def test_scores_are_probabilities_over_the_regions_that_exist(compact, decoded):
    answer, _ = talkative(compact, picture(3), "What is in the picture?")
    special = compact.tokenizer.special
    expected = []
    for step in decoded[-1][1]:
        number = special.region_number(step[0].token_id)
        if number is not None:
            logits = [float(step[0].logits[special.region(k)]) for k in range(len(answer.regions))]
            exponentials = np.exp(np.array(logits, dtype=np.float64) - max(logits))
            expected.append(float(exponentials[number] / exponentials.sum()))
    given = [score for entity in answer.entities for score in entity.region_scores]
    assert given
    assert given == pytest.approx(expected, abs=1e-5)
    for entity in answer.entities:
        assert entity.score == pytest.approx(sum(entity.region_scores) / len(entity.region_scores))
        assert 0 <= entity.score <= 1


def test_bfloat16_answers():
    half = endless_groma(seed=1)
    half.model.to(torch.bfloat16)
    answer = half.ask(picture(0), "What is [1]?", regions=[BOX], decoding=SHORT)
    assert answer.raw_text and len(answer.regions) > 1
    assert half.describe([picture(0)], [[OTHER]], decoding=SHORT)[0][0].image_size_px == (120, 90)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": " "}, "question is empty"),
        ({"question": ["a", "b"]}, "must be text"),
        ({"question": "x " * CONTEXT}, "only .* fit; shorten the question"),
        ({"question": "What?", "decoding": Decoding(max_new_tokens=CONTEXT)}, "allow a shorter answer"),
        ({"question": "What is [2]?", "regions": [BOX]}, "only region .1. is given"),
        ({"question": "[1]?", "regions": [(0, 0, 5)]}, "3 numbers"),
        ({"question": "[1]?", "regions": [(500, 500, 600, 600)]}, "outside"),
        ({"question": "What?", "history": ["earlier"]}, "earlier answers"),
    ],
)
def test_bad_questions_are_refused(compact, arguments, message):
    with pytest.raises(InputError, match=message):
        compact.ask(picture(0), **{"decoding": SHORT} | arguments)


def test_more_boxes_than_regions_fit(compact):
    boxes = [(n, n, n + 30, n + 30) for n in range(MAX_REGIONS + 1)]
    names = " ".join(f"[{n + 1}]" for n in range(len(boxes)))
    with pytest.raises(InputError, match=f"{MAX_REGIONS + 1} regions are given, but at most {MAX_REGIONS} fit"):
        compact.ask(picture(0), names, regions=boxes, decoding=SHORT)
    first = compact.ask(picture(0), "[1]?", regions=[BOX], decoding=SHORT)
    with pytest.raises(InputError, match=f"at most {MAX_REGIONS - 1} fit"):
        compact.ask(picture(0), names, regions=boxes[1:], history=[first], decoding=SHORT)


def test_a_conversation_that_is_too_long(compact):
    turn = compact.ask(picture(0), "What is this and that and everything else?", decoding=SHORT)
    with pytest.raises(InputError, match="leave out earlier turns"):
        compact.ask(picture(0), "And?", history=[turn] * 20, decoding=SHORT)


def test_history_of_another_picture(compact):
    answer = compact.ask(picture(0, (50, 40)), "What?", decoding=SHORT)
    with pytest.raises(InputError, match="50x40 pixels, this one has 120x90"):
        compact.ask(picture(0), "And?", history=[answer], decoding=SHORT)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.ask([picture(0)] * 2, ["one"]), "2 pictures, but 1 questions"),
        (lambda g: g.ask([picture(0)] * 2, "one [1]", regions=[BOX]), "2 lists of regions"),
        (lambda g: g.ask([picture(0)] * 4, "one [1]", regions=BOX), "4 lists of regions"),
        (lambda g: g.locate([picture(0)], ["a", "b"]), "1 pictures, but 2 phrases"),
        (lambda g: g.locate(picture(0), ""), "phrase is empty"),
        (lambda g: g.locate(picture(0), "x", all="no"), "all must be True or False"),
        (lambda g: g.ask(picture(0), "one", grounded="no"), "grounded must be True or False"),
        (lambda g: g.ask(picture(0), "one", decoding={"seed": 3}), "must be a groma.Decoding"),
        (lambda g: g.describe(picture(0), BOX, decoding=64), "must be a groma.Decoding"),
        (lambda g: g.describe([picture(0)] * 2, [[BOX]]), "2 lists of boxes"),
    ],
)
def test_what_cannot_be_meant(compact, call, message):
    with pytest.raises(InputError, match=message):
        call(compact)
