"""Finetuning less than all: adapters (LoRA), added rows alone, frozen weights in bfloat16, averages of eight bits."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import SIDE_PX
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

import groma
from groma.data.catalogue import CATALOGUE
from groma.data.scenes.export import PICTURES, export_scenes
from groma.data.scenes.scene import make_scene
from groma.errors import InputError, MissingExtraError
from groma.train.adapters import add_adapters, merged
from groma.train.checkpoint import TRAINED
from groma.train.config import LoopConfig, OptimizerConfig, TrainingConfig
from groma.train.recipes import RECIPES
from groma.train.run import run_stage
from groma.train.settings import LanguageConfig, LoraConfig
from groma.train.stage import StageConfig


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    scenes = [make_scene("train", k, 5, size_px=SIDE_PX) for k in range(6)]
    file = export_scenes(scenes, CATALOGUE["own"].format, folder)
    file.write_text(file.read_text().replace('"image": "', f'"image": "{PICTURES}/'))
    return file


def finetuning(own: Path, *, optimizer: str = "adamw", ema_decay: float = 0.0, **language) -> StageConfig:
    config = RECIPES["finetune-instruct"]()
    training = replace(
        config.training,
        loop=LoopConfig(steps=4, log_every=1, save_every=2, evaluate_every=4, precision="bf16", ema_decay=ema_decay),
        optimizer=replace(config.training.optimizer, name=optimizer, lr=1e-2),
    )
    mixture = replace(config.mixture, file=str(own), batch_size=2, epochs=0.0, specimens=1, validation=str(own))
    return replace(config, training=training, mixture=mixture, language=LanguageConfig(**language))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return groma.load(folder).model.state_dict()


def changed(before: Path, after: Path) -> set[str]:
    one, other = weights(before), weights(after)
    return {name for name in one if not torch.equal(one[name], other[name])}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2"])
def test_merged_weights_compute_what_adapters_compute(kind):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = AutoConfig.for_model(kind, **sizes, intermediate_size=48, vocab_size=64, head_dim=16)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    names = list(model.state_dict())
    lora = LoraConfig(rank=4, alpha=6.0)
    add_adapters(model, lora, seed=3)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * 7 and all("lora_" in name for name in trained)
    ids = torch.randint(64, (2, 9))
    plain = AutoModelForCausalLM.from_config(config).eval()
    plain.load_state_dict(merged(model.state_dict(), lora))
    torch.testing.assert_close(plain(ids).logits, model(ids).logits)  # B is zero: nothing has changed yet
    with torch.no_grad():
        for parameter in trained.values():
            parameter.copy_(torch.randn_like(parameter))
    state = merged(model.state_dict(), lora)
    assert list(state) == names
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_the_seed_draws_the_adapters_and_nothing_else():
    config = AutoConfig.for_model("llama", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        before = torch.get_rng_state()
        add_adapters(model, LoraConfig(rank=2), seed=seed)
        assert torch.equal(before, torch.get_rng_state())
        states.append(model.state_dict()["model.layers.0.self_attn.q_proj.lora_A.default.weight"])
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@pytest.mark.parametrize("targets", [("nowhere",), ("embed_tokens",)])
def test_targets_that_cannot_be_adapted_are_named(targets):
    config = AutoConfig.for_model("llama", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    with pytest.raises(InputError, match=f"lora.targets.*{targets[0]}"):
        add_adapters(AutoModelForCausalLM.from_config(config), LoraConfig(targets=targets), seed=0)


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"groma\[train\]"):
        add_adapters(torch.nn.Linear(2, 2), LoraConfig(), seed=0)


@pytest.mark.parametrize("frozen_precision", ["fp32", "bf16"])
def test_adapters_are_trained_resumed_and_saved_as_plain_weights(base, own, tmp_path, frozen_precision):
    lora = LoraConfig(rank=2, targets=("q_proj", "down_proj"))
    config = finetuning(own, train="lora", lora=lora, frozen_precision=frozen_precision, ema_decay=0.5)
    result = run_stage(config, out=tmp_path / "run", init=[base])
    assert result.finished
    names = changed(base, result.checkpoint / "model")
    parts = {name.split(".")[0] for name in names}
    assert parts == {"language", "region_encoder", "projector"}
    adapted = {name for name in names if name.startswith("language.base.")}
    if frozen_precision == "fp32":
        language = [name for name in weights(base) if name.startswith("language.")]
        assert adapted == {name for name in language if name.endswith(("q_proj.weight", "down_proj.weight"))}
    else:  # the others are rounded, and stored as they were kept
        with safe_open(result.checkpoint / "model" / "model.safetensors", "pt") as file:
            kept = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert {kept[name] for name in kept if name.startswith("language.base.")} == {"BF16"}
        assert {kept[name] for name in kept if not name.startswith("language.base.")} == {"F32"}
    with safe_open(result.checkpoint / TRAINED, "pt") as file:
        trained = [name for name in file.keys() if ".base." in name]  # noqa: SIM118
    assert len(trained) == 2 * 2 * 2 and all("lora_" in name for name in trained)

    shutil.rmtree(result.checkpoint)
    resumed = run_stage(config, out=tmp_path / "run", init=[base])
    assert resumed.step == 4 and resumed.last["loss"] == result.last["loss"]


def test_added_rows_alone(base, own, tmp_path):
    result = run_stage(finetuning(own, train="added"), out=tmp_path / "run", init=[base])
    names = {name for name in changed(base, result.checkpoint / "model") if name.startswith("language.")}
    assert names == {"language.added_embeddings.weight", "language.added_head.weight"}


def test_precision_of_frozen_weights_fits_the_run(own):
    with pytest.raises(InputError, match=r'frozen_precision "bf16" needs training.loop.precision "bf16"'):
        config = finetuning(own, frozen_precision="bf16")
        replace(config, training=replace(config.training, loop=LoopConfig(steps=1)))


def test_only_stage_3_has_a_choice_of_what_learns():
    with pytest.raises(InputError, match=r"'lora' is for stage \"instruct\""):
        replace(RECIPES["finetune-align"](), language=LanguageConfig(train="lora"))


def test_averages_of_eight_bits(base, own, tmp_path):
    """torchao compiles its step, for which a C++ compiler is needed."""
    pytest.importorskip("torchao", reason="torchao (groma[8bit]) is not installed")
    exact = run_stage(finetuning(own), out=tmp_path / "exact", init=[base])
    config = finetuning(own, optimizer="adamw8bit")
    eight = run_stage(config, out=tmp_path / "eight", init=[base])
    assert eight.last["loss"] == pytest.approx(exact.last["loss"], rel=1e-2)
    sizes = [(result.checkpoint / "trainer_state.pt").stat().st_size for result in (eight, exact)]
    assert sizes[0] < 0.75 * sizes[1]  # small tensors keep 32 bits
    shutil.rmtree(eight.checkpoint)
    assert run_stage(config, out=tmp_path / "eight", init=[base]).last["loss"] == eight.last["loss"]


def test_eight_bits_are_refused_where_they_cannot_be():
    with pytest.raises(InputError, match=r"adamw8bit.*replicate"):
        TrainingConfig(loop=LoopConfig(steps=1, sharding="full"), optimizer=OptimizerConfig(name="adamw8bit"))


def test_without_torchao_the_extra_is_named(base, own, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(MissingExtraError, match=r"groma\[8bit\]"):
        run_stage(finetuning(own, optimizer="adamw8bit"), out=tmp_path / "run", init=[base])
