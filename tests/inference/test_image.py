"""The one image preprocessing: what may come in, what is refused, and the reference's arithmetic."""

import io
import json
import os
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from encoded_pictures import encoded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from golden_folder import GOLDEN
from groma.errors import InputError
from groma.image import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, load_image
from groma.image_file import FORMATS

# A picture with no symmetry: every turn and flip of it is another picture.
PIXELS = np.array([[[250, 10, 10], [10, 250, 10], [10, 10, 250]], [[240, 240, 10], [90, 90, 90], [0, 0, 0]]], np.uint8)


def png_header(width: int, height: int, *, bit_depth: int = 8, color_type: int = 2, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture(autouse=True)
def _no_warning_and_no_global_change():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


# --- sources -----------------------------------------------------------------------------------------------


def test_path_text_bytes_image_and_array_give_the_same_picture(tmp_path: Path):
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    for source in (path, str(path), path.read_bytes(), Image.open(path), PIXELS, PIXELS / 255):
        image = load_image(source)
        assert image.mode == "RGB"
        assert image.size == (3, 2)
        np.testing.assert_array_equal(np.asarray(image), PIXELS)


@pytest.mark.parametrize("format_name", sorted(set(FORMATS) - {"JPEG", "JPEG2000", "AVIF", "GIF", "ICO"}))
def test_lossless_formats(format_name: str):
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encoded(Image.fromarray(PIXELS), format_name, **options)
    np.testing.assert_array_equal(np.asarray(load_image(data)), PIXELS)


@pytest.mark.parametrize("format_name", ["JPEG", "JPEG2000", "AVIF", "GIF", "ICO"])
def test_other_formats(format_name: str):
    data = encoded(Image.new("RGB", (32, 32), (200, 40, 90)), format_name)
    image = load_image(data)
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image)[8, 8], (200, 40, 90), atol=6)


def test_the_given_image_is_left_alone_and_shares_nothing():
    given_image = Image.fromarray(PIXELS)
    loaded = load_image(given_image)
    loaded.putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(given_image), PIXELS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once(orientation: int, format_name: str):
    upright = Image.fromarray(PIXELS)
    # What a camera stores so that the named orientation turns it upright (EXIF 2.3, tag 0x0112).
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encoded(stored, format_name, exif=exif, **options)
    for source in (data, Image.open(io.BytesIO(data))):
        once = load_image(source)
        assert once.size == (3, 2)
        np.testing.assert_array_equal(np.asarray(once), PIXELS)
        np.testing.assert_array_equal(np.asarray(load_image(once)), PIXELS)


def test_broken_exif_counts_as_none():
    data = encoded(Image.fromarray(PIXELS), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffbroken")
    np.testing.assert_array_equal(np.asarray(load_image(data)), PIXELS)


# --- modes -------------------------------------------------------------------------------------------------


def test_grey_one_bit_cmyk_and_other_modes():
    grey = Image.fromarray(np.array([[0, 100], [200, 255]], np.uint8))
    expected = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(np.asarray(load_image(encoded(grey))), expected)
    assert np.asarray(load_image(encoded(grey.point(lambda v: 255 * (v > 150), "1")))).max() == 255
    for mode in ("YCbCr", "HSV", "RGBX"):
        image = Image.new("RGB", (4, 4), (255, 0, 0)).convert(mode)
        np.testing.assert_allclose(np.asarray(load_image(image))[0, 0], (255, 0, 0), atol=2)


def test_cmyk_jpeg():
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    np.testing.assert_allclose(np.asarray(load_image(data))[8, 8], (255, 0, 0), atol=4)


def test_transparency_of_every_kind_is_composited_on_white():
    rgba = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 255, 0))
    rgba.putpixel((2, 0), (0, 0, 0, 128))
    np.testing.assert_array_equal(np.asarray(load_image(encoded(rgba)))[0], [[255, 0, 0], [255] * 3, [127] * 3])

    grey_alpha = Image.new("LA", (1, 1), (10, 0))
    assert load_image(encoded(grey_alpha)).getpixel((0, 0)) == (255, 255, 255)

    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    for transparency in (1, b"\xff\x00"):  # one index, or an alpha for each colour
        opened = load_image(encoded(palette, transparency=transparency))
        np.testing.assert_array_equal(np.asarray(opened)[0], [[255, 0, 0], [255, 255, 255]])
    opened = load_image(encoded(palette, "GIF", transparency=1))
    np.testing.assert_array_equal(np.asarray(opened)[0], [[255, 0, 0], [255, 255, 255]])

    keyed = encoded(Image.fromarray(PIXELS), transparency=(90, 90, 90))
    assert load_image(keyed).getpixel((1, 1)) == (255, 255, 255)
    assert load_image(keyed).getpixel((0, 0)) == (250, 10, 10)


