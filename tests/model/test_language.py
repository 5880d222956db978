"""A base language model with rows of its own for the added tokens."""

import pytest
import torch
from transformers import AutoConfig

from groma.model.language import LanguageModel

WIDTH, VOCABULARY, ADDED = 32, 40, 7


def language(family: str = "llama", **options) -> LanguageModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        **options,
    )
    return LanguageModel(config, ADDED).eval()


def test_ids_of_the_base_and_added_ids_have_their_own_rows():
    model = language()
    assert (model.base_vocab_size, model.hidden_size) == (VOCABULARY, WIDTH)
    ids = torch.tensor([[0, VOCABULARY - 1, VOCABULARY, VOCABULARY + ADDED - 1]])
    base, added = model.base.get_input_embeddings().weight, model.added_embeddings.weight
    expected = torch.stack([base[0], base[-1], added[0], added[-1]])[None]
    assert torch.equal(model.embed(ids), expected)


@torch.no_grad()
def test_logits_are_those_of_the_base_then_those_of_the_added():
    model = language()
    hidden = torch.randn(3, WIDTH)
    logits = model.logits(hidden)
    assert logits.shape == (3, VOCABULARY + ADDED)
    torch.testing.assert_close(logits[:, :VOCABULARY], model.base.lm_head(hidden))
    torch.testing.assert_close(logits[:, VOCABULARY:], hidden @ model.added_head.weight.T)
    assert model.to(torch.bfloat16).logits(hidden.to(torch.bfloat16)).dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_it_is_the_base_where_nothing_is_added(family):
    model = language(family, **({"head_dim": 8} if family == "qwen3" else {}))
    ids = torch.randint(0, VOCABULARY, (2, 9))
    hidden, cache = model(model.embed(ids), use_cache=False)
    assert cache is None
    torch.testing.assert_close(model.logits(hidden)[..., :VOCABULARY], model.base(ids).logits)


@torch.no_grad()
def test_token_by_token_is_the_same_as_all_at_once():
    model = language()
    embeddings = model.embed(torch.randint(0, VOCABULARY + ADDED, (1, 8)))
    whole, _ = model(embeddings, use_cache=False)
    parts, cache = [], None
    for place in range(8):
        hidden, cache = model(
            embeddings[:, place : place + 1],
            attention_mask=torch.ones(1, place + 1, dtype=torch.long),
            position_ids=torch.tensor([[place]]),
            past_key_values=cache,
            use_cache=True,
        )
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)


def test_added_rows_start_near_the_mean_of_the_base_and_apart_from_each_other():
    model = language()
    for added, table in (
        (model.added_embeddings.weight, model.base.get_input_embeddings().weight),
        (model.added_head.weight, model.base.get_output_embeddings().weight),
    ):
        assert (added.mean(0) - table.mean(0)).abs().max() < 4 * table.std() / ADDED**0.5
        assert len({tuple(values) for values in added.tolist()}) == ADDED


def test_what_transformers_must_know_about_the_base():
    assert language().all_tied_weights_keys == {}
    tied = language(tie_word_embeddings=True)
    assert tied.all_tied_weights_keys == {"base.lm_head.weight": "base.model.embed_tokens.weight"}
    assert tied._no_split_modules == {"LlamaDecoderLayer"}


def test_casting_leaves_positions_exact():
    model = language()
    before = model.base.model.rotary_emb.inv_freq.clone()
    model.to(torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.base.model.rotary_emb.inv_freq, before)
    assert model.to(torch.float64).base.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.to("meta").base.model.rotary_emb.inv_freq.is_meta
