"""One picture among many: the key it is known by, where its bytes lie, the boxes that came with it.

An `Item` is small and goes from process to process; whoever labels the picture reads it with a `Reader`.
"""

import json
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from groma.errors import InputError, MissingExtraError

OPEN_SHARDS = 16
"""Shards and tables that a reader keeps open."""

BOXES = "boxes"
"""Name of the boxes beside a picture: left, top, right, bottom in its pixels."""
FRAMED_BOXES, FRAME = "boxes_xyxy_frame", "frame"
"""The same in shards that `groma data pack` wrote, and the width and height that those are measured in."""


@dataclass(frozen=True, slots=True)
class InFile:
    """A picture in a file of its own."""

    path: str
    """The file."""


@dataclass(frozen=True, slots=True)
class InShard:
    """A picture in a tar file."""

    shard: str
    """The tar file."""
    picture: tuple[int, int]
    """Where it lies: offset and size in bytes."""
    told: tuple[int, int] | None
    """The same of the sample's JSON, if there is one."""


@dataclass(frozen=True, slots=True)
class InTable:
    """A picture in a row of a Parquet file."""

    table: str
    """The Parquet file."""
    row: int
    """Number of the row, from 0."""
    image_column: str
    """Column with the picture: bytes, a path, or a struct of both."""
    boxes_column: str | None
    """Column with the boxes, if there is one."""


@dataclass(frozen=True, slots=True)
class Nowhere:
    """No picture at all, though there should be one."""

    reason: str
    """Why, in one sentence."""


Place = InFile | InShard | InTable | Nowhere


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to be labelled."""

    key: str
    """What it is called in the labels; of all pictures of an input, each has its own."""
    place: Place
    """Where it is."""
    boxes: Any = None
    """Boxes that a list tells, as they are written there and not checked yet; None: none are told."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader found for an item."""

    source: Path | bytes
    """The picture's file, or its bytes."""
    boxes: Any = None
    """n boxes, not checked yet; None: none are told, which is not the same as an empty list."""
    frame: tuple[float, float] | None = None
    """Width and height that the boxes are measured in; None: the picture's pixels."""


class Reader:
    """Reads pictures of any kind of input; threads may share one."""

    def __init__(self, *, with_boxes: bool) -> None:
        """`with_boxes`: whether boxes are wanted; what is wrong with them is not looked at otherwise."""
        self._with_boxes = with_boxes
        self._lock = threading.Lock()
        self._shards: OrderedDict[str, int] = OrderedDict()
        self._tables: OrderedDict[str, _Table] = OrderedDict()

    def read(self, item: Item) -> Found:
        """Find a picture and its boxes; a file of its own is not opened yet.

        Raises:
            InputError: It cannot be found, or its boxes cannot be read.
            MissingExtraError: Parquet needs pyarrow.
        """
        match item.place:
            case InFile(path):
                return Found(Path(path), item.boxes)
            case InShard() as place:
                return self._from_shard(place)
            case InTable() as place:
                return self._from_table(place)
            case Nowhere(reason):
                raise InputError(reason)

    def close(self) -> None:
        """Close all shards."""
        with self._lock:
            for descriptor in self._shards.values():
                os.close(descriptor)
            self._shards.clear()
            self._tables.clear()

    def _from_shard(self, place: InShard) -> Found:
        with self._lock:  # so that no other thread closes it meanwhile
            descriptor = self._opened(place.shard)
            picture = _part(descriptor, place.picture, place.shard)
            text = _part(descriptor, place.told, place.shard) if place.told and self._with_boxes else None
        if text is None:
            return Found(picture)
        try:
            told = json.loads(text)
        except ValueError as error:
            raise InputError(f"the sample's .json cannot be read: {error}") from None
        return Found(picture, *_told_boxes(told))

    def _opened(self, shard: str) -> int:
        if shard not in self._shards:
            while len(self._shards) >= OPEN_SHARDS:
                os.close(self._shards.popitem(last=False)[1])
            try:
                self._shards[shard] = os.open(shard, os.O_RDONLY)
            except OSError as error:
                raise InputError(f"shard {shard!r} cannot be opened: {error.strerror or error}") from None
        self._shards.move_to_end(shard)
        return self._shards[shard]

    def _from_table(self, place: InTable) -> Found:
        with self._lock:
            if place.table not in self._tables:
                while len(self._tables) >= OPEN_SHARDS:
                    self._tables.popitem(last=False)
                self._tables[place.table] = _Table(place.table)
            table = self._tables[place.table]
            self._tables.move_to_end(place.table)
            columns = [place.image_column]
            if self._with_boxes and place.boxes_column is not None:
                columns.append(place.boxes_column)
            picture, *boxes = table.values(place.row, columns)
        return Found(_table_source(picture, place), *boxes)


class _Table:
    """A Parquet file of which the rows read last are kept, as a row cannot be read alone."""

    def __init__(self, path: str) -> None:
        parquet = import_parquet()
        try:
            self._file = parquet.ParquetFile(path)
            metadata = self._file.metadata
            sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        except (OSError, ValueError) as error:
            raise InputError(f"table {path!r} cannot be read: {error}") from None
        self._path = path
        self._ends = list(accumulate(sizes))
        self._group: Any = None
        self._number, self._columns = -1, list[str]()

    def values(self, row: int, columns: Sequence[str]) -> list[Any]:
        """The values of some columns in a row."""
        number = bisect_right(self._ends, row)
        if number >= len(self._ends):
            raise InputError(f"table {self._path!r} has no row {row}: was it written anew meanwhile?")
        if (number, columns) != (self._number, self._columns):
            try:
                self._group = self._file.read_row_group(number, columns=list(columns))
            except (OSError, ValueError, KeyError) as error:
                raise InputError(f"table {self._path!r} cannot be read: {error}") from None
            self._number, self._columns = number, list(columns)
        place = row - (self._ends[number - 1] if number else 0)
        return [self._group.column(column)[place].as_py() for column in columns]


def import_parquet() -> Any:
    """The module pyarrow.parquet.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise MissingExtraError("Parquet files need pyarrow: pip install 'groma[label]'") from None
    return parquet


def _part(descriptor: int, place: tuple[int, int], shard: str) -> bytes:
    offset, size = place
    try:
        content = os.pread(descriptor, size, offset)
    except OSError as error:
        raise InputError(f"shard {shard!r} cannot be read: {error.strerror or error}") from None
    if len(content) < size:
        raise InputError(f"shard {shard!r} is cut off: {len(content)} of {size} bytes are there")
    return content


def _told_boxes(told: Any) -> tuple[Any, tuple[float, float] | None]:
    """Boxes in a sample's JSON and their frame, of whoever wrote it."""
    if not isinstance(told, Mapping):
        return None, None
    if FRAMED_BOXES not in told:
        return told.get(BOXES), None
    frame = told.get(FRAME)
    try:
        return told[FRAMED_BOXES], None if frame is None else (float(frame[0]), float(frame[1]))
    except (TypeError, ValueError, LookupError):
        raise InputError(f"the sample's .json has the frame {frame!r}, expected width and height") from None


def _table_source(value: Any, place: InTable) -> Path | bytes:
    """A picture as a column has it: bytes, a path, or both as Hugging Face writes them."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        return Path(place.table).parent / value
    raise InputError(f"row {place.row} has no picture in its column {place.image_column!r}")
