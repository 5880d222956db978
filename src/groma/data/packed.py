"""Packed data sets: WebDataset shards, for sets too large for loose files, on a local disk or behind any fsspec URL.

A shard is a tar file of members `000000017.jpg` (the picture, as it was) and `000000017.json` (its annotation, see
`Annotation.to_dict`), which the webdataset package reads as well. `shards.json` beside them lists the shards with their
numbers of samples, sizes and checksums.

Samples are found by number, so that a resumed run goes on exactly and processes share a set without repeats or gaps. A
remote shard is fetched as a whole into a cache folder when one of its samples is needed first (groma.data.remote). So
that this pays, samples are shuffled in windows of a few shards (`WindowedOrder`), not over the whole set.
"""

import io
import json
import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from groma.data.annotated_set import AnnotatedSet
from groma.data.annotation import Annotation
from groma.data.record_index import cache_folder
from groma.data.remote import FetchedFiles, read_remote
from groma.data.shuffle import Permutation
from groma.errors import InputError
from groma.storage import atomic_file, parse_json, read_json, sha256, write_json

LIST_FILE = "shards.json"
LAYOUT = 1
WINDOW = 8
"""Shards that are shuffled together."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file of a packed set."""

    name: str
    """File name."""
    samples: int
    """How many it holds."""
    size_bytes: int
    """Its size."""
    sha256: str
    """Its checksum."""


