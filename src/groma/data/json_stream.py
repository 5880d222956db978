"""Large JSON files, one element at a time: memory does not grow with the file.

Two shapes of file are read: a list (`[{...}, ...]`) or one object a line (JSONL), told apart by the first character;
and an object of lists (`{"images": [...], "annotations": [...]}`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from groma.errors import InputError, MissingExtraError

CHUNK_BYTES = 1 << 20


def elements(path: Path, *, key: str | None = None) -> Iterator[Any]:
    """The elements of a list, in the order of the file.

    Args:
        path: a JSON or JSONL file in UTF-8.
        key: the file is an object, and the list stands under this name; None: the list is the whole file, or the file
            has one element a line.

    Raises:
        InputError: the file cannot be opened, is not JSON, or of another shape; says where.
        MissingExtraError: ijson is not installed.
    """
    try:
        with path.open("rb") as file:
            first = _first_character(file)
            if key is None and first == b"{":
                yield from _lines(file, path)
            else:
                _check_shape(first, path, expected=b"[" if key is None else b"{")
                yield from _streamed(file, path, f"{key}.item" if key else "item")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error


def keys_of(path: Path) -> list[str]:
    """Names in an object of lists, in the order of the file; their values are skipped, not built.

    Raises:
        InputError: as `elements`.
        MissingExtraError: as `elements`.
    """
    parser = _parser()
    try:
        with path.open("rb") as file:
            _check_shape(_first_character(file), path, expected=b"{")
            events = parser.basic_parse(file, buf_size=CHUNK_BYTES)
            return list(_top_level_keys(events))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error
    except parser.JSONError as error:
        raise InputError(f"{path}: not valid JSON: {error}.") from error


def _top_level_keys(events: Iterator[tuple[str, Any]]) -> Iterator[str]:
    depth = 0
    for event, value in events:
        if event == "map_key" and depth == 1:
            yield value
        depth += event in ("start_map", "start_array")
        depth -= event in ("end_map", "end_array")


def _first_character(file: BinaryIO) -> bytes:
    """The first character that is no blank and no byte-order mark; the file is put back to its start."""
    head = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    return head[:1]


def _check_shape(first: bytes, path: Path, *, expected: bytes) -> None:
    if first != expected:
        shapes = {b"[": "a JSON list", b"{": "a JSON object"}
        found = shapes.get(first, "an empty file" if not first else f"text that starts with {first!r}")
        raise InputError(f"{path}: holds {found}, expected {shapes[expected]}.")


def _lines(file: BinaryIO, path: Path) -> Iterator[Any]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except ValueError as error:
                raise InputError(f"{path}, line {number}: not valid JSON: {error}.") from error


def _streamed(file: BinaryIO, path: Path, prefix: str) -> Iterator[Any]:
    parser = _parser()
    try:
        yield from parser.items(file, prefix, buf_size=CHUNK_BYTES, use_float=True)
    except parser.JSONError as error:
        raise InputError(f"{path}: not valid JSON: {error}.") from error


def _parser() -> Any:
    """The streaming parser, with the fastest back end that is there."""
    try:
        import ijson
    except ImportError:
        raise MissingExtraError("Annotation files need the package ijson: pip install 'groma[train]'") from None
    return ijson
