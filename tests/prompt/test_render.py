"""Dialogue to tokens: one function for training and inference, labels as the method has them."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FIXED_FORMATS, PROPERTY, dialogues

from groma.errors import InputError
from groma.prompt.chat_format import COMPACT, VICUNA, from_chat_template
from groma.prompt.dialogue import Dialogue, Grounding, Phrase, Referred, Text, Turn
from groma.prompt.render import fit, render, text_runs
from groma.prompt.tokens import IGNORE_INDEX

BOX = (0.5, 0.5, 0.2, 0.2)
HELLO = (Text("hello"),)


@cache
def formats_of(tokenizer):
    templates = [from_chat_template(tokenizer)] if getattr(tokenizer, "chat_template", None) else []
    return [*FIXED_FORMATS.values(), *templates]


def open_at(dialogue, number):
    """The same dialogue up to a turn whose answer is to be generated."""
    turns = (*dialogue.turns[:number], replace(dialogue.turns[number], answer=None))
    return Dialogue(turns=turns, boxes_cxcywh=dialogue.boxes_cxcywh)


@given(dialogue=dialogues, data=st.data())
@PROPERTY
def test_the_inference_prompt_is_a_prefix_of_the_training_prompt(family, dialogue, data):
    tokenizer, _ = family
    chat_format = data.draw(st.sampled_from(formats_of(tokenizer)))
    training = render(dialogue, tokenizer, chat_format)
    for number in range(len(dialogue.turns)):
        asking = render(open_at(dialogue, number), tokenizer, chat_format)
        length = len(asking.token_ids)
        assert training.token_ids[:length] == asking.token_ids
        assert training.labels[:length] == asking.labels
        assert training.refer_slots[: len(asking.refer_slots)] == asking.refer_slots
        assert training.ground_slots[: len(asking.ground_slots)] == asking.ground_slots


@given(dialogue=dialogues, data=st.data())
@PROPERTY
def test_answers_and_their_ends_are_trained_on_and_nothing_else(family, dialogue, data):
    tokenizer, _ = family
    chat_format = data.draw(st.sampled_from(formats_of(tokenizer)))
    rendered = render(dialogue, tokenizer, chat_format)
    expected = [IGNORE_INDEX] * len(rendered.token_ids)
    for number, turn in enumerate(dialogue.turns):
        if turn.target:
            start = len(render(open_at(dialogue, number), tokenizer, chat_format).token_ids)
            answered = Dialogue(turns=dialogue.turns[: number + 1], boxes_cxcywh=dialogue.boxes_cxcywh)
            end = len(render(answered, tokenizer, chat_format).token_ids)
            expected[start:end] = rendered.token_ids[start:end]
    assert list(rendered.labels) == expected


@given(dialogue=dialogues, data=st.data())
@PROPERTY
def test_slots_are_as_many_as_their_tokens(family, dialogue, data):
    tokenizer, _ = family
    special = tokenizer.special
    rendered = render(dialogue, tokenizer, data.draw(st.sampled_from(formats_of(tokenizer))))
    count = rendered.token_ids.count
    assert count(special.refer_box) == count(special.refer_feat) == len(rendered.refer_slots)
    assert count(special.ground_box) == len(rendered.ground_slots)
    assert count(special.image) == count(special.region_list) == 1
    assert count(special.grounding) == sum(turn.grounded for turn in dialogue.turns)
    assert count(special.sep) == count(special.pad) == 0


@given(dialogue=dialogues, cut=st.integers(0, 40))
@PROPERTY
def test_text_is_encoded_alike_however_it_is_cut_into_segments(byte_bpe, dialogue, cut):
    question = dialogue.turns[0].question
    split = tuple(
        piece
        for segment in question
        for piece in ((Text(segment.text[:cut]), Text(segment.text[cut:])) if isinstance(segment, Text) else (segment,))
    )
    turns = (replace(dialogue.turns[0], question=split), *dialogue.turns[1:])
    assert render(replace(dialogue, turns=turns), byte_bpe, VICUNA) == render(dialogue, byte_bpe, VICUNA)


@given(dialogue=dialogues)
@PROPERTY
def test_text_runs_are_what_is_encoded(byte_bpe, dialogue):
    encoded = [token_id for run in text_runs(dialogue, COMPACT) for token_id in byte_bpe.encode_piece(run, first=False)]
    base = [i for i in render(dialogue, byte_bpe, COMPACT).token_ids if i < byte_bpe.vocab_size]
    assert [i for i in base if i not in byte_bpe.control_ids] == encoded


def test_how_each_segment_is_written(byte_bpe):
    dialogue = Dialogue(
        turns=(
            Turn(
                (Text("Is "), Referred(2), Text(" "), Phrase("a dog"), Text("?")),
                (
                    Phrase("It", boxes=(1, 0)),
                    Text(" and "),
                    Grounding(boxes=(3,), regions=(5,)),
                    Phrase("a", regions=(4,)),
                ),
                grounded=True,
            ),
        ),
        boxes_cxcywh=(BOX,) * 4,
    )
    rendered = render(dialogue, byte_bpe, COMPACT)
    spelled = "".join(
        byte_bpe.token_name(i) if i >= byte_bpe.vocab_size or i in byte_bpe.control_ids else byte_bpe.decode([i])
        for i in rendered.token_ids
    )
    assert spelled == (
        "<s><img><image></img><region>\nUSER: [grounding]Is <roi><refer_box></roi><refer_feat> <p>a dog</p>?\n"
        "ASSISTANT:<p>It</p><roi><ground_box><ground_box></roi> and <roi><ground_box><r5></roi><p>a</p><roi><r4></roi>"
        "</s>"
    )
    assert rendered.refer_slots == (2,)
    assert rendered.ground_slots == (1, 0, 3)


def test_history_can_be_left_out_of_the_loss(byte_bpe):
    turn = Turn(HELLO, HELLO)
    both = render(Dialogue(turns=(turn, turn)), byte_bpe, VICUNA)
    last = render(Dialogue(turns=(replace(turn, target=False), turn)), byte_bpe, VICUNA)
    eos = byte_bpe.special.eos
    assert both.token_ids == last.token_ids
    assert both.token_ids.count(eos) == 3  # the opening's, and one a turn
    assert both.labels.count(eos) == 2
    assert last.labels.count(eos) == 1


def test_a_family_without_begin_token(qwen_like, byte_bpe):
    opening = (Turn(HELLO),)
    assert render(Dialogue(turns=opening), qwen_like, COMPACT).token_ids[0] == qwen_like.special.img_open
    assert render(Dialogue(turns=opening), byte_bpe, COMPACT).token_ids[0] == byte_bpe.special.bos


def test_a_region_number_that_the_vocabulary_lacks(byte_bpe):
    dialogue = Dialogue(turns=(Turn((Grounding(regions=(100,)),)),))
    with pytest.raises(InputError, match="region number 100 does not exist; the vocabulary has 100"):
        render(dialogue, byte_bpe, COMPACT)


def test_a_prompt_that_fits_is_rendered(byte_bpe):
    dialogue = Dialogue(turns=(Turn(HELLO),))
    rendered = render(dialogue, byte_bpe, COMPACT)
    assert fit(dialogue, byte_bpe, COMPACT, max_tokens=len(rendered.token_ids)) == rendered


def test_a_prompt_that_is_too_long_is_refused_with_its_counts(byte_bpe):
    dialogue = Dialogue(turns=(Turn(HELLO),))
    count = len(render(dialogue, byte_bpe, COMPACT).token_ids)
    with pytest.raises(InputError, match=f"has {count} tokens, but only {count - 1} fit; shorten the question"):
        fit(dialogue, byte_bpe, COMPACT, max_tokens=count - 1)
    long = Dialogue(turns=(Turn(HELLO, (Text("dog " * 50),)), Turn(HELLO)))
    with pytest.raises(InputError, match=rf"\({count} without its 1 earlier turns\); leave out earlier turns"):
        fit(long, byte_bpe, COMPACT, max_tokens=count)
    with pytest.raises(InputError, match=r"earlier turns\); shorten the question"):
        fit(long, byte_bpe, COMPACT, max_tokens=count - 1)