class ShardWriter:
    """Writes samples into shards; the list of shards comes last, so that a set is complete or not there."""

    def __init__(self, folder: Path, *, shard_bytes: int) -> None:
        """Begin a set in a new or empty folder; a shard is closed once it has more than `shard_bytes`.

        Raises:
            InputError: the folder holds something already.
        """
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty: give a new folder.")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.shard_bytes = folder, shard_bytes
        self.shards: list[Shard] = []
        self._members: list[tuple[str, bytes]] = []
        self._bytes = self._number = 0

    def add(self, annotation: Annotation, picture: bytes) -> None:
        """One more sample; the picture's bytes are kept as they are."""
        suffix = PurePosixPath(annotation.picture).suffix.lower() or ".jpg"
        key = f"{self._number:09d}"
        text = json.dumps(annotation.to_dict(), ensure_ascii=False).encode()
        self._members += [(f"{key}{suffix}", picture), (f"{key}.json", text)]
        self._bytes += len(picture) + len(text)
        self._number += 1
        if self._bytes >= self.shard_bytes:
            self._close_shard()

    def close(self, **told: Any) -> None:
        """Write the last shard and the list; `told` goes into the list."""
        if self._members:
            self._close_shard()
        rows = [{name: getattr(shard, name) for name in Shard.__slots__} for shard in self.shards]
        write_json(self.folder / LIST_FILE, {"layout": LAYOUT, "samples": self._number, **told, "shards": rows})

    def _close_shard(self) -> None:
        path = self.folder / f"shard-{len(self.shards):06d}.tar"
        with atomic_file(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in self._members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        shard = Shard(path.name, len(self._members) // 2, path.stat().st_size, sha256(path))
        self.shards.append(shard)
        self._members, self._bytes = [], 0


def pack(data: AnnotatedSet, folder: Path, *, shard_bytes: int) -> dict[str, int]:
    """Write a whole set as shards, in its own order; what cannot be read is left out and counted.

    Pictures are copied byte for byte and not decoded: `groma data check` does that.

    Returns:
        Numbers of "samples", "shards" and samples "left_out".

    Raises:
        InputError: the folder holds something already.
    """
    writer = ShardWriter(folder, shard_bytes=shard_bytes)
    left_out = 0
    for number in range(len(data)):
        try:
            annotation = data.annotation(number)
            picture = data.picture_bytes(number, annotation)
        except (InputError, OSError):
            left_out += 1
        else:
            writer.add(annotation, picture)
    writer.close(classes=list(data.classes), left_out=left_out)
    return {"samples": len(data) - left_out, "shards": len(writer.shards), "left_out": left_out}


class PackedSet(AnnotatedSet):
    """A packed set, sample by number."""

    def __init__(self, location: str, *, cache: Path | None = None) -> None:
        """Open a set.

        Args:
            location: its folder: a path or an fsspec URL ("s3://bucket/set").
            cache: where shards of a remote set are kept; None: in the user's cache folder.

        Raises:
            InputError: there is no list of shards, or it is of another layout.
            UnreachableError: the list cannot be fetched.
            MissingExtraError: a URL is given, and fsspec is not installed.
        """
        self.location = location.rstrip("/")
        self._fetched = FetchedFiles(cache or cache_folder() / "shards") if "://" in location else None
        listed = self._list()
        if not isinstance(listed, dict) or listed.get("layout") != LAYOUT:
            raise InputError(f"{location}/{LIST_FILE} is no list of shards of layout {LAYOUT}.")
        self.shards = tuple(Shard(**row) for row in listed["shards"])
        self._classes = tuple(listed.get("classes", ()))
        self._ends = list(accumulate(shard.samples for shard in self.shards))
        self._open: dict[str, tuple[int, list[_Place]]] = {}
        self._process = os.getpid()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def classes(self) -> tuple[str, ...]:
        """See the base class."""
        return self._classes

    def annotation(self, number: int) -> Annotation:
        """See the base class."""
        try:
            return Annotation.from_dict(json.loads(self._read(number, "annotation")))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.location}, sample {number}: its annotation cannot be read: {error}.") from error

    def picture_bytes(self, number: int, annotation: Annotation) -> bytes:
        """See the base class."""
        return self._read(number, "picture")

    def order(self, *seed: int) -> "WindowedOrder":
        """Shuffled so that samples that follow each other lie in few shards."""
        return WindowedOrder([shard.samples for shard in self.shards], *seed)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}, "_process": -1}

    def _read(self, number: int, what: str) -> bytes:
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        shard = self.shards[bisect_right(self._ends, number)]
        descriptor, places = self._opened(shard)
        place = places[number - (self._ends[self.shards.index(shard)] - shard.samples)]
        offset, size = getattr(place, what)
        return os.pread(descriptor, size, offset)

    def _opened(self, shard: Shard) -> tuple[int, list["_Place"]]:
        """A descriptor and the places of the samples; at most two windows of shards stay open."""
        if self._process != os.getpid():  # what the parent process had open is the parent's
            self._open, self._process = {}, os.getpid()
        if shard.name not in self._open:
            while len(self._open) >= 2 * WINDOW:
                os.close(self._open.pop(next(iter(self._open)))[0])
            path = self._path(shard)
            places = list(_places(path, shard))
            self._open[shard.name] = (os.open(path, os.O_RDONLY), places)
        return self._open[shard.name]

    def _list(self) -> Any:
        where = f"{self.location}/{LIST_FILE}"
        return read_json(Path(where)) if self._fetched is None else parse_json(read_remote(where), what=where)

    def _path(self, shard: Shard) -> Path:
        where = f"{self.location}/{shard.name}"
        if self._fetched is None:
            return Path(where)
        return self._fetched.path(where, size_bytes=shard.size_bytes, checksum=shard.sha256)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a sample lies in its shard: (offset, size) in bytes."""

    picture: tuple[int, int]
    annotation: tuple[int, int]


def _places(path: Path, shard: Shard) -> Iterator[_Place]:
    try:
        with tarfile.open(path) as tar:
            members = [(PurePosixPath(member.name).suffix, member) for member in tar]
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"shard {path} cannot be read: {error}.") from error
    if len(members) != 2 * shard.samples:
        raise InputError(f"shard {path} has {len(members)} members, expected {2 * shard.samples}.")
    for (_, picture), (suffix, annotation) in zip(members[::2], members[1::2], strict=True):
        if suffix != ".json":
            raise InputError(f"shard {path}: {annotation.name} is no annotation.")
        yield _Place((picture.offset_data, picture.size), (annotation.offset_data, annotation.size))


class WindowedOrder:
    """Sample numbers, shuffled in windows: shards in random order, samples at random within WINDOW of them."""

    def __init__(self, sizes: Sequence[int], *seed: int) -> None:
        """`sizes`: samples of each shard; equal seeds, equal orders."""
        starts = [0, *accumulate(sizes)]
        shards = Permutation(len(sizes), *seed)
        order = [shards[place] for place in range(len(sizes))]
        self._windows = [order[first : first + WINDOW] for first in range(0, len(order), WINDOW)]
        self._starts, self._sizes, self._seed = starts, list(sizes), seed
        self._ends = list(accumulate(sum(sizes[shard] for shard in window) for window in self._windows))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        number = bisect_right(self._ends, position)
        window = self._windows[number]
        first = self._ends[number - 1] if number else 0
        place = Permutation(self._ends[number] - first, *self._seed, number)[position - first]
        for shard in window:
            if place < self._sizes[shard]:
                return self._starts[shard] + place
            place -= self._sizes[shard]
        raise AssertionError("a position lies in one of its window's shards")
