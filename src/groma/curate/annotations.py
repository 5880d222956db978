"""Reading the annotations that conversations are made of."""

from collections.abc import Iterator
from pathlib import Path

from groma.data.annotation import Annotation
from groma.data.cleaning import Fault
from groma.data.sources import Source
from groma.errors import InputError


class AnnotationFile:
    """The annotations of a file, one a picture; a record that cannot be read comes as its fault."""

    def __init__(self, source: Source) -> None:
        """`source` gives annotations by number."""
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Annotation | Fault]:
        for number in range(len(self._source)):
            try:
                annotation = self._source[number]
            except InputError as error:
                yield Fault("unreadable_record", str(error))
            else:
                yield annotation


def read_annotations(path: Path, format_name: str) -> AnnotationFile:
    """Open an annotation file.

    Args:
        path: The file.
        format_name: One of `groma.data.sources.FORMATS`.

    Raises:
        InputError: The file cannot be read or is of another format.
        MissingExtraError: Reading needs a package that is not installed.
    """
    return AnnotationFile(Source(path, format_name))
