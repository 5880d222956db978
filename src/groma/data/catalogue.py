"""The data sets of the method, by name: in which format each is published and what is learned from it.

A new data set of a known format is one entry here. What a set is called in a mixture (groma.data.mixture) is its key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Head = Literal["coco", "sa1b"]
"""Objectness head that a detection set teaches."""

ANY_AREA = (0.0, float("inf"))
SA1B_AREA = (14.0**2, 400.0**2)
"""Areas of SA-1B's boxes that are taught, in square pixels of a picture of 448 px (released code)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of a data set apart from where it lies."""

    told: str
    """What it is, in a few words."""
    format: str
    """A key of groma.data.sources.FORMATS."""
    task: str
    """What stages 2 and 3 learn from it: a key of groma.data.tasks.TASKS, or "everything"."""
    head: Head | None = None
    """Stage 1: which head it teaches; None: it is no detection set."""
    exhaustive: bool = False
    """Every instance of every class has a box, so that classes without one are absent."""
    area_px: tuple[float, float] = ANY_AREA
    """Stage 1: least and largest area of a box, in square pixels of a picture of 448 px."""
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Fields of groma.data.tasks.TaskOptions that differ from their defaults."""


CATALOGUE: dict[str, Entry] = {
    "coco": Entry(
        told="COCO 2017, 80 classes",
        format="coco",
        task="locate_classes",
        head="coco",
        exhaustive=True,
    ),
    "objects365": Entry(
        told="Objects365 v2, 365 classes",
        format="coco",
        task="locate_classes",
        head="coco",
        exhaustive=True,
    ),
    "openimages": Entry(
        told="OpenImages v6; only some classes of a picture were looked for",
        format="coco",
        task="locate_classes",
        head="coco",
    ),
    "v3det": Entry(told="V3Det, 13,204 classes", format="coco", task="locate_classes", head="coco"),
    "sa1b": Entry(
        told="SA-1B, boxes of masks without classes; a file, or the published folder of one JSON a picture",
        format="coco",
        task="locate_classes",
        head="sa1b",
        area_px=SA1B_AREA,
    ),
    "lvis": Entry(
        told="LVIS v1, 1,203 classes; each picture names some that it lacks",
        format="coco",
        task="locate_classes",
        options={"max_turns": 3},
    ),
    "refcoco": Entry(told="RefCOCO", format="coco_expressions", task="refer"),
    "refcoco+": Entry(told="RefCOCO+, without words for places", format="coco_expressions", task="refer"),
    "refcocog": Entry(told="RefCOCOg, long expressions", format="coco_expressions", task="refer"),
    "refcocog_captions": Entry(
        told="RefCOCOg, its expressions as captions of their regions", format="coco_expressions", task="describe_region"
    ),
    "visual_genome": Entry(
        told="Visual Genome, one region a picture", format="coco_region_captions", task="describe_region"
    ),
    "visual_genome_many": Entry(
        told="Visual Genome, up to 10 regions a conversation", format="coco_region_captions", task="describe_regions"
    ),
    "flickr30k": Entry(
        told="Flickr30k Entities, grounded captions", format="coco_grounded_captions", task="describe_image"
    ),
    "grit": Entry(told="GRIT-20m, phrases of captions", format="grit", task="locate_phrases"),
    "llava_instruct": Entry(told="LLaVA Instruct, conversations", format="llava", task="converse"),
    "sharegpt4v": Entry(told="ShareGPT-4V, long captions", format="llava", task="converse"),
    "sharegpt4v_pretrain": Entry(told="ShareGPT-4V-PT, long captions of stage 2", format="llava", task="converse"),
    "groma_instruct": Entry(told="Groma Instruct, grounded conversations", format="groma_instruct", task="converse"),
    "own": Entry(told="your own JSONL (groma.data.sources.own)", format="own", task="everything", head="coco"),
    "own_coco": Entry(told="your own COCO file", format="coco", task="locate_classes", head="coco", exhaustive=True),
}
"""Name of a data set -> what is known of it."""
