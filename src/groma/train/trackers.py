"""Other places where a run's curves can be drawn: TensorBoard, Weights & Biases. Both are optional packages.

A tracker is called with every record of the log (groma.train.metrics), which itself is always written.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from groma.errors import InputError, MissingExtraError

Tracker = Callable[[Mapping[str, Any]], None]


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Name and value of everything in a record that a curve can be drawn of."""
    kind = record["kind"]
    if kind == "evaluate":
        yield from ((f"evaluate/{name}", value) for name, value in record["values"].items())
        return
    for name in ("loss", "lr", "grad_norm", "samples_per_s"):
        yield f"{kind}/{name}", record[name]
    yield from ((f"{kind}/{name}", value) for name, value in record["terms"].items())
    yield from ((f"data/{name}", value) for name, value in record.get("counts", {}).items())


def _tensorboard(out: Path, config: Mapping[str, Any]) -> Tracker:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("TensorBoard needs a package of its own: pip install 'groma[track]'") from None
    writer = SummaryWriter(str(out / "tensorboard"))

    def track(record: Mapping[str, Any]) -> None:
        for name, value in scalars(record):
            writer.add_scalar(name, value, record["step"])
        writer.flush()

    return track


def _wandb(out: Path, config: Mapping[str, Any]) -> Tracker:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("Weights & Biases needs a package of its own: pip install 'groma[track]'") from None
    # one folder, one run: a resumed one goes on in the same curves
    run = wandb.init(project="groma", dir=str(out), id=out.resolve().name, resume="allow", config=dict(config))

    def track(record: Mapping[str, Any]) -> None:
        run.log(dict(scalars(record)), step=record["step"])

    return track


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {"tensorboard": _tensorboard, "wandb": _wandb}
"""Name -> what starts it, given the run's folder and its configuration."""


def start_tracker(name: str, out: Path, config: Mapping[str, Any]) -> Tracker:
    """Start one.

    Raises:
        InputError: there is none of that name.
        MissingExtraError: its package is not installed.
    """
    if name not in TRACKERS:
        raise InputError(f"There is no tracker {name!r}; known are {', '.join(TRACKERS)}.")
    return TRACKERS[name](out, config)
