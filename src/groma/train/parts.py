"""What stages hand on: the model's parts, saved and loaded one by one, strictly."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groma.errors import CheckpointError
from groma.train.checkpoint import MODEL

PARTS_FILE = "parts.safetensors"


def save_parts(parts: Mapping[str, nn.Module], folder: Path) -> None:
    """Write all parts into `folder` as one file; names are "<part>.<parameter>"."""
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous().clone()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    save_file(tensors, folder / PARTS_FILE)


def load_parts(parts: Mapping[str, nn.Module], checkpoint: Path) -> list[str]:
    """Load every part that the checkpoint has; return their names.

    Args:
        parts: name -> module to be filled.
        checkpoint: a step's folder of an earlier stage.

    Raises:
        CheckpointError: no part is there, or one does not fit; names all offenders.
    """
    files = sorted((checkpoint / MODEL).glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"No weights in {checkpoint / MODEL}: give a checkpoint folder of an earlier stage.")
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    loaded = []
    for part, module in parts.items():
        own = {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
        if own:
            _check_fit(part, own, module.state_dict(), checkpoint)
            module.load_state_dict(own)
            loaded.append(part)
    if not loaded:
        raise CheckpointError(f"{checkpoint} has none of the parts {', '.join(parts)}.")
    return loaded


def _check_fit(part: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], checkpoint: Path) -> None:
    problems = [f"{part}.{n} is missing" for n in wanted.keys() - found.keys()]
    problems += [f"{part}.{n} is not known" for n in found.keys() - wanted.keys()]
    problems += [
        f"{part}.{n} has shape {tuple(found[n].shape)}, expected {tuple(wanted[n].shape)}"
        for n in found.keys() & wanted.keys()
        if found[n].shape != wanted[n].shape
    ]
    if problems:
        raise CheckpointError(f"{checkpoint} does not fit the model: " + "; ".join(sorted(problems)))
