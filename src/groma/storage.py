"""Files that are either complete or absent: atomic writes, strict JSON and checksums, used everywhere we save.

A writer fills a temporary sibling and renames it into place, so that a crash, a full disk or a Ctrl-C never leaves
half a file under a name that somebody will read later.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groma.errors import CheckpointError, GromaError, InputError

CHECKSUMS = "checksums.json"


def _temporary_sibling(path: Path) -> Path:
    """A fresh hidden name next to `path`: on the same file system, so that the rename is atomic."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"


def _sync(path: Path) -> None:
    """Push a file or a folder's entries to the disk, so that the rename never outruns the content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened for syncing
        _sync(path)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes `path`, on any error nothing is left behind.

    Args:
        path: The file to make or replace. Missing parent folders are made.

    Yields:
        The temporary path, in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it becomes `path` (replacing an old one), on error it vanishes.

    Args:
        path: The folder to make or replace. Missing parent folders are made.

    Yields:
        The temporary folder, beside `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():  # a folder cannot be replaced in one call: set the old one aside first
            aside = _temporary_sibling(path)
            os.replace(path, aside)
            os.replace(temporary, path)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a whole UTF-8 file atomically, newlines as they are."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON atomically.

    Raises:
        InputError: The value holds something JSON has no form for, NaN and infinity included.
    """
    write_text(path, json_text(value, what=str(path), indent=2) + "\n")


def json_text(value: Any, *, what: str, indent: int | None = None) -> str:
    """Turn `value` into JSON text, or say that `what` cannot be written.

    Raises:
        InputError: The value holds something JSON has no form for, NaN and infinity included.
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: cannot be written as JSON: {error}.") from error


def read_json(path: Path, *, error: type[GromaError] = InputError) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        error: What to raise: `CheckpointError` where the file is part of a checkpoint.

    Raises:
        GromaError: Of the kind asked for: the file is missing or not JSON.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as cause:
        raise error(f"{path}: there is no such file.") from cause
    except OSError as cause:
        raise error(f"{path}: not a readable JSON file: {cause}.") from cause
    return parse_json(content, what=str(path), error=error)


def parse_json(content: bytes, *, what: str, error: type[GromaError] = InputError) -> Any:
    """Read a JSON file's content; `what` says which file, the rest is as in `read_json`.

    Raises:
        GromaError: Of the kind asked for: it is not JSON.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as cause:
        raise error(f"{what}: not a readable JSON file: {cause}.") from cause


def read_json_object(path: Path, *, error: type[GromaError] = InputError) -> dict[str, Any]:
    """Read a JSON file that holds an object; see `read_json`.

    Raises:
        GromaError: Of the kind asked for: also if it holds anything else.
    """
    found = read_json(path, error=error)
    if not isinstance(found, dict):
        raise error(f"{path} holds a {type(found).__name__}; expected a JSON object.")
    return found


def check_same_run(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare what defines the run in a folder with what is asked for, both as JSON values.

    Raises:
        InputError: They differ; says in what.
    """
    other = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if other:
        told = "; ".join(f"{key} is {_short(wanted.get(key))}, there {_short(found.get(key))}" for key in other)
        raise InputError(f"{folder} holds another run: {told}. Give a new folder.")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def sha256(path: Path) -> str:
    """The SHA-256 digest of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Write `checksums.json`: the SHA-256 of every file below `folder`, by its path inside the folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {file.relative_to(folder).as_posix(): sha256(file) for file in files})


def verify_checksums(folder: Path) -> None:
    """Compare every file of `folder` with `checksums.json`.

    Raises:
        CheckpointError: The list is missing, or a listed file is missing or differs; names every such file.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder.")
    expected = read_json(folder / CHECKSUMS, error=CheckpointError)
    if not isinstance(expected, dict):
        raise CheckpointError(f"{folder / CHECKSUMS}: expected a mapping of file to digest.")
    faults = []
    for name, digest in expected.items():
        file = folder / name
        if not file.is_file():
            faults.append(f"{name} is missing")
        elif sha256(file) != digest:
            faults.append(f"{name} has changed since it was written")
    if faults:
        raise CheckpointError(f"{folder}: damaged: {'; '.join(faults)}.")
