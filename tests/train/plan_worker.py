"""What a step of the small model's stages really takes; also a program: `torchrun ... plan_worker.py NAME`.

It prints the bytes of rank 0 for a configuration of `CASES` whose steps are sharded.
"""

import json
import sys
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile

from groma.distributed import World, process_group
from groma.train.blueprint import Blueprint, make_blueprint
from groma.train.config import LoopConfig, OptimizerConfig
from groma.train.gradient import compute_gradient
from groma.train.language import AnswerTraining
from groma.train.memory_plan import MemoryPlan, largest, plan_memory
from groma.train.optimizer import OptimizerSet
from groma.train.recipes import RECIPES
from groma.train.run import build_objective, build_stream
from groma.train.settings import LanguageConfig
from groma.train.sharding import checkpoint_activations, local, shard
from groma.train.stage import StageConfig


def case(
    stage: str, *, batch_size: int = 6, optimizer: str = "muon", language: dict | None = None, **loop
) -> StageConfig:
    config = RECIPES[f"tiny-{stage}"]()
    return replace(
        config,
        data=replace(config.data, batch_size=batch_size),
        language=LanguageConfig(**(language or {})),
        training=replace(
            config.training, loop=LoopConfig(steps=2, **loop), optimizer=OptimizerConfig(name=optimizer, lr=1e-4)
        ),
    )


CASES = {
    "detect": case("detect"),
    "detect in bfloat16": case("detect", precision="bf16", optimizer="adamw"),
    "align": case("align", activation_checkpointing=True),
    "instruct": case("instruct"),
    "instruct in bfloat16": case("instruct", precision="bf16", activation_checkpointing=True, ema_decay=0.9),
    "instruct in pieces": case("instruct", batch_size=3, precision="bf16", accumulate=2),
    "adapters": case(
        "instruct", precision="bf16", optimizer="adamw", language={"train": "lora", "frozen_precision": "bf16"}
    ),
    "sharded": case("instruct", optimizer="adamw", precision="bf16", sharding="full", activation_checkpointing=True),
}


def every_region(config: StageConfig) -> Blueprint:
    """A blueprint whose model keeps as many regions as there is room for, as the plan supposes."""
    blueprint = make_blueprint(config)
    blueprint.model.selection.score_threshold, blueprint.model.selection.nms_iou = 0.0, 1.0
    return blueprint


def batches_of(config: StageConfig) -> list:
    stream = build_stream(config, World())
    return [stream.next() for _ in range(config.training.loop.accumulate)]


def planned(config: StageConfig, processes: int) -> MemoryPlan:
    blueprint = every_region(config)
    return plan_memory(config, blueprint, largest(blueprint, batches_of(config)), processes=processes)


def measured(config: StageConfig, world: World) -> int:
    """Bytes of everything that stays, and at the peak of the second step what the allocator gave beside it."""
    loop = config.training.loop
    objective = build_objective(config, every_region(config))
    if isinstance(objective, AnswerTraining):
        objective.settle()
    if loop.activation_checkpointing:
        checkpoint_activations(objective)
    if loop.sharding == "full" and world.size > 1:
        shard(objective, torch.device("cpu"), precision=loop.precision)
    objective.train()
    groups = objective.parameter_groups()
    named = [pair for group in groups for pair in group.parameters]
    optimizer = OptimizerSet(groups, config.training.optimizer)
    batches = batches_of(config)
    for number in (1, 2):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            compute_gradient(objective, batches, named, config=loop, world=world, step=number)
        optimizer.step()
        optimizer.zero_grad()
    momenta = [v for member in optimizer.members.values() for state in member.state.values() for v in state.values()]
    held = {id(t): local(t) for t in (*objective.parameters(), *objective.buffers(), *momenta)}
    averages = [local(parameter) for _, parameter in named] if loop.ema_decay else []
    return sum(tensor.nbytes for tensor in (*held.values(), *averages)) + peak(profiled)


def peak(profiled: profile) -> int:
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


if __name__ == "__main__":
    with process_group() as world:
        size = measured(CASES[sys.argv[1]], world)
    if world.is_main:
        print(json.dumps({"measured": size}))
