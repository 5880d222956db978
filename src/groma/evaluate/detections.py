"""Detection files of benchmarks: pictures with boxes of classes, areas and what LVIS says about them.

Read through the source that training reads them with (groma.data.sources.coco); sizes are those of the file's `area`,
which COCO and LVIS measure on masks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma.data.sources import Source
from groma.data.sources.coco import NO_CLASS
from groma.errors import InputError
from groma.inference.result import Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One annotated box."""

    label: str
    """Name of its class."""
    box_xyxy_px: Box
    area_px: float
    """Of its mask where the file says so, else of its box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """What a file says about a picture."""

    picture: str
    """Its path as annotated."""
    things: tuple[Thing, ...]
    """Without crowds."""
    absent: frozenset[str]
    """Classes that surely are not in it (LVIS)."""
    unsure: frozenset[str]
    """Classes of which it may have more than have boxes: crowds, LVIS's not exhaustive ones."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Its classes, by name."""
        return tuple(sorted({thing.label for thing in self.things}))


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionFile:
    """A COCO- or LVIS-style file."""

    file: Path
    pictures: tuple[Detected, ...]
    """By name."""
    classes: tuple[str, ...]
    """All of its classes."""
    is_lvis: bool
    """It says for each picture what it lacks; else every instance of every class has a box."""


def read_detections(file: Path) -> DetectionFile:
    """Read it.

    Raises:
        InputError: it is no such file, or has no boxes.
    """
    source = Source(file, "coco")
    names: Mapping[str, str] = source.index.shared.get("categories", {})
    pictures: list[Detected] = []
    is_lvis = False
    for number in range(len(source)):
        annotation, record = source[number], source.index[number]
        is_lvis = is_lvis or "neg_category_ids" in record["head"]
        # as the source leaves them out
        members = [entry for entry in record["members"] if not (entry.get("iscrowd") or entry.get("ignore"))]
        things = tuple(
            Thing(label=label, box_xyxy_px=box, area_px=_area(entry))
            for label, box, entry in zip(annotation.labels, annotation.boxes_xyxy_frame, members, strict=True)
        )
        pictures.append(
            Detected(
                picture=annotation.picture,
                things=things,
                absent=frozenset(annotation.absent),
                unsure=frozenset(annotation.unsure),
            )
        )
    if not any(one.things for one in pictures):
        raise InputError(f"{file} has no boxes: is it another benchmark's file?")
    pictures.sort(key=lambda one: one.picture)
    classes = tuple(names.values()) or (NO_CLASS,)
    return DetectionFile(file=file, pictures=tuple(pictures), classes=classes, is_lvis=is_lvis)


def spoken(label: str) -> str:
    """A class as people say it: LVIS and OpenImages join words by underscores and put what is meant in brackets."""
    return label.split("_(")[0].replace("_", " ").strip() or label


def _area(entry: Mapping[str, Any]) -> float:
    _, _, width, height = (float(value) for value in entry["bbox"])
    return float(entry.get("area", width * height))
