"""The one image preprocessing: any picture -> upright 8-bit RGB -> square uint8 pixels -> encoder input.

    path, bytes, PIL image, array -> load_image -> PIL RGB (W, H)
        -> Preprocessing.to_pixels -> uint8 (S, S, 3) -> Preprocessing.normalize -> float32 (B, 3, S, S)

Training, evaluation, command line and server all come through here. S is the encoder's side in pixels
(448 for the published weights). The arithmetic is that of the golden README, section "Image": PIL resize to
(S, S) with the bicubic filter, aspect ratio not kept, u8 * (1/255), minus mean, divided by std, RGB.

Pillow's module-wide switches (MAX_IMAGE_PIXELS, LOAD_TRUNCATED_IMAGES) are never touched.
"""

import io
import stat
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from groma.errors import InputError
from groma.image_file import DECODE_ERRORS, WARNINGS_LOCK, check_size, open_header

ImageSource = str | Path | bytes | Image.Image | np.ndarray

MAX_PIXELS = 100_000_000
"""Most pixels (width x height) a picture may have unless the caller says otherwise: 300 MB once decoded."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

RESAMPLING: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_TURNS: dict[int, Image.Transpose] = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads any picture as upright 8-bit RGB in its original size.

    * EXIF orientation is applied (also to a PIL image that still carries it); unreadable EXIF counts as none.
    * Transparency, in whatever form, is composited on white. Colour profiles are not applied.
    * 16-bit greys (modes I;16 and I) are scaled by 255 / 65535; mode F must hold 0..1 or 0..255.
    * Animated files give their first frame; an animated PIL image the frame it stands on.
    * Arrays: uint8, or floats in 0..1; (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.

    Args:
        source: A file's path, a file's bytes, a PIL image (left as it is) or an array.
        max_pixels: Most pixels accepted, counted from the file's header before anything is decoded.

    Returns:
        A PIL image of mode RGB that shares nothing with `source` and carries no metadata, so that loading it
        again changes nothing.

    Raises:
        InputError: Nothing readable is there, or it is too large; one sentence.
    """
    if isinstance(source, str | Path):
        return _load_file(Path(source), max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(open_header(io.BytesIO(source), "the picture", max_pixels), "the picture")
    if isinstance(source, Image.Image):
        check_size(source.size, "the PIL image", max_pixels)
        return _decode(source, "the PIL image")
    if isinstance(source, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        return _from_array(source, max_pixels)
    if isinstance(source, Tensor):
        raise InputError(
            f"a picture cannot be a torch tensor (shape {tuple(source.shape)}): give an array instead, "
            "for a (3, H, W) tensor `tensor.permute(1, 2, 0).cpu().numpy()`"
        )
    raise InputError(f"a picture must be a path, bytes, a PIL image or a numpy array, not {type(source).__name__}")


def _load_file(path: Path, max_pixels: int) -> Image.Image:
    name = f"picture {str(path)!r}"
    if str(path) == ".":  # what an empty text becomes as a path
        raise InputError("no picture is named: give a picture file, not an empty name or the current folder")
    if str(path).startswith(("http:", "https:")):
        raise InputError("a picture cannot be a web address: download it first, then give the file")
    try:
        mode = path.stat().st_mode
        stream = path.open("rb") if stat.S_ISREG(mode) else None
    except FileNotFoundError:
        raise InputError(f"{name} does not exist: check the path") from None
    except OSError as error:
        raise InputError(f"{name} cannot be opened: {error.strerror or error}") from None
    except ValueError as error:  # a zero byte in the path
        raise InputError(f"{name} cannot be opened: {error}") from None
    if stream is None:
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise InputError(f"{name} is {kind}: give one picture file, or its bytes")
    with stream:
        return _decode(open_header(stream, name, max_pixels), name)


def _decode(image: Image.Image, name: str) -> Image.Image:
    """Decodes an opened image and makes it upright RGB."""
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has more pixels than Pillow is set to read: {error}") from None
    except DECODE_ERRORS as error:
        raise InputError(f"{name} is damaged or cut off, its pixels cannot be decoded ({error})") from None
    rgb = _to_rgb(image, name)
    if (turn := _turn(image)) is not None:
        rgb = rgb.transpose(turn)
    rgb.info = {}  # no EXIF left that would turn it a second time
    return rgb


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings a picture upright by its EXIF or XMP orientation, once it is decoded."""
    with WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        except DECODE_ERRORS:  # metadata is beside the point: a broken block holds no orientation
            return None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A decoded image of any mode as a new RGB image."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image, name).convert("RGB")
    try:
        return _on_white(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB")
    except (ValueError, OSError) as error:
        raise InputError(f"{name} has mode {image.mode}, which Pillow cannot turn into RGB: {error}") from None


def _on_white(rgba: Image.Image) -> Image.Image:
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """A grey picture of 16 or 32 bits a pixel (mode I;16, I or F) as mode L."""
    with np.errstate(invalid="ignore"):  # a NaN of the signalling kind warns; it is refused below
        grey = np.asarray(image).astype(np.float64)
    low, high = float(grey.min()), float(grey.max())
    expected, white = ("0..65535", 65535) if image.mode != "F" else ("0..1 or 0..255", 255 if high > 1 else 1)
    if not 0 <= low <= high <= white:  # false for NaN as well
        raise InputError(
            f"{name} has grey values from {low:g} to {high:g} (mode {image.mode}), expected {expected}: "
            "scale it to 8 bits first"
        )
    return Image.fromarray(np.rint(grey * (255 / white)).astype(np.uint8))


def _from_array(array: np.ndarray, max_pixels: int) -> Image.Image:
    shape = " x ".join(str(n) for n in array.shape) or "a single number"
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        raise InputError(f"the array ({shape}) has its channels first, expected (H, W, 3): `array.transpose(1, 2, 0)`")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"the array is {shape}, expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    check_size((array.shape[1], array.shape[0]), f"the array ({shape})", max_pixels)
    pixels = _array_to_uint8(array)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return _on_white(image) if image.mode == "RGBA" else image.convert("RGB")


def _array_to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"the array is of {array.dtype}, expected uint8 (0..255) or floats in 0..1: scale and convert it"
        )
    low, high = float(array.min()), float(array.max())
    slack = 0.5 / 255  # what rounds to 0 or 255 anyway
    if not -slack <= low <= high <= 1 + slack:  # false for NaN as well
        raise InputError(
            f"the float array holds values from {low:g} to {high:g}, expected 0..1: "
            "divide it by its maximum, or give 0..255 as uint8"
        )
    return np.rint(array.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an RGB picture becomes the encoder's input; stored with every checkpoint."""

    size_px: int = 448
    """Side S of the square that every picture is resized to, in pixels; the encoder's image size."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted from each channel (R, G, B) on the scale 0..1."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Each channel is divided by it after that."""
    resample: Resample = "bicubic"
    """PIL's resize filter."""

    def __post_init__(self) -> None:
        size_px: Any = self.size_px
        if not isinstance(size_px, int) or isinstance(size_px, bool) or size_px < 1:
            raise InputError(f"image preprocessing: size_px is {self.size_px!r}, expected a whole number > 0")
        for name in ("mean", "std"):
            values: tuple[float, ...] = getattr(self, name)
            if not isinstance(values, Sequence) or len(values) != 3:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InputError(f"image preprocessing: {name} is {values!r}, expected three numbers")
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if min(self.std) <= 0:
            raise InputError(f"image preprocessing: std is {self.std}, expected numbers above 0")
        if self.resample not in RESAMPLING:
            raise InputError(
                f"image preprocessing: resample is {self.resample!r}, expected one of {', '.join(RESAMPLING)}"
            )

    def to_pixels(self, image: Image.Image) -> np.ndarray:
        """An RGB picture of any size -> (S, S, 3) uint8; resized only if it has another size."""
        if image.mode != "RGB":
            raise InputError(f"to_pixels takes an RGB picture, not mode {image.mode}: use load_image")
        side = (self.size_px, self.size_px)
        if image.size != side:
            image = image.resize(side, RESAMPLING[self.resample])
        return np.array(image)

    def normalize(self, pixels: np.ndarray | Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) float32: u8 * (1/255), minus mean, divided by std.

        A tensor stays on its device. S may be any size here, so that crops of training go the same way.

        Raises:
            InputError: Another shape or type came.
        """
        batch = torch.tensor(pixels) if isinstance(pixels, np.ndarray) else pixels
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[-1] != 3:
            raise InputError(f"normalize takes uint8 pixels (B, S, S, 3), not {batch.dtype} {tuple(batch.shape)}")
        channels_first = batch.permute(0, 3, 1, 2).to(torch.float32) * (1 / 255)
        mean = channels_first.new_tensor(self.mean)[:, None, None]
        std = channels_first.new_tensor(self.std)[:, None, None]
        return ((channels_first - mean) / std).contiguous()

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures of any sizes -> (B, 3, S, S) float32; B may be 0."""
        if not images:
            return torch.zeros(0, 3, self.size_px, self.size_px)
        return self.normalize(np.stack([self.to_pixels(image) for image in images]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Reads what `to_dict` wrote; an unknown or missing name is an InputError."""
        expected = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - expected):
            raise InputError(f"image preprocessing: unknown {', '.join(unknown)}; known: {sorted(expected)}")
        if missing := sorted(expected - set(values)):
            raise InputError(f"image preprocessing: {', '.join(missing)} missing")
        return cls(**values)

    @classmethod
    def from_preprocessor_config(cls, config: Mapping[str, Any], *, size_px: int | None = None) -> "Preprocessing":
        """Reads the `preprocessor_config.json` of a checkpoint in Hugging Face's layout.

        Only mean, std and (without `size_px`) the size are taken. The file may speak of a shortest edge, a
        centre crop or another filter; the method does none of that: the reference resizes with PIL's bicubic
        filter to (S, S) before its processor sees the picture, which then changes the size no more.

        Args:
            config: The file's content.
            size_px: The encoder's image size from the model's configuration, which goes before the file's
                crop size and size.

        Raises:
            InputError: No size can be found, or the file asks for other arithmetic (no rescaling by 1/255, no
                normalization).
        """
        for step in ("do_rescale", "do_normalize"):
            if config.get(step, True) is not True:
                raise InputError(f"preprocessor_config.json: {step} is {config[step]!r}, expected true")
        if abs(config.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
            raise InputError(
                f"preprocessor_config.json: rescale_factor is {config['rescale_factor']!r}, expected 1/255"
            )
        side = size_px or _side(config.get("crop_size")) or _side(config.get("size"))
        if side is None:
            raise InputError("preprocessor_config.json: neither crop_size nor size names one side in pixels")
        mean = tuple(config.get("image_mean", IMAGENET_MEAN))
        std = tuple(config.get("image_std", IMAGENET_STD))
        return cls(size_px=side, mean=mean, std=std)  # pyright: ignore[reportArgumentType]  # checked inside


def _side(size: object) -> int | None:
    """The one side that a processor's size entry names: 448, {"shortest_edge": 448} or height = width."""
    if isinstance(size, Mapping):
        named = cast(Mapping[str, object], size)
        sides = {named[key] for key in ("shortest_edge", "height", "width") if named.get(key) is not None}
        size = sides.pop() if len(sides) == 1 else None
    return size if isinstance(size, int) and not isinstance(size, bool) else None
