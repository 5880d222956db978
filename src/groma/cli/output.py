"""What commands write: results to standard output, everything else to standard error, pictures to files.

With --json standard output holds one JSON value and nothing else.
"""

import math
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma.errors import InputError
from groma.storage import atomic_file, json_text, write_text

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import RenderableType
    from rich.table import Table

PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Extensions that a picture can be written with -> Pillow's name of the format."""

JPEG_QUALITY = 92

LARGEST_SIDE_PX = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
"""Extension -> pixels a side that the format takes at most."""


def write_line(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line on standard error, for people: an error, a warning, what happens meanwhile."""
    sys.stderr.write(f"groma: {text}\n")


def show(renderable: "RenderableType") -> None:
    """Something for people on standard output."""
    from rich.console import Console

    Console(soft_wrap=False, highlight=False).print(renderable)


def write_json(value: Any) -> None:
    """One JSON value on standard output.

    Raises:
        InputError: The value holds something JSON has no form for.
    """
    write_line(json_text(value, what="the result", indent=2))


def figures_table(values: Mapping[str, Any], *columns: str) -> "Table":
    """Nested named values as a table of two columns, nested names joined by dots."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in columns:
        table.add_column(escape(column), overflow="fold")  # brackets are no markup; no path or name is cut short
    for name, value in _flat(values):
        table.add_row(Text(name), Text(_figure(value)))
    return table


def _figure(value: Any) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:.4g}"
        case int() if not isinstance(value, bool):
            return f"{value:,}"
    return str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        flat += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return flat


def finite_or_null(value: Any) -> Any:
    """The same values with None for every NaN and infinity, as JSON has no other form for "could not be measured"."""
    if isinstance(value, Mapping):
        return {name: finite_or_null(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_target(path: Path, flag: str = "--out") -> None:
    """Whether a file can be written there, asked before the work is done.

    Args:
        path: The file.
        flag: The option that named it, for errors.

    Raises:
        InputError: The folder is missing or cannot be written to, or the path is a folder itself.
    """
    if path.is_dir():
        raise InputError(f"{flag} {str(path)!r} is a folder: give a file's name in it")
    if not path.parent.is_dir():
        raise InputError(f"{flag} {str(path)!r}: there is no folder {str(path.parent)!r}, make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {str(path)!r}: the folder {str(path.parent)!r} cannot be written to")


def check_picture_target(path: Path, picture: Path) -> None:
    """The same for a picture, which must have a known extension and must not replace the picture that is read.

    Raises:
        InputError: As `check_target`, and for the extension or the same file.
    """
    if path.suffix.lower() not in PICTURE_FORMATS:
        known = ", ".join(PICTURE_FORMATS)
        raise InputError(f"--out {str(path)!r} has the extension {path.suffix!r}, expected one of {known}")
    check_target(path)
    if path.exists() and picture.exists() and path.samefile(picture):
        raise InputError(f"--out {str(path)!r} is the picture itself, which would be lost: give another name")


def save_picture(image: "Image.Image", path: Path) -> None:
    """Write a picture whole or not at all; the extension says the format.

    Raises:
        InputError: It cannot be written.
    """
    try:
        with atomic_file(path) as temporary:
            image.save(temporary, format=PICTURE_FORMATS[path.suffix.lower()], quality=JPEG_QUALITY)
    except OSError as error:
        raise InputError(f"--out {str(path)!r} cannot be written: {error.strerror or error}") from None
    except ValueError as error:  # the format cannot hold it
        raise InputError(f"--out {str(path)!r} cannot hold the picture: {error}; try .png") from None


def check_picture_fits(path: Path, size_px: tuple[int, int]) -> None:
    """Whether the format holds a picture of this size, asked before the work is done.

    Raises:
        InputError: It does not.
    """
    limit = LARGEST_SIDE_PX.get(path.suffix.lower())
    if limit is not None and max(size_px) > limit:
        raise InputError(
            f"--out {str(path)!r}: this format takes at most {limit} pixels a side, the picture has "
            f"{size_px[0]}x{size_px[1]}: give a .png"
        )


def save_json(value: Any, path: Path) -> None:
    """Write a result to a file, whole or not at all.

    Raises:
        InputError: It cannot be written, or holds something JSON has no form for.
    """
    save_text(json_text(value, what="the result", indent=2) + "\n", path)


def save_text(text: str, path: Path) -> None:
    """Write text to a file, whole or not at all.

    Raises:
        InputError: It cannot be written.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"--out {str(path)!r} cannot be written: {error.strerror or error}") from None


def version_line() -> str:
    """Versions of this package and of what its numbers depend on, without importing any of it."""
    parts = [f"{name} {_version(name)}" for name in ("groma", "torch", "transformers")]
    return ", ".join([*parts, f"Python {platform.python_version()}"])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
