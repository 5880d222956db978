"""Conversations: the same answers as with a history, for the tokens of each turn alone."""

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
    """A Llama, whose cache can be cut; and a model with sliding windows, whose cache cannot."""
    more = {} if request.param == "llama" else {"model_type": "mistral", "sliding_window": 32}
    config = small_config(max_position_embeddings=2048, **more)
    return Groma(enliven(GromaModel(config), seed=0), byte_bpe(), Preprocessing(size_px=IMAGE_SIZE))


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def is_cut(assistant: Groma) -> bool:
    return assistant.model.config.language.model_type == "llama"


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
    if not is_cut(assistant):
        pytest.skip("sliding windows forget what a turn would go back to")
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
    assert max(fresh[1:]) < whole[1] and encoded == [1]


def test_sliding_windows_are_read_anew(assistant, picture, monkeypatch):
    if is_cut(assistant):
        pytest.skip("this cache can be cut")
    conversation, read = Conversation(assistant, picture), counted(assistant, monkeypatch)
    conversation.ask(QUESTIONS[0], decoding=SHORT)
    first = read[0]
    read.clear()
    conversation.ask(QUESTIONS[1], decoding=SHORT)
    assert read[0] > first


def test_a_turn_that_is_refused_leaves_the_conversation_as_it_was(assistant, picture):
    conversation = Conversation(assistant, picture)
    first = conversation.ask(QUESTIONS[0], decoding=SHORT)
    with pytest.raises(InputError):
        conversation.ask("What is [1]?", regions=[[9, 9, 5, 5]], decoding=SHORT)
    second = conversation.ask(QUESTIONS[1], decoding=SHORT)
    assert conversation.answers == [first, second]
    assert second.raw_text == assistant.ask(picture, QUESTIONS[1], history=[first], decoding=SHORT).raw_text


@pytest.mark.parametrize("constrained", [True, False])
def test_an_answer_that_was_cut_is_not_taken_for_read(assistant, picture, monkeypatch, constrained):
    """The last token of a cut answer is said, but was never read; the next turn has it in its prompt."""
    logits: list[torch.Tensor] = []
    head = assistant.model.language.logits
    monkeypatch.setattr(assistant.model.language, "logits", lambda hidden: logits.append(head(hidden)) or logits[-1])
    for limit in range(1, 9):
        cut = Decoding(max_new_tokens=limit, constrained=constrained)
        conversation = Conversation(assistant, picture)
        first = conversation.ask(QUESTIONS[0], decoding=cut)
        said = []
        for ask in (conversation.ask, lambda *a, **k: assistant.ask(picture, *a, history=[first], **k)):
            logits.clear()
            ask(QUESTIONS[1], decoding=cut)
            said.append(logits[0])
        torch.testing.assert_close(*said, rtol=1e-4, atol=1e-4)
