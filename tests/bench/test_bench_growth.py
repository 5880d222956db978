"""Exponents of functions that are known, and what a conversation does, counted."""

import pytest
import torch

from groma.bench.counting import counted
from groma.bench.growth import Growth, fit_exponent, measure_conversation, measure_growth, region_growth
from groma.errors import InputError
from groma.inference.generate import Decoding


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power(exponent):
    sizes = [10, 30, 100, 300]
    assert fit_exponent(sizes, [3 * size**exponent for size in sizes]) == pytest.approx(exponent)


def test_a_fixed_cost_hides_growth_in_small_sizes():
    sizes = (10, 30, 100, 300)
    growth = Growth(sizes=sizes, seconds=tuple(1.0 + 1e-3 * size**2 for size in sizes))
    assert growth.exponent is not None
    assert growth.last_exponent is not None
    assert growth.exponent < 1.5 < growth.last_exponent < 2
    assert Growth(sizes=(1,), seconds=(1.0,)).exponent is None


@pytest.mark.parametrize(
    ("sizes", "costs"), [([1], [1.0]), ([1, 1], [1.0, 2.0]), ([1, 2], [1.0]), ([1, 2], [0.0, 1.0])]
)
def test_what_has_no_exponent(sizes, costs):
    with pytest.raises(InputError, match="takes two sizes or more"):
        fit_exponent(sizes, costs)


def test_a_picture_is_encoded_once_for_a_conversation_of_three_turns(task):
    turns = measure_conversation(task, 3)
    assert [turn.encoded_pictures for turn in turns] == [1, 0, 0]
    assert [turn.number for turn in turns] == [1, 2, 3]
    for turn, last in zip(turns[1:], turns, strict=False):
        assert turn.prompt_tokens > last.prompt_tokens
        assert 0 < turn.new_tokens < turn.prompt_tokens
        # an assistant that keeps what it processed would need the new ones alone; none needs more than all
        assert turn.new_tokens <= turn.prefilled_tokens <= turn.prompt_tokens


def test_counting_sees_what_runs(task, assistant, image):
    with counted(assistant.model) as counts:
        seen = assistant.see([image, image])
        assistant.ask(seen, "What?", decoding=Decoding(max_new_tokens=3))
    assert (counts.encoded, counts.proposed) == (2, 2)
    assert counts.region_tokens > 2
    first, *others = counts.processed
    assert first == counts.positions[0]
    assert others == [1] * len(others)
    assert counts.positions == [first + number for number in range(len(counts.positions))]
    config = assistant.model.config.language
    width = config.hidden_size * config.num_key_value_heads // config.num_attention_heads
    assert counts.cache_bytes == 2 * 2 * 4 * config.num_hidden_layers * width * counts.positions[-1]
    before = counts.encoded
    assistant.see(image)
    assert counts.encoded == before


def test_a_conversation_stops_before_the_context_is_full(task, assistant):
    turns = measure_conversation(task, 1000)
    assert 3 < len(turns) < 1000
    assert turns[-1].prompt_tokens < assistant.model.config.language.max_position_embeddings


def test_regions_grow_beyond_what_the_model_has_numbers_for(task, assistant):
    growth = region_growth(task, (4, 8, 50, 10_000))
    assert set(growth) == {"selection", "regions", "prompt", "prefill", "all"}
    assert assistant.max_regions < 50
    assert all(one.sizes == (4, 8, 50) for one in growth.values())
    parts = [growth[name].seconds for name in ("selection", "regions", "prompt", "prefill")]
    assert growth["all"].seconds == pytest.approx([sum(at) for at in zip(*parts, strict=True)])


def test_sizes_that_memory_does_not_hold_are_left_out(task, assistant, monkeypatch):
    see = assistant.see

    def limited(images):
        if isinstance(images, list) and len(images) > 2:
            raise torch.OutOfMemoryError
        return see(images)

    monkeypatch.setattr(assistant, "see", limited)
    monkeypatch.setattr("groma.bench.growth.REGIONS", (4,))
    monkeypatch.setattr("groma.bench.growth.BATCHES", (1, 2))
    growth = measure_growth(task)
    assert growth["pictures"].sizes == (1, 2)
    assert growth["batch"].sizes == (1, 2)
