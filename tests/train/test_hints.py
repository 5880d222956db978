"""Hints of stage "speak": what they measure, and that they are off when they should be."""

from dataclasses import replace

import pytest
import torch
from micro import micro_stage

from groma.errors import InputError
from groma.model.splice import SplicedBatch
from groma.train.hints import hint_losses, resolve_hints
from groma.train.imagination import Imagination
from groma.train.recipes import TOKENIZER
from groma.train.run import World, build_objective, build_stream, find_tokenizer
from groma.train.settings import HintConfig, ImaginationConfig

TOKENS = find_tokenizer(TOKENIZER).special
HINTS = ("hint_number", "hint_pointing", "hint_spoken")


def speak(**hints):
    config = replace(micro_stage("tiny-speak"), imagination=ImaginationConfig(hints=HintConfig(**hints)))
    torch.manual_seed(0)
    objective = build_objective(config)
    assert isinstance(objective, Imagination)
    return objective.train(), build_stream(config, World())


def test_hints_are_added_to_the_loss_with_their_weight():
    objective, stream = speak(weight=0.5)
    batch = stream.next()
    weight = objective.weight(batch)
    losses = objective(batch, total_weight=weight)
    terms = losses.terms
    expected = terms["answer"] + 0.5 * sum(terms[name] for name in HINTS)
    torch.testing.assert_close(losses.total.detach(), expected)
    # as part of a larger step everything counts by its share
    half = objective(batch, total_weight=2 * weight)
    for name in (*HINTS, "answer"):
        torch.testing.assert_close(half.terms[name], terms[name] / 2)


def test_no_hints_with_weight_zero():
    objective, stream = speak(weight=0.0)
    batch = stream.next()
    losses = objective(batch, total_weight=objective.weight(batch))
    assert not set(HINTS) & set(losses.terms)
    torch.testing.assert_close(losses.total.detach(), losses.terms["answer"])


def test_hints_measure_attention_to_the_right_places():
    """Two regions, listed as r0 and r1; an answer names r1. Attention and logits are put where they should be."""
    r0, r1 = TOKENS.region_ids[:2]
    region, word, ignored = TOKENS.region_list, 5, -100
    ids = torch.tensor([[word, r0, region, r1, region, word, r1]])
    labels = torch.tensor([[ignored] * 6 + [r1]])
    index = torch.tensor([[-1, -1, 0, -1, 1, -1, -1]])
    prompts = SplicedBatch(
        ids=ids, labels=labels, feature_index=index, attention_mask=ids > 0, position_ids=torch.arange(7)[None]
    )
    config = HintConfig(pointing_heads=1)
    attention = torch.full((1, 2, 7, 7), 1e-9)
    attention[0, 0, 2, 1], attention[0, 0, 4, 3] = 0.5, 0.25
    pointing = torch.full((1, 2, 7, 7), 1e-9)
    pointing[0, 0, 5, 4] = 0.125
    objective, _ = speak()
    hidden = torch.zeros(1, 7, objective.language.hidden_size)
    watched = {"number": attention, "pointing": pointing, "hidden": hidden}
    terms = hint_losses(prompts, watched, objective.language, TOKENS, config)
    log2 = torch.tensor(2.0).log()
    torch.testing.assert_close(terms["hint_number"], 1.5 * log2)
    torch.testing.assert_close(terms["hint_pointing"], 3 * log2)
    vocabulary = objective.language.logits(hidden).shape[-1]
    torch.testing.assert_close(terms["hint_spoken"], torch.tensor(float(vocabulary)).log())


def test_hooks_are_gone_afterwards():
    objective, stream = speak()
    layer = objective.language.base.get_decoder().layers[0].self_attn
    objective(stream.next(), total_weight=1.0)
    assert not layer._forward_hooks and not objective.language._forward_hooks


@pytest.mark.parametrize(
    ("hints", "named"),
    [({"pointing_layer": 99}, "2 layers"), ({"number_layer": 2}, "2 layers"), ({"pointing_heads": 3}, "have 2")],
)
def test_hints_that_the_language_model_has_no_place_for(hints, named):
    with pytest.raises(InputError, match=named):
        speak(**hints)


def test_attention_without_weights():
    objective, _ = speak(weight=0.0)
    objective.language.base.set_attn_implementation("sdpa")
    with pytest.raises(InputError, match="eager"):
        resolve_hints(HintConfig(), objective.language)
