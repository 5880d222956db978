"""Labels in the shapes that other tools read, each made from labels.jsonl, row by row.

| format | file | what |
|---|---|---|
| jsonl | labels.jsonl | the labels themselves, always written |
| coco | labels.coco.json | as `to_coco` of all answers, with file names; a description is an annotation's `caption` |
| parquet | labels.parquet | a row a picture, phrases as a list of structs |
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma.errors import InputError
from groma.label.items import import_parquet
from groma.storage import atomic_file

if TYPE_CHECKING:
    from groma.inference.result import GroundedAnswer

Rows = Callable[[], Iterator[Mapping[str, Any]]]
"""Reads labels.jsonl from its beginning."""

ROWS_TOGETHER = 4096
"""Rows of a Parquet file that are written together."""


def read_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of labels.jsonl."""
    with file.open("rb") as stream:
        for line in stream:
            yield json.loads(line)


def to_answer(row: Mapping[str, Any]) -> "GroundedAnswer":
    """A label as an answer, whose regions are numbered as they come."""
    from groma.inference.result import Entity, GroundedAnswer, Region

    regions: list[Region] = []
    entities: list[Entity] = []
    for entity in row["entities"]:
        first, scores = len(regions), entity["scores"]
        for box, score in zip(entity["boxes_xyxy_px"], scores, strict=True):
            x1, y1, x2, y2 = box
            regions.append(Region(id=len(regions), box_xyxy_px=(x1, y1, x2, y2), objectness=score, source="proposal"))
        entities.append(
            Entity(
                phrase=entity["phrase"],
                start=entity["start"],
                end=entity["end"],
                region_ids=tuple(range(first, len(regions))),
                score=sum(scores) / len(scores),
                region_scores=tuple(scores),
            )
        )
    return GroundedAnswer(
        text=row["text"],
        entities=tuple(entities),
        regions=tuple(regions),
        finish_reason=row["finish_reason"],
        raw_text=row["text"],
        image_size_px=(row["width"], row["height"]),
        grounded=True,
    )


def write_coco(rows: Rows, path: Path, *, described: bool) -> None:
    """The same as `to_coco` of all answers, of which only one is held at a time; pictures are numbered from 1.

    Args:
        rows: the labels.
        path: the file.
        described: a phrase describes a box and is no class: it becomes the annotation's `caption`.
    """
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"images": [')
        for number, row in enumerate(rows(), start=1):
            image = {"id": number, "width": row["width"], "height": row["height"], "file_name": row["key"]}
            _write_item(file, image if described else image | {"caption": row["text"]}, is_first=number == 1)
        file.write('],\n"annotations": [')
        classes: dict[str, tuple[int, str]] = {}
        written = 0
        for number, row in enumerate(rows(), start=1):
            for annotation in _annotations(row, number, classes, described=described):
                written += 1
                _write_item(file, {"id": written} | annotation, is_first=written == 1)
        categories = [{"id": number, "name": name} for number, name in classes.values()]
        file.write(f'],\n"categories": {json.dumps(categories)}}}\n')


def _annotations(
    row: Mapping[str, Any], image_id: int, classes: dict[str, tuple[int, str]], *, described: bool
) -> Iterator[dict[str, Any]]:
    """A picture's annotations without their ids; classes that come up are added to `classes`."""
    from groma.inference.converters import to_coco

    captions: list[str] = []
    if described:
        captions = [entity["phrase"] for entity in row["entities"]]
        unnamed = [entity | {"phrase": "", "start": 0, "end": 0} for entity in row["entities"]]
        row = {**row, "text": "", "entities": unnamed}
    coco = to_coco([to_answer(row)], [image_id])
    names = {category["id"]: category["name"] for category in coco["categories"]}
    for place, annotation in enumerate(coco["annotations"]):
        name = names[annotation["category_id"]]
        number, _ = classes.setdefault(name.casefold(), (len(classes) + 1, name))
        del annotation["id"]
        yield annotation | {"category_id": number} | ({"caption": captions[place]} if described else {})


def _write_item(file: Any, value: Any, *, is_first: bool) -> None:
    file.write(("\n" if is_first else ",\n") + json.dumps(value, allow_nan=False))


def write_parquet(rows: Rows, path: Path, *, described: bool) -> None:
    """A row a picture: key, width, height, text, entities, finish_reason."""
    parquet = import_parquet()
    import pyarrow  # pyright: ignore[reportMissingImports]  # an extra

    entity = pyarrow.struct(
        [
            ("phrase", pyarrow.string()),
            ("start", pyarrow.int32()),
            ("end", pyarrow.int32()),
            ("boxes_xyxy_px", pyarrow.list_(pyarrow.list_(pyarrow.float64()))),
            ("scores", pyarrow.list_(pyarrow.float64())),
        ]
    )
    schema = pyarrow.schema(
        [
            ("key", pyarrow.string()),
            ("width", pyarrow.int32()),
            ("height", pyarrow.int32()),
            ("text", pyarrow.string()),
            ("entities", pyarrow.list_(entity)),
            ("finish_reason", pyarrow.string()),
        ]
    )
    with atomic_file(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for together in _together(rows()):
            writer.write_table(pyarrow.Table.from_pylist(together, schema=schema))


def _together(rows: Iterator[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    held: list[Mapping[str, Any]] = []
    for row in rows:
        key = row["key"].encode(errors="backslashreplace").decode()  # lone surrogates, which JSON can hold
        held.append({**row, "key": key})
        if len(held) == ROWS_TOGETHER:
            yield held
            held = []
    if held:
        yield held


FORMATS: dict[str, tuple[str, Callable[..., None] | None]] = {
    "jsonl": ("labels.jsonl", None),
    "coco": ("labels.coco.json", write_coco),
    "parquet": ("labels.parquet", write_parquet),
}
"""Name of a format -> its file and what writes it; None: it is there already."""


def check_formats(names: Sequence[str]) -> None:
    """Whether all can be written.

    Raises:
        InputError: There is no such format.
        MissingExtraError: Parquet needs pyarrow.
    """
    for name in names:
        if name not in FORMATS:
            close = get_close_matches(name, FORMATS, n=1)
            known = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(FORMATS)}"
            raise InputError(f"there is no format {name!r}: {known}")
    if "parquet" in names:
        import_parquet()
