"""LoRA (arXiv 2106.09685): small trained matrices beside the frozen ones of a language model.

    W stays, its layer computes W x + (alpha / rank) B A x; A and B are trained, and B starts at zero. peft puts them
    in; a saved model has them added to its weights, so that whoever loads it needs neither peft nor this file.

W (out, in), A (rank, in), B (out, rank).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from groma.errors import InputError, MissingExtraError
from groma.train.settings import LoraConfig

_ADAPTER = "default"
_BASE, _A, _B = ".base_layer.", f".lora_A.{_ADAPTER}.weight", f".lora_B.{_ADAPTER}.weight"


def add_adapters(model: nn.Module, config: LoraConfig, *, seed: int) -> None:
    """Freeze a causal LM of transformers and put adapters beside its linear layers, in place.

    Args:
        model: with its weights loaded; they keep their values, its layers' names change.
        config: which layers, and how large the adapters are.
        seed: draws the first values of A.

    Raises:
        MissingExtraError: peft is not installed.
        InputError: no linear layer is called so.
    """
    try:
        import peft
    except ImportError:
        raise MissingExtraError("Adapters (LoRA) need the package peft: pip install 'groma[train]'") from None
    model.requires_grad_(False)
    options: dict[str, Any] = {
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(config.targets) or "all-linear",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(peft.LoraConfig(**options), model, adapter_name=_ADAPTER)
        except ValueError as error:
            raise InputError(f"lora.targets are {', '.join(config.targets)}: {' '.join(str(error).split())}") from error
    unlike = sorted(name for name, layer in _adapted(model) if not isinstance(layer.base_layer, nn.Linear))
    if unlike:  # their weights are transposed or looked up: merging them is another sum
        raise InputError(f"lora.targets must be linear layers (nn.Linear); {', '.join(unlike[:5])} are not.")


def _adapted(model: nn.Module) -> list[tuple[str, Any]]:
    """Name and module of every layer that has an adapter."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "base_layer")]


def merged(state: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """A state with the adapters added to the weights beside them, under the names from before there were any.

    Args:
        state: name -> whole tensor, of anything that holds a model with adapters.
        config: as they were made.
    """
    scale = config.alpha / config.rank
    result = {}
    for name, tensor in state.items():
        if name.endswith((_A, _B)):
            continue
        if _BASE in name:
            layer, _, kind = name.rpartition(_BASE)
            if kind == "weight":
                update = state[layer + _B].float() @ state[layer + _A].float()
                tensor = (tensor.float() + scale * update).to(tensor.dtype)
            name = f"{layer}.{kind}"
        result[name] = tensor
    return result
