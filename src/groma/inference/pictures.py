"""One picture or many: what a picture can be given as, and values that go with each picture of a list."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

from PIL import Image

from groma.errors import InputError
from groma.image import ImageSource, load_image
from groma.inference.result import GroundedAnswer

if TYPE_CHECKING:
    from groma.model.groma import PictureTokens

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A picture that was encoded: ask about it as often as you like, with any boxes.

    What one model sees means nothing to another, even of the same shape, so a picture is bound to its assistant.
    """

    image: Image.Image
    """the picture as it is seen, RGB"""
    tokens: "PictureTokens"
    """what the model made of it, a batch of one"""
    seen_by: str
    """the assistant that saw it, see `Groma.identity`"""

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the original picture."""
        return self.image.size


Picture = ImageSource | Seen
"""One picture: path, bytes, PIL image, array (H, W, 3), or one already seen."""

Pictures = Sequence[Picture]
"""Several pictures: a list or a tuple, nothing else."""


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether several are given; text, bytes and arrays are sequences, but one thing here."""
    return isinstance(value, list | tuple)


def load_picture(picture: Picture) -> Image.Image:
    """Upright RGB of its own, whether seen already or not.

    Raises:
        InputError: it cannot be read.
    """
    return load_image(picture.image if isinstance(picture, Seen) else picture)


def check_own(seen: Seen, identity: str) -> Seen:
    """The picture, if this assistant saw it.

    Raises:
        InputError: another one did.
    """
    if seen.seen_by != identity:
        raise InputError("the picture was seen by another model: give this one the picture itself, or `seen.image`")
    return seen


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Runs of at most `size` items, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def per_picture(value: T | Sequence[T], count: int, what: str) -> Sequence[T]:
    """One value for all pictures, or one each.

    Raises:
        InputError: another number came.
    """
    if not is_list(value):
        return [cast(T, value)] * count
    if len(value) != count:
        raise InputError(f"{count} pictures, but {len(value)} {what}: give one for all or one each")
    return value


def lists_per_picture(value: Any, count: int, what: str, *, default: Any) -> Sequence[Any]:
    """A list, or None, for each picture; nothing at all is `default` for every picture.

    Raises:
        InputError: another number came, or one list for all.
    """
    if value is None or (is_list(value) and not value):
        return [default] * count
    if not is_list(value) or len(value) != count or any(isinstance(v, int | float | GroundedAnswer) for v in value):
        raise InputError(f"{count} pictures need a list of {count} lists of {what}, one for each picture")
    return [default if item is None else item for item in value]
