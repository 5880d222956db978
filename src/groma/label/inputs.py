"""What is to be labelled: folder, list, shards, tables or picture files -> items in a fixed order, each with its key.

| kind | given as | key |
|---|---|---|
| folder | a folder, read with all below it | path below the folder |
| list | .txt, a path a line | the path, below the list's folder where it lies there |
| jsonl | .jsonl, {"image": path, "boxes": [...], "id": ...} a line | `id`, else as of a list |
| shards | .tar files as WebDataset writes them | `shard.tar/sample` |
| tables | .parquet files | `file.parquet#row` |
| pictures | picture files | path below the folder that all lie in |

Several files may be given, or patterns: `shards/{000..127}.tar`, `photos/**/*.jpg`. Paths in lists begin at the list.
"""

import glob
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from groma.errors import InputError
from groma.label.items import BOXES, InFile, Item, Nowhere
from groma.label.shards import PICTURE_SUFFIXES, shard_items, table_items

LIST, JSONL, SHARD, TABLE = ".txt", ".jsonl", ".tar", ".parquet"
ACCEPTED = f"a folder, {LIST}, {JSONL}, {SHARD}, {TABLE} or picture files"

_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
_BRACES = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Everything that is to be labelled."""

    kind: str
    """folder, list, jsonl, shards, tables or pictures."""
    items: Sequence[Item]
    """In the order of the labels; no two have the same key."""
    left_out: Mapping[str, int]
    """Of a folder: ending -> how many files that are no pictures have it."""
    identity: Mapping[str, Any]
    """What tells it from other inputs."""


def open_input(given: Sequence[str], *, image_column: str | None = None, besides: Path | None = None) -> Input:
    """Find everything that is to be labelled; no picture is opened.

    Args:
        given: What the user named: paths or patterns.
        image_column: Of tables: the column of pictures.
        besides: A folder that may lie in the input and does not belong to it.

    Raises:
        InputError: Something is not there or of no known kind, there are no pictures, or two have the same key.
        MissingExtraError: Tables need pyarrow.
    """
    paths = [path.absolute() for text in given for path in _expanded(text)]
    if not paths:
        raise InputError(f"nothing to label is given: name {ACCEPTED}")
    kind = _kind(paths)
    left_out: Counter[str] = Counter()
    if kind == "folder":
        kind, paths, root, left_out = _in_folder(paths[0], besides)
    else:
        root = Path(os.path.commonpath([path.parent for path in paths]))
    if image_column is not None and kind != "tables":
        raise InputError(f"--image-column is for {TABLE} files, {given[0]!r} is or has none to be labelled")
    items = _checked(_ITEMS[kind](paths, root, image_column), told=", ".join(given)[:200])
    return Input(kind=kind, items=items, left_out=left_out, identity=_identity(kind, paths, items, image_column))


# --- what was named --------------------------------------------------------------------------------------------------


def _expanded(text: str) -> list[Path]:
    """A path, or a pattern's files in order."""
    if "://" in text:
        raise InputError(f"{text!r} is an address: bring the files to a disk first, then name them")
    if not text.strip():
        raise InputError(f"an empty name is given: name {ACCEPTED}")
    path = Path(text).expanduser()
    if path.exists():
        return [path]
    found: list[Path] = []
    for plain in _without_braces(str(path)):
        if Path(plain).exists():
            found.append(Path(plain))
        elif any(mark in plain for mark in "*?[") and (matched := sorted(glob.glob(plain, recursive=True))):
            found += map(Path, matched)
        elif plain != str(path) or any(mark in plain for mark in "*?["):
            raise InputError(f"{plain!r} matches no file (of {text!r})")
        else:
            raise InputError(f"{text!r} is not there: name {ACCEPTED}")
    return found


