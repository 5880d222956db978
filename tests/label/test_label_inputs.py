"""What can be labelled: every kind of input, keys, and what is wrong with inputs as a whole."""

import io
import json
import os
import tarfile
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from label_inputs import BOXES, FIRST_WIDTH, every_kind, folder, job, jpeg, rows, tar
from label_workers import watcher

from groma.data.annotation import Annotation
from groma.data.packed import ShardWriter
from groma.errors import InputError
from groma.label.formats import FORMATS
from groma.label.inputs import open_input
from groma.label.items import InShard, Item, Nowhere, Reader
from groma.label.run import Workers, label

COUNT = 7
KINDS = ["folder", "pictures", "list", "jsonl", "jsonl with ids", "shards"]
KINDS += ["parquet of bytes", "parquet of both", "parquet of paths"]
HERE = Workers(count=0)


def opened(*given: object, **options):
    return open_input([str(one) for one in given], **options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_every_format(tmp_path, kind):
    kinds = every_kind(tmp_path / "in", COUNT)
    assert set(kinds) == set(KINDS)
    inputs, keys = kinds[kind]
    out = tmp_path / "out"
    report = label(job(inputs, out, formats=tuple(FORMATS), workers=HERE, load=watcher))
    assert (report.pictures, report.labelled, report.failed, report.complete) == (COUNT, COUNT, 0, True)
    widths = [FIRST_WIDTH + number for number in range(COUNT)]
    labels = rows(out / "labels.jsonl")
    assert [row["key"] for row in labels] == keys
    assert [row["text"] for row in labels] == [str(width) for width in widths]
    coco = json.loads((out / "labels.coco.json").read_text())
    assert [(image["file_name"], image["width"]) for image in coco["images"]] == list(zip(keys, widths, strict=True))
    assert pyarrow.parquet.read_table(out / "labels.parquet").column("key").to_pylist() == keys
    assert rows(out / "failures.jsonl") == []
    assert not (out / "parts").exists()
    assert json.loads((out / "report.json").read_text())["labelled"] == COUNT


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("folder", "pictures", "list")])
def test_boxes_come_along(tmp_path, kind):
    inputs, _ = every_kind(tmp_path, COUNT)[kind]
    reader = Reader(with_boxes=True)
    found = [reader.read(item).boxes for item in open_input(inputs).items]
    assert found == [BOXES] * COUNT
    if kind.startswith(("shards", "parquet")):
        assert Reader(with_boxes=False).read(open_input(inputs).items[0]).boxes is None
    reader.close()


def test_shards_that_groma_packed(tmp_path):
    writer = ShardWriter(tmp_path / "packed", shard_bytes=10**6)
    normalized = Annotation(picture="a.jpg", frame=(1.0, 1.0), boxes_xyxy_frame=((0.1, 0.2, 0.5, 0.9),))
    pixels = Annotation(picture="b.jpg", frame=(200.0, 160.0), boxes_xyxy_frame=((20.0, 32.0, 100.0, 144.0),))
    for annotation in (normalized, pixels):
        writer.add(annotation, jpeg(0))
    writer.close()
    items = opened(tmp_path / "packed").items
    assert [item.key for item in items] == ["shard-000000.tar/000000000", "shard-000000.tar/000000001"]
    reader = Reader(with_boxes=True)
    assert [reader.read(item).frame for item in items] == [(1.0, 1.0), (200.0, 160.0)]
    assert reader.read(items[1]).source == jpeg(0)


def test_a_folder_is_read_in_order_with_what_lies_below(tmp_path):
    place = folder(tmp_path / "photos", 4)
    (place / ".hidden.jpg").write_bytes(b"")
    (place / ".cache").mkdir()
    (place / ".cache" / "x.jpg").write_bytes(b"")
    (place / "notes.txt").write_text("x")
    (place / "UPPER.JPG").write_bytes(jpeg(9))
    (place / "below" / "circle").symlink_to(place)
    found = opened(place)
    assert [item.key for item in found.items] == ["001.jpg", "002.jpg", "UPPER.JPG", "below/000.jpg", "below/003.jpg"]
    assert found.left_out == {".txt": 1}
    assert opened(place).identity == found.identity
    moved = place.rename(tmp_path / "moved")
    assert opened(moved).identity == found.identity, "a folder may be moved"
    (moved / "another.jpg").write_bytes(jpeg(1))
    assert opened(moved).identity != found.identity


