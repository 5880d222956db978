"""Published weights: every name of every manifest, folders in the published layout, and the way into our own format."""

import io
import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
import torch
from golden_data import GOLDEN, all_cases, build_model, config_of, published_weights, smallest_manifest
from PIL import Image
from safetensors.torch import load_file, save_file

import groma
from groma.convert.published import load_published_weights, match_published
from groma.convert.weight_files import read_weights
from groma.errors import CheckpointError
from groma.inference.generate import Decoding
from groma.model.groma import GromaModel
from groma.pretrained import convert
from groma.prompt.tokenizer import LlamaSentencePieceTokenizer
from groma.prompt.tokens import new_token_names
from small_models import assert_same, assert_same_regions

MANIFESTS = sorted(GOLDEN.glob("manifest_*.json"))
SEED = 11
SHORT = Decoding(max_new_tokens=10)
BOX = (40, 30, 170, 120)


def manifest(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) | {"weights_seed": SEED}


def empty_tensors(info: dict) -> dict[str, torch.Tensor]:
    """Tensors of the manifest's shapes that take no memory."""
    return {name: torch.zeros(()).expand(entry["shape"]) for name, entry in info["tensors"].items()}


# --- names -----------------------------------------------------------------------------------------------------------


def test_there_are_manifests():
    """And one for every configuration that a case is about."""
    assert {f"manifest_{case.info['configuration']}.json" for case in all_cases() if "configuration" in case.info} <= {
        path.name for path in MANIFESTS
    }
    assert MANIFESTS


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_published_name_is_a_parameter_and_every_parameter_has_one(path):
    info = manifest(path)
    with torch.device("meta"):
        model = GromaModel(config_of(info))
    tensors = empty_tensors(info)
    sources = match_published(model, tensors)  # strict: raises for names that are unknown, missing or do not fit
    parameters = dict(model.named_parameters())
    assert set(sources) == set(parameters)
    assert sum(parameter.numel() for parameter in parameters.values()) == info["parameters"]
    # names that are no parameter's own are the second names of shared heads
    for name in set(tensors) - set(sources.values()):
        assert ".decoder." in name or name.replace("_transformer.", "_transformer.decoder.") in tensors


