"""Generated tokens to answers: the inverse of render, patient with anything, the same when streamed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ADVERSARIAL, FIXED_FORMATS, NUM_REGIONS, PROPERTY, answers, dialogues, merged, typed, words

from groma.prompt.chat_format import COMPACT, VICUNA, from_chat_template
from groma.prompt.dialogue import Dialogue, Grounding, Phrase, Text, Turn
from groma.prompt.parse import (
    Grounded,
    IncrementalParser,
    ParsedPhrase,
    PhraseClosed,
    PhraseOpened,
    TextDelta,
    parse,
    segments,
)
from groma.prompt.render import render

BOX = (0.5, 0.5, 0.2, 0.2)
QUESTION = (Text("What is it?"),)


def answer_ids(answer, tokenizer, chat_format, boxes=()):
    """Ids of the answer alone, its end token included: what a model that learned it would generate."""
    asking = render(Dialogue(turns=(Turn(QUESTION),), boxes_cxcywh=boxes), tokenizer, chat_format)
    training = render(Dialogue(turns=(Turn(QUESTION, answer),), boxes_cxcywh=boxes), tokenizer, chat_format)
    return training.token_ids[len(asking.token_ids) :]


def assert_consistent(parsed, ids, tokenizer):
    """What holds for every parsed answer, however malformed the ids."""
    cursor = 0
    for phrase in parsed.phrases:
        assert cursor <= phrase.start <= phrase.end <= len(parsed.text)
        assert parsed.text[phrase.start : phrase.end] == phrase.text
        assert phrase.text or phrase.regions
        named = [tokenizer.special.region_number(ids[position]) for position in phrase.token_positions]
        assert tuple(named) == phrase.regions
        cursor = phrase.end
    positions = [position for phrase in parsed.phrases for position in phrase.token_positions]
    assert positions == sorted(set(positions))


def stream(ids, tokenizer):
    parser = IncrementalParser(tokenizer)
    events = [event for token_id in ids for event in parser.push(token_id)]
    return [*events, *parser.finish()], parser.result()


# parse(render(x)) == x


@given(data=st.data())
@PROPERTY
def test_every_answer_comes_back_exactly(lossless_family, data):
    tokenizer, gives_back = lossless_family
    answer = merged(data.draw(answers(typed.map(gives_back))))
    chat_format = data.draw(st.sampled_from(list(FIXED_FORMATS.values())))
    ids = answer_ids(answer, tokenizer, chat_format)
    parsed = parse(ids, tokenizer)
    assert segments(parsed) == answer
    assert parsed.finished == bool(chat_format.answer_end)
    assert_consistent(parsed, ids, tokenizer)


@given(answer=answers(words), chat_format=st.sampled_from(list(FIXED_FORMATS.values())))
@PROPERTY
def test_words_come_back_where_blanks_at_tags_are_lost(stripping_tokenizer, answer, chat_format):
    """One blank stands between all runs of words afterwards, and nothing else is changed."""
    ids = answer_ids(answer, stripping_tokenizer, chat_format)
    parsed = parse(ids, stripping_tokenizer)
    runs = [segment.text for segment in answer if not isinstance(segment, Grounding)]
    assert parsed.text == " ".join(runs)
    marked = [(getattr(s, "text", ""), s.regions) for s in answer if not isinstance(s, Text)]
    assert [(phrase.text, phrase.regions) for phrase in parsed.phrases] == marked
    assert_consistent(parsed, ids, stripping_tokenizer)
    # put back as history, it gives the same ids
    assert answer_ids(segments(parsed), stripping_tokenizer, chat_format) == ids


@pytest.mark.parametrize("text", ADVERSARIAL, ids=lambda text: ascii(text[:30]))
def test_typed_tags_in_an_answer_stay_text(lossless_family, text):
    tokenizer, gives_back = lossless_family
    answer = (Text(text), Phrase(text, regions=(1,)), Text(text))
    parsed = parse(answer_ids(answer, tokenizer, COMPACT), tokenizer)
    assert parsed.text == gives_back(text) * 3
    assert [(phrase.text, phrase.regions) for phrase in parsed.phrases] == [(gives_back(text), (1,))]


@given(dialogue=dialogues)
@PROPERTY
def test_training_answers_come_back_once_their_boxes_are_regions(byte_bpe, dialogue):
    """As in training, each <ground_box> becomes the region that its box was matched to."""
    turn = dialogue.turns[-1]
    ids = list(answer_ids(turn.answer, byte_bpe, COMPACT, dialogue.boxes_cxcywh))
    slots = iter(render(Dialogue((Turn((), turn.answer),), dialogue.boxes_cxcywh), byte_bpe, COMPACT).ground_slots)
    matched = {box: NUM_REGIONS - 1 - box for box in range(len(dialogue.boxes_cxcywh))}
    ids = [
        byte_bpe.special.region(matched[next(slots)]) if token_id == byte_bpe.special.ground_box else token_id
        for token_id in ids
    ]
    expected = []
    for segment in turn.answer:
        if isinstance(segment, Text):
            expected.append(segment)
        else:
            numbers = (*(matched[box] for box in segment.boxes), *segment.regions)
            expected.append(
                Phrase(segment.text, regions=numbers) if isinstance(segment, Phrase) else Grounding(regions=numbers)
            )
    assert segments(parse(ids, byte_bpe)) == merged(expected)


def test_spans_positions_and_raw_text(byte_bpe):
    answer = (Text("See "), Phrase("two dogs", regions=(3, 0)), Text(" and "), Grounding(regions=(5,)), Phrase("it"))
    ids = answer_ids(answer, byte_bpe, COMPACT)
    parsed = parse(ids, byte_bpe)
    places = [ids.index(byte_bpe.special.region(number)) for number in (3, 0, 5)]
    assert parsed.text == "See two dogs and it"
    assert parsed.phrases == (
        ParsedPhrase(text="two dogs", start=4, end=12, regions=(3, 0), token_positions=tuple(places[:2])),
        ParsedPhrase(text="", start=17, end=17, regions=(5,), token_positions=(places[2],)),
        ParsedPhrase(text="it", start=17, end=19),
    )
    assert parsed.raw_text == "See <p>two dogs</p><roi><r3><r0></roi> and <roi><r5></roi><p>it</p>"
    assert parsed.finished


def test_an_end_token_of_the_format(qwen_like):
    chat_format = from_chat_template(qwen_like)
    ids = answer_ids((Text("dog"),), qwen_like, chat_format)
    parsed = parse([*ids, *ids], qwen_like, stop_ids=chat_format.stop_ids(qwen_like.special))
    assert (parsed.text, parsed.finished) == ("dog", True)
    assert not parse(ids[:-1], qwen_like).finished


@pytest.mark.parametrize(
    ("before", "behind", "joined"),
    [
        ("a dog", "runs", "a dog runs"),
        ("a dog", ", a cat", "a dog, a cat"),
        ("a dog", ")", "a dog)"),
        ("(", "a dog", "(a dog"),
        ("a dog", "'s tail", "a dog's tail"),
        ("a dog", "(red)", "a dog (red)"),
        ("\u4e00\u53ea", "\u72d7", "\u4e00\u53ea\u72d7"),
    ],
)
def test_blanks_that_are_rebuilt(stripping_tokenizer, before, behind, joined):
    special = stripping_tokenizer.special
    # pieces as the legacy mode writes them; outside it a piece can lose its first character
    spell = stripping_tokenizer._sentencepiece.encode
    group = [special.roi_open, special.region(1), special.roi_close]
    parsed = parse([*spell(before), *group, *spell(behind)], stripping_tokenizer)
    assert parsed.text == joined
    assert parsed.phrases[0].start == len(before)


def test_line_breaks_behind_a_tag_are_kept(stripping_tokenizer):
    spell = stripping_tokenizer._sentencepiece.encode
    special = stripping_tokenizer.special
    ids = [*spell("a"), special.roi_open, special.region(1), special.roi_close, *spell("\nb")]
    assert parse(ids, stripping_tokenizer).text == "a\nb"


# Malformed answers


def spell(tokenizer, *parts):
    """Ids of tags, region numbers and words."""
    special = tokenizer.special
    tags = {"<p>": special.phrase_open, "</p>": special.phrase_close, "<roi>": special.roi_open}
    tags |= {"</roi>": special.roi_close, "<image>": special.image, "<s>": special.bos, "<pad>": special.pad}
    ids = []
    for part in parts:
        if isinstance(part, int):
            ids.append(special.region(part))
        else:
            ids += [tags[part]] if part in tags else tokenizer.encode_piece(part, first=False)
    return ids


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["<p>", "a"], [Phrase("a")]),
        (["<p>", "a", "<roi>", 1], [Phrase("a", regions=(1,))]),
        (["<p>", "a", "<p>", "b", "</p>", "<roi>", 1, "</roi>"], [Phrase("a"), Phrase("b", regions=(1,))]),
        (["a", "</p>", "b", "</roi>", "c"], [Text("abc")]),
        (["<roi>", 1, "a", "</roi>"], [Grounding(regions=(1,)), Text("a")]),
        (["<roi>", 1, "<p>", "a", "</p>"], [Grounding(regions=(1,)), Phrase("a")]),
        (["<roi>", 1, "<roi>", 2, "</roi>"], [Grounding(regions=(1,)), Grounding(regions=(2,))]),
        (["a", 1, 2, "b"], [Text("a"), Grounding(regions=(1, 2)), Text("b")]),
        (["<p>", "a", "</p>", 1, "b"], [Phrase("a", regions=(1,)), Text("b")]),
        (["<p>", "a", 1, "b"], [Phrase("a", regions=(1,)), Text("b")]),
        ([1, "</roi>", 2], [Grounding(regions=(1,)), Grounding(regions=(2,))]),
        ([1, "<image>", 2], [Grounding(regions=(1,)), Grounding(regions=(2,))]),
        (["<p>", "</p>", "<roi>", 1, "</roi>"], [Grounding(regions=(1,))]),
        (["<p>", "a", "</p>", "<roi>", "</roi>"], [Phrase("a")]),
        (["<roi>", "</roi>"], []),
        (["<p>", "</p>"], []),
        (["<roi>", 1, "<image>", "</p>", 2, "</roi>"], [Grounding(regions=(1, 2))]),
        (["a", "<image>", "<s>", "<pad>", "b"], [Text("ab")]),
        ([], []),
    ],
)
def test_what_malformed_answers_mean(byte_bpe, parts, expected):
    ids = spell(byte_bpe, *parts)
    parsed = parse(ids, byte_bpe)
    assert segments(parsed) == tuple(expected)
    assert not parsed.finished
    assert_consistent(parsed, ids, byte_bpe)


@given(data=st.data())
@PROPERTY
def test_any_ids_can_be_parsed(family, data):
    tokenizer, _ = family
    special = tokenizer.special
    tags = range(special.base_vocab_size, special.vocab_size + 3)
    ids = data.draw(st.lists(st.integers(0, special.base_vocab_size - 1) | st.sampled_from(tags), max_size=40))
    parsed = parse(ids, tokenizer)
    assert_consistent(parsed, ids, tokenizer)
    assert parsed.finished == (special.eos in ids)
    events, streamed = stream(ids, tokenizer)
    assert streamed == parsed
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == parsed.text
    assert [event.phrase for event in events if isinstance(event, Grounded)] == [p for p in parsed.phrases if p.regions]
    closed = [(event.start, event.text, event.end) for event in events if isinstance(event, PhraseClosed)]
    assert closed == [(phrase.start, phrase.text, phrase.end) for phrase in parsed.phrases if phrase.text]
    opened = [event.start for event in events if isinstance(event, PhraseOpened)]
    assert opened == [start for start, _, _ in closed]


@given(data=st.data())
@PROPERTY
def test_any_answer_can_go_back_as_history(byte_bpe, data):
    ids = data.draw(st.lists(st.integers(0, byte_bpe.special.vocab_size - 1), max_size=40))
    parsed = parse(ids, byte_bpe)
    again = parse(answer_ids(segments(parsed), byte_bpe, COMPACT), byte_bpe)
    assert again.text == parsed.text
    assert segments(again) == merged(segments(parsed))


# Streaming


def test_events_come_as_soon_as_they_are_known(byte_bpe):
    parser = IncrementalParser(byte_bpe)
    special = byte_bpe.special
    (dog,) = byte_bpe.encode_piece(" dog", first=False)
    assert parser.push(dog) == [TextDelta(" dog")]
    assert parser.push(special.phrase_open) == []
    assert parser.push(dog) == [PhraseOpened(4), TextDelta(" dog")]
    assert parser.push(special.phrase_close) == [PhraseClosed(" dog", 4, 8)]
    assert parser.push(special.roi_open) == []
    assert parser.push(special.region(6)) == []
    phrase = ParsedPhrase(text=" dog", start=4, end=8, regions=(6,), token_positions=(5,))
    assert parser.push(special.roi_close) == [Grounded(phrase)]
    assert parser.push(special.eos) == []
    assert parser.push(dog) == []
    assert parser.finish() == []
    assert parser.result().phrases == (phrase,)
    assert parser.result().finished


def test_a_character_of_several_tokens_comes_whole(lossless_family):
    tokenizer, _ = lossless_family
    text = "\u4f60\U0001f436\u597d"
    ids = tokenizer.encode_piece(text, first=False)
    assert len(ids) > 3
    parser = IncrementalParser(tokenizer)
    deltas = [event.text for token_id in ids for event in parser.push(token_id)]
    assert deltas == list(text)


def test_half_a_character_before_a_tag_becomes_the_replacement_character(byte_bpe):
    half = byte_bpe.encode_piece("\U0001f436", first=False)[:2]
    parser = IncrementalParser(byte_bpe)
    assert [parser.push(token_id) for token_id in half] == [[], []]
    assert parser.push(byte_bpe.special.phrase_open) == [TextDelta("\ufffd")]
    assert parse(half, byte_bpe).text == "\ufffd"
    assert VICUNA.stop_ids(byte_bpe.special) == {byte_bpe.special.eos}
