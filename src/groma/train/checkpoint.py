"""Checkpoints of a training run: written whole, checked when read, enough to continue bit for bit.

OUT/step-00001000/
    model/               what the run makes: written by the caller's `save_model`
    average/             the same with averaged weights, if the run averages
    trained.safetensors  trained parameters and buffers as they are in memory, for resuming
    shards/              instead, where they are sharded: those, the optimizer's and the average's, a file a process
    trainer_state.pt     optimizer, average, and each process's random generators, batch stream and meter
    config.json          the resolved configuration
    checksums.json       SHA-256 of every file above
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groma.errors import CheckpointError, InputError
from groma.storage import atomic_folder, read_json, verify_checksums, write_checksums, write_json
from groma.train.objective import ParameterGroup
from groma.train.sharding import assign

logger = logging.getLogger(__name__)

FORMAT = 1
CONFIG, TRAINED, SHARDS, STATE, MODEL, AVERAGE = (
    "config.json",
    "trained.safetensors",
    "shards",
    "trainer_state.pt",
    "model",
    "average",
)

FREE_FIELDS = frozenset(
    [f"loop.{name}" for name in ("log_every", "save_every", "evaluate_every", "keep_checkpoints", "model_every")]
    + [f"loop.{name}" for name in ("prefetch", "threads", "sharding", "activation_checkpointing", "compile")]
    + ["recipe.mixture.workers", "recipe.mixture.look_first", "recipe.mixture.specimens"]
)
"""Configuration that may differ on resuming: it changes what is shown and kept, and where, not what is learned."""

STEP_FIELDS = frozenset(("world_size", "loop.accumulate", "recipe.data.batch_size", "recipe.mixture.batch_size"))
"""How a step is cut up: may differ as long as it has the same samples."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as read back; tensors on the CPU."""

    folder: Path
    """Where it was read from."""
    step: int
    """Optimizer steps done."""
    config: dict[str, Any]
    """The resolved configuration of the run that wrote it."""
    trained: dict[str, Tensor]
    """Name -> trained parameter or buffer; empty where they are sharded."""
    state: dict[str, Any]
    """What the trainer saved; with notes in the place of sharded tensors (groma.train.sharding.read_shards)."""
    shards: Path | None = None
    """Folder of the sharded tensors, if there are any."""


def folder_name(step: int) -> str:
    """The name of the checkpoint folder of a step."""
    return f"step-{step:08d}"


def list_checkpoints(out: Path) -> dict[int, Path]:
    """Step -> folder of every checkpoint in `out`, damaged ones included, in order of step."""
    found = {}
    for folder in out.glob("step-*"):
        digits = folder.name.removeprefix("step-")
        if folder.is_dir() and digits.isdecimal():
            found[int(digits)] = folder
    return dict(sorted(found.items()))


def resumable_tensors(objective: nn.Module, groups: list[ParameterGroup]) -> dict[str, Tensor]:
    """What training changes: name -> trained parameter, and name -> buffer that belongs to the objective's state.

    Frozen parameters are not included: the caller builds them again from where they came from.
    """
    kept = objective.state_dict().keys()
    tensors = {f"parameter.{name}": parameter.detach() for group in groups for name, parameter in group.parameters}
    return tensors | {f"buffer.{name}": buffer for name, buffer in objective.named_buffers() if name in kept}


def save_state_dict(folder: Path, state: Mapping[str, Tensor]) -> None:
    """The default `save_model`: the objective's whole state as `model.safetensors`."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors")


def write_checkpoint(
    folder: Path,
    *,
    step: int,
    config: Mapping[str, Any],
    trained: Mapping[str, Tensor] | None,
    state: Mapping[str, Any],
    models: Mapping[str, Callable[[Path], None]],
    write_shards: Callable[[Path], Mapping[str, Any]] | None = None,
) -> None:
    """Write a checkpoint folder atomically.

    Args:
        folder: Where; an older folder of this name is replaced.
        step: Optimizer steps done.
        config: The resolved configuration, JSON values.
        trained: Name -> tensor, as `resumable_tensors` gives; None where they are sharded.
        state: Containers, numbers, text and tensors.
        models: Name of a folder inside -> what fills it.
        write_shards: Writes sharded tensors into a folder, together with the other processes, and returns what is to
            be remembered of them in the state.
    """
    with atomic_folder(folder) as temporary:
        for name, save in models.items():
            (temporary / name).mkdir()
            save(temporary / name)
        if trained is not None:
            save_file({name: t.cpu().contiguous().clone() for name, t in trained.items()}, temporary / TRAINED)
        shards = {} if write_shards is None else write_shards(temporary / SHARDS)
        torch.save({**state, **shards}, temporary / STATE)
        write_json(temporary / CONFIG, {"format": FORMAT, "step": step, **config})
        write_checksums(temporary)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder after checking every byte.

    Raises:
        CheckpointError: A file is missing, damaged or of another kind; names it.
    """
    verify_checksums(folder)
    sharded = (folder / SHARDS).is_dir()
    for name in (CONFIG, STATE) if sharded else (CONFIG, TRAINED, STATE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing: not a folder that training can resume from.")
    config = read_json(folder / CONFIG, error=CheckpointError)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{folder / CONFIG}: expected checkpoint format {FORMAT}.")
    try:
        trained = {} if sharded else load_file(folder / TRAINED)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError) as cause:
        raise CheckpointError(f"{folder}: cannot be read: {cause}.") from cause
    step = config.pop("step")
    del config["format"]
    shards = folder / SHARDS if sharded else None
    return Checkpoint(folder=folder, step=step, config=config, trained=trained, state=state, shards=shards)