def test_every_offender_is_listed_in_one_error():
    info = manifest(smallest_manifest())
    weights = empty_tensors(info)
    gone = "perceiver.vis_encoder.layernorm.bias"
    misshapen = "region_encoder.roi_align.flatten_linear.bias"
    shared = "perceiver.ddetr_transformer.bbox_embed.0.layers.0.bias"
    twin = shared.replace("_transformer.", "_transformer.decoder.")
    assert {gone, misshapen, shared, twin} <= set(weights)
    del weights[gone]
    weights[misshapen] = torch.zeros(3)
    weights[twin] = torch.ones(weights[twin].shape)
    weights["perceiver.something_new.weight"] = torch.zeros(1)
    weights["llm.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(12)  # old checkpoints: passed over
    model = GromaModel(config_of(info))
    before = model.region_encoder.flatten_linear.weight.clone()
    with pytest.raises(CheckpointError) as caught:
        load_published_weights(model, weights)
    message = str(caught.value)
    assert "4 problems" in message
    assert "encoder.backbone.layernorm.bias: missing" in message
    assert f"{misshapen}: shape (3,), the model has (1024,)" in message
    assert "perceiver.something_new.weight: unknown name" in message
    assert shared in message and twin in message and "differ" in message
    assert "inv_freq" not in message
    assert torch.equal(before, model.region_encoder.flatten_linear.weight), "nothing may be loaded halfway"


# --- folders ---------------------------------------------------------------------------------------------------------


@cache
def sentencepiece_model(vocabulary: int) -> bytes:
    """A small tokenizer of Llama's kind."""
    corpus = ["the red car left of the dog", "Describe the image in detail. What is in the picture?"] * 9
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def write_tokenizer(folder: Path, vocabulary: int, *, max_regions: int) -> None:
    """The tokenizer with the new tokens behind it, in the files that the reference wrote."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(vocabulary))
    added = {name: vocabulary + place for place, name in enumerate(new_token_names(max_regions))}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "tokenizer_config.json").write_text(json.dumps({"legacy": False, "tokenizer_class": "LlamaTokenizer"}))


def published_json(info: dict) -> dict:
    """config.json as the reference writes it: what equals its classes' defaults is left out."""
    defaults = {"num_queries": 300, "two_stage_num_proposals": 300, "num_feature_levels": 4, "focal_alpha": 0.25}
    detector = {key: value for key, value in info["proposer"].items() if defaults.get(key) != value}
    return {
        "architectures": ["GromaModel"],
        "box_score_thres": 0.15,
        "llm_cfg": info["language_model"] | {"model_type": "llama", "torch_dtype": "float32", "do_sample": True},
        "model_type": "groma",
        "nms_thres": 0.6,
        "num_new_token": info["num_new_tokens"],
        "perceiver_cfg": {
            "ddetr_cfg": detector | {"model_type": "deformable_detr"},
            "model_type": "ddetr",
            "vis_encoder_cfg": info["vision_encoder"] | {"model_type": "dinov2"},
        },
        "torch_dtype": "float32",
        "transformers_version": "4.32.0",
        "vocab_size": info["language_model"]["vocab_size"] + info["num_new_tokens"],
    }


def write_weights(folder: Path, weights: dict[str, torch.Tensor], kind: str) -> None:
    """One of the ways in which a published folder holds its weights."""
    separate = {name: tensor.clone() for name, tensor in weights.items()}
    if kind == "single bin":
        torch.save(separate, folder / "pytorch_model.bin")
        return
    stem, suffix = ("model", "safetensors") if kind == "sharded safetensors" else ("pytorch_model", "bin")
    names = sorted(separate)
    shards = [names[start::3] for start in range(3)]
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-00003.{suffix}"
        content = {name: separate[name] for name in shard}
        if suffix == "bin":
            torch.save(content, folder / file)
        else:
            save_file(content, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


KINDS = ("sharded safetensors", "single bin", "sharded bin")


@pytest.fixture(scope="module")
def info():
    return manifest(smallest_manifest())


@pytest.fixture(scope="module")
def weights(info):
    return published_weights(info)


@pytest.fixture(scope="module")
def folders(info, weights, tmp_path_factory):
    """Kind of weight files -> a folder in the published layout."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind.replace(" ", "-"))
        (folder / "config.json").write_text(json.dumps(published_json(info)))
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"size": {"height": 448, "width": 448}, "do_center_crop": False, "crop_size": 224})
        )
        write_tokenizer(folder, info["language_model"]["vocab_size"], max_regions=100)
        write_weights(folder, weights, kind)
        made[kind] = folder
    return made


@pytest.fixture(scope="module")
def answers(folders):
    """What the checkpoint says when it is loaded from the first kind of folder."""
    return said_by(groma.load(folders[KINDS[0]]))


def said_by(model: groma.Groma) -> tuple:
    """Answers to two questions, and the regions of a picture."""
    picture = model.see(Image.linear_gradient("L").resize((200, 150)).convert("RGB"))
    return (
        model.ask(picture, "What is [1]?", regions=[BOX], decoding=SHORT),
        model.locate(picture, "the red car", decoding=SHORT),
        model.regions(picture),
    )


def assert_says(model: groma.Groma, answers: tuple) -> None:
    asked, located, regions = said_by(model)
    assert_same(asked, answers[0])
    assert_same(located, answers[1])
    assert_same_regions(regions, answers[2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_folder_just_loads(folders, weights, info, answers, kind):
    model = groma.load(folders[kind])
    assert isinstance(model.tokenizer, LlamaSentencePieceTokenizer)
    assert model.model.config.region_encoder.geometry == "released"
    assert model.model.config.chat_format == "vicuna"
    assert model.model.config.proposer.num_feature_levels == info["proposer"]["num_feature_levels"]
    assert (model.preprocessing.size_px, model.preprocessing.resample) == (448, "bicubic")
    assert model.model.dtype == torch.float32 and not model.model.training
    assert model.model.config.provenance == {"converted_from": folders[kind].name, "layout": "published"}
    copied = build_model(info)  # the weights copied one by one into a model made beforehand
    for (name, loaded), parameter in zip(model.model.named_parameters(), copied.parameters(), strict=True):
        assert torch.equal(loaded, parameter), name
    assert_says(model, answers)


def test_converting_keeps_every_answer(folders, answers, tmp_path):
    """Published -> ours -> ours again: the same bytes of weights, the same answers."""
    convert(folders["sharded bin"], tmp_path / "ours")
    files = {path.name for path in (tmp_path / "ours").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor.json", "tokenizer.model"} <= files
    once = groma.load(tmp_path / "ours")
    assert_says(once, answers)
    groma.save(once, tmp_path / "again")
    assert_says(groma.load(tmp_path / "again"), answers)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "again")]
    assert configs[0] == configs[1]
    assert configs[0]["provenance"]["layout"] == "published"


def test_names_in_our_files_do_not_depend_on_the_release(folders, tmp_path):
    """In memory DINOv2's attention is called one way in transformers 5.17 and another in later releases."""
    convert(folders["single bin"], tmp_path / "ours")
    names = set(load_file(tmp_path / "ours" / "model.safetensors"))
    for part in ("query", "key", "value"):
        assert f"encoder.backbone.encoder.layer.0.attention.attention.{part}.weight" in names
    assert "encoder.backbone.encoder.layer.0.attention.output.dense.weight" in names
    assert not {name for name in names if "_proj" in name and name.startswith("encoder.")}


def test_converting_keeps_the_type_of_the_weights(folders, weights, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(folders["sharded safetensors"], half, ignore=shutil.ignore_patterns("*.safetensors*"))
    write_weights(half, {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}, "single bin")
    convert(half, tmp_path / "ours")
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "bfloat16"
    assert groma.load(tmp_path / "ours").model.dtype == torch.float32
    assert_says(groma.load(tmp_path / "ours"), said_by(groma.load(half)))


def test_weights_that_do_not_fit_are_all_named(folders, weights, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folders["single bin"], broken, ignore=shutil.ignore_patterns("*.bin"))
    changed = dict(weights) | {"img_txt_bridge.0.bias": torch.zeros(5), "extra": torch.zeros(1)}
    del changed["extra_lm_head.weight"]
    write_weights(broken, changed, "sharded safetensors")
    with pytest.raises(CheckpointError) as caught:
        groma.load(broken)
    message = str(caught.value)
    assert str(broken) in message and "3 problems" in message
    for offender in ("img_txt_bridge.0.bias: shape (5,)", "extra: unknown", "language.added_head.weight: missing"):
        assert offender in message


def test_a_shard_that_is_missing_or_cut_off(folders, tmp_path):
    for kind, pattern in (("sharded safetensors", "*.safetensors"), ("sharded bin", "*.bin")):
        folder = tmp_path / kind
        shutil.copytree(folders[kind], folder)
        last = sorted(folder.glob(pattern))[-1]
        last.write_bytes(last.read_bytes()[:-1000])
        with pytest.raises(CheckpointError, match=f"{last.name}.*cut off"):
            groma.load(folder)
        last.unlink()
        with pytest.raises(CheckpointError, match=f"1 of 3 weight files are missing: {last.name}"):
            groma.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_region_num": 50}, "114 new tokens"),
        ({"llm_cfg": None}, "no llm_cfg"),
        ({"perceiver_cfg": {"vis_encoder_cfg": {"model_type": "dinov2"}}}, "no perceiver_cfg.ddetr_cfg"),
        ({"llm_cfg": {"model_type": "nonsense"}}, "no language model of type 'nonsense'"),
    ],
)
def test_published_configurations_that_cannot_be(folders, tmp_path, change, message):
    folder = tmp_path / "changed"
    shutil.copytree(folders["single bin"], folder)
    values = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        groma.load(folder)


def test_published_parts_that_the_method_does_not_have(folders, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(folders["single bin"], folder)
    values = json.loads((folder / "config.json").read_text())

    def refused(section, key, value, message):
        changed = json.loads(json.dumps(values))
        (changed["perceiver_cfg"][section] if section else changed["perceiver_cfg"])[key] = value
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=message):
            groma.load(folder)

    refused("", "vis_output_layer", -2, "vis_output_layer is -2")
    refused("vis_encoder_cfg", "model_type", "clip_vision_model", "image encoder is 'clip_vision_model'")
    refused("ddetr_cfg", "with_box_refine", False, "with_box_refine is False")
    refused("ddetr_cfg", "decoder_n_points", 8, "other encoder_n_points than decoder_n_points")


def test_tokenizer_and_preprocessor_must_be_there(folders, tmp_path):
    for file in ("preprocessor_config.json", "tokenizer.model", "added_tokens.json"):
        folder = tmp_path / file
        shutil.copytree(folders["single bin"], folder)
        (folder / file).unlink()
        with pytest.raises(CheckpointError, match=file):
            groma.load(folder)


def test_the_real_tokenizer_in_a_published_folder(folders, info, weights, tmp_path):
    if not (GOLDEN / "tokenizer" / "tokenizer.model").is_file():
        pytest.skip("the licence of Llama's tokenizer files keeps them out of the repository; set GROMA_GOLDEN")
    folder = tmp_path / "llama"
    ignored = shutil.ignore_patterns("*.bin", "tokenizer*", "added_tokens.json")
    shutil.copytree(folders["single bin"], folder, ignore=ignored)
    for file in (GOLDEN / "tokenizer").iterdir():
        shutil.copy(file, folder)
    write_weights(folder, weights, "single bin")
    with pytest.raises(CheckpointError, match="base vocabulary is 32000, the model's 320"):
        groma.load(folder)
    width = info["language_model"]["hidden_size"]
    rows = torch.randn(32000, width, generator=torch.Generator().manual_seed(0)) * 0.02
    larger = dict(weights) | {"llm.model.embed_tokens.weight": rows, "llm.lm_head.weight": rows}
    write_weights(folder, larger, "single bin")
    values = json.loads((folder / "config.json").read_text())
    values["llm_cfg"]["vocab_size"] = 32000
    (folder / "config.json").write_text(json.dumps(values))
    model = groma.load(folder)
    assert model.tokenizer.special.region(99) == 32113
    assert said_by(model)[0].image_size_px == (200, 150)


def test_bin_files_run_no_code(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"weight": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="weights-only"):
        read_weights(tmp_path)
    assert not (tmp_path / "touched").exists()
