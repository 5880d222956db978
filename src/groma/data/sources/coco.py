"""COCO-style JSON: `{"images": [...], "annotations": [...], "categories": [...]}`, joined by `image_id`.

Boxes are `[x, y, w, h]` in pixels of the `width` x `height` that the image's entry names. One shape, four readings:

SA-1B is published as a folder of such files, one a picture, `{"image": {...}, "annotations": [...]}`; a folder in the
place of the file is read so.

* detection (COCO, Objects365, OpenImages, V3Det, SA-1B, LVIS, your own): a box shows its category; crowds are left out;
* expressions (RefCOCO, RefCOCO+, RefCOCOg): an entry of `images` is a pair of picture and expression, the expression in
  its `caption`, with one annotation;
* region captions (Visual Genome): each annotation has its `caption`;
* grounded captions (Flickr30k Entities): the image's `caption`, and `tokens_positive` of each annotation: the
  characters `[start, end)` that it is about.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from groma.data.annotation import Annotation, Box, Passage, Span
from groma.data.json_stream import elements, keys_of
from groma.data.record_index import Grouped, RecordIndex, index_records
from groma.errors import InputError
from groma.storage import read_json_object

NO_CLASS = "object"
"""The category of class-agnostic sets."""

Record = Mapping[str, Any]
"""{"head": an entry of "images", "members": its entries of "annotations"}."""


def open_index(file: Path) -> RecordIndex:
    """The records of a COCO-style file or folder; `shared` maps category ids (as text) to names.

    Raises:
        InputError: a part is missing, or an entry has no id.
        MissingExtraError: ijson is not installed.
    """
    if file.is_dir():
        return index_records(file, _pictures_of(file), kind="coco", shared={"categories": {}})
    missing = {"images", "annotations"} - set(keys_of(file))
    if missing:
        raise InputError(f"{file}: no COCO-style file: {' and '.join(sorted(missing))} missing.")
    names = {str(_field(c, "id", file)): _field(c, "name", file) for c in elements(file, key="categories")}
    records = Grouped(
        heads=((_field(image, "id", file), image) for image in elements(file, key="images")),
        members=((_field(entry, "image_id", file), entry) for entry in elements(file, key="annotations")),
    )
    return index_records(file, records, kind="coco", shared={"categories": names})


def _pictures_of(folder: Path) -> Iterator[Record]:
    """A record for each JSON file below a folder, by name; masks are left out, as nothing here reads them."""
    found = False
    for file in sorted(folder.rglob("*.json")):
        found = True
        content = read_json_object(file, error=InputError)
        if not isinstance(content.get("image"), Mapping) or not isinstance(content.get("annotations"), list):
            raise InputError(f'{file}: expected {{"image": {{...}}, "annotations": [...]}}, as SA-1B has them.')
        members = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in content["annotations"]]
        yield {"head": content["image"], "members": members}
    if not found:
        raise InputError(f"{folder}: there is no .json file in this folder or below.")


def read_detection(record: Record, shared: Mapping[str, Any]) -> Annotation:
    """Boxes with the names of their categories.

    LVIS says which classes an image surely lacks, and which have more instances than boxes; elsewhere those that have
    a crowd do.
    """
    head, names = record["head"], shared["categories"]
    crowds = [entry for entry in record["members"] if entry.get("iscrowd") or entry.get("ignore")]
    members = [entry for entry in record["members"] if entry not in crowds]
    incomplete = [*head.get("not_exhaustive_category_ids", ()), *(entry.get("category_id") for entry in crowds)]
    return _annotation(
        record,
        members,
        labels=tuple(_name(names, entry.get("category_id")) for entry in members),
        absent=tuple(_name(names, number) for number in head.get("neg_category_ids", ())),
        unsure=tuple(dict.fromkeys(_name(names, number) for number in incomplete)),
    )


def read_expression(record: Record, shared: Mapping[str, Any]) -> Annotation:
    """One box with the expression that refers to it."""
    members = record["members"]
    if len(members) != 1:
        raise InputError(f"expression of image entry {record['head']['id']} has {len(members)} boxes, expected one")
    return _annotation(record, members, labels=(_text(record["head"], "caption"),))


def read_region_captions(record: Record, shared: Mapping[str, Any]) -> Annotation:
    """Boxes with a caption each."""
    members = record["members"]
    return _annotation(record, members, labels=tuple(_text(entry, "caption") for entry in members))


def read_grounded_caption(record: Record, shared: Mapping[str, Any]) -> Annotation:
    """A caption of the picture, whose phrases have boxes."""
    members = record["members"]
    boxes_of: dict[tuple[int, int], list[int]] = {}
    for number, entry in enumerate(members):
        for start, end in entry["tokens_positive"]:
            boxes_of.setdefault((int(start), int(end)), []).append(number)
    spans = tuple(Span(start, end, tuple(boxes)) for (start, end), boxes in sorted(boxes_of.items()))
    return _annotation(record, members, passages=(Passage(_text(record["head"], "caption"), spans),))


def _annotation(record: Record, members: Sequence[Mapping[str, Any]], **parts: Any) -> Annotation:
    image = record["head"]
    return Annotation(
        picture=str(image["file_name"]),
        frame=(float(image["width"]), float(image["height"])),
        boxes_xyxy_frame=tuple(_box(entry["bbox"]) for entry in members),
        **parts,
    )


def _box(bbox: Sequence[float]) -> Box:
    """COCO's `[x, y, w, h]` -> corners."""
    x, y, w, h = (float(value) for value in bbox)
    return x, y, x + w, y + h


def _name(names: Mapping[str, str], category: Any) -> str:
    return names.get(str(category), NO_CLASS)


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is {value!r}, expected text")
    return value


def _field(entry: Any, key: str, file: Path) -> Any:
    if not isinstance(entry, Mapping) or key not in entry:
        raise InputError(f"{file}: the entry {str(entry)[:80]} has no {key!r}.")
    return entry[key]