def test_sixteen_bit_greys_are_scaled_not_clipped():
    deep = np.array([[0, 257, 25700], [32896, 65535, 128]], np.uint16)
    expected = [[0, 1, 100], [128, 255, 0]]
    for source in (
        encoded(Image.fromarray(deep)),
        encoded(Image.fromarray(deep), "TIFF"),
        Image.fromarray(deep),
        Image.fromarray(deep.astype(np.int32)),
        encoded(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        b"P5 3 2 65535\n" + deep.astype(">u2").tobytes(),
    ):
        np.testing.assert_array_equal(np.asarray(load_image(source))[:, :, 1], expected)


def test_sixteen_bit_colour():
    row = b"\x00" + np.array([[65535, 0, 32896]], ">u2").tobytes()
    data = png_header(1, 1, bit_depth=16, rows=row)
    assert load_image(data).getpixel((0, 0)) == (255, 0, 128)


def test_float_pictures():
    unit = np.array([[0.0, 0.5, 1.0]], np.float32)
    np.testing.assert_array_equal(np.asarray(load_image(Image.fromarray(unit)))[0, :, 0], [0, 128, 255])
    levels = np.array([[0.0, 99.6, 255.0]], np.float32)
    np.testing.assert_array_equal(
        np.asarray(load_image(encoded(Image.fromarray(levels), "TIFF")))[0, :, 0], [0, 100, 255]
    )
    for bad in ([[-1.0, 0.5]], [[0.0, 256.0]], [[np.nan, 0.0]]):
        with pytest.raises(InputError, match=r"grey values .* \(mode F\), expected 0\.\.1 or 0\.\.255"):
            load_image(Image.fromarray(np.array(bad, np.float32)))
    with pytest.raises(InputError, match=r"expected 0\.\.65535"):
        load_image(Image.fromarray(np.array([[70000, 0]], np.int32)))


def test_animated_files_give_their_first_frame():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for format_name, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        data = encoded(frames[0], format_name, save_all=True, append_images=frames[1:], **options)
        assert load_image(data).getpixel((4, 4)) == (255, 0, 0), format_name
    movie = Image.open(io.BytesIO(data))
    movie.seek(2)
    assert load_image(movie).getpixel((4, 4)) == (0, 0, 255)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_tiny_and_thin_pictures(size: tuple[int, int]):
    image = load_image(encoded(Image.new("RGB", size, (9, 8, 7))))
    assert image.size == size
    assert (Preprocessing(size_px=28).to_pixels(image) == (9, 8, 7)).all()


# --- arrays ------------------------------------------------------------------------------------------------


def test_array_shapes():
    grey = np.array([[0, 100, 255]], np.uint8)
    for array in (grey, grey[:, :, None], grey / 255, (grey / 255).astype(np.float16)):
        np.testing.assert_array_equal(np.asarray(load_image(array))[0, :, 2], [0, 100, 255])
    rgba = np.dstack([PIXELS, np.full((2, 3), 255, np.uint8)])
    np.testing.assert_array_equal(np.asarray(load_image(rgba)), PIXELS)
    rgba[0, 0, 3] = 0
    assert load_image(rgba).getpixel((0, 0)) == (255, 255, 255)
    np.testing.assert_array_equal(np.asarray(load_image(PIXELS[:, ::-1])), PIXELS[:, ::-1])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 9), np.uint8), "channels first"),
        (np.zeros((8, 9, 2), np.uint8), r"8 x 9 x 2, expected \(H, W\)"),
        (np.zeros((2, 8, 9, 3), np.uint8), "2 x 8 x 9 x 3"),
        (np.zeros(7, np.uint8), "the array is 7, expected"),
        (np.array(7, np.uint8), "the array is a single number, expected"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4), np.int64), "int64, expected uint8"),
        (np.zeros((4, 4), bool), "bool, expected uint8"),
        (np.full((4, 4), 200.0), "from 200 to 200, expected 0..1"),
        (np.full((4, 4), -0.1), "expected 0..1"),
        (np.full((4, 4), np.nan), "expected 0..1"),
        (np.full((4, 4), np.inf), "expected 0..1"),
    ],
)
def test_refused_arrays(array: np.ndarray, message: str):
    with pytest.raises(InputError, match=message):
        load_image(array)