def test_folders_of_shards_and_of_tables(tmp_path):
    every_kind(tmp_path / "in", 4)
    (tmp_path / "in" / "files").rename(tmp_path / "files")
    assert opened(tmp_path / "in").kind == "shards"
    for shard in (tmp_path / "in").glob("*.tar"):
        shard.unlink()
    found = opened(tmp_path / "in", image_column="image")
    assert found.kind == "tables" and len(found.items) == 12
    for _ in range(2):  # its own output is no input
        out = tmp_path / "in" / "labels"
        assert label(job(tmp_path / "in", out, formats=("parquet",), workers=HERE, load=watcher)).pictures == 12


def test_names_that_are_no_utf8(tmp_path):
    place = folder(tmp_path / "photos", 1)
    try:
        Path(os.fsdecode(os.fsencode(place) + b"/\xff.jpg")).write_bytes(jpeg(3))
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    label(job(place, tmp_path / "out", formats=("parquet", "coco"), workers=HERE, load=watcher))
    assert {row["key"] for row in rows(tmp_path / "out" / "labels.jsonl")} == {"\\xff.jpg", "below/000.jpg"}


def test_patterns(tmp_path):
    for name in ("s-08.tar", "s-09.tar", "s-10.tar", "t-10.tar"):
        tar(tmp_path / name, [("a.jpg", jpeg(1))])
    keys = [item.key for item in opened(tmp_path / "{s,t}-{10..10}.tar").items]
    assert keys == ["s-10.tar/a", "t-10.tar/a"]
    assert [item.key for item in opened(tmp_path / "s-{08..10}.tar").items] == [
        f"s-{n}.tar/a" for n in ("08", "09", "10")
    ]
    assert len(opened(tmp_path / "*.tar").items) == 4
    assert [item.key for item in opened(tmp_path / "t-10.tar", tmp_path / "s-08.tar").items] == [
        "t-10.tar/a",
        "s-08.tar/a",
    ]
    (tmp_path / "odd{1..2}.tar").write_bytes((tmp_path / "s-08.tar").read_bytes())
    assert [item.key for item in opened(tmp_path / "odd{1..2}.tar").items] == ["odd{1..2}.tar/a"], "a file's own name"


def test_shards_from_several_folders_keep_apart(tmp_path):
    tar(tmp_path / "a" / "0.tar", [("x.jpg", jpeg(1))])
    tar(tmp_path / "b" / "0.tar", [("x.jpg", jpeg(2))])
    found = opened(tmp_path / "*" / "0.tar")
    assert [item.key for item in found.items] == ["a/0.tar/x", "b/0.tar/x"]


def test_samples_of_a_shard(tmp_path):
    """Members belong together up to the first dot of their name, folders included."""
    members = [
        ("d.1/a.b.jpg", b"no: the ending is .b.jpg"),
        ("d.1/a.jpg", jpeg(1)),
        ("d.1/a.json", b"{}"),
        ("b.WEBP", b"w"),
    ]
    members += [("c.json", b"{}"), ("e.jpg", b"1"), ("e.png", b"2"), (".DS_Store", b"")]
    file = tar(tmp_path / "s.tar", members)
    items = {item.key: item.place for item in opened(file).items}
    assert list(items) == ["s.tar/d.1/a", "s.tar/b", "s.tar/c", "s.tar/e"]
    assert isinstance(items["s.tar/d.1/a"], InShard) and isinstance(items["s.tar/b"], InShard)
    for key, told in ("s.tar/c", "has no picture"), ("s.tar/e", "has 2 pictures (.jpg, .png)"):
        place = items[key]
        assert isinstance(place, Nowhere) and told in place.reason


