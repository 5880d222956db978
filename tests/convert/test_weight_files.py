"""Files of weights: every layout is read, and every damage is one sentence."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from groma.convert.weight_files import read_weights
from groma.errors import CheckpointError

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16), "c": torch.zeros(())}


def write_index(folder, stem, weight_map):
    (folder / f"{stem}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def sharded_safetensors(folder):
    save_file({"a": TENSORS["a"]}, folder / "one.safetensors")
    save_file({"b": TENSORS["b"], "c": TENSORS["c"]}, folder / "two.safetensors")
    write_index(folder, "model.safetensors", {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})


LAYOUTS = {
    "safetensors": lambda folder: save_file(TENSORS, folder / "model.safetensors"),
    "sharded safetensors": sharded_safetensors,
    "bin": lambda folder: torch.save(TENSORS, folder / "pytorch_model.bin"),
    "old bin": lambda folder: torch.save(TENSORS, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(tmp_path, layout):
    LAYOUTS[layout](tmp_path)
    found = read_weights(tmp_path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_safetensors_go_before_bin(tmp_path):
    LAYOUTS["safetensors"](tmp_path)
    torch.save({"other": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert "a" in read_weights(tmp_path)


def refused(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_weights(folder)
    return str(caught.value)


def test_no_weights(tmp_path):
    message = refused(tmp_path)
    assert str(tmp_path) in message and "model.safetensors" in message and "pytorch_model.bin" in message


@pytest.mark.parametrize("cut", [0, 5, 40, -3])
def test_safetensors_cut_off(tmp_path, cut):
    path = tmp_path / "model.safetensors"
    LAYOUTS["safetensors"](tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    assert re.search(r"model\.safetensors is damaged or cut off", refused(tmp_path))


@pytest.mark.parametrize("layout", ["bin", "old bin"])
@pytest.mark.parametrize("cut", [0, 5, 100, -30])
def test_bin_cut_off(tmp_path, layout, cut):
    path = tmp_path / "pytorch_model.bin"
    LAYOUTS[layout](tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    assert re.search(r"pytorch_model\.bin is damaged", refused(tmp_path))


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3)])
def test_bin_that_holds_something_else(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert "no table of tensors" in refused(tmp_path)


def test_lfs_pointer(tmp_path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "git lfs pull" in refused(tmp_path)


def test_shards_that_are_missing_are_all_named(tmp_path):
    sharded_safetensors(tmp_path)
    write_index(
        tmp_path, "model.safetensors", {"a": "one.safetensors", "b": "two.safetensors", "d": "three.safetensors"}
    )
    (tmp_path / "two.safetensors").unlink()
    message = refused(tmp_path)
    assert "2 of 3 weight files are missing: three.safetensors, two.safetensors" in message


def test_tensors_that_are_not_where_the_index_says(tmp_path):
    sharded_safetensors(tmp_path)
    table = {"a": "two.safetensors", "b": "two.safetensors", "z": "one.safetensors"}
    write_index(tmp_path, "model.safetensors", table)
    message = refused(tmp_path)
    assert "a (in two.safetensors)" in message and "z (in one.safetensors)" in message and "b (in" not in message


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not a readable JSON file"),
        ("[]", "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "no name of a file in its folder"),
        ('{"weight_map": {"a": 3}}', "no name of a file in its folder"),
    ],
)
def test_index_that_is_none(tmp_path, index, message):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert message in refused(tmp_path)
