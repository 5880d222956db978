"""Language models of many families: as transformers runs them, with added rows, packed, cached, trained, saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from micro import SIDE_PX, micro_config
from transformers import AutoConfig

import groma
from groma.data.scenes.scene import make_scene
from groma.errors import InputError
from groma.image import Preprocessing
from groma.inference.generate import Decoding
from groma.model.groma import GromaModel
from groma.model.language import LanguageModel
from groma.pretrained import save_whole
from groma.train.blueprint import find_tokenizer
from groma.train.recipes import TOKENIZER

WIDTH, VOCABULARY, ADDED, LENGTH = 32, 40, 7, 9
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEADS = {"head_dim": 8}
WINDOW = {"sliding_window": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": WINDOW,
    "mixtral": WINDOW,
    "ministral": HEADS | WINDOW,
    "qwen2": {},
    "qwen3": HEADS,
    "qwen3_moe": HEADS | WINDOW | {"use_sliding_window": True, "max_window_layers": 2},
    "gemma": HEADS,
    "gemma2": HEADS | WINDOW,
    "gemma3_text": HEADS | WINDOW | {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "phi": {},
    "phi3": WINDOW,
    "olmo2": {},
    "olmo3": HEADS | WINDOW,
    "cohere": {},
    "cohere2": HEADS | WINDOW,
    "granite": {"logits_scaling": 6.0},
    "smollm3": {},
    "starcoder2": WINDOW,
    "stablelm": {},
    "gpt_neox": {},
    "glm4": HEADS,
    "nemotron": {},
}
"""Family -> what it needs beside the sizes; windows are shorter than the sequences."""


def config_of(family: str, **changes: Any):
    return AutoConfig.for_model(family, **SIZES | FAMILIES[family] | {"vocab_size": VOCABULARY} | changes)


@pytest.fixture(scope="module", params=FAMILIES)
def language(request) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(config_of(request.param), ADDED).eval()


def some_ids(rows: int = 2) -> torch.Tensor:
    return torch.randint(0, VOCABULARY + ADDED, (rows, LENGTH), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_it_is_the_base_where_nothing_is_added(language):
    ids = some_ids() % VOCABULARY
    hidden, _ = language(language.embed(ids), use_cache=False)
    torch.testing.assert_close(language.logits(hidden)[..., :VOCABULARY], language.base(ids).logits)


@torch.no_grad()
def test_added_tokens_are_scored_as_the_base_scores_its_own(language):
    """A row of the base's own tables, given to an added token, gets the base's own logit."""
    tables = language.base.get_input_embeddings().weight, language.base.get_output_embeddings().weight
    language.added_embeddings.weight[0], language.added_head.weight[0] = tables[0][5], tables[1][5]
    bias = getattr(language.base.get_output_embeddings(), "bias", None)
    hidden, _ = language(language.embed(some_ids()), use_cache=False)
    logits = language.logits(hidden)
    expected = logits[..., 5] if bias is None else logits[..., 5] - bias[5]
    torch.testing.assert_close(logits[..., VOCABULARY], expected)
    assert torch.equal(language.embed(torch.tensor([VOCABULARY])), language.embed(torch.tensor([5])))


@torch.no_grad()
def test_token_by_token_and_left_padded_is_the_same_as_alone(language):
    embeddings = language.embed(some_ids(1))
    whole, _ = language(embeddings, use_cache=False)
    padded = torch.cat((torch.zeros(1, 3, WIDTH), embeddings), dim=1)
    mask = torch.tensor([[0] * 3 + [1] * LENGTH])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    parts, cache = [], None
    for start, end in [(0, 6), *((place, place + 1) for place in range(6, LENGTH + 3))]:
        hidden, cache = language(
            padded[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, start:end],
            past_key_values=cache,
            use_cache=True,
        )
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, dim=1)[:, 3:], whole, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_packed_branches_see_what_they_would_see_alone(language):
    """Two continuations of one beginning in one row, windows included, against each in a row of its own."""
    shared, tail = 5, LENGTH - 5
    ids = some_ids()
    ids[1, :shared] = ids[0, :shared]
    alone, _ = language(language.embed(ids), use_cache=False)
    packed = torch.cat((ids[0], ids[1, shared:]))[None]
    branch = torch.tensor([0] * shared + [1] * tail + [2] * tail)
    visible = ((branch == 0) | (branch == branch[:, None])) & torch.ones(len(branch), len(branch)).tril().bool()
    positions = torch.tensor([[*range(LENGTH), *range(shared, LENGTH)]])
    masks = language.layer_masks(visible[None, None], positions, torch.float32)
    hidden, _ = language(language.embed(packed), attention_mask=masks, position_ids=positions, use_cache=False)
    torch.testing.assert_close(hidden[0, :LENGTH], alone[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(hidden[0, LENGTH:], alone[1, shared:], atol=1e-4, rtol=1e-3)


def test_a_frozen_base_lets_gradients_through_to_the_added_rows_alone(language):
    language.base.requires_grad_(False)
    hidden, _ = language(language.embed(some_ids()), use_cache=False)
    language.logits(hidden).logsumexp(-1).sum().backward()
    reached = {name for name, parameter in language.named_parameters() if parameter.grad is not None}
    assert reached == {"added_embeddings.weight", "added_head.weight"}
    assert all(parameter.grad.abs().max() > 0 for parameter in language.parameters() if parameter.grad is not None)
    language.zero_grad(set_to_none=True)


def test_layers_that_no_mask_stops_are_named():
    config = AutoConfig.for_model("lfm2", **SIZES, vocab_size=VOCABULARY, full_attn_idxs=[1])
    with pytest.raises(InputError, match=r"lfm2.*kind conv"):
        LanguageModel(config, ADDED).layer_masks(torch.ones(1, 1, 2, 2).bool(), torch.tensor([[0, 1]]), torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_groma_with_it_answers_and_comes_back_from_a_folder(family, tmp_path: Path):
    torch.manual_seed(0)
    tokenizer = find_tokenizer(TOKENIZER)
    language = SIZES | FAMILIES[family] | {"model_type": family, "vocab_size": tokenizer.special.base_vocab_size}
    model = GromaModel(micro_config(language=language | {"max_position_embeddings": 1024})).eval()
    assert model.language.base.config.model_type == family
    save_whole(model, tokenizer, Preprocessing(size_px=SIDE_PX), tmp_path / "model")
    loaded = groma.load(tmp_path / "model")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    picture = make_scene("train", 0, 3, size_px=SIDE_PX).image
    few = Decoding(max_new_tokens=6)
    one = loaded.ask(picture, "What is it?", decoding=few)
    both = loaded.ask([picture, picture], ["Where is the red one?", "What is it?"], decoding=few)
    assert both[1].raw_text == one.raw_text
