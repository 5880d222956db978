"""Inputs of every kind with the same pictures, told apart by their width: picture k is 100 + k pixels wide."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from groma.label.run import Job
from groma.label.tasks import Options

FIRST_WIDTH, HEIGHT = 100, 80
BOX = (10.0, 12.0, 60.0, 70.0)
BOXES = [list(BOX), [5, 5, 90, 40]]


def jpeg(number: int) -> bytes:
    """Picture `number`, of coloured blocks."""
    blocks = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blocks).resize((FIRST_WIDTH + number, HEIGHT)).save(stream, "JPEG")
    return stream.getvalue()


def folder(place: Path, count: int) -> Path:
    """A folder of pictures, every third one in a folder below."""
    for number in range(count):
        file = place / ("below" if number % 3 == 0 else ".") / f"{number:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number))
    return place


def tar(file: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A tar file of these members."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as opened:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return file


def every_kind(place: Path, count: int) -> dict[str, tuple[list[str], list[str]]]:
    """Kind of input -> arguments and keys, of pictures 0 .. count-1 in this order, each with BOXES where they fit."""
    numbers = range(count)
    files = [f"{number:03d}.jpg" for number in numbers]
    (place / "files").mkdir(parents=True)
    for number, file in enumerate(files):
        (place / "files" / file).write_bytes(jpeg(number))
    (place / "list.txt").write_text("\n".join(f"files/{file}" for file in files) + "\n\n")
    rows = [{"image": f"files/{file}", "boxes": BOXES} for file in files]
    (place / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = [row | {"id": f"picture {number}"} for number, row in enumerate(rows)]
    (place / "named.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    told = json.dumps({"boxes": BOXES}).encode()
    half = count // 2
    for shard, own in enumerate((numbers[:half], numbers[half:])):
        members = [pair for n in own for pair in ((f"{n:03d}.jpg", jpeg(n)), (f"{n:03d}.json", told))]
        tar(place / f"shard-{shard:02d}.tar", members)
    columns = {
        "bytes": pyarrow.array([jpeg(number) for number in numbers], pyarrow.binary()),
        "both": pyarrow.array([{"bytes": jpeg(number), "path": None} for number in numbers]),
        "paths": pyarrow.array([f"files/{file}" for file in files]),
    }
    for name, column in columns.items():
        table = pyarrow.table({"caption": ["x"] * count, "image": column, "boxes": [BOXES] * count})
        pyarrow.parquet.write_table(table, place / f"{name}.parquet", row_group_size=3)
    in_shards = [f"shard-{int(number >= half):02d}.tar/{number:03d}" for number in numbers]
    relative = [f"files/{file}" for file in files]
    return {
        "folder": ([str(place / "files")], files),
        "pictures": ([str(place / "files" / "*.jpg")], files),
        "list": ([str(place / "list.txt")], relative),
        "jsonl": ([str(place / "list.jsonl")], relative),
        "jsonl with ids": ([str(place / "named.jsonl")], [f"picture {number}" for number in numbers]),
        "shards": ([str(place / "shard-{00..01}.tar")], in_shards),
        "parquet of bytes": ([str(place / "bytes.parquet")], [f"bytes.parquet#{number}" for number in numbers]),
        "parquet of both": ([str(place / "both.parquet")], [f"both.parquet#{number}" for number in numbers]),
        "parquet of paths": ([str(place / "paths.parquet")], [f"paths.parquet#{number}" for number in numbers]),
    }


def rows(file: Path) -> list[dict]:
    """Lines of a JSONL file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def job(inputs: Path | str | Sequence[str], out: Path, **changes) -> Job:
    """A job that is quickly done."""
    given = (str(inputs),) if isinstance(inputs, Path | str) else tuple(inputs)
    options = Options(max_new_tokens=10, **changes.pop("options", {}))
    return Job(inputs=given, out=out, options=options, **{"task": "echo", "batch_size": 3} | changes)
