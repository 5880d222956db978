"""One picture made ready: annotation -> picture -> regions -> numbers drawn -> request, or the reason why not.

Nothing here costs anything but time.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from PIL import Image

from groma.curate.numbering import NumberedPicture, draw_numbers
from groma.curate.regions import Regions, boxes_in_pixels, choose_regions, trusted_boxes
from groma.curate.request import Request, first_request
from groma.curate.settings import Recipe
from groma.data.annotation import Annotation
from groma.data.cleaning import BadSampleError, clean
from groma.errors import InputError
from groma.image import load_image

SKIPPED = {
    "unreadable_record": "the annotation is not as its format says",
    "outside_folder": "the annotation names a picture outside of the folder of pictures",
    "missing_picture": "the picture is not there",
    "corrupt_picture": "the picture cannot be decoded",
    "wrong_size": "the picture has another size than the annotation says",
    "narrow_picture": "the picture is too narrow to draw numbers on",
    "few_regions": "fewer than `regions.least` boxes can be regions",
}
"""Why a picture is not asked about -> what that means."""


class SkippedError(Exception):
    """A picture is not asked about; never leaves this folder."""

    def __init__(self, kind: str, told: str) -> None:
        """`kind` is a key of SKIPPED, `told` one sentence for people."""
        super().__init__(told)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A picture that can be asked about."""

    picture: str
    """Its path below the folder of pictures."""
    regions: Regions
    """What its numbers stand for."""
    numbered: NumberedPicture
    """The picture with numbers."""
    request: Request
    """The question."""


def sample_id(annotation: Annotation, trusted: Annotation | None) -> str:
    """What tells samples of one recipe apart: a digest of all that is said about a picture."""
    said = [annotation.to_dict(), None if trusted is None else trusted.to_dict()]
    canonical = json.dumps(said, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def prepare(annotation: Annotation, pictures: Path, recipe: Recipe, trusted: Annotation | None = None) -> Prepared:
    """Make a picture ready to be asked about.

    Args:
        annotation: What is known about it.
        pictures: Folder that the annotation's path starts from.
        recipe: What is made of it.
        trusted: Exact boxes of the same picture (groma.curate.regions.trusted_boxes).

    Raises:
        SkippedError: It cannot be asked about; says why.
    """
    picture = _load(annotation.picture, pictures)
    try:
        cleaned = clean(annotation, picture.size).annotation
        exact = (
            None if trusted is None else clean(replace(trusted, picture=annotation.picture), picture.size).annotation
        )
    except BadSampleError as error:
        raise SkippedError(error.fault.kind, error.fault.told) from None
    regions = _regions(cleaned, exact, picture.size, recipe)
    if len(regions) < recipe.regions.least:
        listed = ", ".join(f"{count} {kind}" for kind, count in regions.dropped.items()) or "none"
        told = (
            f"{annotation.picture}: {len(regions)} of {len(annotation.boxes_xyxy_frame)} boxes can be regions, "
            f"expected at least {recipe.regions.least} (dropped: {listed})"
        )
        raise SkippedError("few_regions", told)
    try:
        numbered = draw_numbers(picture, regions.boxes_xyxy_px, recipe.picture)
    except InputError as error:
        raise SkippedError("narrow_picture", f"{annotation.picture}: {error}") from None
    request = first_request(numbered.image, regions, recipe)
    return Prepared(picture=annotation.picture, regions=regions, numbered=numbered, request=request)


def _load(name: str, pictures: Path) -> Image.Image:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:  # somebody else's annotations must not send files of one's own away
        raise SkippedError("outside_folder", f"{name!r} lies outside of the folder of pictures")
    file = pictures / path
    if not file.is_file():
        raise SkippedError("missing_picture", f"{file} is not there")
    try:
        return load_image(file)
    except InputError as error:
        raise SkippedError("corrupt_picture", str(error)) from None


def _regions(cleaned: Annotation, exact: Annotation | None, size_px: tuple[int, int], recipe: Recipe) -> Regions:
    if exact is None:
        return choose_regions(cleaned, size_px, recipe.regions, seed=recipe.seed)
    confirmed = trusted_boxes(
        _in_pixels(cleaned, size_px), _in_pixels(exact, size_px), min_iou=recipe.regions.trusted_iou
    )
    regions = choose_regions(confirmed, size_px, recipe.regions, seed=recipe.seed)
    lost = len(cleaned.boxes_xyxy_frame) - len(confirmed.boxes_xyxy_frame)
    return replace(regions, dropped={**regions.dropped, "untrusted": lost}) if lost else regions


def _in_pixels(annotation: Annotation, size_px: tuple[int, int]) -> Annotation:
    frame = (float(size_px[0]), float(size_px[1]))
    return replace(annotation, frame=frame, boxes_xyxy_frame=boxes_in_pixels(annotation, size_px))
