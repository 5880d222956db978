"""How much memory a call needs at its peak, and how much there must be at least."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groma.bench.machine import wait
from groma.model.groma import GromaModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of a batch of answers."""

    weights_bytes: int
    """Parameters and buffers of the model."""
    cache_bytes: int
    """Keys and values of the language model when the answers end."""
    levels_bytes: int
    """The encoder's maps and the region encoder's levels."""
    peak_bytes: int
    """The most in use at one time, weights included."""
    measured_by: str
    """"allocator": what torch took of the GPU; "tensors": the tensors made, without the kernels' own scratch space."""

    @property
    def floor_bytes(self) -> int:
        """Weights, and either what the encoder leaves or what the language model keeps: the two need not meet."""
        return self.weights_bytes + max(self.cache_bytes, self.levels_bytes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "peak_bytes": self.peak_bytes,
            "floor_bytes": self.floor_bytes,
            "fraction_of_floor": self.floor_bytes / self.peak_bytes,
            "weights_bytes": self.weights_bytes,
            "cache_bytes": self.cache_bytes,
            "levels_bytes": self.levels_bytes,
            "measured_by": self.measured_by,
        }


def model_bytes(model: GromaModel) -> int:
    """Bytes of parameters and buffers, shared ones once."""
    held = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in held.values())


def peak_of(run: Callable[[], object], model: GromaModel) -> tuple[int, str]:
    """The most bytes in use while `run` runs, the model's included, and how that was found (`Memory.measured_by`)."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device), "allocator"
    with _TensorBytes(chain(model.parameters(), model.buffers())) as made:
        run()
    return model_bytes(model) + made.peak, "tensors"


class _TensorBytes(TorchDispatchMode):
    """Follows the storage of every tensor that is made inside its `with` block until it is freed."""

    def __init__(self, known: Any) -> None:
        """Storage of `known` tensors is not counted."""
        super().__init__()
        self.held = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.held -= size
