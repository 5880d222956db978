"""A made-up set: plain pictures with described rectangles, in the published format of region captions."""

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from groma.curate.run import Job
from groma.curate.settings import Asking, Budget, Line, PictureSettings, Recipe

SIZE_PX = (240, 180)
COLORS = ("red", "green", "blue", "orange", "purple")
BOXES_XYWH_PX = ((10, 10, 60, 50), (90, 20, 50, 60), (170, 30, 60, 40), (20, 100, 80, 60), (130, 100, 90, 70))

QUICK = Line(concurrency=4, timeout_s=20, tries=4, first_wait_s=0.01, longest_wait_s=0.05)
"""Waits that tests can afford."""


def write_set(folder: Path, count: int) -> tuple[Path, Path]:
    """Write pictures and annotations; picture k differs from the others by its ground colour."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        name = f"{number:03}.png"
        picture = Image.new("RGB", SIZE_PX, (number * 37 % 256, number * 91 % 256, 128))
        pen = ImageDraw.Draw(picture)
        images.append({"id": number, "file_name": name, "width": SIZE_PX[0], "height": SIZE_PX[1]})
        for color, (x, y, w, h) in zip(COLORS, BOXES_XYWH_PX, strict=True):
            pen.rectangle((x, y, x + w - 1, y + h - 1), fill=color)
            entry = {"id": len(annotations), "image_id": number, "bbox": [x, y, w, h], "caption": f"{color} rectangle"}
            annotations.append(entry)
        picture.save(pictures / name)
    file = folder / "regions.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return file, pictures


def quick_recipe(**changes: Any) -> Recipe:
    """A recipe whose pictures are small, so that tests are quick."""
    small = PictureSettings(min_side_px=240, max_side_px=480)
    return Recipe(**{"model": "test-vision", "picture": small, "asking": Asking(picture_tokens=500), **changes})


def quick_job(pictures: Path, out: Path, **changes: Any) -> Job:
    """A job with such a recipe and short waits."""
    fields = {"recipe": quick_recipe(), "line": QUICK, "budget": Budget(), **changes}
    return Job(pictures=pictures, out=out, **fields)
