"""`groma data check|show|pack`."""

import json

import pytest
import yaml
from commands import sentence
from PIL import Image

from groma.data.packed import PackedSet
from groma.data.scenes.export import PICTURES, export_scenes
from groma.data.scenes.scene import make_scene


@pytest.fixture
def mixture(tmp_path, monkeypatch):
    """A mixture of two sets with relative paths."""
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))
    scenes = [make_scene("train", k, 51, size_px=96) for k in range(5)]
    sets = []
    for name, form in (("refcoco", "coco_expressions"), ("flickr30k", "coco_grounded_captions")):
        export_scenes(scenes, form, tmp_path / "data" / name)
        sets.append({"set": name, "annotations": f"{name}/annotations.json", "pictures": f"{name}/{PICTURES}"})
    file = tmp_path / "data" / "mixture.yaml"
    file.write_text(yaml.safe_dump({"sets": sets}))
    return file


def test_check_counts_and_writes_a_report(groma, mixture, tmp_path):
    report = tmp_path / "report.json"
    ran = groma("data", "check", mixture, "--workers", 0, "--report", report, "--json")
    assert ran.status == 0
    values = json.loads(ran.out)
    assert values == json.loads(report.read_text())
    assert [(one["name"], one["bad"]) for one in values["sets"]] == [("refcoco", 0), ("flickr30k", 0)]
    shown = groma("data", "check", mixture, "--workers", 0, "--limit", 2)
    assert shown.status == 0 and "flickr30k" in shown.out


def test_check_fails_where_too_much_is_bad(groma, mixture):
    for picture in (mixture.parent / "flickr30k" / PICTURES).iterdir():
        picture.unlink()
    ran = groma("data", "check", mixture, "--workers", 0)
    assert ran.status == 2 and "more than 1.0% of the samples cannot be used in flickr30k" in ran.err
    assert "flickr30k: missing_picture 5, e.g. " in ran.out and "000000.png is not there" in ran.out


def test_show_draws_a_sheet(groma, mixture, tmp_path):
    for flags in ((), ("--detection",)):
        out = tmp_path / f"sheet{len(flags)}.png"
        (mixture.parent / "refcoco" / PICTURES / "000000.png").write_bytes(b"")
        ran = groma("data", "show", mixture, "--n", 6, "--out", out, *flags)
        assert (ran.status, ran.out) == (0, f"written: {out}\n"), ran.err
        with Image.open(out) as sheet:
            assert sheet.width > 1500 and sheet.height > 500


def test_pack_writes_shards(groma, mixture, tmp_path):
    out = tmp_path / "packed"
    assert "names 2 sets: give one of refcoco, flickr30k" in sentence(groma("data", "pack", mixture, "--out", out))
    ran = groma("data", "pack", mixture, "--set", "flickr30k", "--out", out, "--json")
    assert json.loads(ran.out) == {"set": "flickr30k", "out": str(out), "samples": 5, "shards": 1, "left_out": 0}
    assert len(PackedSet(str(out))) == 5


def test_own_data_needs_no_mixture(groma, tmp_path, monkeypatch):
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))
    scenes = [make_scene("train", k, 52, size_px=96) for k in range(3)]
    file = export_scenes(scenes, "own", tmp_path / "mine")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["image"] = f"{PICTURES}/{line['image']}"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = groma("data", "check", file, "--workers", 0, "--json")
    assert json.loads(ran.out)["sets"][0]["bad"] == 0
    assert "expected a mixture (.yaml) or your own" in sentence(groma("data", "check", tmp_path / "x.json"))