def test_tensors_and_other_things_are_refused_with_advice():
    with pytest.raises(InputError, match=r"permute\(1, 2, 0\)"):
        load_image(torch.zeros(3, 4, 4))  # pyright: ignore[reportArgumentType]
    for thing in (None, 3, ["a.png"], open):
        with pytest.raises(InputError, match="a picture must be a path, bytes"):
            load_image(thing)  # pyright: ignore[reportArgumentType]


# --- files that are refused --------------------------------------------------------------------------------


def test_missing_folder_empty_and_unopenable(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.png' does not exist"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"^picture [^:]* is a folder: give one picture file"):
        load_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"empty\.png' is empty \(0 bytes\)"):
        load_image(tmp_path / "empty.png")
    with pytest.raises(InputError, match="is empty"):
        load_image(b"")
    with pytest.raises(InputError, match="cannot be opened"):
        load_image("zero\0byte.png")
    with pytest.raises(InputError, match="cannot be opened"):
        load_image("x" * 5000)
    with pytest.raises(InputError, match="web address: download it"):
        load_image("https://example.org/cat.jpg")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        load_image(tmp_path / "pipe")


def test_an_empty_name_is_no_folder():
    with pytest.raises(InputError, match="no picture is named"):
        load_image("")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<!doctype html><html></html>", "a web page"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "a HEIC picture"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2", "a video"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"just some words", "not a picture of a known format"),
        (b"x", "not a picture of a known format"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, kind: str):
    (tmp_path / "thing.jpg").write_bytes(data)
    with pytest.raises(InputError, match=kind) as caught:
        load_image(tmp_path / "thing.jpg")
    assert "thing.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files(format_name: str):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), format_name)
    for share in (0.02, 0.5, 0.9):
        with pytest.raises(InputError, match="damaged"):
            load_image(data[: max(12, int(share * len(data)))])


