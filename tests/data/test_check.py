"""Looking through a mixture: counts of samples, boxes, turns and faults, the same with worker processes."""

import json
from pathlib import Path

import pytest
from mixtures import exported_mixture, some_scenes

from groma.data.check import check_mixture


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))
    config = exported_mixture(["coco", "flickr30k"], some_scenes(7), tmp_path)
    pictures = Path(config.sets[0].pictures)
    (pictures / "000001.png").unlink()
    (pictures / "000002.png").write_bytes(b"\x89PNG")
    file = Path(config.sets[0].annotations)
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [5, 5, -1, 3]
    content["annotations"].append(content["annotations"][0] | {"id": 999, "image_id": 77})
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]
    content["images"][4]["width"] = 95
    file.write_text(json.dumps(content))
    return config


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_are_counted_by_kind(config, workers):
    told = []
    first, second = check_mixture(config, workers=workers, tell=lambda report: told.append(report.name))
    assert (first.name, first.samples, first.checked, first.bad) == ("coco", 7, 7, 4)
    assert first.to_dict()["faults"] == {
        "missing_picture": 1,
        "corrupt_picture": 1,
        "wrong_size": 1,
        "nothing_to_learn": 1,
        "broken_box": 1,
        "orphan": 1,
    }
    assert "000001.png" in first.examples["missing_picture"][0]
    scenes = some_scenes(7)
    assert (second.bad, second.boxes, second.turns) == (0, sum(len(s.objects) for s in scenes), 7)
    assert set(told) == {"coco", "flickr30k"}
    json.dumps([first.to_dict(), second.to_dict()])


def test_a_part_can_be_looked_at(config):
    first, _ = check_mixture(config, limit=3, seed=1)
    assert (first.samples, first.checked) == (7, 3)
