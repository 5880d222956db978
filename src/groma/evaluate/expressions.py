"""Referring expressions of benchmarks, in one shape: a picture, an expression, the boxes that it means.

| reader | published as |
|---|---|
| `read_pairs` | RefCOCO/+/g of the method: COCO-style, an entry of `images` for each (picture, expression) |
| `read_grefcoco` | gRefCOCO: a list of refs with `ann_id`s (or -1: no target), and COCO's instances beside it |
| `read_ref_l4` | Ref-L4: rows with `caption`, `bbox` [x, y, w, h], `file_name`; JSON, JSON lines or parquet |
| `read_humanref` | HumanRef: JSON lines with `image_name`, `referring`, `answer_boxes` [x1, y1, x2, y2], `domain` |
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma.data.sources import Source
from groma.errors import InputError, MissingExtraError
from groma.inference.result import Box
from groma.storage import read_json, read_json_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One case of a referring benchmark."""

    picture: str
    """Its path as annotated."""
    phrase: str
    """What is looked for."""
    boxes_xyxy_px: tuple[Box, ...]
    """What it means; none: nothing in the picture."""
    kind: str = ""
    """A part of the benchmark that is measured apart as well."""


def read_pairs(file: Path) -> list[Expression]:
    """RefCOCO, RefCOCO+, RefCOCOg; through the source that training reads them with.

    Raises:
        InputError: the file is of another format.
    """
    source = Source(file, "coco_expressions")
    return [
        Expression(picture=one.picture, phrase=one.labels[0].strip(), boxes_xyxy_px=one.boxes_xyxy_frame)
        for one in source
    ]


def read_grefcoco(file: Path, split: str) -> list[Expression]:
    """gRefCOCO, `grefs(unc).json` with `instances.json` beside it.

    Raises:
        InputError: a file is missing or of another format, or names annotations that are not there.
    """
    refs = read_json(file)
    if not isinstance(refs, list) or not refs or not isinstance(refs[0], Mapping) or "ann_id" not in refs[0]:
        raise InputError(f"{file}: expected gRefCOCO's list of refs, each with ann_id and sentences.")
    instances = read_json_object(file.parent / "instances.json")
    boxes = {entry["id"]: _corners(entry["bbox"]) for entry in instances["annotations"]}
    names = {image["id"]: image["file_name"] for image in instances["images"]}
    found: list[Expression] = []
    for ref in refs:
        if ref["split"] != split:
            continue
        numbers = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        wanted = [number for number in numbers if number != -1]
        unknown = [number for number in wanted if number not in boxes]
        if unknown or ref["image_id"] not in names:
            raise InputError(f"{file}, ref {ref.get('ref_id')}: instances.json has not what it names: {unknown}.")
        for sentence in ref["sentences"]:
            found.append(
                Expression(
                    picture=names[ref["image_id"]],
                    phrase=sentence["sent"].strip(),
                    boxes_xyxy_px=tuple(boxes[number] for number in wanted),
                )
            )
    return found


def read_ref_l4(file: Path) -> list[Expression]:
    """Ref-L4.

    Raises:
        InputError: the file is of another format.
        MissingExtraError: parquet needs pyarrow.
    """
    return [
        Expression(picture=str(row["file_name"]), phrase=row["caption"].strip(), boxes_xyxy_px=(_corners(row["bbox"]),))
        for row in _rows(file, ("file_name", "caption", "bbox"))
    ]


def read_humanref(file: Path) -> list[Expression]:
    """HumanRef; its domain "rejection" has expressions that mean nobody.

    Raises:
        InputError: the file is of another format.
    """
    return [
        Expression(
            picture=str(row["image_name"]),
            phrase=row["referring"].strip(),
            boxes_xyxy_px=tuple(_as_box(box) for box in row["answer_boxes"]),
            kind=str(row.get("domain", "")),
        )
        for row in _rows(file, ("image_name", "referring", "answer_boxes"))
    ]


def _rows(file: Path, fields: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    """Rows of a JSON list, JSON lines or parquet, each with all fields."""
    for number, row in enumerate(_read_rows(file)):
        missing = [field for field in fields if not isinstance(row, Mapping) or field not in row]
        if missing:
            raise InputError(f"{file}, row {number}: {', '.join(missing)} missing: is it another benchmark's file?")
        yield row


def _read_rows(file: Path) -> list[Any]:
    if file.suffix == ".parquet":
        try:
            from pyarrow import parquet  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise MissingExtraError("Parquet files need pyarrow: pip install 'groma[evaluate]'") from None
        return parquet.read_table(file).to_pylist()
    if file.suffix == ".jsonl":
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{file}: no JSON lines: {error}.") from error
    content = read_json(file)
    content = content.get("annotations", content) if isinstance(content, Mapping) else content
    if not isinstance(content, list):
        raise InputError(f"{file}: expected a list of rows.")
    return content


def _corners(bbox: Any) -> Box:
    x, y, width, height = (float(value) for value in bbox)
    return x, y, x + width, y + height


def _as_box(corners: Any) -> Box:
    x1, y1, x2, y2 = (float(value) for value in corners)
    return x1, y1, x2, y2