@pytest.mark.parametrize("format_name", FORMATS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_one_sentence(format_name: str, data: st.DataObject):
    raw = bytearray(encoded(Image.fromarray(PIXELS).resize((16, 16)), format_name))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = load_image(bytes(raw), max_pixels=100_000)
    except InputError as error:
        assert str(error)
    else:
        assert image.mode == "RGB"


# --- size limit --------------------------------------------------------------------------------------------


def test_a_bomb_is_refused_by_its_header():
    sides = {"PNG": png_header(30_000, 30_000)}
    bitmap = bytearray(encoded(Image.new("RGB", (2, 2)), "BMP"))
    bitmap[18:26] = struct.pack("<ii", 30_000, 30_000)
    sides["BMP"] = bytes(bitmap)
    gif = bytearray(encoded(Image.new("L", (2, 2)), "GIF"))
    gif[6:10] = struct.pack("<HH", 30_000, 30_000)
    sides["GIF"] = bytes(gif)
    sides["PPM"] = b"P6 30000 30000 255\n"
    for data in sides.values():
        with pytest.raises(InputError, match=r"30000x30000 = 900,000,000 pixels, but at most 100,000,000"):
            load_image(data)


def test_the_limit_is_the_callers_for_files_images_and_arrays():
    data = encoded(Image.fromarray(PIXELS))
    assert load_image(data, max_pixels=6).size == (3, 2)
    for source in (data, Image.fromarray(PIXELS), PIXELS):
        with pytest.raises(InputError, match="3x2 = 6 pixels, but at most 5"):
            load_image(source, max_pixels=5)


def test_pillows_own_limit_neither_warns_nor_refuses_below_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    assert load_image(encoded(Image.fromarray(PIXELS))).size == (3, 2)
    assert load_image(encoded(Image.new("RGB", (30, 30)))).size == (30, 30)


def test_a_webp_that_pillow_itself_refuses(monkeypatch: pytest.MonkeyPatch):
    data = encoded(Image.new("RGB", (90, 90)), "WEBP")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(InputError, match="more pixels than Pillow is set to read"):
        load_image(data)


def test_threads_do_not_leave_warning_filters_behind():
    odd = encoded(Image.fromarray(PIXELS), exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x02broken")
    before = list(warnings.filters)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                load_image(odd)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(warnings.filters) == before


# --- preprocessing -----------------------------------------------------------------------------------------


def golden_cases() -> list[Path]:
    cases = sorted(GOLDEN.glob("*/encode.json"))
    return cases or [GOLDEN / "missing" / "encode.json"]  # fails below: no golden data is no success


@pytest.mark.parametrize("case", golden_cases(), ids=lambda path: path.parent.name)
def test_arithmetic_equals_the_reference(case: Path):
    described = json.loads(case.read_text())["arrays"]["pixel_values"]
    arrays = np.load(case.with_suffix(".npz"))
    image = load_image(arrays["image"])
    preprocessing = Preprocessing(size_px=image.width)
    np.testing.assert_array_equal(preprocessing.to_pixels(image), arrays["image"])
    step = int(re.match(r"\[:, ::(\d+), ::\1\] of", described["slice"]).group(1))
    ours = preprocessing([image])[0, :, ::step, ::step].numpy()
    np.testing.assert_allclose(ours, arrays["pixel_values"], rtol=0, atol=1e-6)


def test_resize_is_pils_bicubic_without_aspect_ratio():
    noise = np.random.default_rng(1).integers(0, 256, (40, 100, 3), np.uint8)
    image = Image.fromarray(noise)
    np.testing.assert_array_equal(Preprocessing(size_px=56).to_pixels(image), np.asarray(image.resize((56, 56))))
    bilinear = Preprocessing(size_px=56, resample="bilinear").to_pixels(image)
    np.testing.assert_array_equal(bilinear, np.asarray(image.resize((56, 56), Image.Resampling.BILINEAR)))


def test_normalize_and_batches():
    preprocessing = Preprocessing(size_px=4, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.5))
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[1] = (255, 51, 0)
    values = preprocessing.normalize(pixels)
    assert values.shape == (2, 3, 4, 4)
    assert values.dtype == torch.float32
    assert values.is_contiguous()
    torch.testing.assert_close(values[0, :, 0, 0], torch.tensor([-5.0, -2.0, -0.6]))
    torch.testing.assert_close(values[1, :, 3, 3], torch.tensor([5.0, -1.0, -0.6]))
    torch.testing.assert_close(preprocessing.normalize(torch.from_numpy(pixels)), values, rtol=0, atol=0)
    pixels.setflags(write=False)
    preprocessing.normalize(pixels)
    images = [Image.fromarray(pixels[1]), Image.new("RGB", (9, 2))]
    torch.testing.assert_close(preprocessing(images), values.flip(0))
    assert preprocessing([]).shape == (0, 3, 4, 4)


def test_wrong_input_to_preprocessing():
    preprocessing = Preprocessing(size_px=4)
    with pytest.raises(InputError, match="mode L"):
        preprocessing.to_pixels(Image.new("L", (4, 4)))
    for wrong in (np.zeros((4, 4, 3), np.uint8), np.zeros((1, 3, 4, 4), np.uint8), np.zeros((1, 4, 4, 3))):
        with pytest.raises(InputError, match="normalize takes uint8"):
            preprocessing.normalize(wrong)


def test_dictionary_round_trip_and_strictness():
    preprocessing = Preprocessing(size_px=168, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resample="lanczos")
    stored = json.loads(json.dumps(preprocessing.to_dict()))
    assert Preprocessing.from_dict(stored) == preprocessing
    with pytest.raises(InputError, match="unknown side"):
        Preprocessing.from_dict({**stored, "side": 3})
    del stored["mean"]
    with pytest.raises(InputError, match="mean missing"):
        Preprocessing.from_dict(stored)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size_px": 0},
        {"size_px": 4.5},
        {"size_px": True},
        {"mean": (0.5, 0.5)},
        {"mean": 0.5},
        {"std": (0.5, 0.0, 0.5)},
        {"resample": "cubic"},
    ],
)
def test_wrong_settings(wrong: dict):
    with pytest.raises(InputError, match=f"image preprocessing: {next(iter(wrong))} is"):
        Preprocessing(**wrong)


def test_published_preprocessor_files():
    published = {
        "crop_size": {"height": 448, "width": 448},
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "image_processor_type": "BitImageProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 512},
    }
    assert Preprocessing.from_preprocessor_config(published) == Preprocessing()
    assert Preprocessing.from_preprocessor_config(published, size_px=168).size_px == 168
    for size in ({"shortest_edge": 224}, {"height": 224, "width": 224}, 224):
        assert Preprocessing.from_preprocessor_config({"size": size}).size_px == 224
    for unclear in ({}, {"size": {"height": 224, "width": 336}}, {"size": {"longest_edge": 9}}):
        with pytest.raises(InputError, match="neither crop_size nor size"):
            Preprocessing.from_preprocessor_config(unclear)
    with pytest.raises(InputError, match="rescale_factor"):
        Preprocessing.from_preprocessor_config({**published, "rescale_factor": 1 / 127.5})
    with pytest.raises(InputError, match="do_normalize is False"):
        Preprocessing.from_preprocessor_config({**published, "do_normalize": False})
    with pytest.raises(InputError, match="std"):
        Preprocessing.from_preprocessor_config({**published, "image_std": [1, 1]})
