"""A data set as it is trained on: annotations and pictures together, sample by number, faults named.

`LooseSet` is an annotation file and a folder of pictures; `groma.data.packed.PackedSet` is made of shards.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from groma.data.annotation import Annotation
from groma.data.cleaning import BadSampleError, Fault, clean
from groma.data.misnamed import hint, renamed
from groma.data.shuffle import Order, Permutation
from groma.data.sources import Source
from groma.errors import InputError
from groma.image import load_image


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture and what is said about it, without faults."""

    picture: Image.Image
    """RGB, as it is seen."""
    annotation: Annotation
    """Cleaned against the picture."""
    faults: tuple[Fault, ...]
    """What was mended."""


class AnnotatedSet(ABC):
    """Samples by number. Can be handed to other processes."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def annotation(self, number: int) -> Annotation:
        """What the set says about one picture.

        Raises:
            InputError: the record cannot be read.
        """

    @abstractmethod
    def picture_bytes(self, number: int, annotation: Annotation) -> bytes:
        """The picture's file.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it cannot be read.
        """

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes that boxes can show, where the set has a list of them."""
        return ()

    def order(self, *seed: int) -> Order:
        """Its samples, shuffled; equal seeds, equal orders."""
        return Permutation(len(self), *seed)

    def sample(self, number: int) -> Sample:
        """One sample, decoded and cleaned.

        Raises:
            BadSampleError: it cannot be used; says why.
        """
        try:
            annotation = self.annotation(number)
        except InputError as error:
            raise BadSampleError(Fault("unreadable_record", str(error))) from error
        picture = self._picture(number, annotation)
        cleaned = clean(annotation, picture.size)
        return Sample(picture, cleaned.annotation, cleaned.faults)

    def _picture(self, number: int, annotation: Annotation) -> Image.Image:
        try:
            content = self.picture_bytes(number, annotation)
        except FileNotFoundError as error:
            raise BadSampleError(Fault("missing_picture", error.strerror or str(error))) from error
        except OSError as error:
            raise BadSampleError(Fault("corrupt_picture", f"{error.filename}: {error.strerror}")) from error
        try:
            return load_image(content)
        except InputError as error:
            raise BadSampleError(Fault("corrupt_picture", f"{annotation.picture}: {error}")) from error


class LooseSet(AnnotatedSet):
    """An annotation file and a folder of pictures."""

    def __init__(self, source: Source, pictures: Path, renamed: Mapping[str, str] | None = None) -> None:
        """Bring both together.

        Args:
            source: the annotations.
            pictures: the folder that their paths start from.
            renamed: what is called otherwise on disk (groma.data.misnamed).
        """
        self.source, self.pictures, self.renamed = source, pictures, dict(renamed or {})

    def __len__(self) -> int:
        return len(self.source)

    @property
    def classes(self) -> tuple[str, ...]:
        """See the base class."""
        return tuple(self.source.index.shared.get("categories", {}).values())

    def annotation(self, number: int) -> Annotation:
        """See the base class."""
        return self.source[number]

    def picture_bytes(self, number: int, annotation: Annotation) -> bytes:
        """See the base class."""
        name = renamed(annotation.picture, self.renamed)
        try:
            return (self.pictures / name).read_bytes()
        except FileNotFoundError as error:
            told = f"{self.pictures / name} is not there{hint(self.pictures, name)}"
            raise FileNotFoundError(error.errno, told, str(self.pictures / name)) from error
