"""Files behind a URL: fetched as a whole, checked, kept in a cache folder that may be bounded.

url, checksum -> in the cache? -> that file
                 else: one process of the machine fetches, the others wait -> checked -> the least used make room
"""

import io
import os
import shutil
import time
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from groma.errors import GromaError, InputError, MissingExtraError
from groma.storage import atomic_file, sha256

RETRIES = 4
"""How often something that fails is tried again before a run is ended."""
FIRST_WAIT_S = 1.0
"""Pause before the first retry; each further one is twice as long."""
LIMIT_VARIABLE = "GROMA_SHARD_CACHE_GB"
"""Environment variable with the most gigabytes that shards of all sets may take on this machine."""


class UnreachableError(GromaError):
    """What lies behind a URL could not be fetched, or arrived damaged each time.

    No fault of a sample: a run ends with it and goes on later, instead of going on without the samples.
    """


def read_remote(url: str) -> bytes:
    """A small file.

    Raises:
        InputError: there is no such file or protocol.
        UnreachableError: it cannot be fetched.
        MissingExtraError: fsspec is not installed.
    """
    content = io.BytesIO()
    _retried(url, lambda: _copy(url, content))
    return content.getvalue()


class FetchedFiles:
    """Files of any sets by their checksums, fetched once a machine."""

    def __init__(self, folder: Path) -> None:
        """Keep them in `folder`.

        Raises:
            InputError: the limit in the environment is no positive number.
        """
        self.folder, self.limit_bytes = folder, _limit_bytes()

    def path(self, url: str, *, size_bytes: int, checksum: str) -> Path:
        """Where the file lies on this machine, fetched first if it is not there.

        Args:
            url: where it lies.
            size_bytes: its size.
            checksum: its SHA-256.

        Raises:
            InputError: there is no such file or protocol.
            UnreachableError: it cannot be fetched, or arrives with another size or checksum.
            MissingExtraError: fsspec is not installed.
        """
        target = self.folder / f"{checksum}{Path(url).suffix}"
        if not _is_there(target, size_bytes):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{checksum}.lock"):
                if not _is_there(target, size_bytes):  # another process was faster
                    _retried(url, lambda: _fetch(url, target, size_bytes, checksum))
                    self._make_room(keep=target)
        os.utime(target)
        return target

    def _make_room(self, *, keep: Path) -> None:
        """Delete those not asked for the longest; whoever has one open can go on reading it."""
        if self.limit_bytes is None:
            return
        files = [(file, file.stat()) for file in self.folder.iterdir() if not file.name.startswith(".")]
        total = sum(status.st_size for _, status in files)
        for file, status in sorted(files, key=lambda pair: pair[1].st_mtime):
            if total > self.limit_bytes and file != keep:
                file.unlink(missing_ok=True)
                total -= status.st_size


def _limit_bytes() -> int | None:
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return None
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise InputError(f"{LIMIT_VARIABLE} is {text!r}, expected a number of gigabytes above 0.")
    return int(gigabytes * 1e9)


def _is_there(target: Path, size_bytes: int) -> bool:
    return target.is_file() and target.stat().st_size == size_bytes


def _fetch(url: str, target: Path, size_bytes: int, checksum: str) -> None:
    with atomic_file(target) as temporary:
        with temporary.open("wb") as copy:
            _copy(url, copy)
        if (arrived := temporary.stat().st_size) != size_bytes:
            raise OSError(f"{arrived} bytes arrived, expected {size_bytes}")
        if sha256(temporary) != checksum:
            raise OSError("it arrived with another checksum than is listed")


def _copy(url: str, to: IO[bytes]) -> None:
    import fsspec

    opened: Any = fsspec.open(url, "rb")
    with opened as source:
        to.seek(0)
        to.truncate()
        shutil.copyfileobj(source, to, 1 << 20)


def _retried(url: str, fetch: Any) -> None:
    """Call `fetch` until it succeeds; what no patience mends is told at once."""
    try:
        import fsspec  # noqa: F401
    except ImportError:
        raise MissingExtraError("Data behind a URL needs the package fsspec: pip install 'groma[train]'") from None
    for attempt in range(RETRIES + 1):
        try:
            return fetch()
        except (FileNotFoundError, ValueError, ImportError) as error:  # fsspec: no such protocol, or no package for it
            raise InputError(f"{url} cannot be fetched: {error}.") from error
        except Exception as error:  # each protocol's package has errors of its own
            if attempt == RETRIES:
                told = str(error) or type(error).__name__
                raise UnreachableError(f"{url} could not be fetched in {RETRIES + 1} attempts: {told}.") from error
            time.sleep(FIRST_WAIT_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")