def _without_braces(pattern: str) -> Iterator[str]:
    """`a-{00..02}.{x,y}` -> a-00.x, a-00.y, a-01.x, ..."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    if numbers := _NUMBERS.fullmatch(match[1]):
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        parts: Iterable[str] = (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))
    else:
        parts = match[1].split(",")
    for part in parts:
        yield from _without_braces(pattern[: match.start()] + part + pattern[match.end() :])


def _kind(paths: Sequence[Path]) -> str:
    kinds = {_kind_of(path): path for path in paths}
    if len(kinds) > 1:
        (one, first), (other, second), *_ = kinds.items()
        raise InputError(f"{str(first)!r} is of kind {one}, {str(second)!r} of kind {other}: label them one by one")
    (kind,) = kinds
    if len(paths) > 1 and kind in ("folder", "list", "jsonl"):
        raise InputError(f"{len(paths)} inputs of kind {kind} are given: label them one by one")
    return kind


def _kind_of(path: Path) -> str:
    if path.is_dir():
        return "folder"
    suffix = path.suffix.lower()
    kind = {LIST: "list", JSONL: "jsonl", SHARD: "shards", TABLE: "tables"}.get(suffix)
    if kind is None and suffix in PICTURE_SUFFIXES:
        kind = "pictures"
    if kind is None:
        hint = "unpack it first, or" if path.name.lower().endswith((".tar.gz", ".tgz", ".zip", ".tar.zst")) else "is it"
        raise InputError(f"{str(path)!r} is nothing that can be labelled: {hint} {ACCEPTED}?")
    return kind


# --- folders ---------------------------------------------------------------------------------------------------------


def _in_folder(folder: Path, besides: Path | None) -> tuple[str, list[Path], Path, Counter[str]]:
    """Kind, files in order, the folder itself, and what is left out: pictures, else shards, else tables."""
    by_kind: dict[str, list[Path]] = {"pictures": [], "shards": [], "tables": []}
    endings: Counter[str] = Counter()
    of_ending = {SHARD: "shards", TABLE: "tables"} | dict.fromkeys(PICTURE_SUFFIXES, "pictures")
    for path in _files_below(folder, besides):
        suffix = path.suffix.lower()
        endings[suffix or "no ending"] += 1
        if suffix in of_ending:
            by_kind[of_ending[suffix]].append(path)
    for kind, found in by_kind.items():
        if found:
            used = {suffix for suffix, own in of_ending.items() if own == kind}
            left_out = Counter({suffix: count for suffix, count in endings.items() if suffix not in used})
            return kind, sorted(found, key=lambda path: path.as_posix()), folder, left_out
    there = ", ".join(f"{count} of {ending}" for ending, count in endings.most_common(3)) or "nothing"
    raise InputError(f"folder {str(folder)!r} holds no pictures, {SHARD} or {TABLE} files; it holds {there}")


def _files_below(folder: Path, besides: Path | None) -> Iterator[Path]:
    """All files but hidden ones and those of one folder; links to folders are followed, but none in circles."""
    entered: set[tuple[int, int]] = set()
    if besides is not None and besides.is_dir():
        status = besides.stat()
        entered.add((status.st_dev, status.st_ino))

    def tell(error: OSError) -> None:
        raise InputError(f"folder {str(error.filename)!r} cannot be read: {error.strerror or error}") from None

    for here, folders, files in os.walk(folder, followlinks=True, onerror=tell):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here) / name for name in files if not name.startswith("."))


# --- items of each kind ----------------------------------------------------------------------------------------------


def _key(path: str | Path, root: Path) -> str:
    """The path below the folder `root`, else as it is; names that are no UTF-8 with their bytes spelled out."""
    normal, above = os.path.normpath(path), f"{root}{os.sep}"
    below = normal.removeprefix(above) if os.path.isabs(normal) else normal
    if os.sep != "/":
        below = below.replace(os.sep, "/")
    return below if below.isascii() else os.fsencode(below).decode("utf-8", "backslashreplace")


def _of_pictures(paths: Sequence[Path], root: Path, _column: str | None) -> Iterator[Item]:
    return (Item(_key(path, root), InFile(str(path))) for path in paths)


def _of_shards(paths: Sequence[Path], root: Path, _column: str | None) -> Iterator[Item]:
    return chain.from_iterable(shard_items(path, _key(path, root)) for path in paths)


def _of_tables(paths: Sequence[Path], root: Path, column: str | None) -> Iterator[Item]:
    return chain.from_iterable(table_items(path, _key(path, root), image_column=column) for path in paths)


def _of_list(paths: Sequence[Path], root: Path, _column: str | None) -> Iterator[Item]:
    for _, line in _lines(paths[0]):
        yield Item(_key(line, root), InFile(os.path.join(root, line)))


def _of_jsonl(paths: Sequence[Path], root: Path, _column: str | None) -> Iterator[Item]:
    for number, line in _lines(paths[0]):
        where = f"{paths[0]}, line {number}"
        try:
            record: Any = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where} is no JSON: {error}") from None
        image = record.get("image") if isinstance(record, Mapping) else None
        if not isinstance(image, str) or not image.strip():
            raise InputError(f'{where} names no picture, expected {{"image": "path"}} and, if you like, boxes and id')
        name = record.get("id")
        if name is not None and not isinstance(name, str | int):
            raise InputError(f"{where} has the id {name!r}, expected text or a whole number")
        key = _key(image, root) if name is None else str(name)
        yield Item(key, InFile(os.path.join(root, image)), record.get(BOXES))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


_ITEMS: dict[str, Callable[[Sequence[Path], Path, str | None], Iterator[Item]]] = {
    "pictures": _of_pictures,
    "shards": _of_shards,
    "tables": _of_tables,
    "list": _of_list,
    "jsonl": _of_jsonl,
}


def _checked(items: Iterable[Item], *, told: str) -> list[Item]:
    """All of them, if there are some and no key comes twice."""
    places: dict[str, int] = {}
    listed: list[Item] = []
    for number, item in enumerate(items, start=1):
        first = places.setdefault(item.key, number)
        if first != number:
            raise InputError(
                f"{told} names {item.key!r} twice, as picture {first} and {number}: labels are found by that name, "
                "so that each may come once"
            )
        listed.append(item)
    if not listed:
        raise InputError(f"{told} holds no pictures")
    if all(isinstance(item.place, Nowhere) for item in listed):
        reasons = [item.place.reason for item in listed if isinstance(item.place, Nowhere)]
        raise InputError(f"{told} holds no picture that can be read: {reasons[0]}")
    return listed


def _identity(kind: str, paths: Sequence[Path], items: Sequence[Item], image_column: str | None) -> dict[str, Any]:
    """The order of the keys, what lists say beside, and the sizes of shards, whose content is not looked at."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.key.encode(errors="surrogatepass") + b"\0")
        if item.boxes is not None:
            digest.update(json.dumps(item.boxes).encode())
        if kind == "jsonl" and isinstance(item.place, InFile):  # its key may be a name that says nothing of it
            digest.update(os.fsencode(os.path.relpath(item.place.path, paths[0].parent)) + b"\0")
    if kind in ("shards", "tables"):
        digest.update(json.dumps([path.stat().st_size for path in paths]).encode())
    identity = {"input": kind, "pictures": len(items), "input_digest": digest.hexdigest()[:16]}
    return identity | ({"image_column": image_column} if kind == "tables" else {})
