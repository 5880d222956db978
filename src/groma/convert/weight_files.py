"""Weights on disk -> tensors by name: one file or shards with an index, safetensors or .bin.

Tensors are views of the files (memory maps), so that reading a folder takes no memory to speak of before the tensors
are used. `.bin` files are pickles: they are read with weights-only loading, which runs no code.
"""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from groma.errors import CheckpointError
from groma.storage import read_json

SINGLE_SAFETENSORS, SINGLE_BIN = "model.safetensors", "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"
LFS_MARK = b"version https://git-lfs"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint folder by name, on the CPU, in the type it was stored in.

    safetensors go before .bin files and shards before a single file, as everywhere in this ecosystem.

    Raises:
        CheckpointError: there are no weights, a shard that the index names is missing or lacks a tensor, or a file is
            damaged; lists all offenders.
    """
    for single in (SINGLE_SAFETENSORS, SINGLE_BIN):
        index = folder / (single + INDEX_SUFFIX)
        if index.is_file():
            return _read_shards(folder, _weight_map(index))
        if (folder / single).is_file():
            return _read_file(folder / single)
    expected = ", ".join(name + end for name in (SINGLE_SAFETENSORS, SINGLE_BIN) for end in ("", INDEX_SUFFIX))
    raise CheckpointError(f"{folder} holds no weights: none of {expected} is there.")


def _weight_map(index: Path) -> dict[str, str]:
    """The index's table, tensor -> name of a file in the same folder."""
    content = read_json(index, error=CheckpointError)
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} has no weight_map: a table of tensor and file was expected.")
    for file in table.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index} names the file {file!r}, which is no name of a file in its folder.")
    return table


def _read_shards(folder: Path, weight_map: dict[str, str]) -> dict[str, Tensor]:
    files = sorted(set(weight_map.values()))
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise CheckpointError(
            f"{folder} is incomplete, {len(absent)} of {len(files)} weight files are missing: {', '.join(absent)}."
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        content = _read_file(folder / file)
        tensors |= {name: tensor for name, tensor in content.items() if weight_map.get(name, file) == file}
    lacking = [f"{name} (in {file})" for name, file in weight_map.items() if name not in tensors]
    if lacking:
        raise CheckpointError(
            f"{folder}: {len(lacking)} tensors of the index are not in their files: {', '.join(lacking)}."
        )
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as stream:
        if stream.read(len(LFS_MARK)) == LFS_MARK:
            raise CheckpointError(f"{path} is a Git LFS pointer instead of weights: fetch it with `git lfs pull`.")
    read: Callable[[Path], dict[str, Tensor]] = _read_safetensors if path.suffix == ".safetensors" else _read_bin
    return read(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping, it has keys only
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut off, it is not readable as safetensors: {error}.") from error


def _read_bin(path: Path) -> dict[str, Tensor]:
    try:
        # files from before torch 1.6 are no archives and cannot be mapped
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors, which weights-only loading refuses: {_first_line(error)}."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or cut off: {_first_line(error)}.") from error
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{path} holds a {type(content).__name__} that is no table of tensors by name.")
    return content


def _first_line(error: Exception) -> str:
    """What went wrong, without the pages of advice that torch adds."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