def test_a_shard_that_is_cut_off_gives_what_it_has(tmp_path):
    whole = tar(tmp_path / "s.tar", [(f"{number}.jpg", jpeg(number)) for number in range(6)])
    with tarfile.open(whole) as opened_tar:
        third = opened_tar.getmembers()[3]
    whole.write_bytes(whole.read_bytes()[: third.offset_data + 100])
    (tmp_path / "empty.tar").write_bytes(b"")
    report = label(job(tmp_path / "*.tar", tmp_path / "out", workers=HERE, load=watcher))
    assert report.labelled == 3 and report.complete
    failures = {row["key"]: row["reason"] for row in rows(tmp_path / "out" / "failures.jsonl")}
    assert set(failures) == {"empty.tar", "s.tar", "s.tar/3"}
    assert "cut off" in failures["s.tar/3"] and "cannot be read after '3'" in failures["s.tar"]


def test_columns_of_tables(tmp_path):
    file = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a.jpg"], "bytes": [jpeg(1)], "n": [1]}), file)
    (item,) = opened(file).items
    assert item.place.image_column == "bytes"  # pyright: ignore[reportAttributeAccessIssue]
    (item,) = opened(file, image_column="path").items
    assert Reader(with_boxes=False).read(item).source == tmp_path / "a.jpg"
    with pytest.raises(InputError, match="has no column 'x', it has path, bytes, n"):
        opened(file, image_column="x")
    with pytest.raises(InputError, match=r"column 'n' of .* holds int64"):
        opened(file, image_column="n")
    pyarrow.parquet.write_table(pyarrow.table({"n": [1]}), file)
    with pytest.raises(InputError, match="no column of pictures among n: give --image-column"):
        opened(file)
    nulls = pyarrow.array(
        [None, {"bytes": None, "path": None}], pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    )
    pyarrow.parquet.write_table(pyarrow.table({"image": nulls}), file)
    for item in opened(file).items:
        with pytest.raises(InputError, match="has no picture in its column 'image'"):
            Reader(with_boxes=False).read(item)


