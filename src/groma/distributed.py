"""Several processes as one: what torchrun's environment says, sums over processes.

Replicated weights (for sharded ones see groma.train.sharding): gradients are summed by hand after the last backward
pass of a step rather than by DistributedDataParallel. The loop needs a plain sum (each loss is already divided by the
weight of the whole step), accumulation without `no_sync`, and parameters that no process used must keep `grad = None`
so that the optimizer skips them; DDP would average, and hand out zeros that still apply momentum and weight decay. One
flat all-reduce a step is all that is needed; what is given up is the overlap of communication with the backward pass.
Module buffers are not synchronized.
"""

import atexit
import gc
import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh

from groma.errors import InputError

BUCKET_ELEMENTS = 1 << 24
"""Most gradient values that are copied together for one all-reduce: 64 MiB of float32."""


@dataclass(frozen=True, slots=True)
class World:
    """This process among all. With one process every operation is the identity and torch.distributed is not used."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process on its machine: its CUDA device, where there are any."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The device for this process: its own CUDA device where there is one, else the CPU."""
        if torch.cuda.is_available():
            return torch.device("cuda", self.local_rank)
        return torch.device("cpu")

    def sum(self, value: float) -> float:
        """The sum of a number over all processes, in double precision."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.item()

    def root_of_squares(self, norm: Tensor) -> Tensor:
        """() the L2 norm of what all processes have, from the norm () of what this one has."""
        square = norm.float().square()
        distributed.all_reduce(square)
        return square.sqrt()

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return self.sum(float(flag)) > 0

    def gather(self, value: Any) -> list[Any]:
        """The (picklable) values of all processes, in order of rank, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all processes."""
        self.sum(0.0)

    @torch.no_grad()
    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over processes; a process without one counts as zero.

        Parameters that have a gradient nowhere keep `grad = None`.
        """
        if self.size == 1:
            return
        used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
        distributed.all_reduce(used, op=distributed.ReduceOp.MAX)
        for parameter, is_used in zip(parameters, used.tolist(), strict=True):
            if is_used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            distributed.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of tensors of one type and device, up to `BUCKET_ELEMENTS` values each (or a single larger tensor)."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        fits = not bucket or (
            bucket[0].dtype == tensor.dtype
            and bucket[0].device == tensor.device
            and filled + tensor.numel() <= BUCKET_ELEMENTS
        )
        if not fits:
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.numel()
    if bucket:
        yield bucket


def current_world() -> World:
    """This process's place as torchrun's environment tells it; a single process without torchrun.

    Raises:
        InputError: A variable is not a number.
    """
    values = {}
    for variable, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        text = os.environ.get(variable, default)
        if not text.isdecimal():
            raise InputError(f"environment variable {variable} must be a whole number, got {text!r}.")
        values[variable] = int(text)
    return World(rank=values["RANK"], size=values["WORLD_SIZE"], local_rank=values["LOCAL_RANK"])


@contextmanager
def process_group() -> Iterator[World]:
    """Connect the processes that torchrun started, for the duration of a `with` block; may be nested.

    gloo on CPUs, nccl for CUDA tensors. A single process connects to nothing.

    Yields:
        This process's place.

    Raises:
        InputError: More processes on this machine than CUDA devices.
    """
    world = current_world()
    if world.size == 1 or distributed.is_initialized():
        yield world
        return
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        count = torch.cuda.device_count()
        if world.local_rank >= count:
            raise InputError(f"process {world.local_rank} of this machine has no CUDA device: there are {count}.")
        torch.cuda.set_device(world.local_rank)
    # Its functions take the group as a default argument, evaluated on import. Imported later, as torch's optimizers do,
    # they would hold the group beyond its end, and its threads abort the process at exit.
    importlib.import_module("torch.distributed.nn.functional")
    distributed.init_process_group("cpu:gloo,cuda:nccl" if has_cuda else "gloo")
    try:
        yield world
    finally:
        distributed.destroy_process_group()
        atexit.register(_release_groups)


def _release_groups() -> None:
    """Drop what still refers to ended groups, whose threads would abort the process if they lived through its exit.

    Sharded modules refer to their group in cycles; and torch keeps layouts of sharded tensors in caches for good, with
    each its mesh, and with that the group.
    """
    for mesh in [value for value in gc.get_objects() if type(value) is DeviceMesh]:
        getattr(mesh, "_pg_registry", {}).clear()
    gc.collect()
