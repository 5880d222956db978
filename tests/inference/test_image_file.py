"""Traps in picture files are found before anything is decoded."""

import struct

import numpy as np
import pytest
from encoded_pictures import encoded
from PIL import Image, ImageFile

from groma.errors import InputError
from groma.image import load_image
from patience import cheaply


def scans(count: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan comes so often."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    *first, last = data.removesuffix(b"\xff\xd9").split(b"\xff\xda")
    return b"\xff\xda".join([*first, *[last] * count]) + b"\xff\xd9"


def test_a_jpeg_that_asks_for_hours_of_decoding_is_refused_at_once():
    """300 bytes of a scan go through all pixels once more; 20 MB of them take hours at 100 megapixels."""
    assert load_image(scans(50)).size == (64, 64)
    for data in (
        scans(100_000),
        scans(101).replace(b"\xff\xda", b"\xff\xff\xff\xda"),  # padded
        scans(101)[::-1].replace(b"\xda\xff", b"\xda\xff\xff\xff\x02\xff", 50)[::-1],  # no marker: nothing is skipped
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * 200_000 + scans(101)[2:],
        b"\xff\xd8\xff\xfe\x00\x04\xff\xd9" + scans(101)[2:],  # the end of a picture within a comment
    ):
        with cheaply(1.0), pytest.raises(InputError, match="more than 100 scans"):
            load_image(data)


def test_what_only_looks_like_scans_is_no_reason():
    """Telephones put a film behind the picture; comments may hold anything."""
    data = scans(1)
    film = np.random.default_rng(0).integers(0, 256, 10_000_000, np.uint8).tobytes()
    assert film.count(b"\xff\xda") > 100
    assert load_image(data + film).size == (64, 64)
    comment = b"\xff\xda" * 1000
    told = data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]
    assert load_image(told).size == (64, 64)


def test_the_larger_a_picture_the_fewer_scans_it_may_have():
    """A hundred scans of 64 megapixels would take half a minute; twenty scans are read at any size."""
    assert load_image(scans(15, side=8000)).size == (8000, 8000)
    with pytest.raises(InputError, match="more than 31 scans"):
        load_image(scans(40, side=8000))


def test_entries_of_nothing_in_an_icon_are_passed_over():
    held = encoded(Image.new("RGB", (40, 30)), "PNG")
    entries = [(32, len(held), 54), (16, 0, 0), (16, 10, 10**6)]
    listed = (struct.pack("<BBBBHHII", side, side, 0, 0, 1, 24, *place) for side, *place in entries)
    head = b"\x00\x00\x01\x00\x03\x00" + b"".join(listed)
    assert load_image(head + held).size == (40, 30)
    late = held[:8] + struct.pack(">I4s", 0, b"tEXt") + struct.pack(">II", 4, 4) + held[8:]  # 4x4 where sizes stand
    with pytest.raises(InputError, match="does not begin with its size"):
        load_image(head.replace(struct.pack("<I", len(held)), struct.pack("<I", len(late))) + late)


@pytest.mark.parametrize("kind", ["png", "bmp", "old bmp"])
def test_an_icon_is_refused_by_the_size_of_what_it_holds(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Pillow decodes icons while it opens them, and their own list tells sizes up to 256 only."""
    held = encoded(Image.new("RGB", (400, 300)), "PNG")
    if kind != "png":
        pixels, mask = 300 * 400 * 3, 300 * 52  # rows of the mask are padded to 4 bytes
        new, old = (
            struct.pack("<IiiHHIIiiII", 40, 400, 600, 1, 24, *[0] * 6),
            struct.pack("<IHHHH", 12, 400, 600, 1, 24),
        )
        held = (new if kind == "bmp" else old) + bytes(pixels + mask)
    entry = struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 24, len(held), 22)
    icon = b"\x00\x00\x01\x00\x01\x00" + entry + held
    assert load_image(icon).size == (400, 300)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match="400x300 = 120,000 pixels"):
        load_image(icon, max_pixels=119_999)
