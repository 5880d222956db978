"""What a stage has to do at least: FLOPs that it computes, bytes that it moves; and so the time it needs at least.

    FLOPs   matrix products, convolutions and attention, counted by torch while the stage runs
    bytes   weights once, what comes in and what goes out once; nothing in between

Additions, norms, activations and RoIAlign's gathering count nothing, and tokens that attention masks out count as
attended to, at most some percent of a prompt's work. Mixtures of experts are taken to need all their weights.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from groma.bench.machine import Machine

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a stage has to do at least."""

    flops: float
    """Floating point operations; a multiplication and its addition are two."""
    moved_bytes: float
    """Bytes read and written."""
    dtype: str
    """Type of numbers that it multiplies, a key of `Machine.matrix_rates`."""

    def floor_seconds(self, machine: Machine) -> float:
        """Seconds on this machine if it computed and moved at its measured rates, both at once."""
        computing = self.flops / machine.matrix_rates[self.dtype]
        return max(computing, self.moved_bytes / machine.bandwidth_for(self.moved_bytes))


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


UNKNOWN_TO_TORCH = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""Operations that torch's counter passes over."""


def count_flops(run: Callable[[], T]) -> tuple[float, T]:
    """FLOPs of a call, and what it returned."""
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH) as counter:
        result = run()
    return float(counter.get_total_flops()), result


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """Parameters ask for no gradient in this `with` block: torch's counter follows those that do, and then fails in
    inference mode.
    """
    asked = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def bytes_of(value: Any) -> int:
    """Bytes of all tensors in nested values, each counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(value).values())


def weight_bytes(*modules: nn.Module, without: tuple[nn.Module, ...] = ()) -> int:
    """Bytes of the parameters of modules, shared ones once, those of `without` not."""
    left_out = {id(parameter) for module in without for parameter in module.parameters()}
    found = {id(parameter): parameter for module in modules for parameter in module.parameters()}
    return sum(p.numel() * p.element_size() for key, p in found.items() if key not in left_out)


def _tensors(value: Any) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    match value:
        case Tensor():
            return {id(value): value}
        case Mapping():
            parts = list(value.values())
        case list() | tuple():
            parts = list(value)
        case _ if is_dataclass(value):
            parts = [getattr(value, field.name) for field in fields(value)]
        case _:
            parts = []
    for part in parts:
        found |= _tensors(part)
    return found
