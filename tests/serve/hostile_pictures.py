# ruff: noqa: E501  # tables
"""Hostile pictures: addresses that are none, broken files, files of other kinds, bombs; and odd ones that are fine."""

import base64
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from hostile_http import MAX_PICTURE_BYTES, REGIONS, Case, ask, post
from hostile_server import chat, data_url, file_of, good_png, user
from PIL import Image, features

from small_models import picture


def look(name: str, content: bytes, *statuses: int) -> Case:
    return post(name, REGIONS, {"image": data_url(content)}, *statuses)


def formats() -> list[str]:
    known = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "ICO"]
    return known + [kind for kind, feature in (("WEBP", "webp"), ("AVIF", "avif"), ("JPEG2000", "jpg_2000")) if features.check(feature)]  # fmt: skip


def wrong_urls() -> Iterator[Case]:
    png = base64.b64encode(good_png()).decode()
    urls = [
        "data:", "data:,", "data:image/png", "data:image/png;base64", "data:image/png;base64,", "data:image/png," + png,
        "data:image/png;base64,***", "data:image/png;base64," + png[:-1], "data:image/png;base64,=" + png,
        "data:image/png;base64,\u00e4" + png, "data:image/png;base64, " + png,
        "data:image/png;base64," + png[:50] + "\n" + png[50:], "data:image/png;base64,\x00", "data:;base64",
        "data:image/png;charset=x;base64;x," + png, "data:" + "a" * 5000 + ";base64," + png, "data:;;;;;;;;;;base64," + png,
        "data:image/png;base64," + "%41" * 10, "data:image/png;base64," + "A" * (MAX_PICTURE_BYTES * 4 // 3 + 100),
        "data:" + ";a=b" * 2000 + ",x", "http://127.0.0.1/", "https://127.0.0.1/", "file:///etc/passwd", "/etc/passwd",
        "C:\\a.png", "blob:x", "javascript:alert(1)", png, "ftp://x/", "", " ", "\x00", "\ud800", "a" * 100_000,
        "data:image/png;base64," + "A" * 50, "data:image/png;base64," + "A" * 51, "data:image/png;base64,_-_-",
    ]  # fmt: skip
    for number, url in enumerate(urls):
        yield post(f"{number} {url[:40]!r}", REGIONS, {"image": url}, 413 if len(url) > MAX_PICTURE_BYTES else 400)
        yield ask(
            f"{number} {url[:40]!r} in a chat", chat(user("x", url)), 413 if len(url) > MAX_PICTURE_BYTES else 400
        )
    for url in (
        "data:;a=b;base64," + png,
        "data:;base64," + png,
        "data:text/html;base64," + png,
        "data:x/y;a=b;base64," + png,
    ):
        yield post(f"fine {url[:30]}", REGIONS, {"image": url}, 200)


def broken_pictures() -> Iterator[Case]:
    rng = random.Random(2)
    for kind in formats():
        whole = file_of(picture(3, (40, 30)), kind)
        for cut in (1, 4, 9, 13, 17, 25, 40, 100, len(whole) // 3, len(whole) * 2 // 3):
            yield look(f"{kind} cut at {cut}", whole[:cut])
        for number in range(6):
            changed = bytearray(whole)
            for _ in range(1 + 3 * number):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            yield look(f"{kind} changed {number}", bytes(changed), 200, 400)
        yield look(f"{kind} and nothing", whole[:8] + bytes(500))
        yield look(f"{kind} and noise", whole[:8] + rng.randbytes(500))


def others() -> Iterator[Case]:
    texts: dict[str, bytes] = {
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><image href='file:///etc/passwd'/></svg>",
        "svg bomb": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'xxxx'><!ENTITY c '&b;&b;'>]><svg>&c;</svg>",
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%id) (w) file\n",
        "html": b"<!DOCTYPE html><script>alert(1)</script>",
        "zip": b"PK\x03\x04" + bytes(100),
        "gzip": b"\x1f\x8b\x08" + bytes(100),
        "psd": b"8BPS\x00\x01" + bytes(100),
        "heic": b"\x00\x00\x00\x18ftypheic" + bytes(100),
        "mp4": b"\x00\x00\x00\x18ftypisom" + bytes(100),
        "elf": b"\x7fELF" + bytes(100),
        "pickle": b"\x80\x04\x95" + bytes(100),
        "text": b"just text",
        "zeros": bytes(1000),
        "one byte": b"x",
        "xbm": b"#define im_width 1\n#define im_height 1\nstatic char im_bits[] = {0};",
        "fits": b"SIMPLE  =                    T" + b" " * 2850,
        "wmf": b"\xd7\xcd\xc6\x9a\x00\x00" + bytes(100),
        "emf": b"\x01\x00\x00\x00" + bytes(36) + b" EMF" + bytes(100),
        "dds": b"DDS \x7c\x00\x00\x00" + bytes(120),
        "pcx": b"\x0a\x05\x01\x08" + bytes(124),
        "tga": bytes([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 24, 0, 0, 0, 0]),
        "qoi": b"qoif" + struct.pack(">IIBB", 1, 1, 3, 0) + bytes(20),
        "sgi": b"\x01\xda" + bytes(510),
        "ppm of text": b"P3\n10 10\n255\nx y z",
        "ppm huge number": b"P6\n" + b"9" * 500 + b" 1\n255\n",
        "ppm without pixels": b"P6\n0 0\n255\n",
        "gif without pixels": b"GIF89a\x00\x00\x00\x00\x00\x00\x00;",
        "webp head": b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(20),
        "riff": b"RIFF\xff\xff\xff\x7fWEBPVP8X" + bytes(100),
    }  # fmt: skip
    for name, content in texts.items():
        yield look(name, content)
    yield post("zero bytes", REGIONS, {"image": "data:image/png;base64,"})


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 8, colour: int = 2) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in parts)


