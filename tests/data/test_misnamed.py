"""Pictures that are called otherwise than annotated: hints, and how a mixture says so."""

import json

import pytest
from PIL import Image

from groma.data.cleaning import BadSampleError
from groma.data.misnamed import hint
from groma.data.mixture import open_mixture, read_mixture

CASES = {
    "a.jpg": ("a.png", "renamed: {.jpg: .png}"),
    "COCO_train2014_000000000009.jpg": ("000000000009.jpg", 'renamed: {COCO_train2014_: ""}'),
    "000000000009.jpg": ("COCO_val2014_000000000009.jpg", "pictures of 2014"),
    "train/a.jpg": ("a.jpg", 'renamed: {train/: ""}'),
    "x/y/a.jpg": ("a.jpg", "folders that are not there"),
    "c": ("c.jpg", "leave the suffix out"),
    "b.jpg": ("../b.jpg", "the folder above"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_there_instead_is_told(tmp_path, name):
    pictures = tmp_path / "data" / "pictures"
    there, advice = CASES[name]
    (pictures / there).parent.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(exist_ok=True)
    assert hint(pictures, name) == ""
    (pictures / there).write_bytes(b"x")
    told = hint(pictures, name)
    assert f"{pictures / there} is: " in told and advice in told


def test_a_mixture_names_what_is_called_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (40, 30)).save(tmp_path / "9.jpg")
    line = {"image": "COCO_train2014_9.jpg", "boxes": [[1, 2, 20, 20]], "labels": ["dog"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    mixture = {"sets": [{"set": "own", "annotations": "a.jsonl", "pictures": "."}]}
    (tmp_path / "mixture.yaml").write_text(json.dumps(mixture))
    (one,) = open_mixture(read_mixture(tmp_path / "mixture.yaml"))
    with pytest.raises(BadSampleError, match=r"COCO_train2014_9.jpg is not there, but .*/9.jpg is: .*renamed: {COCO_"):
        one.data.sample(0)
    mixture["sets"][0]["renamed"] = {"COCO_train2014_": ""}
    (tmp_path / "mixture.yaml").write_text(json.dumps(mixture))
    (one,) = open_mixture(read_mixture(tmp_path / "mixture.yaml"))
    assert one.data.sample(0).picture.size == (40, 30)
