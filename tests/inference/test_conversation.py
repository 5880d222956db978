"""Conversations: the same answers as with a history, for the tokens of each turn alone."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from groma.errors import InputError
from groma.image import Preprocessing
from groma.inference.assistant import Groma
from groma.inference.conversation import Conversation
from groma.inference.generate import Decoding
from groma.model.groma import GromaModel
from small_models import IMAGE_SIZE, byte_bpe, enliven, small_config

QUESTIONS = ("What is there?", "Locate the red dog.", "And the others?", "Why?")
SHORT = Decoding(max_new_tokens=12)


@pytest.fixture(scope="module", params=["llama", "sliding"])
def assistant(request) -> Groma:
    """A Llama, and a model with sliding windows."""
    more = {} if request.param == "llama" else {"model_type": "mistral", "sliding_window": 32}
    config = small_config(max_position_embeddings=2048, **more)
    groma = Groma(enliven(GromaModel(config), seed=0), byte_bpe(), Preprocessing(size_px=IMAGE_SIZE))
    scores = [region.objectness for region in groma.regions(noise())]
    config.selection.score_threshold = sum(scores[4:6]) / 2  # five regions, so that numbers are left
    assert len(groma.regions(noise())) == 5
    return groma


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


@pytest.fixture
def picture() -> Image.Image:
    return noise()


def test_turns_say_what_they_say_with_a_history(assistant, picture):
    conversation, history = Conversation(assistant, picture), []
    for place, question in enumerate(QUESTIONS):
        regions = [[5, 5, 50, 40]] if place == 2 else None  # a new box in a later turn
        words = f"{question} [1]" if regions else question
        answer = conversation.ask(words, regions=regions, decoding=SHORT)
        history.append(assistant.ask(conversation.seen, words, regions=regions, history=history, decoding=SHORT))
        assert answer.raw_text == history[-1].raw_text
        assert answer.regions == history[-1].regions
        for ours, theirs in zip(answer.entities, history[-1].entities, strict=True):
            assert ours.region_ids == theirs.region_ids
            assert ours.region_scores == pytest.approx(theirs.region_scores, abs=1e-4)
    assert conversation.answers[0] == history[0], "nothing is kept before the first turn"


def counted(assistant: Groma, monkeypatch) -> list[int]:
    """How many tokens each call of the language model reads."""
    read: list[int] = []
    forward = assistant.model.language.forward

    def counting(embeddings: torch.Tensor, **kwargs):
        read.append(embeddings.shape[1])
        return forward(embeddings, **kwargs)

    monkeypatch.setattr(assistant.model.language, "forward", counting)
    return read


def test_a_turn_reads_its_own_tokens_alone(assistant, picture, monkeypatch):
    encoded: list[int] = []
    perceive = assistant.model.perceive
    monkeypatch.setattr(assistant.model, "perceive", lambda pixels: encoded.append(len(pixels)) or perceive(pixels))
    conversation = Conversation(assistant, picture)
    read = counted(assistant, monkeypatch)
    whole, fresh = [0], []  # tokens of each turn's prompt; of these, those that were read
    for question in QUESTIONS:
        history = list(conversation.answers)
        read.clear()
        conversation.ask(question, decoding=SHORT)
        fresh.append(read[0])
        assert set(read[1:]) <= {1} and len(read) <= SHORT.max_new_tokens
        read.clear()
        assistant.ask(conversation.seen, question, history=history, decoding=SHORT)
        whole.append(read[0])
    assert fresh[0] == whole[1]
    for turn in range(1, len(QUESTIONS)):
        # at most what came after the prompt before: the answer, if it is written otherwise than said, and the question
        assert fresh[turn] <= whole[turn + 1] - whole[turn] + 1
    assert max(fresh[1:]) < whole[-1] and encoded == [1]


def test_a_new_box_in_a_later_turn_costs_its_own_tokens(assistant, picture, monkeypatch):
    conversation, read = Conversation(assistant, picture), counted(assistant, monkeypatch)
    encoded: list[int] = []
    encode = assistant.model.region_encoder.encode
    monkeypatch.setattr(
        assistant.model.region_encoder, "encode", lambda *a: encoded.append(sum(map(len, a[1]))) or encode(*a)
    )
    first = conversation.ask(QUESTIONS[0], decoding=SHORT)
    whole = read[0]
    boxes = {2: [5, 5, 50, 40], 3: [6, 6, 49, 39], 4: [5, 5, 50, 40]}
    for turn, box in boxes.items():
        request = assistant.to_ask(conversation.seen, "And [1]?", [box], history=conversation.answers, decoding=SHORT)
        before, whole = whole, len(assistant.prepare([request])[0].prompt)
        read.clear()
        encoded.clear()
        answer = conversation.ask("And [1]?", regions=[box], decoding=SHORT)
        assert read[0] <= whole - before + 1
        assert answer.regions[: len(first.regions)] == first.regions, "what has a number keeps it"
        assert len(answer.regions) == len(first.regions) + min(turn - 1, 2), (
            "a box that was given before has its number"
        )
        (asked,) = [region for region in answer.regions if region.numbers]
        assert asked.box_xyxy_px == pytest.approx(box, abs=1e-3) and asked.source == "user"
        assert sum(encoded) <= turn - 1
    assert [region.id for region in answer.regions] == list(range(len(answer.regions)))


def test_more_boxes_than_there_are_numbers_left(assistant, picture):
    """Then the regions are chosen anew among all."""
    conversation = Conversation(assistant, picture)
    count = len(conversation.ask(QUESTIONS[0], decoding=SHORT).regions)
    free = assistant.max_regions - count
    assert free < assistant.max_regions - 1
    boxes = [[7 * k, 0, 7 * k + 6, 50] for k in range(free + 1)]
    for k in range(0, len(boxes), 2):
        given = boxes[k : k + 2]
        question = " ".join(f"[{n}]" for n in range(1, len(given) + 1))
        answer = conversation.ask(question, regions=given, decoding=Decoding(max_new_tokens=2))
        mine = {number: region for region in answer.regions for number in region.numbers}
        assert [mine[n + 1].box_xyxy_px for n in range(len(given))] == [pytest.approx(b, abs=1e-3) for b in given]
    assert len(answer.regions) <= assistant.max_regions


def test_a_turn_that_is_refused_leaves_the_conversation_as_it_was(assistant, picture):
    conversation = Conversation(assistant, picture)
    first = conversation.ask(QUESTIONS[0], decoding=SHORT)
    with pytest.raises(InputError):
        conversation.ask("What is [1]?", regions=[[9, 9, 5, 5]], decoding=SHORT)
    second = conversation.ask(QUESTIONS[1], decoding=SHORT)
    assert conversation.answers == [first, second]
    assert second.raw_text == assistant.ask(picture, QUESTIONS[1], history=[first], decoding=SHORT).raw_text


def test_an_answer_that_was_cut_is_not_taken_for_read(assistant, picture, monkeypatch):
    """The last token of a cut answer is said, but was never read; the next turn has it in its prompt."""
    logits: list[torch.Tensor] = []
    head = assistant.model.language.logits
    monkeypatch.setattr(assistant.model.language, "logits", lambda hidden: logits.append(head(hidden)) or logits[-1])
    for limit in range(1, 9):
        cut = Decoding(max_new_tokens=limit)
        conversation = Conversation(assistant, picture)
        first = conversation.ask(QUESTIONS[0], decoding=cut)
        said = []
        for ask, more in ((conversation.ask, {}), (partial(assistant.ask, picture), {"history": [first]})):
            logits.clear()
            ask(QUESTIONS[1], decoding=cut, **more)
            said.append(logits[0])
        torch.testing.assert_close(*said, rtol=1e-4, atol=1e-4)
