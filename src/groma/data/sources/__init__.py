"""Sources: bytes of the published annotation formats -> annotations. They know no tokens and no wording."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma.data.annotation import Annotation
from groma.data.record_index import RecordIndex
from groma.data.sources import coco, lists, own
from groma.errors import InputError

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """How annotation files of one kind are read."""

    open_index: Callable[[Path], RecordIndex]
    """Annotation file -> its records."""
    read: Callable[[Record, Mapping[str, Any]], Annotation]
    """(record, what all records share) -> what it says."""


FORMATS: dict[str, Format] = {
    "coco": Format(coco.open_index, coco.read_detection),
    "coco_expressions": Format(coco.open_index, coco.read_expression),
    "coco_region_captions": Format(coco.open_index, coco.read_region_captions),
    "coco_grounded_captions": Format(coco.open_index, coco.read_grounded_caption),
    "grit": Format(lists.open_index, lists.read_grit),
    "llava": Format(lists.open_index, lists.read_llava),
    "groma_instruct": Format(lists.open_index, lists.read_groma_instruct),
    "own": Format(own.open_index, own.read_own),
}
"""Name of a format -> how it is read."""


class Source:
    """The annotations of one file, by number."""

    def __init__(self, file: Path, format_name: str) -> None:
        """Index the file, or find its index.

        Raises:
            InputError: there is no such format, or the file is not of it.
            MissingExtraError: ijson is not installed.
        """
        if format_name not in FORMATS:
            raise InputError(f"There is no annotation format {format_name!r}; known are {', '.join(FORMATS)}.")
        self.file, self.format = file, FORMATS[format_name]
        self.index = self.format.open_index(file)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Annotation:
        """What record `number` says.

        Raises:
            InputError: the record is not as its format says; names file and record.
        """
        record = self.index[number]
        try:
            return self.format.read(record, self.index.shared)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # InputError is a ValueError
            told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{self.file}, record {number}: {told}.") from error
