"""Annotation files of gigabytes, read once and then found on disk: records by number.

The published files are single JSON documents whose parts belong together by id. They are streamed once into an SQLite
file of records in a cache folder; after that a record is one read by its number, from any process, and what processes
share is the system's page cache, not a copy in each.

    images, annotations --stream--> rows --group by picture--> records 0 .. n-1, and what all records share

A record is the JSON of one sample in the published terms; `groma.data.sources` knows what it means.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from groma.errors import InputError
from groma.storage import atomic_file

LAYOUT = 1
"""Grows when what an index file holds changes, so that old ones are made anew."""
CACHE_VARIABLE = "GROMA_CACHE"
"""Environment variable with the folder for index files."""


def cache_folder() -> Path:
    """Where index files go: $GROMA_CACHE, else `groma` in the user's cache folder."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groma"


class RecordIndex(Sequence[Any]):
    """Records of one annotation file, by number. It can be handed to other processes: each opens the file itself."""

    def __init__(self, file: Path) -> None:
        """Open an index that `index_records` made.

        `num_orphans`: members that belong to no record, which are not among the records.
        """
        self.file = file
        self._connection: sqlite3.Connection | None = None
        self._process = -1
        (self._length,) = self._query("SELECT COUNT(*) FROM record")
        shared, self.num_orphans = self._query("SELECT body, orphans FROM shared")
        self.shared: Any = json.loads(shared)
        """What all records have in common, such as the names of classes."""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self._length:
            raise IndexError(f"record {number} of {self._length}")
        (body,) = self._query("SELECT body FROM record WHERE number = ?", (number,))
        return json.loads(body)

    def _query(self, text: str, values: tuple[Any, ...] = ()) -> Any:
        if self._connection is None or self._process != os.getpid():  # a connection must not cross a fork
            self._connection = sqlite3.connect(f"{self.file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
            self._process = os.getpid()
        return self._connection.execute(text, values).fetchone()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connection": None}


def index_records(
    file: Path, records: "Iterable[Any] | Grouped", *, kind: str, shared: Mapping[str, Any] | None = None
) -> RecordIndex:
    """The index of an annotation file: the one in the cache, or a new one.

    Args:
        file: the annotation file, or a folder of such files; a change of its time or size makes a new index, as does a
            file that comes into the folder or goes.
        records: what to write if there is no index yet; not touched otherwise.
        kind: name of the format, part of the index's name.
        shared: what all records have in common.

    Raises:
        InputError: the file does not exist, or reading the records fails.
        OSError: the cache folder cannot be written.
    """
    try:
        known = f"{LAYOUT} {kind} {file.absolute()} {_state(file)}"
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}.") from error
    target = cache_folder() / f"{file.stem}-{hashlib.sha256(known.encode()).hexdigest()[:16]}.sqlite"
    if not target.exists():
        with atomic_file(target) as temporary:
            _write(temporary, records, shared or {})
    return RecordIndex(target)


def _state(file: Path) -> str:
    """Changes when a file does, or when a file comes into a folder or goes."""
    if file.is_dir():
        times = [(folder, os.stat(folder).st_mtime_ns) for folder, _, _ in os.walk(file)]
        return hashlib.sha256(repr(sorted(times)).encode()).hexdigest()
    state = file.stat()
    return f"{state.st_size} {state.st_mtime_ns}"


class Grouped:
    """Records of a file whose members are joined by a key: {"head": ..., "members": [...]}, in the order of heads."""

    def __init__(self, heads: Iterable[tuple[Any, Any]], members: Iterable[tuple[Any, Any]]) -> None:
        """`heads` and `members` are pairs of a key and a JSON value; members whose key no head has are counted."""
        self.heads, self.members = heads, members


def _write(file: Path, records: Iterable[Any] | Grouped, shared: Mapping[str, Any]) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        # nobody else sees the file before it is complete, so that it needs neither a journal nor syncs
        connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
        connection.execute("CREATE TABLE record (number INTEGER PRIMARY KEY, body TEXT NOT NULL)")
        connection.execute("CREATE TABLE shared (body TEXT NOT NULL, orphans INTEGER NOT NULL)")
        orphans = 0
        if isinstance(records, Grouped):
            orphans = _write_grouped(connection, records, file.with_suffix(".members"))
        else:
            _insert(connection, map(_text, records))
        connection.execute("INSERT INTO shared VALUES (?, ?)", (_text(shared), orphans))


def _write_grouped(connection: sqlite3.Connection, records: Grouped, scratch: Path) -> int:
    """Heads with their members, which wait on disk, not in memory; returns how many have no head."""
    try:
        connection.execute("ATTACH ? AS scratch", (str(scratch),))
        connection.executescript("PRAGMA scratch.journal_mode=OFF; PRAGMA scratch.synchronous=OFF; BEGIN;")
        connection.execute("CREATE TABLE scratch.member (number INTEGER PRIMARY KEY, head TEXT, body TEXT)")
        rows = ((str(key), _text(value)) for key, value in records.members)
        connection.executemany("INSERT INTO member (head, body) VALUES (?, ?)", rows)
        connection.execute("CREATE INDEX scratch.member_by_head ON member (head, number)")
        connection.execute("COMMIT")
        heads = _Heads(connection)
        _insert(connection, map(heads.join, records.heads))
        (members,) = connection.execute("SELECT COUNT(*) FROM member").fetchone()
        connection.execute("DETACH scratch")
    finally:
        scratch.unlink(missing_ok=True)
    return members - heads.joined


class _Heads:
    """Joins heads with their members and counts those."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection, self._seen, self.joined = connection, set[str](), 0

    def join(self, head: tuple[Any, Any]) -> str:
        """The JSON text of one record."""
        key, value = str(head[0]), head[1]
        if key in self._seen:
            raise InputError(f"two pictures have the id {key}: their annotations cannot be told apart.")
        self._seen.add(key)
        rows = self._connection.execute("SELECT body FROM member WHERE head = ? ORDER BY number", (key,))
        members = [body for (body,) in rows]
        self.joined += len(members)
        return f'{{"head":{_text(value)},"members":[{",".join(members)}]}}'


def _insert(connection: sqlite3.Connection, bodies: Iterable[str]) -> None:
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO record VALUES (?, ?)", enumerate(bodies))
    connection.execute("COMMIT")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
