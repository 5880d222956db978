"""What lies in shards: samples of WebDataset's tar files, rows of Parquet files. Only what says where is read."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma.errors import InputError
from groma.label.items import BOXES, InShard, InTable, Item, Nowhere, import_parquet

PICTURE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
        ".jp2",
        ".j2k",
        ".ico",
        ".heic",
        ".heif",
    ]
)
"""Endings of pictures in lower case. HEIC is not read, but a picture of it is one that failed, and not overlooked."""

IMAGE_COLUMNS = (
    "image", "picture", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "path", "image_path", "file_name",
)  # fmt: skip
"""Names that a column of pictures goes by; the first that is there."""


def shard_items(path: Path, name: str) -> Iterator[Item]:
    """Samples of a tar file as WebDataset writes them: members that are alike up to the first dot of their name.

    A sample without a picture, and what follows where a shard is cut off, is an item that is nowhere.

    Args:
        path: The tar file.
        name: What it is called in keys: `name/sample`.
    """
    sample = _Sample(name, str(path))
    known: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # else it keeps all of them  # pyright: ignore[reportAttributeAccessIssue]
                folder, file = os.path.split(member.name)
                stem, dot, ending = file.partition(".")
                if not (member.isreg() or member.islnk() or member.issym()) or not stem:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if key != sample.key:
                    yield from sample.finish()
                    sample = _Sample(name, str(path), key)
                place = (member.offset_data, member.size) if member.isreg() else known.get(_linked(member))
                if place is None:
                    sample.links.append(f"{dot}{ending.lower()}")
                else:
                    known[member.name] = place
                    sample.add(f"{dot}{ending.lower()}", place)
    except (OSError, tarfile.TarError) as error:
        yield from sample.finish()
        last = f" after {sample.key!r}" if sample.key else ""
        yield Item(name, Nowhere(f"shard {str(path)!r} cannot be read{last}: {error}"))
        return
    yield from sample.finish()


def _linked(member: tarfile.TarInfo) -> str:
    """The member that a link stands for: a hard one names it from the root, a soft one from where it lies."""
    if member.islnk():
        return member.linkname
    return os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname))


class _Sample:
    """Members of one sample, while they come."""

    def __init__(self, name: str, shard: str, key: str = "") -> None:
        self.name, self.shard, self.key = name, shard, key
        self.pictures: dict[str, tuple[int, int]] = {}
        self.told: tuple[int, int] | None = None
        self.links: list[str] = []  # to what does not lie before them

    def add(self, ending: str, place: tuple[int, int]) -> None:
        if ending in PICTURE_SUFFIXES:
            self.pictures[ending] = place
        elif ending == ".json":
            self.told = place

    def finish(self) -> Iterator[Item]:
        if not self.key:
            return
        key = f"{self.name}/{self.key}"
        if len(self.pictures) == 1:
            (picture,) = self.pictures.values()
            yield Item(key, InShard(self.shard, picture, self.told))
        else:
            there = f"{len(self.pictures)} pictures ({', '.join(self.pictures)})" if self.pictures else "no picture"
            there += " but links to what is not there before them" if set(self.links) & PICTURE_SUFFIXES else ""
            yield Item(key, Nowhere(f"sample {self.key!r} of shard {self.shard!r} has {there}, expected one"))


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a table has its pictures."""

    image: str
    """Column of pictures."""
    boxes: str | None
    """Column of boxes, if there is one."""


def table_items(path: Path, name: str, *, image_column: str | None) -> Iterator[Item]:
    """Rows of a Parquet file, in order.

    Args:
        path: The file.
        name: What it is called in keys: `name#row`.
        image_column: The column of pictures; None: the first of IMAGE_COLUMNS that is there.

    Raises:
        InputError: It has no such column.
        MissingExtraError: pyarrow is not installed.
    """
    parquet = import_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, ValueError) as error:
        yield Item(name, Nowhere(f"table {str(path)!r} cannot be read: {error}"))
        return
    columns = _columns(path, schema, image_column)
    table = str(path)
    for row in range(rows):
        yield Item(f"{name}#{row}", InTable(table, row, columns.image, columns.boxes))


def _columns(path: Path, schema: Any, image_column: str | None) -> Columns:
    """Which columns hold pictures and boxes."""
    boxes = BOXES if BOXES in schema.names else None
    candidates = [name for name in IMAGE_COLUMNS if name in schema.names and _holds_pictures(schema.field(name).type)]
    if image_column is None:
        if not candidates:
            raise InputError(
                f"{path} has no column of pictures among {', '.join(schema.names)}: give --image-column NAME"
            )
        return Columns(candidates[0], boxes)
    if image_column not in schema.names:
        raise InputError(f"{path} has no column {image_column!r}, it has {', '.join(schema.names)}: see --image-column")
    kind = schema.field(image_column).type
    if not _holds_pictures(kind):
        raise InputError(
            f"column {image_column!r} of {path} holds {kind}, expected bytes, a path or a struct of both: "
            "see --image-column"
        )
    return Columns(image_column, boxes)


def _holds_pictures(kind: Any) -> bool:
    import pyarrow  # pyright: ignore[reportMissingImports]  # an extra

    types = pyarrow.types
    if types.is_struct(kind):
        return bool({kind.field(place).name for place in range(kind.num_fields)} & {"bytes", "path"})
    if types.is_dictionary(kind):
        return _holds_pictures(kind.value_type)
    is_text = types.is_string(kind) or types.is_large_string(kind)
    return is_text or types.is_binary(kind) or types.is_large_binary(kind)
