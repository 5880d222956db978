"""`groma init`: language models and encoders, made here in small, become a model that training starts from."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
)

import groma
from groma.cli import main
from groma.convert.assemble import assemble
from groma.data.scenes.scene import make_scene
from groma.errors import CheckpointError, InputError
from groma.model.encoder import ImageEncoder
from groma.prompt.tokenizer import train_byte_bpe

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
ENCODERS = ("dinov2", "dinov2_with_registers")
SIDE_PX = 84


def save_language(folder: Path, family: str = "qwen2", *, template: str | None = TEMPLATE, **changes) -> Path:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"intermediate_size": 48, "vocab_size": 320, "bos_token_id": 1, "eos_token_id": 2} | changes
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), dtype=torch.bfloat16).save_pretrained(
        folder
    )
    words = train_byte_bpe(["Where is the red dog in the picture? It is here."] * 3, 300)
    names = {f"{role}_token": words._names[role] for role in ("bos", "eos", "unk")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words._backend, **names)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def save_encoder(folder: Path, kind: str = "dinov2", **changes) -> Path:
    torch.manual_seed(2)
    sizes = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "patch_size": 14, "image_size": 70}
    AutoModel.from_config(AutoConfig.for_model(kind, **sizes | changes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    save_language(folder / "language")
    for kind in ENCODERS:
        save_encoder(folder / kind, kind)
    return folder


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_model_is_assembled_and_can_be_loaded_and_trained(folders, tmp_path, kind, capsys):
    out = tmp_path / "model"
    parts = ["--language", str(folders / "language"), "--encoder", str(folders / kind)]
    assert main(["init", str(out), *parts, "--image-size", str(SIDE_PX), "--max-regions", "9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": str(out)}
    loaded = groma.load(out)
    ours = loaded.model.state_dict()
    for part, theirs in (
        ("language.base", AutoModelForCausalLM.from_pretrained(folders / "language", dtype=torch.float32)),
        ("encoder.backbone", AutoModel.from_pretrained(folders / kind)),
    ):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours[f"{part}.{name}"], tensor), name
    config = loaded.model.config
    assert (config.encoder.model_type, config.chat_format, config.selection.max_regions) == (kind, "chat_template", 9)
    assert config.provenance["assembled_from"]["encoder"] == str(folders / kind)
    assert loaded.tokenizer.special.base_vocab_size == 320  # rows of the embedding, not words of the tokenizer
    answer = loaded.ask(make_scene("train", 0, 0, size_px=SIDE_PX).image, "What is it?")
    assert answer.finish_reason
    run = ["--from", str(out), "--out", str(tmp_path / "run"), "--training.loop.steps", "1", "--mixture.epochs", "0"]
    data = tmp_path / "mine"
    assert main(["data", "example", str(data), "--n", "3"]) == 0
    run += ["--data", str(data / "annotations.jsonl"), "--mixture.batch-size", "1"]
    assert main(["train", "align", *run]) == 0


def test_the_same_seed_draws_the_same_weights(folders):
    first, again, other = (
        assemble(folders / "language", folders / "dinov2", image_size=SIDE_PX, seed=seed).model.state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["projector.hidden.weight"], other["projector.hidden.weight"])


@pytest.mark.parametrize("sizes", [{}, {"use_swiglu_ffn": True}, {"num_hidden_layers": 2, "hidden_size": 48}])
@pytest.mark.parametrize("kind", ENCODERS)
@torch.no_grad()
def test_features_are_those_of_transformers(tmp_path, kind, sizes):
    """At the size it was trained with, where positions are not interpolated; before the last norm."""
    backbone = AutoModel.from_pretrained(save_encoder(tmp_path / "encoder", kind, **sizes)).eval()
    depth = backbone.config.num_hidden_layers
    pixels = torch.randn(2, 3, 70, 70)
    theirs = backbone(pixels, output_hidden_states=True).hidden_states
    extra = 1 + getattr(backbone.config, "num_register_tokens", 0)
    ours = ImageEncoder(backbone.config, min(4, depth), backbone=backbone)(pixels)
    assert len(ours.last) == min(4, depth)
    for map_, hidden in zip(ours.last, theirs[-len(ours.last) :], strict=True):
        torch.testing.assert_close(map_.flatten(1, 2), hidden[:, extra:], atol=1e-5, rtol=1e-4)


def test_without_a_template_vicuna_speaks(tmp_path, folders):
    language = save_language(tmp_path / "plain", "llama", template=None)
    assert assemble(language, folders / "dinov2", image_size=SIDE_PX).model.config.chat_format == "vicuna"


def broken(folders: Path, tmp_path: Path, which: str) -> tuple[Path, Path]:
    language, encoder = tmp_path / "language", tmp_path / "encoder"
    shutil.copytree(folders / "language", language)
    shutil.copytree(folders / "dinov2", encoder)
    match which:
        case "no configuration":
            (language / "config.json").unlink()
        case "an encoder-decoder":
            T5Config(vocab_size=10, d_model=8).save_pretrained(language)
        case "no tokenizer":
            (language / "tokenizer.json").unlink()
        case "no weights":
            (language / "model.safetensors").unlink()
        case "truncated weights":
            file = encoder / "model.safetensors"
            file.write_bytes(file.read_bytes()[:200])
        case "another encoder":
            language, encoder = language, language
        case "swapped":
            language, encoder = encoder, language
        case "another size":
            change_config(language, hidden_size=64)
    return language, encoder


def change_config(folder: Path, **changes) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


@pytest.mark.parametrize(
    ("which", "told"),
    [
        ("no configuration", "has no config.json"),
        ("an encoder-decoder", "t5, which is no causal language model"),
        ("no tokenizer", "neither tokenizer.json nor tokenizer.model"),
        ("no weights", "the weights cannot be read"),
        ("truncated weights", "the weights cannot be read"),
        ("another encoder", "known encoders: dinov2, dinov2_with_registers"),
        ("swapped", "dinov2, which is no causal language model"),
        ("another size", "the weights do not fit"),
    ],
)
def test_what_cannot_be_assembled_is_told_in_one_sentence(folders, tmp_path, which, told, capsys):
    language, encoder = broken(folders, tmp_path, which)
    out = tmp_path / "out"
    command = ["init", str(out), "--language", str(language), "--encoder", str(encoder), "--image-size", str(SIDE_PX)]
    assert main(command) == 2
    assert told in capsys.readouterr().err and not out.exists()


def test_sizes_and_templates_that_do_not_fit_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match="multiple of two patches"):
        assemble(folders / "language", folders / "dinov2", image_size=90)
    with pytest.raises(InputError, match="multiple of two patches"):
        assemble(folders / "language", folders / "dinov2", image_size=0)
    with pytest.raises(InputError, match="unknown chat format 'alpaca'"):
        assemble(folders / "language", folders / "dinov2", image_size=SIDE_PX, chat="alpaca")
    with pytest.raises(CheckpointError, match=r"no config.json"):
        assemble(tmp_path, folders / "dinov2", image_size=SIDE_PX)
