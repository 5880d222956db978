"""A file that only grows, a JSON value a line: what is in it has happened, whatever happens next.

A line is on the disk before `append` returns. A process that is killed while it writes leaves half a line at the end,
which the next one takes away. One process at a time may hold a journal: the system releases its lock when it dies.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from groma.errors import InputError
from groma.storage import json_text


class Journal:
    """Lines by their place in the file; used as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open a journal, or begin one; missing folders are made.

        Args:
            path: The file.

        Raises:
            InputError: The file cannot be written, another process holds it, or a line before the last is damaged.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise InputError(f"{path}: cannot be written to: {error.strerror}.") from error
        try:
            self._lock()
            self._end = self._take_half_line_away()
            _sync_folder(path.parent)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def append(self, value: Any) -> int:
        """Add a line; it is on the disk when this returns.

        Returns:
            Its place, for `read`.

        Raises:
            InputError: The value is not JSON, or the line cannot be written; then the file is as it was.
        """
        line = (json_text(value, what=str(self.path)) + "\n").encode()
        place = self._end
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(place)
            raise InputError(f"{self.path}: cannot be written to: {error.strerror}; nothing is lost.") from error
        self._end = place + len(line)
        return place

    def read(self, place: int) -> Any:
        """The value of the line at a place that `append` or `entries` gave."""
        with self.path.open("rb") as file:
            file.seek(place)
            return json.loads(file.readline())

    def entries(self) -> Iterator[tuple[int, Any]]:
        """Every line with its place, in the order they were written.

        Raises:
            InputError: A line is damaged; says which.
        """
        place = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if place >= self._end:
                    return
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise InputError(
                        f"{self.path}, line {number} is damaged ({error}): remove that line, and what it said "
                        "happens again"
                    ) from error
                yield place, value
                place += len(line)

    def _take_half_line_away(self) -> int:
        """Cut off what follows the last whole line; returns the file's length."""
        size = os.fstat(self._file.fileno()).st_size
        tail = b""
        while len(tail) < size and b"\n" not in tail:
            step = min(1 << 16, size - len(tail))
            self._file.seek(size - len(tail) - step)
            tail = self._file.read(step) + tail
        whole = size - len(tail) + tail.rfind(b"\n") + 1
        if whole < size:
            self._file.truncate(whole)
            os.fsync(self._file.fileno())
        return whole

    def _lock(self) -> None:
        try:
            if sys.platform == "win32":
                import msvcrt

                self._file.seek(1 << 40)  # a locked byte cannot be read: one that the file will never have
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{self.path}: another run is at work here: wait for it, or give another folder."
            ) from error


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a journal that another process may be writing; what has no end yet is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _sync_folder(folder: Path) -> None:
    """Push the folder's entry of a new file to the disk."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
