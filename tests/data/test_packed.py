"""Shards: what goes in comes out, here and behind a URL, damage is told, the webdataset package reads them too."""

import json
import pickle

import fsspec
import pytest

from groma.data.annotated_set import LooseSet
from groma.data.cleaning import BadSampleError
from groma.data.packed import PackedSet, ShardWriter, pack
from groma.data.scenes.export import PICTURES, export_scenes
from groma.data.scenes.scene import make_scene
from groma.data.sources import Source
from groma.errors import InputError


@pytest.fixture
def loose(tmp_path, monkeypatch) -> LooseSet:
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))
    scenes = [make_scene("train", index, 42, size_px=64) for index in range(9)]
    return LooseSet(Source(export_scenes(scenes, "coco", tmp_path / "loose"), "coco"), tmp_path / "loose" / PICTURES)


@pytest.fixture
def packed(loose, tmp_path) -> PackedSet:
    told = pack(loose, tmp_path / "packed", shard_bytes=30_000)
    one = PackedSet(str(tmp_path / "packed"))
    assert told == {"samples": len(loose), "shards": len(one.shards), "left_out": 0}
    return one


def test_samples_come_back_as_they_were(loose, packed):
    assert len(packed) == len(loose) and len(packed.shards) > 1 and packed.classes == loose.classes
    for one in (packed, pickle.loads(pickle.dumps(packed))):
        for k in reversed(range(len(loose))):
            ours, theirs = one.sample(k), loose.sample(k)
            assert ours.annotation == theirs.annotation and ours.picture.tobytes() == theirs.picture.tobytes()
    with pytest.raises(IndexError, match="sample 9 of 9"):
        packed.annotation(9)


def test_remote_shards_are_fetched_once(packed, tmp_path):
    remote = fsspec.filesystem("memory")
    for file in (tmp_path / "packed").iterdir():
        remote.pipe(f"/sets/{file.name}", file.read_bytes())
    away = PackedSet("memory://sets", cache=tmp_path / "fetched")
    assert [away.annotation(k) for k in range(len(away))] == [packed.annotation(k) for k in range(len(packed))]
    for shard in packed.shards:
        remote.rm(f"/sets/{shard.name}")
    assert PackedSet("memory://sets", cache=tmp_path / "fetched").annotation(0) == packed.annotation(0)
    with pytest.raises(InputError, match=r"memory://nowhere/shards\.json cannot be fetched"):
        PackedSet("memory://nowhere", cache=tmp_path / "other")
    with pytest.raises(InputError, match="cannot be fetched"):
        PackedSet("nosuch://sets", cache=tmp_path / "other")


def test_the_webdataset_package_reads_them(packed, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    shards = sorted(str(file) for file in (tmp_path / "packed").glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [json.loads(sample["json"])["picture"] for sample in samples] == [
        packed.annotation(k).picture for k in range(len(packed))
    ]


def test_damage_is_told(packed, tmp_path):
    shard = tmp_path / "packed" / packed.shards[0].name
    content = bytearray(shard.read_bytes())
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"members, expected|cannot be read"):
        packed.annotation(0)
    (tmp_path / "packed" / "shards.json").write_text("{}")
    with pytest.raises(InputError, match="no list of shards of layout 1"):
        PackedSet(str(tmp_path / "packed"))


def test_a_full_folder_is_refused(packed, tmp_path):
    with pytest.raises(InputError, match="is not empty"):
        ShardWriter(tmp_path / "packed", shard_bytes=1)


def test_faults_of_the_picture_are_named(loose, tmp_path):
    folder = tmp_path / "loose" / PICTURES
    (folder / "000000.png").unlink()
    (folder / "000001.png").write_bytes((folder / "000001.png").read_bytes()[:200])
    (folder / "000002.png").write_bytes((folder / "000003.png").read_bytes())
    kinds = []
    for k in range(2):
        with pytest.raises(BadSampleError) as caught:
            loose.sample(k)
        kinds.append(caught.value.fault.kind)
    assert kinds == ["missing_picture", "corrupt_picture"]
    assert pack(loose, tmp_path / "packed", shard_bytes=30_000)["left_out"] == 1
