"""The one training loop: every stage is an Objective, a BatchStream and a TrainingConfig given to `train`.

    stream --accumulate x--> micro-batches --sum of weights over processes--> total_weight
           --objective, backward--> gradients --sum over processes--> clip --> optimizer, average --> next step
    every so often: a line of metrics, an evaluation, a checkpoint

A run that is stopped and resumed computes exactly what it would have computed in one go.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from groma.distributed import World, process_group
from groma.errors import InputError
from groma.storage import json_text
from groma.train.average import WeightAverage
from groma.train.checkpoint import (
    AVERAGE,
    MODEL,
    Checkpoint,
    check_same_config,
    folder_name,
    list_checkpoints,
    newest_intact,
    prune,
    read_checkpoint,
    remove_leftovers,
    restore_tensors,
    resumable_tensors,
    save_state_dict,
    write_checkpoint,
)
from groma.train.config import TrainingConfig
from groma.train.gradient import compute_gradient, computing
from groma.train.interruption import interruptions
from groma.train.metrics import Meter, MetricsLog
from groma.train.objective import BatchStream, Objective
from groma.train.optimizer import OptimizerSet, check_groups
from groma.train.prefetch import PrefetchingStream
from groma.train.progress import Progress
from groma.train.randomness import (
    random_state,
    restore_random_state,
    seed_everything,
    undisturbed_randomness,
)
from groma.train.schedule import learning_rate_factor
from groma.train.sharding import (
    checkpoint_activations,
    compile_blocks,
    cut,
    gathered_state,
    read_shards,
    shard,
    write_shards,
)

METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the caller may plug into a run."""

    save_model: Callable[[Path, Mapping[str, Tensor]], None] | None = None
    """Fills the (existing, empty) `model/` folder of a checkpoint from the objective's state, whose tensors are whole;
    called again with averaged weights for `average/`. None: the state as safetensors. Called on rank 0."""
    on_evaluate: Callable[[int], Mapping[str, float]] | None = None
    """Step -> named figures. Called under averaged weights if the run averages, in evaluation mode; on rank 0, or on
    all ranks where weights are sharded, as a forward pass then takes all of them. What it draws from random generators
    does not change the training."""
    samples_per_batch: Callable[[Any], int] = len
    """Batch -> the number of samples in it, for the samples/s."""
    counts: Callable[[Any], Mapping[str, int]] | None = None
    """Batch -> what else is to be counted in it, by name; the log has the sums over processes and steps."""
    on_log: Callable[[Mapping[str, Any]], None] | None = None
    """Gets every "train" record, the same on every rank; may raise to end the run."""
    sinks: Sequence[Callable[[Mapping[str, Any]], None]] = ()
    """Get every record, of training and evaluation, on rank 0: other places that curves are drawn in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    step: int
    """Optimizer steps done, earlier runs included."""
    finished: bool
    """False: interrupted; a further `train` with resume="auto" goes on."""
    checkpoint: Path
    """The newest checkpoint, of this very step."""
    last: dict[str, Any]
    """The last "train" record of the metrics; empty if nothing was logged."""
    wall_s: float
    """Time since the first start, without pauses between runs, in seconds."""


def train(
    objective: Objective,
    stream: BatchStream,
    config: TrainingConfig,
    *,
    out: Path,
    resume: Literal["auto", "never"] | Path = "auto",
    may_change_steps: bool = False,
    hooks: Hooks | None = None,
    recipe: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train until `config.loop.steps`, or until interrupted by Ctrl-C or SIGTERM (the step is finished and saved).

    Under torchrun every process calls this with its own stream; see `distributed`.

    Args:
        objective: The stage's loss, already on its device.
        stream: This process's micro-batches.
        config: How to train.
        out: Folder for checkpoints and `metrics.jsonl`.
        resume: "auto": from the newest intact checkpoint in `out`, if any. "never": `out` must not hold any. A
            checkpoint folder: from that one.
        may_change_steps: Whether a resumed run may have another `steps` than before.
        hooks: Saving, evaluating, counting.
        recipe: What else defines the run (stage, data, model), as JSON values: written into each checkpoint, and
            must be the same on resuming.
        console: Where progress is shown; None: standard error.

    Raises:
        InputError: The configuration does not fit the objective, or not the checkpoint.
        CheckpointError: There is no intact checkpoint to resume from.
        DivergenceError: A loss or gradient is not finite.
    """
    with process_group() as world, _threads(config.loop.threads):
        config = config.on(world.device.type)
        trainer = Trainer(objective, stream, config, world=world, out=out, hooks=hooks or Hooks(), recipe=recipe or {})
        try:
            trainer.start(resume, may_change_steps=may_change_steps)
            return trainer.run(console or Console(stderr=True))
        finally:
            trainer.close()


