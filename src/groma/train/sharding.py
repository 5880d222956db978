"""Fully sharded training (FSDP2) and what goes with it: blocks, activation checkpointing, whole tensors, sharded files.

    objective --checkpoint blocks--> --compile blocks--> --shard blocks, then the rest--> every parameter a DTensor

A block is a layer of a transformer: its weights are gathered just before it runs and dropped right after. Everything
else (embeddings, heads, region encoder, projector) is one further group. Gradients are summed over processes, never
averaged, as losses are already divided by the weight of the whole step (groma.train.objective).
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor import zeros as sharded_zeros
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from groma.model.deformable import DecoderLayer, EncoderLayer
from groma.train.objective import Losses, Objective

BLOCKS = (GradientCheckpointingLayer, EncoderLayer, DecoderLayer)
"""Layers: transformers derives those of every language model and encoder from the first; the others are the
proposer's."""

KEY, SHARDED = "sharded", "shards"


def blocks(objective: nn.Module) -> list[nn.Module]:
    """The transformers' layers of an objective, in order."""
    return [module for module in objective.modules() if isinstance(module, BLOCKS)]


def checkpoint_activations(objective: nn.Module) -> None:
    """Let every block forget what it computed and compute it again for its gradient; results stay the same."""
    for block in blocks(objective):
        block.forward = functools.partial(_forgetting, block.forward)


def _forgetting(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():  # a frozen part: there is nothing to remember
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def compile_blocks(objective: nn.Module) -> None:
    """Compile every block: equal layers share what is compiled, and the rest, full of choices, stays as it is."""
    for block in blocks(objective):
        block.compile(dynamic=True)


def shard(objective: Objective, device: torch.device, *, precision: str) -> DeviceMesh:
    """Turn every parameter into this process's part of it, split along its first dimension.

    Args:
        objective: the same on every process, on its device.
        device: of this process.
        precision: "bf16" gathers the blocks' weights in bfloat16; masters and sums of gradients stay float32.

    Returns:
        The mesh of all processes.
    """
    _losses_are_a_tree()
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks(objective):
        fully_shard(block, mesh=mesh, mp_policy=half if precision == "bf16" else MixedPrecisionPolicy())
    # resharded after its forward pass, too: an evaluation must not leave whole weights behind that go stale
    fully_shard(objective, mesh=mesh, reshard_after_forward=True)
    for module in objective.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            if device.type == "cpu":  # gloo cannot multiply while it sums
                module.set_force_sum_reduction_for_comms(True)
    return mesh


@functools.cache
def _losses_are_a_tree() -> None:
    """Sharded modules look for tensors in what a forward pass returns, to know when the backward pass begins."""
    torch.export.register_dataclass(Losses)


@contextmanager
def at_hand(objective: nn.Module) -> Iterator[None]:
    """Within the block parts of an objective can be called by themselves: all but its blocks is whole on every process.

    Every process must make the same calls, as each has a part of the blocks' weights.
    """
    if not isinstance(objective, FSDPModule):
        yield
        return
    objective.unshard()
    try:
        yield
    finally:
        objective.reshard()


# --- tensors that may be sharded -------------------------------------------------------------------------------------


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory; a plain tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Every process must ask for the same ones in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assign(target: Tensor, value: Tensor) -> None:
    """Overwrite a tensor with a whole or an equally sharded one; whole ones are cut without communication."""
    if isinstance(target, DTensor) and not isinstance(value, DTensor):
        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(value)


def gathered_state(objective: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """Name -> whole tensor of an objective's state, on the CPU where it was sharded; {} where `keep` is False.

    Every process calls it; one tensor at a time is whole on the device.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in objective.state_dict().items():
        entire = whole(tensor)
        if keep:
            state[name] = entire.detach().cpu() if isinstance(tensor, DTensor) else entire.detach()
    return state


# --- sharded files ---------------------------------------------------------------------------------------------------


def write_shards(values: Any, folder: Path | None) -> Any:
    """Write every sharded tensor of nested values into a folder; every process calls it.

    Args:
        values: dictionaries, lists and tuples of tensors and plain values.
        folder: where; given by rank 0, which tells the others.

    Returns:
        The values with a note in the place of each sharded tensor; `read_shards` gives the tensors back.
    """
    found: dict[str, DTensor] = {}
    skeleton = _take_out(values, "", found)
    told = [None if folder is None else str(folder)]
    distributed.broadcast_object_list(told, src=0)
    save(found, storage_writer=FileSystemWriter(str(told[0]), sync_files=True))
    return skeleton


def read_shards(skeleton: Any, folder: Path, mesh: DeviceMesh | None) -> Any:
    """Put the tensors that `write_shards` wrote back into their places.

    Args:
        skeleton: what it returned.
        folder: where it wrote.
        mesh: of the processes now, as many as there are; None: a single process, which gets whole tensors.
    """
    reader = FileSystemReader(str(folder))
    entries = reader.read_metadata().state_dict_metadata
    tensors: dict[str, Tensor] = {}
    for key, entry in entries.items():
        assert isinstance(entry, TensorStorageMetadata)
        dtype = entry.properties.dtype
        if mesh is None:
            tensors[key] = torch.zeros(entry.size, dtype=dtype)
        else:
            tensors[key] = sharded_zeros(entry.size, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # a single process is meant
        load(tensors, storage_reader=reader, no_dist=mesh is None)
    return _put_back(skeleton, tensors)


def cut(values: Any, mesh: DeviceMesh | None) -> Any:
    """Nested values with every whole tensor of one dimension or more cut for a mesh, as its parameter is."""
    if mesh is None:
        return values
    return _mapped(values, lambda tensor: _cut(tensor, mesh))


def _cut(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    if tensor.ndim == 0 or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(mesh.device_type), mesh, [Shard(0)], src_data_rank=None)


def _mapped(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, Mapping):
        return {key: _mapped(value, change) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(_mapped(value, change) for value in values)
    return values


def _take_out(values: Any, path: str, found: dict[str, DTensor]) -> Any:
    if isinstance(values, DTensor):
        found[path] = values
        return {KEY: path}
    if isinstance(values, Mapping):
        return {key: _take_out(value, f"{path}/{key}", found) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(_take_out(value, f"{path}/{place}", found) for place, value in enumerate(values))
    return values


def _put_back(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(skeleton, Mapping):
        if set(skeleton) == {KEY}:
            return tensors[skeleton[KEY]]
        return {key: _put_back(value, tensors) for key, value in skeleton.items()}
    if isinstance(skeleton, list | tuple):
        return type(skeleton)(_put_back(value, tensors) for value in skeleton)
    return skeleton
