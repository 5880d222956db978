"""A program: `torchrun ... stage_worker.py FOLDER SHARDING BATCH_SIZE [PRECISION]` trains stages of the small model.

Their configurations are `stages` of this file, so that the test can train the same in one process.
"""

import sys
from dataclasses import replace
from pathlib import Path

from micro import micro_config, micro_stage

from groma.distributed import process_group
from groma.train.models import MODELS
from groma.train.run import run_stage
from groma.train.stage import StageConfig

STEPS = 4


def stages(sharding: str, batch_size: int, precision: str) -> dict[str, StageConfig]:
    """Name -> stage 1 and stage 3, with AdamW."""
    configs = {name: micro_stage(f"tiny-{name}", steps=STEPS, batch_size=batch_size) for name in ("detect", "instruct")}
    return {name: _in_full(config, sharding, precision) for name, config in configs.items()}


def _in_full(config: StageConfig, sharding: str, precision: str) -> StageConfig:
    training = config.training
    loop = replace(
        training.loop,
        precision=precision,
        sharding=sharding,
        activation_checkpointing=sharding == "full",
        ema_decay=0.5,
        save_every=0,
        evaluate_every=2,
    )
    return replace(config, training=replace(training, loop=loop, optimizer=replace(training.optimizer, name="adamw")))


def run(folder: Path, sharding: str, batch_size: int, precision: str = "fp32") -> None:
    """Train all of them, in one group of processes: a second one could meet what is left of the first."""
    with process_group():
        for name, config in stages(sharding, batch_size, precision).items():
            run_stage(config, out=folder / name)


if __name__ == "__main__":
    MODELS["micro"] = micro_config
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
