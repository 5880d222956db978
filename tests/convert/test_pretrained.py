"""Loading and saving in our own format, with a model of random weights."""

import json
import re
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

import groma
from groma import pretrained
from groma.errors import CheckpointError, InputError
from groma.image import Preprocessing
from groma.inference.generate import Decoding
from groma.model.groma import GromaModel
from small_models import assert_same, assert_same_regions, byte_bpe, enliven, picture, small_config, small_groma

SHORT = Decoding(max_new_tokens=12)


@pytest.fixture(scope="module")
def model():
    return small_groma(seed=1)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    saved = tmp_path_factory.mktemp("models") / "small"
    groma.save(model, saved, card="# A model\n")
    return saved


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the folder that a test may spoil."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def assert_same_model(one, other):
    """Two models that say the same."""
    seen, twin = one.see(picture(3)), other.see(picture(3))
    for decoding in (SHORT, Decoding(max_new_tokens=12, temperature=1.0)):
        asked = {"question": "What is [1]?", "regions": [(10, 10, 70, 60)], "decoding": decoding}
        assert_same(one.ask(seen, **asked), other.ask(twin, **asked))
    assert_same_regions(one.regions(seen), other.regions(twin))


# --- round trips -----------------------------------------------------------------------------------------------------


def test_a_saved_model_says_the_same(model, folder):
    loaded = groma.load(folder)
    assert_same_model(loaded, model)
    assert loaded.model.config.provenance == {"stages": ["random weights"]}
    assert loaded.preprocessing == model.preprocessing
    assert not loaded.model.training
    assert loaded.device == torch.device("cpu")


def test_what_the_folder_holds(folder):
    files = {"config.json", "model.safetensors", "preprocessor.json", "groma_tokenizer.json", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == files | {"README.md"}
    assert (folder / "README.md").read_text() == "# A model\n"
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # whoever may read one may read all


def test_the_configuration_holds_what_shapes_the_model_and_no_noise(folder):
    values = json.loads((folder / "config.json").read_text())
    assert values["provenance"] == {"stages": ["random weights"]}
    assert values["model_type"] == "groma"
    assert values["encoder"]["patch_size"] == 14  # also where it equals today's default
    assert values["language"]["rms_norm_eps"] == 1e-6
    assert values["selection"]["nms_iou"] == 0.6
    noise = {"id2label", "label2id", "problem_type", "_name_or_path", "output_attentions", "return_dict", "stage_names"}
    assert not noise & values.keys()
    for part in ("encoder", "proposer", "selection", "region_encoder", "language"):
        assert not (noise | {"transformers_version"}) & values[part].keys()


def test_tied_tables_of_the_language_model_stay_tied(tmp_path):
    tied = small_groma(seed=2, tie_word_embeddings=True)
    groma.save(tied, tmp_path / "tied")
    names = load_file(tmp_path / "tied" / "model.safetensors")
    assert "language.base.model.embed_tokens.weight" in names
    assert "language.base.lm_head.weight" not in names
    loaded = groma.load(tmp_path / "tied")
    base = loaded.model.language.base
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    assert_same_model(loaded, tied)


@pytest.mark.parametrize("family", ["qwen2", "mistral", "qwen3"])
def test_other_families_of_language_models(tmp_path, family):
    other = small_groma(seed=3, model_type=family, **({"head_dim": 8} if family == "qwen3" else {}))
    groma.save(other, tmp_path / family)
    assert_same_model(groma.load(tmp_path / family), other)


def test_large_models_are_sharded(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "MAX_SHARD_SIZE", "300KB")
    groma.save(model, tmp_path / "sharded")
    shards = sorted(path.name for path in (tmp_path / "sharded").glob("*.safetensors"))
    assert len(shards) > 2
    assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
    assert_same_model(groma.load(tmp_path / "sharded"), groma.load(folder))


def test_transformers_itself_loads_the_folder(model, folder):
    loaded = GromaModel.from_pretrained(folder)
    for (name, ours), parameter in zip(loaded.named_parameters(), model.model.parameters(), strict=True):
        assert torch.equal(ours, parameter), name


def test_saving_a_model_in_training_leaves_it_alone(tmp_path):
    trained = enliven(GromaModel(small_config()), seed=4).train()
    pretrained.save_whole(trained, byte_bpe(), Preprocessing(size_px=84), tmp_path / "step", dtype=torch.bfloat16)
    assert trained.training
    assert {p.dtype for p in trained.parameters()} == {torch.float32}
    stored = load_file(tmp_path / "step" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "step" / "config.json").read_text())["dtype"] == "bfloat16"