def newest_intact(out: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that reads back whole; damaged newer ones are passed over with a warning.

    Returns:
        None where `out` holds no checkpoint at all.

    Raises:
        CheckpointError: There are checkpoints, all damaged; says what is wrong with each.
    """
    faults = []
    for folder in reversed(list_checkpoints(out).values()):
        try:
            return read_checkpoint(folder)
        except CheckpointError as fault:
            logger.warning("passing over a damaged checkpoint: %s", fault)
            faults.append(str(fault))
    if faults:
        raise CheckpointError(f"{out}: no checkpoint is intact: {' '.join(faults)}")
    return None


def remove_leftovers(out: Path) -> None:
    """Delete the temporary folders of checkpoints that a killed run did not finish."""
    for folder in out.glob(".step-*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def prune(out: Path, *, keep: int, upto: int) -> None:
    """Delete all but the newest `keep` checkpoints (0: delete none) among those of step `upto` and before."""
    folders = [folder for step, folder in list_checkpoints(out).items() if step <= upto]
    for folder in folders[:-keep] if keep else []:
        shutil.rmtree(folder)


@torch.no_grad()
def restore_tensors(current: Mapping[str, Tensor], saved: Mapping[str, Tensor], folder: Path) -> None:
    """Copy saved tensors over the current ones, strictly.

    Raises:
        CheckpointError: Lists every name that is missing, unknown, or of another shape or type.
    """
    faults = [f"{name} is missing" for name in current.keys() - saved.keys()]
    faults += [f"{name} is not trained now" for name in saved.keys() - current.keys()]
    for name in current.keys() & saved.keys():
        ours, theirs = current[name], saved[name]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            expected, came = (f"{tuple(t.shape)} {t.dtype}" for t in (ours, theirs))
            faults.append(f"{name}: expected {expected}, got {came}")
    if faults:
        raise CheckpointError(f"{folder / TRAINED}: {'; '.join(sorted(faults))}.")
    for name, tensor in current.items():
        assign(tensor, saved[name])


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> dotted name -> value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def samples_per_step(flat: Mapping[str, Any]) -> int | None:
    """Samples of an optimizer step over all processes and micro-batches; None where the recipe names no batch size.

    Args:
        flat: A resolved configuration, as `flatten` gives it.
    """
    batch = flat.get("recipe.mixture.batch_size" if flat.get("recipe.mixture.file") else "recipe.data.batch_size")
    return None if batch is None else flat["world_size"] * flat["loop.accumulate"] * batch


def check_same_config(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], *, folder: Path, may_change_steps: bool
) -> None:
    """Make sure that a run continues under the configuration it began with.

    Args:
        ours: The configuration now, JSON values.
        theirs: The checkpoint's.
        folder: The checkpoint, for the error.
        may_change_steps: Whether `loop.steps` may differ.

    Raises:
        InputError: Names every field that differs, with both values.
    """
    new, old = flatten(ours), flatten(theirs)
    free = FREE_FIELDS | (STEP_FIELDS if samples_per_step(new) == samples_per_step(old) else frozenset())
    differing = [
        f"{name} was {old.get(name)!r} and is now {new.get(name)!r}"
        for name in sorted(new.keys() | old.keys())
        if new.get(name) != old.get(name) and name not in free
    ]
    if may_change_steps:
        differing = [text for text in differing if not text.startswith("loop.steps was ")]
    if differing:
        hint = " (to train longer on purpose, ask for changed steps)" if "loop.steps was" in str(differing) else ""
        raise InputError(f"{folder} was made under another configuration: {'; '.join(differing)}{hint}.")
