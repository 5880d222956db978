"""Whatever is wrong with what a user gives, one sentence says so, the status is 2 and nothing is printed or written."""

import io
import struct
import zlib

import numpy as np
import pytest
from commands import sentence
from PIL import Image

from small_models import CONTEXT, MAX_REGIONS

MODEL = ("--model", "{model}", "--max-new-tokens", 8)


def png_header_of(width: int, height: int) -> bytes:
    """A PNG that promises that size and holds no pixels: a decompression bomb's beginning."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def jpeg_bytes() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((120, 90), 60).save(stream, "JPEG")
    return stream.getvalue()


UNREADABLE = {
    "missing": (None, "does not exist"),
    "empty": (b"", "is empty (0 bytes)"),
    "text": (b"not a picture at all", "is not a picture of a known format"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
    "truncated": (jpeg_bytes()[:600], "damaged or cut off"),
    "bomb": (png_header_of(60_000, 60_000), "at most 100,000,000 are read"),
    "30000x30000": (png_header_of(30_000, 30_000), "30000x30000 = 900,000,000 pixels"),
}


@pytest.mark.parametrize("command", ["ask", "regions"])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_pictures_that_cannot_be_read(groma, tmp_path, command, kind):
    content, expected = UNREADABLE[kind]
    path = tmp_path / "picture.jpg"
    if content is not None:
        path.write_bytes(content)
    question = ("What is this?",) if command == "ask" else ()
    said = sentence(groma(command, path, *question, "--model", "{model}"))
    assert expected in said
    assert str(path) in said


def test_a_folder_is_no_picture(groma, tmp_path):
    assert "is a folder" in sentence(groma("ask", tmp_path, "What is this?", *MODEL))


def test_a_web_address_is_no_picture(groma):
    assert "web address" in sentence(groma("ask", "https://example.org/a.png", "What is this?", *MODEL))


def odd_pictures() -> dict[str, tuple[Image.Image, dict]]:
    noise = Image.effect_noise((64, 48), 80)
    colours = Image.merge("RGB", (noise, noise.transpose(Image.Transpose.FLIP_LEFT_RIGHT), noise))
    deep = Image.fromarray((np.arange(64 * 48, dtype=np.uint16) * 20).reshape(48, 64))
    return {
        "1x1.png": (Image.new("RGB", (1, 1), "red"), {}),
        "cmyk.jpg": (colours.convert("CMYK"), {}),
        "deep.png": (deep, {}),
        "palette.png": (colours.convert("P"), {}),
        "transparent.png": (colours.convert("RGBA"), {}),
        "animated.gif": (colours.convert("P"), {"save_all": True, "append_images": [Image.new("P", (64, 48))]}),
        "bilevel.png": (noise.convert("1"), {}),
        "narrow.png": (Image.new("RGB", (2, 3000), "blue"), {}),
    }


@pytest.mark.parametrize("name", odd_pictures())
def test_odd_pictures_work(groma, tmp_path, name):
    image, options = odd_pictures()[name]
    image.save(tmp_path / name, **options)
    ran = groma("ask", tmp_path / name, "What is this?", "--out", tmp_path / "out.png", *MODEL)
    assert ran.status == 0, ran.err
    assert (tmp_path / "out.png").is_file()


BAD_BOXES = {
    "nan,0,10,10": "not finite",
    "inf,0,10,10": "not finite",
    "10,10,10,40": "is empty",
    "60,10,20,40": "is inverted (x2 < x1)",
    "10,40,20,10": "is inverted (y2 < y1)",
    "10,10,40": "has 3 numbers instead of 4",
    "10,10,40,40,50": "has 5 numbers instead of 4",
    "a,b,c,d": "is not made of numbers",
    "": "has 0 numbers instead of 4",
    "500,500,600,600": "lies outside the 120x90 picture",
    "-50,-50,-10,-10": "lies outside the 120x90 picture",
    "0.1,0.1,0.5,0.5": "looks normalized",
}


@pytest.mark.parametrize("command", ["ask", "describe"])
@pytest.mark.parametrize("box", BAD_BOXES)
def test_bad_boxes(groma, picture, command, box):
    question = ("What is this?",) if command == "ask" else ()
    assert BAD_BOXES[box] in sentence(groma(command, picture, *question, "--region", box, *MODEL))


def test_more_boxes_than_regions(groma, picture):
    boxes = [f"{x},0,{x + 30},80" for x in range(MAX_REGIONS + 1)]
    question = " ".join(f"[{number}]" for number in range(1, MAX_REGIONS + 2))
    said = sentence(groma("ask", picture, question, "--region", *boxes, *MODEL))
    assert f"{MAX_REGIONS + 1} regions are given, but at most {MAX_REGIONS} fit" in said


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("", "the question is empty"),
        ("  \n ", "the question is empty"),
        ("word " * CONTEXT, "shorten the question"),
        ("What is [2]?", "only region [1] is given"),
    ],
)
def test_bad_questions(groma, picture, question, expected):
    assert expected in sentence(groma("ask", picture, question, "--region", "10,10,60,60", *MODEL))


def test_an_empty_phrase(groma, picture):
    assert "empty" in sentence(groma("locate", picture, " ", *MODEL))


def test_two_boxes_of_which_one_is_not_named(groma, picture):
    said = sentence(groma("ask", picture, "What is [1]?", "--region", "1,1,60,60", "60,1,110,80", *MODEL))
    assert "does not name [2]" in said


@pytest.mark.parametrize("command", ["ask", "info", "evaluate", "convert"])
def test_an_unknown_model(groma, picture, tmp_path, command):
    name = str(tmp_path / "nowhere")
    arguments = {
        "ask": (picture, "What?", "--model", name),
        "info": (name,),
        "evaluate": (name, "--n", 1),
        "convert": (name, tmp_path / "converted"),
    }
    assert "nowhere" in sentence(groma(command, *arguments[command]))
    assert sorted(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize("option", [("--device", "cuda:99"), ("--device", "toaster")])
def test_an_unknown_device(groma, picture, option):
    assert option[1] in sentence(groma("ask", picture, "What?", *option, *MODEL))


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--temperature", -1), "temperature"),
        (("--temperature", "nan"), "temperature"),
        (("--top-p", 0), "top_p"),
        (("--max-new-tokens", 0), "--max-new-tokens"),
        (("--seed", -1), "--seed"),
        (("--seed", 2**70), "--seed"),
    ],
)
def test_sampling_out_of_range(groma, picture, option, expected):
    assert expected in sentence(groma("ask", picture, "What?", "--model", "{model}", *option))


def test_out_that_cannot_be_written(groma, picture, tmp_path):
    def refused(out):
        before = picture.read_bytes()
        said = sentence(groma("ask", picture, "What?", "--out", out, *MODEL))
        assert picture.read_bytes() == before
        assert sorted(tmp_path.iterdir()) == [picture, tmp_path / "some.png"]
        return said

    (tmp_path / "some.png").mkdir()
    assert "'.gif', expected one of .png, .jpg, .jpeg, .webp" in refused(tmp_path / "answer.gif")
    assert "expected one of" in refused(tmp_path / "answer")
    assert "there is no folder" in refused(tmp_path / "missing" / "answer.png")
    assert "is a folder" in refused(tmp_path / "some.png")
    assert "is the picture itself" in refused(picture)


def test_out_on_a_full_disk(groma, picture, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    ran = groma("regions", picture, "--out", tmp_path / "answer.png", "--model", "{model}")
    assert (ran.status, list(tmp_path.iterdir())) == (2, [picture])
    assert ran.err.endswith("cannot be written: No space left on device\n")


def test_formats_that_cannot_hold_the_picture(groma, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (17000, 20), "red").save(wide)
    said = sentence(groma("regions", wide, "--out", tmp_path / "answer.webp", "--model", "{model}"))
    assert "takes at most 16383 pixels a side, the picture has 17000x20" in said
    assert list(tmp_path.iterdir()) == [wide]


@pytest.mark.parametrize(
    "command", [["info"], ["convert", "{name}", "no-such-folder/x"], ["ask", "{picture}", "What?", "--model"]]
)
def test_brackets_in_names_are_no_markup(groma, picture, command):
    name = "[/x] [red]"
    arguments = [picture if word == "{picture}" else name if word == "{name}" else word for word in command]
    arguments += [] if "{name}" in command else [name]
    assert name in sentence(groma(*arguments))


def test_a_folder_that_nobody_can_make(groma, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot be written" in sentence(groma("convert", "{model}", file / "out"))
    assert "cannot be written" in sentence(groma("train", "detect", "--out", file / "out"))
