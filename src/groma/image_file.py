"""A picture file's header, read before anything is decoded: its format, its pixels, and whether it is a trap.

Pillow's own limits are module-wide and count less than is needed here: a JPEG file of 20 megabytes can ask for hours of
decoding, and an icon is decoded while it is opened.
"""

import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image, ImageFile

from groma.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
"""The file formats that are read, by Pillow's names; Pillow knows more, some of them start programs."""

PLAIN_SCANS = 20
"""Scans of a JPEG file, of any size, that are gone through; encoders make up to some 15."""

MAX_SCANNED_PIXELS = 2_000_000_000
"""Pixels times scans beyond that: some ten seconds."""

MAX_SCANS = 100
"""Scans that a JPEG file may have, as many as libtiff allows. A few bytes can be one that goes through all pixels."""

ICON = b"\x00\x00\x01\x00"
"""How icon files begin."""

# What a file that is no readable picture probably is: (offset, bytes found there in lower case, name).
_KNOWN_BY_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%pdf", "a PDF document"),
    (0, b"%!ps", "a PostScript file"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML file (an SVG drawing?)"),
    (0, b"<!doctype", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"pk\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"8bps", "a Photoshop file"),
    (0, b"version https://git-lfs", "a Git LFS pointer instead of a picture"),
    (4, b"ftyphe", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIC picture"),
    (4, b"ftyp", "a video"),
)

# Whatever Pillow's decoders raise on damaged data. Warning: a process may turn warnings into exceptions.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError,
    NotImplementedError, RuntimeError, AssertionError, struct.error, zlib.error, Warning,
)  # fmt: skip

WARNINGS_LOCK = threading.Lock()  # warnings.catch_warnings alone mixes up the filters of two threads


def open_header(stream: BinaryIO, name: str, max_pixels: int) -> ImageFile.ImageFile:
    """Open a picture file.

    Args:
        stream: the file, at its beginning.
        name: what it is called where it is refused.
        max_pixels: width x height that it may have.

    Returns:
        The picture, not yet decoded unless it is an icon.

    Raises:
        InputError: it is no picture file, is damaged at the beginning, too large, or made to take very long.
    """
    head = stream.read(64)
    if not head:
        raise InputError(f"{name} is empty (0 bytes): give a picture file")
    if head.startswith(ICON):
        for size in _icon_sizes(stream, name):
            check_size(size, name, max_pixels)
    image = _opened(stream, head, name)
    check_size(image.size, name, max_pixels)
    if image.format in ("JPEG", "MPO"):
        _check_scans(stream, name, image.width * image.height)
    return image


def check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    """See whether a picture has pixels, and not too many.

    Raises:
        InputError: it has none, or more.
    """
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"{name} has no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise InputError(
            f"{name} has {width}x{height} = {width * height:,} pixels, but at most {max_pixels:,} are read: "
            "scale it down first"
        )


def _opened(stream: BinaryIO, head: bytes, name: str) -> ImageFile.ImageFile:
    """Reads the header alone, with the first of FORMATS that knows the file.

    This is what PIL.Image.open does, but for its decompression bomb check, which depends on a module-wide
    setting and does not tell the size; `check_size` takes its place.
    """
    Image.init()
    damage: Exception | None = None
    with WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for format_name in FORMATS:
            open_format, accepts = Image.OPEN.get(format_name, (None, None))
            if open_format is None or accepts is None or accepts(head[:16]) is not True:
                continue
            stream.seek(0)
            try:
                return open_format(stream, "")
            except Image.DecompressionBombError as error:
                raise InputError(f"{name} has more pixels than Pillow is set to read: {error}") from None
            except DECODE_ERRORS as error:
                damage = error
    if damage is not None:
        raise InputError(f"{name} is damaged, its header cannot be read ({damage})")
    for offset, magic, kind in _KNOWN_BY_MAGIC:
        if head[offset:].lower().startswith(magic):
            raise InputError(f"{name} is {kind}: give it as JPEG or PNG")
    raise InputError(f"{name} is not a picture of a known format: expected one of {', '.join(FORMATS)}")


# --- traps -----------------------------------------------------------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n"
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xd9"
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
"""In compressed data 0xff is followed by 0 or one of eight numbers; more of them are padding."""
_MAX_MARKERS = 100_000
_MAX_WALKED = 256 << 20
"""Bytes that are looked through; behind a picture there may be a film of any length."""


def _icon_sizes(stream: BinaryIO, name: str) -> Iterator[tuple[int, int]]:
    """Sizes of the pictures in an icon file, as they themselves tell them: the icon's own list goes up to 256 only.

    Entries of nothing are passed over, as Pillow does not open them or finds nothing there.
    """
    stream.seek(4)
    (count,) = struct.unpack("<H", stream.read(2).ljust(2, b"\0"))
    entries = stream.read(16 * count)
    for place in range(0, len(entries) - 15, 16):
        (offset,) = struct.unpack_from("<I", entries, place + 12)
        if offset < 6 + len(entries):
            continue
        stream.seek(offset)
        head = stream.read(24).ljust(24, b"\0")
        width = height = 0
        if head.startswith(_PNG):
            if head[12:16] != b"IHDR":
                raise InputError(f"{name} is damaged: a PNG in it does not begin with its size")
            width, height = struct.unpack_from(">II", head, 16)
        else:  # a bitmap: twice as high as the icon, as its mask is counted, too
            width, height = struct.unpack_from("<HH" if head[0] == 12 else "<ii", head, 4)
            width, height = abs(width), abs(height) // 2
        if width and height:
            yield width, height


def _check_scans(stream: BinaryIO, name: str, pixels: int) -> None:
    """See how often a JPEG file's pixels are gone through."""
    most = min(MAX_SCANS, max(PLAIN_SCANS, MAX_SCANNED_PIXELS // pixels))
    place = stream.tell()
    scans = 0
    if _count(stream, _START_OF_SCAN, most) > most:  # it may stand elsewhere, too, but each scan has one
        stream.seek(0)
        for number, marker in enumerate(_markers(stream.read(_MAX_WALKED))):
            scans += marker == _START_OF_SCAN[1]
            if scans > most or number > _MAX_MARKERS:
                raise InputError(
                    f"{name} has more than {most} scans, which would take very long: save it as another JPEG"
                )
    stream.seek(place)


def _count(stream: BinaryIO, wanted: bytes, most: int) -> int:
    """How often two bytes stand in a file, counted no further than a little beyond `most`; little memory is used."""
    stream.seek(0)
    count, last = 0, b""
    while count <= most and (content := stream.read(1 << 20)):
        count += (last + content).count(wanted)
        last = content[-1:]
    return count


def _markers(content: bytes) -> Iterator[int]:
    """The markers of a JPEG file up to its end, as libjpeg comes across them; what follows, as a film, is beside it."""
    place = 2
    while (found := _MARKER.search(content, place)) is not None and found[1] != _END_OF_IMAGE:
        (marker,) = found[1]
        yield marker
        place = found.end()
        if marker >= 0xC0 and marker != 0xD8:  # the others have no length
            place += int.from_bytes(content[place : place + 2], "big")
