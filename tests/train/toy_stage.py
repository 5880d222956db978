"""A toy stage: one trunk, a head for each of two sources, dropout, buffers; small enough to train in milliseconds.

Also a program: `torchrun ... toy_stage.py OUT STEPS ACCUMULATE [SHARDING]` trains it, for the tests with several
processes. KILL=RANK:MICRO_BATCH in the environment kills that process when it asks for that micro-batch.
"""

import atexit
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groma.train.config import LoopConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from groma.train.objective import BatchStream, Losses, Objective, ParameterGroup

SOURCES = ("left", "right")
PER_STEP = 4
"""Micro-batches of one source in a row: what a step may take, however it is divided."""


@dataclass
class Batch:
    source: str
    inputs: Tensor  # (B, 6)
    targets: Tensor  # (B,)

    def __len__(self) -> int:
        return len(self.inputs)


class Stream(BatchStream):
    """Micro-batch i is a function of (seed, i); process r of n takes r, r + n, ... Sizes differ."""

    def __init__(self, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.seed, self.rank, self.world_size, self.position = seed, rank, world_size, 0

    def make(self, index: int) -> Batch:
        generator = torch.Generator().manual_seed(self.seed * 1000 + index)
        inputs = torch.randn(2 + index % 3, 6, generator=generator)
        targets = inputs.sin().sum(-1) + 0.1 * torch.randn(len(inputs), generator=generator)
        return Batch(SOURCES[index // PER_STEP % 2], inputs, targets)

    def next(self) -> Batch:
        if os.environ.get("KILL") == f"{self.rank}:{self.position}":
            os.kill(os.getpid(), signal.SIGKILL)
        batch = self.make(self.position * self.world_size + self.rank)
        self.position += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position * self.world_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"] // self.world_size


class Toy(Objective):
    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        generator_state = torch.get_rng_state()
        torch.manual_seed(7)
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 8))
        self.heads = nn.ModuleDict({name: nn.Linear(8, 1) for name in SOURCES})
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.register_buffer("batches_seen", torch.zeros(()))
        torch.set_rng_state(generator_state)

    def weight(self, batch: Batch) -> float:
        return float(len(batch))

    def forward(self, batch: Batch, *, total_weight: float) -> Losses:
        if self.training:
            self.batches_seen += 1
        prediction = self.heads[batch.source](self.trunk(batch.inputs + self.frozen(batch.inputs)))
        loss = (prediction.squeeze(-1).float() - batch.targets).square().sum() / total_weight
        return Losses(total=loss, terms={f"square_{batch.source}": loss.detach()})

    def parts(self) -> dict[str, nn.Module]:
        return {"trunk": self.trunk, "heads": self.heads, "frozen": self.frozen}

    def parameter_groups(self) -> list[ParameterGroup]:
        trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        matrices = [(name, p) for name, p in trained if name.startswith("trunk") and p.ndim == 2]
        rest = [(name, p) for name, p in trained if not (name.startswith("trunk") and p.ndim == 2)]
        return [
            ParameterGroup(name="matrices", parameters=matrices, muon=True),
            ParameterGroup(name="rest", parameters=rest, lr_scale=0.5, weight_decay=0.0),
        ]

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.state_dict().items()}


def toy_config(*, optimizer: str = "adamw", **loop: Any) -> TrainingConfig:
    return TrainingConfig(
        loop=LoopConfig(**({"steps": 8, "accumulate": 2, "log_every": 2, "save_every": 0} | loop)),
        optimizer=OptimizerConfig(name=optimizer, lr=1e-2, weight_decay=0.1),
        schedule=ScheduleConfig(warmup_steps=2),
    )


def toy_run(steps: int, accumulate: int, sharding: str = "replicate") -> TrainingConfig:
    """What the program trains."""
    return toy_config(
        steps=steps, accumulate=accumulate, threads=1, ema_decay=0.9, save_every=2, log_every=1, sharding=sharding
    )


def check_threads() -> None:
    """End with an error if threads of a group of processes are still there: at times they abort the process later."""
    tasks = Path("/proc/self/task")  # Linux
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.exists() else []
    if any("gloo" in name for name in names):
        print(f"threads left at exit: {names}", file=sys.stderr, flush=True)
        os._exit(3)


def main() -> None:
    from groma.distributed import current_world
    from groma.train.loop import train

    out, steps, accumulate = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    world = current_world()
    stream = Stream(rank=world.rank, world_size=world.size)
    sharding = sys.argv[4] if len(sys.argv) > 4 else "replicate"
    train(Toy(), stream, toy_run(steps, accumulate, sharding), out=out, recipe={"data": {"batch_size": 1}})


if __name__ == "__main__":
    atexit.register(check_threads)  # first come, last called
    main()
