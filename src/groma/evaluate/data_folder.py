"""Where a benchmark's files lie: annotation files by the names they are published under, pictures beside them.

Everything is looked for and checked before anything is asked: a picture that is missing costs a second, not a night.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from groma.data.misnamed import hint, renamed
from groma.errors import InputError
from groma.image import load_image
from groma.storage import sha256

PICTURE_FOLDERS = (
    "",
    "pictures",
    "images",
    "train2014",
    "val2014",
    "train2017",
    "val2017",
    "VG_100K",
    "flickr30k-images",
)
"""Folders below the data's that pictures are looked for in, in this order."""

REMEMBERED = 256
"""Pictures that stay decoded: those of a batch and of the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A language model behind an OpenAI-compatible endpoint."""

    model: str = ""
    """Its name; empty: what OPENAI_MODEL says."""
    url: str = ""
    """Where; empty: what OPENAI_BASE_URL says. The key comes from OPENAI_API_KEY."""
    concurrency: int = 4
    """Requests under way at the same time, at most."""
    max_tokens: int | None = None
    """Tokens that may be spent, those of questions and answers together. None: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the user said about a benchmark's data."""

    data: Path | None = None
    """Folder with annotation files and pictures."""
    annotations: Path | None = None
    """One annotation file of the format, instead of those that are looked for."""
    pictures: Path | None = None
    """Folder that the annotations' paths start from, instead of those that are tried."""
    splits: tuple[str, ...] = ()
    """Which splits; empty: all that are there."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Text in pictures' names -> what stands in its place on disk."""
    n: int | None = None
    """Only so many cases of each split, evenly spaced; None: all."""
    seed: int = 0
    """Draws questions where a benchmark draws some."""
    judge: Judge = Judge()
    """Who judges answers, where a benchmark needs somebody to."""


def find_annotations(
    place: Place, names: Mapping[str, Sequence[str]], *, benchmark: str, is_shared: bool = False
) -> dict[str, Path]:
    """The annotation file of each split.

    Args:
        place: where to look.
        names: split -> names that its file may have, in `data` or in `data`/annotations.
        benchmark: for errors.
        is_shared: one file holds all splits.

    Raises:
        InputError: a split that was asked for does not exist or is not there, or none is there; names what was
            looked for.
    """
    unknown = [split for split in place.splits if split not in names]
    if unknown:
        raise InputError(f"{benchmark} has no split {', '.join(map(repr, unknown))}; it has {', '.join(names)}.")
    if place.annotations is not None:
        if not place.annotations.is_file():
            raise InputError(f"there is no annotation file {place.annotations}.")
        if is_shared:
            return dict.fromkeys(place.splits or names, place.annotations)
        if len(place.splits) > 1:
            raise InputError(f"one annotation file is one split, got {', '.join(place.splits)}.")
        return {place.splits[0] if place.splits else place.annotations.stem: place.annotations}
    if place.data is None:
        raise InputError(f"benchmark {benchmark} needs its data: give --data FOLDER, or --annotations and --pictures.")
    if not place.data.is_dir():
        raise InputError(f"there is no folder {place.data}.")
    asked = {split: names[split] for split in (place.splits or names)}
    found = {split: file for split, own in asked.items() if (file := _first(place.data, own)) is not None}
    missing = [split for split in asked if split not in found]
    if missing and (place.splits or not found):
        told = "; ".join(f"{split}: {' or '.join(asked[split][:2])}" for split in missing)
        raise InputError(f"{place.data} lacks annotation files of {benchmark}: {told}. Or give --annotations FILE.")
    return found


def _first(folder: Path, names: Iterable[str]) -> Path | None:
    candidates = (folder / below / name for name in names for below in ("", "annotations"))
    return next((file for file in candidates if file.is_file()), None)


class PictureFolder:
    """Pictures by the names that the annotations give them."""

    def __init__(self, place: Place, names: Iterable[str]) -> None:
        """Find the folder and check that every picture is there.

        Args:
            place: where to look.
            names: of all pictures that are needed, as annotated.

        Raises:
            InputError: there is no such folder, or pictures are missing; says how many and gives the first.
        """
        self.changes = dict(place.renamed)
        wanted = list(dict.fromkeys(names))
        self.folder = self._find(place, wanted)
        missing = [name for name in wanted if not self.path(name).is_file()]
        if missing:
            first = renamed(missing[0], self.changes)
            raise InputError(
                f"{len(missing):,} of {len(wanted):,} pictures are missing, the first is {self.folder / first}"
                f"{hint(self.folder, first)}: give --pictures FOLDER."
            )
        self.open = lru_cache(maxsize=REMEMBERED)(self._open)

    def path(self, name: str) -> Path:
        """Where a picture lies."""
        return self.folder / renamed(name, self.changes)

    def _find(self, place: Place, names: Sequence[str]) -> Path:
        if place.pictures is not None:
            if not place.pictures.is_dir():
                raise InputError(f"there is no folder of pictures {place.pictures}.")
            return place.pictures
        roots = [place.data] if place.data else []
        roots += [place.annotations.parent] if place.annotations else []
        tried = [root / below for root in roots for below in PICTURE_FOLDERS]
        probe = renamed(names[0], self.changes) if names else ""
        for folder in tried:
            if (folder / probe).exists():
                return folder
        told = ", ".join(str(folder) for folder in tried if folder.is_dir())
        raise InputError(f"the picture {probe} is in none of {told}: give --pictures FOLDER.")

    def _open(self, name: str) -> Image.Image:
        """A picture, RGB as it is seen; the same object while it is remembered.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return load_image(self.path(name))
        except InputError as error:
            raise InputError(f"{self.path(name)}: {error}") from error


def identity_of_files(files: Iterable[Path]) -> dict[str, Any]:
    """Name and checksum of each annotation file: what makes a run another one."""
    return {file.name: sha256(file) for file in files}


def spaced(count: int, n: int | None) -> list[int]:
    """Up to `n` of the numbers below `count`, evenly spaced; all of them for None."""
    if n is None or n >= count:
        return list(range(count))
    return [place * count // n for place in range(n)]