class Trainer:
    """The state of a run and what can be done with it. `train` drives it; use that."""

    def __init__(
        self,
        objective: Objective,
        stream: BatchStream,
        config: TrainingConfig,
        *,
        world: World,
        out: Path,
        hooks: Hooks,
        recipe: Mapping[str, Any],
    ) -> None:
        loop = config.loop
        self.objective, self.config, self.world, self.out, self.hooks = objective, config, world, out, hooks
        self.mesh = self._prepare()
        self.stream = PrefetchingStream(stream, loop.prefetch) if loop.prefetch else stream
        self.groups = objective.parameter_groups()
        check_groups(objective, self.groups)
        self.named = [pair for group in self.groups for pair in group.parameters]
        self.tensors = resumable_tensors(objective, self.groups)
        self.optimizer = OptimizerSet(self.groups, config.optimizer)
        self.average = WeightAverage(self.named, loop.ema_decay) if loop.ema_decay else None
        self.meter = Meter()
        resolved = config.to_dict() | {"world_size": world.size, "recipe": dict(recipe)}
        # Through JSON and back, so that it equals what a checkpoint gives back (lists for tuples).
        self.resolved = json.loads(json_text(resolved, what="the configuration of the run"))
        self.step_count = 0
        self.wall_before_s = 0.0
        self.saved_step = -1

    def _prepare(self) -> DeviceMesh | None:
        """Let the objective compute as the configuration wants; returns the mesh that its parameters are sharded on."""
        loop = self.config.loop
        if loop.activation_checkpointing:
            checkpoint_activations(self.objective)
        if loop.compile:
            compile_blocks(self.objective)
        if loop.sharding == "replicate" or self.world.size == 1:
            return None
        self.world.broadcast([tensor.detach() for tensor in self.objective.state_dict(keep_vars=True).values()])
        return shard(self.objective, self.world.device, precision=loop.precision)

    def start(self, resume: Literal["auto", "never"] | Path, *, may_change_steps: bool) -> None:
        """Seed a new run, or restore an old one."""
        checkpoint = self._find_checkpoint(resume)
        seed_everything(self.config.loop.seed, self.world.rank)
        if checkpoint is not None:
            self._restore(checkpoint, may_change_steps=may_change_steps)
        elif self.mesh is None:
            self.world.broadcast(list(self.tensors.values()))
        if self.world.is_main:
            remove_leftovers(self.out)
            self.log_file = MetricsLog(self.out / METRICS, upto=self.step_count)
        self.started = time.monotonic()

    def close(self) -> None:
        """End the thread that makes batches ahead, if there is one."""
        if isinstance(self.stream, PrefetchingStream):
            self.stream.close()

    def run(self, console: Console) -> TrainResult:
        """Step until the end or an interruption, then save."""
        loop = self.config.loop
        self.objective.train()
        with (
            interruptions(can_force=self.world.size == 1) as stop,
            self._progress(console) as progress,
        ):
            stopped = False
            while self.step_count < loop.steps and not stopped:
                self.step()
                if progress:
                    progress.tick(self.step_count)
                if self._due(loop.log_every) or self.step_count == 1:
                    self.log(progress)
                if self.hooks.on_evaluate and loop.evaluate_every and self._due(loop.evaluate_every):
                    self.evaluate(progress)
                if loop.save_every and self._due(loop.save_every):
                    self.save()
                stopped = self.world.any(stop.is_set())
            if self.saved_step != self.step_count:
                self.save()
            if stopped and progress:
                progress.note(f"interrupted: saved step {self.step_count} of {loop.steps}; resume to go on")
        train_records = [record for record in self._records() if record["kind"] == "train"]
        return TrainResult(
            step=self.step_count,
            finished=self.step_count >= loop.steps,
            checkpoint=self.out / folder_name(self.step_count),
            last=train_records[-1] if train_records else {},
            wall_s=self.wall_s,
        )

    @property
    def wall_s(self) -> float:
        """Time since the first start, without pauses between runs, in seconds."""
        return self.wall_before_s + time.monotonic() - self.started

    def _due(self, every: int) -> bool:
        return self.step_count % every == 0 or self.step_count == self.config.loop.steps

    def _records(self) -> list[dict[str, Any]]:
        return self.log_file.records if self.world.is_main else []

    @contextmanager
    def _progress(self, console: Console) -> Iterator[Progress | None]:
        if not self.world.is_main:
            yield None
            return
        steps = self.config.loop.steps
        with Progress(steps=steps, step=self.step_count, records=self._records(), console=console) as progress:
            yield progress

    def step(self) -> None:
        """One optimizer step over `accumulate` micro-batches of every process.

        Raises:
            DivergenceError: A loss or the gradient is not finite; the weights are those before the step.
        """
        began = time.monotonic()
        loop = self.config.loop
        batches = [self.stream.next() for _ in range(loop.accumulate)]
        report = compute_gradient(
            self.objective, batches, self.named, config=loop, world=self.world, step=self.step_count + 1
        )
        self.optimizer.set_learning_rates(self._factor(self.step_count))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update()
        self.step_count += 1
        samples = sum(self.hooks.samples_per_batch(batch) for batch in batches)
        seconds = time.monotonic() - began
        self.meter.add(report.terms, grad_norm=report.grad_norm, samples=samples, seconds=seconds)
        if self.hooks.counts:
            for batch in batches:
                self.meter.count(self.hooks.counts(batch))

    def _factor(self, step: int) -> float:
        return learning_rate_factor(self.config.schedule, step, self.config.loop.steps)

    def log(self, progress: Progress | None) -> None:
        """Write a line of metrics: averages since the last line."""
        summary = self.meter.summary(self.world)
        self.meter = Meter()
        lr = self.config.optimizer.lr * self._factor(self.step_count - 1)
        record = {"step": self.step_count, "kind": "train", "wall_s": round(self.wall_s, 3)}
        self._write(record | {"lr": lr} | summary, progress)
        if self.hooks.on_log:
            self.hooks.on_log(record | {"lr": lr} | summary)

    def evaluate(self, progress: Progress | None) -> None:
        """Write a line with the figures of the caller's evaluation."""
        if self.hooks.on_evaluate and (self.world.is_main or self.mesh is not None):
            self.objective.eval()
            averaged = self.average.applied() if self.average else nullcontext()
            with undisturbed_randomness(), averaged, computing(self.world.device, self.config.loop.precision):
                values = {name: float(value) for name, value in self.hooks.on_evaluate(self.step_count).items()}
            self.objective.train()
            record = {"step": self.step_count, "kind": "evaluate", "wall_s": round(self.wall_s, 3)}
            self._write(record | {"values": values}, progress)
        self.world.barrier()

    def _write(self, record: dict[str, Any], progress: Progress | None) -> None:
        if self.world.is_main:
            self.log_file.append(record)
            for sink in self.hooks.sinks:
                sink(record)
        if progress:
            progress.record(record)

    def save(self) -> Path:
        """Write a checkpoint of the present step and delete the oldest; returns its folder."""
        folder = self.out / folder_name(self.step_count)
        processes = self.world.gather(self._process_state())
        with undisturbed_randomness():
            models = self._models() if self._model_is_due() else {}
            state = {"wall_s": self.wall_s, "processes": processes}
            tensors = {
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict() if self.average else None,
            }
            sharded = {"trained": self.tensors} | tensors
            if self.mesh is not None and not self.world.is_main:
                write_shards(sharded, None)  # where, rank 0 tells
            elif self.world.is_main:
                write_checkpoint(
                    folder,
                    step=self.step_count,
                    config=self.resolved,
                    trained=self.tensors if self.mesh is None else None,
                    state=state if self.mesh is not None else state | tensors,
                    models=models,
                    write_shards=None if self.mesh is None else partial(write_shards, sharded),
                )
        if self.world.is_main:
            prune(self.out, keep=self.config.loop.keep_checkpoints, upto=self.step_count)
        self.world.barrier()
        self.saved_step = self.step_count
        return folder

    def _model_is_due(self) -> bool:
        """Whether this checkpoint holds the model; the last one of a run does, however it ends."""
        loop = self.config.loop
        return not (loop.save_every and self._due(loop.save_every)) or (
            self.step_count == loop.steps or self.step_count // loop.save_every % loop.model_every == 0
        )

    def _models(self) -> dict[str, Callable[[Path], None]]:
        """Name of a folder -> what fills it; on rank 0 the weights are at hand now, however they are sharded."""
        save_model = self.hooks.save_model or save_state_dict
        gather = partial(gathered_state, self.objective, keep=self.world.is_main)
        models = {MODEL: partial(_fill, save_model, gather() if self.mesh else gather)}
        if self.average and self.mesh:
            with self.average.applied():
                models[AVERAGE] = partial(_fill, save_model, gather())
        elif self.average:
            models[AVERAGE] = partial(self._fill_average, save_model, gather)
        return models

    def _fill_average(
        self,
        save_model: Callable[[Path, Mapping[str, Tensor]], None],
        gather: Callable[[], Mapping[str, Tensor]],
        folder: Path,
    ) -> None:
        assert self.average is not None
        with self.average.applied():
            save_model(folder, gather())

    def _process_state(self) -> dict[str, Any]:
        """What is different in each process. The stream's state goes as JSON text: plain, and checked to be so."""
        stream = json_text(self.stream.state_dict(), what=f"{type(self.stream).__name__}.state_dict()")
        return {"random": random_state(), "stream": stream, "meter": self.meter.state_dict()}

    def _find_checkpoint(self, resume: Literal["auto", "never"] | Path) -> Checkpoint | None:
        existing = list_checkpoints(self.out)
        if resume == "auto":
            return newest_intact(self.out)
        if resume == "never":
            if existing:
                raise InputError(
                    f"{self.out} holds a run already ({max(existing)} steps): resume it, or choose another folder."
                )
            return None
        checkpoint = read_checkpoint(Path(resume))
        if existing and max(existing) > checkpoint.step:
            raise InputError(
                f"{self.out} holds later checkpoints ({folder_name(max(existing))}) than {checkpoint.folder}: "
                "remove them, or give another folder for what is to come."
            )
        return checkpoint

    def _restore(self, checkpoint: Checkpoint, *, may_change_steps: bool) -> None:
        check_same_config(self.resolved, checkpoint.config, folder=checkpoint.folder, may_change_steps=may_change_steps)
        state, trained = checkpoint.state, checkpoint.trained
        if checkpoint.shards is not None:
            state = read_shards(state, checkpoint.shards, self.mesh)
            trained = state["trained"]
        restore_tensors(self.tensors, trained, checkpoint.folder)
        self.optimizer.load_state_dict(cut(state["optimizer"], self.mesh))
        if self.average:
            self.average.load_state_dict(state["average"])
        self._restore_process(state["processes"])
        self.wall_before_s = state["wall_s"]
        self.step_count = self.saved_step = checkpoint.step

    def _restore_process(self, processes: Sequence[Mapping[str, Any]]) -> None:
        """What is different in each process; there may have been more or fewer of them before.

        A process that is new goes on where the others are and keeps the random generators it was seeded with; what a
        process that is gone had measured since the last line of the log, the first one takes over.
        """
        rank, size = self.world.rank, self.world.size
        is_new = rank >= len(processes)
        process = processes[0 if is_new else rank]
        self.stream.load_state_dict(json.loads(process["stream"]))
        self.meter = Meter(steps=process["meter"]["steps"]) if is_new else Meter(**process["meter"])
        if rank == 0:
            for gone in processes[size:]:
                self.meter.merge(Meter(**gone["meter"]))
        if not is_new:
            restore_random_state(process["random"])


def _fill(
    save_model: Callable[[Path, Mapping[str, Tensor]], None],
    state: Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]],
    folder: Path,
) -> None:
    """Let `save_model` fill a folder with a state, or with what gives it when its time has come."""
    save_model(folder, state() if callable(state) else state)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run a block with `count` torch threads (0: as it is)."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