def bombs() -> Iterator[Case]:
    deflated = zlib.compress(bytes(20_000_000), 9)
    for width, height in (
        (50_000, 50_000),
        (2**31 - 1, 2**31 - 1),
        (2**31 - 1, 1),
        (1, 2**31 - 1),
        (1001, 1000),
        (2**32 - 1, 2),
    ):
        yield look(f"PNG of {width}x{height}", png(width, height, (b"IDAT", zlib.compress(bytes(100)))))
    yield look("PNG 0x0", png(0, 0, (b"IDAT", zlib.compress(b""))))
    yield look("PNG whose pixels inflate to more", png(10, 10, (b"IDAT", deflated)), 200, 400)
    yield look("PNG of 999x1000 from nothing", png(999, 1000, (b"IDAT", zlib.compress(b""))))
    yield look("PNG with much text", png(2, 2, *[(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(1 << 20)))] * 80, (b"IDAT", zlib.compress(bytes(14)))), 200, 400)  # fmt: skip
    yield look("PNG of 50,000 chunks", png(2, 2, *[(b"tEXt", b"a\x00b")] * 50_000, (b"IDAT", zlib.compress(bytes(14)))), 200, 400)  # fmt: skip
    for kind in ("GIF", "BMP", "TIFF", "WEBP", "JPEG"):
        if kind in formats():
            yield look(
                f"{kind} of 1001x1000", file_of(Image.new("1" if kind in ("BMP", "TIFF") else "L", (1001, 1000)), kind)
            )
    gif = bytearray(file_of(Image.new("L", (4, 4)), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    yield look("GIF of 65535x65535", bytes(gif))
    bmp = bytearray(file_of(Image.new("L", (4, 4)), "BMP"))
    for size in ((2**31 - 1, 2**31 - 1), (-1, -1), (2**31 - 1, -(2**31)), (0, 5)):
        bmp[18:26] = struct.pack("<ii", *size)
        yield look(f"BMP of {size}", bytes(bmp))
    jpeg = bytearray(file_of(Image.new("L", (8, 8)), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    yield look("JPEG of 65535x65535", bytes(jpeg))
    *first, last = file_of(Image.new("L", (1000, 1000), 128), "JPEG", progressive=True)[:-2].split(b"\xff\xda")
    yield look("JPEG of 20,000 scans", b"\xff\xda".join([*first, *[last] * 20_000]))
    yield look("PPM of a million million", b"P6\n1000000 1000000\n255\n" + bytes(100))
    yield look("just too large a file", good_png() + bytes(MAX_PICTURE_BYTES), 413)


def odd_but_fine() -> Iterator[Case]:
    rng = np.random.default_rng(3)
    base = picture(4, (50, 40))

    def frames(kind: str, **options: Any) -> bytes:
        return file_of(base, kind, save_all=True, append_images=[picture(n, (50, 40)) for n in range(20)], **options)

    exif = [
        b"",
        b"Exif\x00\x00",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + bytes(50),
        b"Exif\x00\x00" + b"\xff" * 200,
    ]
    exif += [b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([number]) + bytes(7) for number in (0, 3, 6, 9, 255)]  # fmt: skip
    deep = Image.fromarray(rng.integers(0, 65536, (40, 50), dtype=np.uint16))
    pictures: dict[str, bytes] = {
        "1x1": file_of(Image.new("RGB", (1, 1))),
        "1x20000": file_of(Image.new("RGB", (1, 20_000))),
        "20000x1": file_of(Image.new("RGB", (20_000, 1))),
        "1000x1000, the limit": file_of(Image.new("1", (1000, 1000))),
        "1 bit": file_of(base.convert("1")),
        "grey": file_of(base.convert("L")),
        "grey with alpha": file_of(base.convert("LA")),
        "palette": file_of(base.convert("P")),
        "palette with transparency": file_of(base.convert("P"), transparency=3),
        "RGBA": file_of(base.convert("RGBA")),
        "16 bits": file_of(deep),
        "16 bits, TIFF": file_of(deep, "TIFF"),
        "CMYK": file_of(base.convert("CMYK"), "JPEG"),
        "CMYK, TIFF": file_of(base.convert("CMYK"), "TIFF"),
        "Lab": file_of(base.convert("LAB"), "TIFF"),
        "YCbCr": file_of(base.convert("YCbCr"), "JPEG"),
        "animated GIF": frames("GIF", duration=10, loop=0),
        "animated PNG": frames("PNG"),
        "pages of a TIFF": frames("TIFF"),
        "icon": file_of(base, "ICO"),
        "icon of bitmaps": file_of(base, "ICO", bitmap_format="bmp"),
        "progressive": file_of(base, "JPEG", progressive=True),
        "with a comment": file_of(base, "JPEG", comment=b"</script>" * 1000),
        "with a profile of noise": file_of(base, "JPEG", icc_profile=b"\xff" * 5000),
        "and a zip behind it": good_png() + b"PK\x03\x04" + bytes(1000),
        "and a page behind it": good_png() + b"<script>alert(1)</script>",
    }  # fmt: skip
    for number, content in enumerate(exif):
        pictures[f"EXIF {number}"] = file_of(base, "JPEG", exif=content)
    for name, content in pictures.items():
        yield look(name, content, 200, *([400] if "icon" in name else []))  # icons may be refused
    greys = Image.fromarray(np.array([[0.0, np.nan], [np.inf, -1e30]], dtype=np.float32))
    yield look("greys that are no numbers", file_of(greys, "TIFF"))
    yield look("negative greys", file_of(Image.fromarray(np.array([[-5, 70_000]], dtype=np.int32)), "TIFF"))
