"""Pictures by their content: decoded by who asks, encoded once by the engine, kept as long as there is room."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from groma.image import MAX_PIXELS, Preprocessing, load_image
from groma.inference.pictures import Seen


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture that can be asked about."""

    digest: str
    """of its content"""
    size_px: tuple[int, int]
    """width and height, upright"""
    pixels: np.ndarray | None = field(repr=False)
    """(S, S, 3) uint8, as the encoder wants it; None: it was seen before"""
    seen: Seen | None = field(repr=False)
    """what the model made of it, if it was seen before"""


class PictureCache:
    """Pictures that were seen, the least recently used forgotten first. Safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        """Keep so much at most."""
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._bytes: dict[str, int] = {}
        self.num_bytes = 0  # about
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._seen)

    def find(self, digest: str, *, counted: bool = True) -> Seen | None:
        """A picture of that content, if it is still there; `counted` as a hit or a miss."""
        with self._lock:
            seen = self._seen.get(digest)
            if seen is None:
                self.misses += counted
                return None
            self.hits += counted
            self._seen.move_to_end(digest)
            return seen

    def keep(self, digest: str, seen: Seen) -> None:
        """Keep a picture; it counts with what it has grown to when it is kept again."""
        with self._lock:
            self._seen[digest] = seen
            self._seen.move_to_end(digest)
            self.num_bytes += seen.num_bytes - self._bytes.get(digest, 0)
            self._bytes[digest] = seen.num_bytes
            while self.num_bytes > self.max_bytes and self._seen:
                oldest, _ = self._seen.popitem(last=False)
                self.num_bytes -= self._bytes.pop(oldest)


def open_picture(
    source: bytes | Image.Image, preprocessing: Preprocessing, cache: PictureCache, *, max_pixels: int = MAX_PIXELS
) -> Picture:
    """Decode and resize a picture, unless it was seen before.

    Args:
        source: a file's bytes, or a PIL image.
        preprocessing: the model's.
        cache: what was seen.
        max_pixels: pixels that it may have, counted before anything is decoded.

    Raises:
        InputError: it cannot be read, or is too large.
    """
    image = None
    if not isinstance(source, bytes):
        image = load_image(source, max_pixels=max_pixels)
        content = repr(image.size).encode() + image.tobytes()
    else:
        content = source
    digest = hashlib.sha256(content).hexdigest()
    seen = cache.find(digest)
    if seen is not None:
        return Picture(digest, seen.size_px, None, seen)
    image = image or load_image(source, max_pixels=max_pixels)
    return Picture(digest, image.size, preprocessing.to_pixels(image), None)
