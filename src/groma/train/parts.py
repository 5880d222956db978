"""What stages hand on: the model's parts, saved and loaded one by one, strictly."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groma.errors import CheckpointError
from groma.inference.assistant import Groma
from groma.pretrained import load
from groma.train.checkpoint import MODEL

PARTS_FILE = "parts.safetensors"


def save_parts(parts: Mapping[str, nn.Module], folder: Path) -> None:
    """Write all parts into `folder` as one file; names are "<part>.<parameter>"."""
    state = {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
    save_state(state, folder)


def save_state(state: Mapping[str, Tensor], folder: Path) -> None:
    """The same of tensors that are named so already."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    save_file(tensors, folder / PARTS_FILE)


def state_of_parts(owner: nn.Module, parts: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the state of the module that owns the parts: "<part>.<parameter>" -> tensor."""
    place = {id(module): name for name, module in owner.named_modules()}
    return {
        f"{part}.{name.removeprefix(prefix)}": tensor
        for part, module in parts.items()
        for prefix in (f"{place[id(module)]}.",)
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def load_parts(parts: Mapping[str, nn.Module], checkpoint: Path) -> list[str]:
    """Load every part that the checkpoint has, or none if one does not fit; return their names.

    Args:
        parts: name -> module to be filled.
        checkpoint: a step's folder of an earlier stage, or any model that `groma.load` takes.

    Raises:
        CheckpointError: there are no weights, or none of a part, or some do not fit; names all offenders.
    """
    tensors = _read(checkpoint)
    found = {part: _below(part, tensors) for part in parts}
    found = {part: own for part, own in found.items() if own}
    if not found:
        raise CheckpointError(f"{checkpoint} has none of the parts {', '.join(parts)}.")
    problems = [text for part, own in found.items() for text in _misfits(part, own, parts[part].state_dict())]
    if problems:
        raise CheckpointError(f"{checkpoint} does not fit the model: {'; '.join(problems)}.")
    for part, own in found.items():
        parts[part].load_state_dict(own)
    return list(found)


def combine(checkpoints: Sequence[Path]) -> Groma:
    """A whole model with the parts that later checkpoints have of it.

    Args:
        checkpoints: first any model that `groma.load` takes or a checkpoint that holds one, then checkpoint folders of
            stages, of which later ones win.

    Raises:
        CheckpointError: the first is no whole model, or a later one has none of its parts or parts of other shapes.
    """
    first, *later = checkpoints
    groma = _load_whole(first)
    for checkpoint in later:
        load_parts(dict(groma.model.named_children()), checkpoint)
    told = groma.model.config.provenance or {}
    groma.model.config.provenance = dict(told) | {"combined_from": [str(checkpoint) for checkpoint in checkpoints]}
    return groma


def _read(checkpoint: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by their names in memory."""
    file = checkpoint / MODEL / PARTS_FILE
    if not file.is_file():  # a whole model, as the last stages save it
        return _load_whole(checkpoint).model.state_dict()
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: the weights cannot be read: {error}.") from error


def _load_whole(checkpoint: Path) -> Groma:
    """The model in a checkpoint folder, or the one of that name."""
    folder = checkpoint / MODEL
    return load(str(folder if folder.is_dir() else checkpoint), device="cpu")  # as text it may be a name on the hub


def _below(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one part, by their names in it."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _misfits(part: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    problems = [f"{part}.{name} is missing" for name in wanted.keys() - found.keys()]
    problems += [f"{part}.{name} is not known" for name in found.keys() - wanted.keys()]
    problems += [
        f"{part}.{name} has shape {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in found.keys() & wanted.keys()
        if found[name].shape != wanted[name].shape
    ]
    return sorted(problems)
