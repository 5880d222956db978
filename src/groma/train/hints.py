"""Hints for a language model that learns to find the region that fits a phrase: where three steps should lead.

Naming a region takes a circuit. (1) A region token takes its number from the token before it. (2) Where a number is
due, attention goes to the region token that fits the phrase. (3) Its number is spoken. No step pays before the others
are there, so that on answers alone a small model stays at chance for long and then jumps. A hint for each step ends
the plateau; the hints are losses of stage "speak" alone.

B rows, T tokens, H heads, K region tokens of all rows, Q places where a region number is due.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from groma.errors import InputError
from groma.model.language import LanguageModel
from groma.model.splice import SplicedBatch
from groma.prompt.tokens import SpecialTokenIds
from groma.train.settings import HintConfig

_LEAST = 1e-6  # attention below this is as good as none; keeps logarithms finite


def resolve_hints(hints: HintConfig, language: LanguageModel) -> HintConfig:
    """The same hints with layers and heads that this language model has.

    Raises:
        InputError: it has fewer, or its attention implementation gives no weights.
    """
    config = language.base.config.get_text_config()
    depth = config.num_hidden_layers
    number = depth // 4 if hints.number_layer is None else hints.number_layer
    pointing = depth // 2 if hints.pointing_layer is None else hints.pointing_layer
    if max(number, pointing) >= depth:
        raise InputError(
            f"Hints for layers {number} and {pointing} cannot be given: the language model has {depth} layers, "
            "counted from 0."
        )
    if hints.pointing_heads > config.num_attention_heads:
        raise InputError(
            f"Hints for {hints.pointing_heads} heads cannot be given: the layers have {config.num_attention_heads}."
        )
    if config._attn_implementation != "eager":
        raise InputError(
            f"Hints need attention weights: the language model has {config._attn_implementation!r} attention, load "
            'it with "eager".'
        )
    return replace(hints, number_layer=number, pointing_layer=pointing)


Watched = dict[str, Tensor]
"""What was seen of a forward pass: "number" and "pointing", (B, H, T, T) attention weights of the hints' layers, and
"hidden", (B, T, D) final hidden states."""


@contextmanager
def watch(language: LanguageModel, config: HintConfig) -> Iterator[Watched]:
    """Keep what hints are about of the forward passes inside the context; `config` is a resolved one."""
    watched: Watched = {}

    def keep(name: str, place: int) -> Callable[..., None]:
        return lambda _module, _inputs, output: watched.__setitem__(name, output[place])

    layers: Any = language.base.get_decoder().layers
    hooks = [
        layers[config.number_layer].self_attn.register_forward_hook(keep("number", 1)),
        layers[config.pointing_layer].self_attn.register_forward_hook(keep("pointing", 1)),
        language.register_forward_hook(keep("hidden", 0)),
    ]
    try:
        yield watched
    finally:
        for hook in hooks:
            hook.remove()


def hint_losses(
    prompts: SplicedBatch, watched: Watched, language: LanguageModel, tokens: SpecialTokenIds, config: HintConfig
) -> dict[str, Tensor]:
    """How far the three steps are from where they should lead, each a mean.

    Args:
        prompts: what the language model was run on, without image tokens.
        watched: what was seen meanwhile.
        language: turns hidden states into logits.
        tokens: ids of the special tokens.
        config: which layers and heads.

    Returns:
        "hint_number": -log of the attention from region tokens to their numbers (K). "hint_pointing": the same from
        where a number is due to the right region (Q). "hint_spoken": cross-entropy of a region token's own number,
        read off its final hidden state (K).
    """
    rows, columns = (prompts.ids == tokens.region_list).nonzero(as_tuple=True)
    numbers = prompts.feature_index[rows, columns]
    region_ids = torch.as_tensor(tokens.region_ids, device=numbers.device)
    column_of = torch.zeros(len(prompts.ids), tokens.num_regions, dtype=torch.long, device=numbers.device)
    column_of[rows, numbers] = columns
    due = prompts.labels[:, 1:]
    ask_rows, asks = ((due >= region_ids[0]) & (due <= region_ids[-1])).nonzero(as_tuple=True)
    right = column_of[ask_rows, due[ask_rows, asks] - region_ids[0]]
    to_number = watched["number"][rows, 0, columns, columns - 1]
    to_region = watched["pointing"][ask_rows, : config.pointing_heads, asks, right].mean(1)
    spoken = language.logits(watched["hidden"][rows, columns])
    return {
        "hint_number": _surprise(to_number),
        "hint_pointing": _surprise(to_region),
        "hint_spoken": F.cross_entropy(spoken, region_ids[numbers]),
    }


def _surprise(shares: Tensor) -> Tensor:
    """Mean -log of attention weights; 0 where there are none."""
    return -shares.float().clamp(min=_LEAST).log().sum() / max(len(shares), 1)