def test_lists_with_all_that_people_put_into_them(tmp_path):
    folder(tmp_path / "photos", 2)
    here = tmp_path / "photos"
    lines = ["\ufeffphotos/001.jpg\r", "", f"{here}/below/000.jpg", "photos/./gone.jpg", "../elsewhere/x.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    keys = [item.key for item in opened(tmp_path / "list.txt").items]
    assert keys == ["photos/001.jpg", "photos/below/000.jpg", "photos/gone.jpg", "../elsewhere/x.jpg"]
    label(job(tmp_path / "list.txt", tmp_path / "out", workers=HERE, load=watcher))
    assert [row["key"] for row in rows(tmp_path / "out" / "labels.jsonl")] == keys[:2]
    failures = rows(tmp_path / "out" / "failures.jsonl")
    assert [row["key"] for row in failures] == keys[2:] and all("does not exist" in row["reason"] for row in failures)


REFUSED = {
    "nothing": ("nowhere", "is not there"),
    "address": ("s3://bucket/x.tar", "is an address"),
    "no match": ("*.jpg", "matches no file"),
    "braces": ("s-{0..2}.tar", "s-0.tar' matches no file"),
    "empty name": ("", "an empty name"),
    "python": ("x.py", "is nothing that can be labelled: is it a folder, .txt"),
    "packed tar": ("x.tar.gz", "unpack it first"),
    "empty folder": ("empty", "holds no pictures, .tar or .parquet files; it holds nothing"),
    "other folder": ("other", "it holds 2 of .md"),
    "empty list": ("empty.txt", "holds no pictures"),
    "binary list": ("binary.txt", "is no UTF-8 text"),
    "double list": ("double.txt", "names 'a.jpg' twice, as picture 1 and 3"),
    "no json": ("no.jsonl", "no.jsonl, line 2 is no JSON"),
    "no image": ("noimage.jsonl", "line 1 names no picture"),
    "odd id": ("oddid.jsonl", r"line 1 has the id \[1\]"),
    "empty tar": ("empty.tar", "holds no picture that can be read: shard"),
    "no tar": ("no.tar", "holds no picture that can be read: shard"),
    "double tar": ("double.tar", "names 'double.tar/a' twice"),
    "no table": ("no.parquet", "holds no picture that can be read: table"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_cannot_be_used(tmp_path, case):
    for name, content in {
        "x.py": b"", "x.tar.gz": b"", "empty.txt": b"\n\n", "binary.txt": b"\xff\xfe", "empty.tar": b"",
        "double.txt": b"a.jpg\nb.jpg\n./a.jpg", "no.jsonl": b'{"image": "a.jpg"}\n{',
        "noimage.jsonl": b'{"picture": 1}',
        "oddid.jsonl": b'{"image": "a.jpg", "id": [1]}', "no.tar": b"x" * 2000, "no.parquet": b"PAR1xPAR1",
        "other/a.md": b"", "other/b.md": b"", "empty/.keep": b"",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    tar(tmp_path / "double.tar", [("a.jpg", b""), ("b.jpg", b""), ("a.jpg", b"")])
    given, told = REFUSED[case]
    with pytest.raises(InputError, match=told):
        opened(given if "://" in given or not given else tmp_path / given)


def test_kinds_are_not_mixed(tmp_path):
    folder(tmp_path / "photos", 2)
    (tmp_path / "list.txt").write_text("a.jpg")
    with pytest.raises(InputError, match=r"is of kind folder, .* of kind list: label them one by one"):
        opened(tmp_path / "photos", tmp_path / "list.txt")
    with pytest.raises(InputError, match="2 inputs of kind folder"):
        opened(tmp_path / "photos", tmp_path / "photos" / "below")
    with pytest.raises(InputError, match="nothing to label is given"):
        open_input([])
    with pytest.raises(InputError, match=r"--image-column is for .parquet files"):
        opened(tmp_path / "photos", image_column="image")


def test_a_reader_keeps_few_shards_open(tmp_path, monkeypatch):
    monkeypatch.setattr("groma.label.items.OPEN_SHARDS", 2)
    for number in range(5):
        tar(tmp_path / f"{number}.tar", [("a.jpg", jpeg(number))])
        table = pyarrow.table({"image": [jpeg(number)]})
        pyarrow.parquet.write_table(table, tmp_path / f"{number}.parquet")
    reader = Reader(with_boxes=False)
    for kind in ("*.tar", "*.parquet"):
        items = opened(tmp_path / kind).items
        assert [reader.read(item).source for item in [*items, *items]] == [jpeg(n) for n in range(5)] * 2
    assert len(reader._shards) == len(reader._tables) == 2
    with pytest.raises(InputError, match="cannot be opened"):
        reader.read(Item("x", InShard(str(tmp_path / "gone.tar"), (0, 1), None)))


def test_an_input_that_changes_is_another_one(tmp_path):
    place = folder(tmp_path / "photos", 4)
    label(job(place, tmp_path / "out", workers=HERE, load=watcher))
    (place / "new.jpg").write_bytes(jpeg(1))
    with pytest.raises(InputError, match=r"holds another run: .*pictures is 5, there 4"):
        label(job(place, tmp_path / "out", workers=HERE, load=partial(watcher)))


def test_links_in_a_shard_are_what_they_stand_for(tmp_path):
    """GNU tar writes the second of two hard-linked files so; a link to nothing is told."""
    shard = tmp_path / "s.tar"
    with tarfile.open(shard, "w") as tar:
        content = jpeg(3)
        first = tarfile.TarInfo("in/a.jpg")
        first.size = len(content)
        tar.addfile(first, io.BytesIO(content))
        for name, kind, target in (
            ("in/b.jpg", tarfile.LNKTYPE, "in/a.jpg"),
            ("in/c.jpg", tarfile.SYMTYPE, "a.jpg"),
            ("in/d.jpg", tarfile.SYMTYPE, "../elsewhere.jpg"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            tar.addfile(link)
    items = open_input([str(shard)]).items
    assert [item.key for item in items] == [f"s.tar/in/{name}" for name in "abcd"]
    reader = Reader(with_boxes=False)
    assert all(reader.read(item).source == content for item in items[:3])
    with pytest.raises(InputError, match="has no picture but links to what is not there"):
        reader.read(items[3])
    reader.close()


def test_another_picture_of_the_same_name_is_another_input(tmp_path):
    def listed(*images: str) -> Path:
        file = tmp_path / "list.jsonl"
        file.write_text("".join(json.dumps({"image": image, "id": n}) + "\n" for n, image in enumerate(images)))
        return file

    one, other = (open_input([str(listed(*images))]).identity for images in (("a.jpg", "b.jpg"), ("a.jpg", "c.jpg")))
    assert one != other
