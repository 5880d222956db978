"""What the machine can do at most, measured: FLOP/s of matrix products, bytes/s of copies.

A floor is only as good as these rates, so they are measured in the way most favourable to the machine: the best of
several shapes, calls that follow one another without a pause, and copies that stay in the caches where a stage does.
Convolutions in float32 may compute in TF32 on a GPU, where products do not: there they can pass their floor.
"""

import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

Matrices = tuple[int, int, int]
"""Rows, inner size and columns of a product."""

SHAPES: dict[str, tuple[Matrices, ...]] = {
    "cpu": ((512, 512, 512), (1024, 1024, 1024), (512, 1024, 4096), (2048, 2048, 2048)),
    "cuda": ((2048, 2048, 2048), (4096, 4096, 4096), (1024, 4096, 11008), (8192, 8192, 8192)),
}
"""Products that are tried; other devices try the CPU's."""

FOOTPRINTS = tuple(size << 20 for size in (1, 8, 64, 256, 1024))
"""Bytes that a copy reads and writes together: in the caches of most machines, and far beyond them."""

LEAST_S = 0.01
"""A measurement of a rate goes on at least so long: starting and stopping the clock costs nothing then."""

SLOW_S = 0.5
"""After a product that takes so long no larger one is tried: some types have no fast product everywhere."""

MEMORY_INFO = Path("/proc/meminfo")
MEMORY_LIMIT, MEMORY_USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A device and its rates."""

    device: str
    """As torch names it."""
    name: str
    """Of the GPU, or of the processor's kind."""
    threads: int
    """Threads that torch computes with on the CPU."""
    memory_bytes: int | None
    """Free memory of the device; None: not known."""
    matrix_rates: Mapping[str, float]
    """Type of numbers -> FLOP/s of matrix products."""
    copy_rates: Mapping[int, float]
    """Bytes that a copy reads and writes together -> bytes/s."""

    @property
    def bandwidth(self) -> float:
        """Bytes/s between processor and memory: of the largest copy."""
        return self.copy_rates[max(self.copy_rates)]

    def bandwidth_for(self, moved_bytes: float) -> float:
        """Bytes/s that moving so many bytes can reach: little data may stay in a cache.

        Small copies that are slower than larger ones show what a call costs, not what memory can do.
        """
        held = max((size for size in self.copy_rates if size <= moved_bytes), default=min(self.copy_rates))
        return max(rate for size, rate in self.copy_rates.items() if size >= held)


def best_of(measured: Sequence[Machine]) -> Machine:
    """The best of several measurements of one machine, rate by rate: other programs may have disturbed some of them."""
    first = measured[0]
    matrix, copies = first.matrix_rates, first.copy_rates
    return replace(
        first,
        matrix_rates={name: max(one.matrix_rates[name] for one in measured) for name in matrix},
        copy_rates={size: max(one.copy_rates.get(size, 0.0) for one in measured) for size in copies},
    )


def unsteadiness(measured: Sequence[Machine]) -> float:
    """How many times faster the machine was at its best than at its worst: 1 if nothing disturbed it."""
    return max(
        max(one.matrix_rates[name] for one in measured) / min(one.matrix_rates[name] for one in measured)
        for name in measured[0].matrix_rates
    )


def measure_machine(device: torch.device, dtypes: Iterable[torch.dtype], *, repeats: int = 5, seed: int = 0) -> Machine:
    """Measure the rates of a device.

    Args:
        device: which.
        dtypes: types of numbers to multiply matrices in.
        repeats: measurements of each rate, of which the median counts.
        seed: of the numbers multiplied.
    """
    free = free_bytes(device)
    footprints = [size for size in FOOTPRINTS if free is None or size <= free // 4] or FOOTPRINTS[:1]
    shapes = SHAPES.get(device.type, SHAPES["cpu"])
    return Machine(
        device=str(device),
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        threads=torch.get_num_threads(),
        memory_bytes=free,
        matrix_rates={
            dtype_name(dtype): matrix_rate(device, dtype, shapes, repeats=repeats, seed=seed)
            for dtype in dict.fromkeys(dtypes)
        },
        copy_rates={size: copy_rate(device, size, repeats=repeats) for size in footprints},
    )


def matrix_rate(
    device: torch.device, dtype: torch.dtype, shapes: Iterable[Matrices], *, repeats: int, seed: int = 0
) -> float:
    """FLOP/s of matrix products: the best shape's median."""
    generator = torch.Generator().manual_seed(seed)
    best = 0.0
    for rows, inner, columns in shapes:
        left = torch.randn(rows, inner, generator=generator).to(device, dtype)
        right = torch.randn(inner, columns, generator=generator).to(device, dtype)
        product = torch.empty(rows, columns, device=device, dtype=dtype)
        seconds = median_seconds(
            lambda a=left, b=right, c=product: torch.mm(a, b, out=c), device, repeats=repeats, least_s=LEAST_S
        )
        best = max(best, 2 * rows * inner * columns / seconds)
        if seconds > SLOW_S:
            break
    return best


def copy_rate(device: torch.device, footprint: int, *, repeats: int) -> float:
    """Bytes/s, read and written ones together, of a copy of half of `footprint` bytes to the other half."""
    source = torch.ones(footprint // 8, device=device)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), device, repeats=repeats, least_s=LEAST_S)
    return 2 * source.numel() * source.element_size() / seconds


def median_seconds(
    run: Callable[[], object], device: torch.device, *, repeats: int, least_s: float = 0.0, warm: bool = False
) -> float:
    """Median time of a call, all work of the device done.

    Args:
        run: what is timed.
        device: where it computes.
        repeats: measurements.
        least_s: seconds that a measurement lasts at least; short calls are repeated until then.
        warm: it ran before, so that memory is allocated and kernels are chosen; otherwise it runs once uncounted.
    """
    if not warm:
        run()
    wait(device)
    calls = 1
    if least_s:
        calls = max(1, math.ceil(least_s / max(_seconds(run, device, 1), 1e-7)))
    return median(_seconds(run, device, calls) for _ in range(repeats))


def _seconds(run: Callable[[], object], device: torch.device, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        run()
    wait(device)
    return (time.perf_counter() - began) / calls


def wait(device: torch.device) -> None:
    """Until everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def dtype_name(dtype: torch.dtype) -> str:
    """E.g. "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def free_bytes(device: torch.device) -> int | None:
    """Memory of a device that a program can still have; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not MEMORY_INFO.is_file():
        return None
    lines = dict(line.split(":", 1) for line in MEMORY_INFO.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    if MEMORY_LIMIT.is_file() and (limit := MEMORY_LIMIT.read_text().strip()).isdigit():  # of the container
        free = min(free, int(limit) - int(MEMORY_USED.read_text()))
    return free


def _processor() -> str:
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