def test_saving_never_replaces_anything(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        groma.save(model, tmp_path)
    with pytest.raises(InputError, match="is there already"):
        groma.save(model, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_whole_numbers_hold_no_model(model, tmp_path):
    with pytest.raises(InputError, match=r"stored as one of torch\.float32"):
        groma.save(model, tmp_path / "new", dtype=torch.int8)
    assert not (tmp_path / "new").exists()


def test_a_failed_save_leaves_nothing(model, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(type(model.tokenizer), "save", fail)
    with pytest.raises(OSError, match="disk full"):
        groma.save(model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


# --- types and devices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_is_float32_at_work(model, tmp_path, stored):
    groma.save(model, tmp_path / "half", dtype=stored)
    assert {p.dtype for p in groma.load(tmp_path / "half").model.parameters()} == {torch.float32}
    as_stored = groma.load(tmp_path / "half", dtype="stored")
    assert as_stored.model.dtype == stored
    assert {p.dtype for p in as_stored.model.proposer.parameters()} == {torch.float32}
    assert as_stored.ask(picture(0), "What?", decoding=SHORT).raw_text
    again = pretrained.convert(tmp_path / "half", tmp_path / "again")
    assert again.model.dtype == stored
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "again"))
    assert first.keys() == second.keys()
    assert all(second[name].dtype == stored and torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_the_type_can_be_asked_for(folder, dtype):
    assert groma.load(folder, dtype=dtype).model.language.base.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["int8", "half", torch.int32, 16])
def test_types_that_cannot_be(folder, dtype):
    with pytest.raises(InputError, match="expected one of float32, bfloat16, float16"):
        groma.load(folder, dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cpu:x", "xpu", ""])
def test_devices_that_are_not_there(folder, device):
    with pytest.raises(InputError, match=r"There is no device .*; there are cpu"):
        groma.load(folder, device=device)


def test_the_type_depends_on_size_and_device(monkeypatch):
    weights = {"a": torch.zeros((), dtype=torch.float16).expand(2000)}
    for limit, device, expected in [
        (1999, "cuda", torch.bfloat16),
        (2000, "cuda", torch.float32),
        (1999, "cpu", torch.float32),
    ]:
        monkeypatch.setattr(pretrained, "LARGE_PARAMETERS", limit)
        assert pretrained._dtype(None, torch.device(device), weights) == expected


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_that_lead_nowhere(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # nothing may ask the hub
    for name in ("no-such-model", str(tmp_path / "nothing"), tmp_path / "nothing", "a/b/c", "./x/y"):
        with pytest.raises(CheckpointError, match="is no folder"):
            groma.load(name)
    with pytest.raises(CheckpointError, match="name is empty"):
        groma.load("")
    with pytest.raises(CheckpointError, match="is a file: give the folder"):
        groma.load(folder / "model.safetensors")


def test_a_name_on_the_hub(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(pretrained, "download", lambda name: asked.append(name) or folder)
    assert groma.load("owner/name").model.config.image_size == 84
    assert asked == ["owner/name"]


def test_a_model_of_the_package_that_is_not_there(monkeypatch):
    monkeypatch.setitem(pretrained.EMBEDDED, "groma-missing", "nowhere")
    with pytest.raises(CheckpointError, match="groma-missing is missing from this installation"):
        groma.load("groma-missing")


# --- damage ----------------------------------------------------------------------------------------------------------


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        groma.load(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("file", ["config.json", "preprocessor.json", "model.safetensors", "tokenizer.json"])
def test_files_that_are_missing(copy, file):
    (copy / file).unlink()
    assert file in refused(copy)


@pytest.mark.parametrize("file", ["config.json", "preprocessor.json", "model.safetensors", "tokenizer.json"])
def test_files_that_are_cut_off(copy, file):
    path = copy / file
    path.write_bytes(path.read_bytes()[:-10])
    assert file in refused(copy)


def test_weights_that_do_not_fit_are_all_named(copy):
    weights = load_file(copy / "model.safetensors")
    names = sorted(weights)
    del weights[names[0]]
    weights[names[5]] = torch.zeros(7, 7, 7)
    weights["encoder.backbone.encoder.layer.1.attention.attention.key.bias"] = torch.zeros(1)
    weights["something.else"] = torch.zeros(1)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    message = refused(copy)
    assert "4 problems" in message
    assert f"{names[0]}: missing" in message
    assert "shape (7, 7, 7), the model has" in message and "shape (1,), the model has (32,)" in message
    assert "something.else: unknown name" in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "of type 'llama' .LlamaForCausalLM."),
        ({"model_type": None}, "no model_type"),
        ({"imagesize": 84}, "imagesize is unknown .is it image_size"),
        ({"image_size": "84"}, "image_size is '84'"),
        ({"image_size": True}, "image_size is True"),
        ({"proposer": {"model_type": "groma_proposer", "querys": 3}}, "proposer.querys is unknown"),
        ({"region_encoder": {"geometry": "wrong"}}, "geometry must be"),
        ({"region_encoder": {"upsample": [2, "x"]}}, "region_encoder.upsample is"),
        ({"selection": None}, "selection is missing"),
        ({"language": {"model_type": "nonsense"}}, "nonsense"),
        ({"language": {"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4}}, "multiple"),
        ({"chat_format": "french"}, "chat_format is 'french', known are"),
        ({"chat_format": 3}, "chat_format is 3"),
    ],
)
def test_configurations_that_are_none(copy, values, message):
    edit(copy, **values)
    assert re.search(message, refused(copy))


def test_parts_that_do_not_belong_together(copy, tmp_path):
    (copy / "preprocessor.json").write_text(json.dumps(Preprocessing(size_px=98).to_dict()))
    values = json.loads((copy / "groma_tokenizer.json").read_text()) | {"num_regions": 5}
    (copy / "groma_tokenizer.json").write_text(json.dumps(values))
    message = refused(copy)
    assert "number of region tokens is 5, the model's 12" in message
    assert "picture size is 98, the model's 84" in message


def test_preprocessing_that_is_none(copy):
    (copy / "preprocessor.json").write_text("[]")
    assert "preprocessor.json" in refused(copy)
    (copy / "preprocessor.json").write_text('{"size_px": 84}')
    assert "mean" in refused(copy)


# --- the package itself ----------------------------------------------------------------------------------------------


def test_importing_the_package_is_light():
    code = (
        "import groma, sys; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules); print(groma.InputError)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_name_of_the_package_is_there():
    assert set(groma._LAZY) < set(groma.__all__)
    for name in groma.__all__:
        assert getattr(groma, name) is not None
    assert dir(groma) == sorted(groma.__all__)
    with pytest.raises(AttributeError, match="nothing_like_this"):
        groma.nothing_like_this  # noqa: B018


def test_a_model_of_another_family_is_called_so(tmp_path):
    """Not: this or that file is missing."""
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(CheckpointError, match=r"of type 'llama' \(LlamaForCausalLM\); a Groma checkpoint was expected"):
        groma.load(tmp_path)
