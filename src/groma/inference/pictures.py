"""One picture or many: what a picture can be given as, and values that go with each picture of a list."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

from PIL import Image

from groma.errors import InputError
from groma.image import ImageSource, load_image
from groma.inference.result import GroundedAnswer

if TYPE_CHECKING:
    from groma.model.groma import PictureTokens, VisualTokens

_NUMBERS = count()

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A picture that was encoded: ask about it as often as you like, with any boxes.

    What one model sees means nothing to another, even of the same shape, so a picture is bound to its assistant.
    """

    size_px: tuple[int, int]
    """width and height of the original picture"""
    tokens: "PictureTokens"
    """what the model made of it, a batch of one"""
    seen_by: str
    """the assistant that saw it, see `Groma.identity`"""
    original: Image.Image | None = None
    """the picture as it is seen, RGB; None: it was not kept"""
    number: int = field(default_factory=lambda: next(_NUMBERS))
    """another one for every picture that is seen"""
    choices: "dict[bytes, VisualTokens]" = field(default_factory=dict[Any, Any], repr=False)
    """boxes that a conversation began with -> the regions that were chosen, the latest last"""

    @property
    def image(self) -> Image.Image:
        """The picture as it is seen, RGB.

        Raises:
            InputError: it was not kept.
        """
        if self.original is None:
            raise InputError("the picture was not kept, only what the model made of it: give the picture itself")
        return self.original

    def remember(self, boxes: bytes, visual: "VisualTokens", *, limit: int) -> None:
        """Remember a choice of regions, and forget the oldest beyond `limit`."""
        self.choices[boxes] = visual
        while len(self.choices) > limit:
            del self.choices[next(iter(self.choices))]

    @property
    def num_bytes(self) -> int:
        """Memory that it takes, about."""
        tokens = self.tokens
        parts = [tokens.image, *tokens.levels, tokens.proposals.boxes_cxcywh, *tokens.proposals.logits.values()]
        parts += [visual.features for visual in list(self.choices.values())]
        image = 0 if self.original is None else 3 * self.original.width * self.original.height
        return image + sum(part.numel() * part.element_size() for part in parts)


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
