"""Every recipe, in small: each stage runs, trains what it says and nothing else, and hands its parts on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import SCENE_RECIPES, SIDE_PX, micro_config, micro_stage
from safetensors.torch import load_file, save_file

import groma
from groma.data.scenes.scene import make_scene
from groma.errors import CheckpointError, InputError
from groma.inference.generate import Decoding
from groma.model.groma import GromaModel
from groma.train import run
from groma.train.models import MODELS
from groma.train.parts import PARTS_FILE, load_parts, save_parts
from groma.train.recipes import RECIPES
from groma.train.run import build_objective, build_stream, find_model, find_tokenizer, run_stage, validation_terms
from groma.train.stage import LANGUAGE_STAGES, StageConfig

TAKES_FROM = {
    "tiny-speak": (),
    "tiny-pretrain-crops": (),
    "tiny-pretrain": ("tiny-pretrain-crops",),
    "tiny-pretrain-regions": ("tiny-speak", "tiny-pretrain"),
    "tiny-detect": ("tiny-pretrain-regions",),
    "tiny-align": ("tiny-speak", "tiny-pretrain-regions", "tiny-detect"),
    "tiny-instruct": ("tiny-speak", "tiny-align"),
}
"""Recipe -> the recipes it starts from, as scripts/make_tiny.sh runs them."""


def tensors(config: StageConfig, checkpoint: Path) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of the parts that a stage works with."""
    parts = build_objective(config).parts()
    loaded = load_parts(parts, checkpoint)
    return {f"{part}.{name}": tensor for part in loaded for name, tensor in parts[part].state_dict().items()}


class Chain:
    """All recipes in the order of the registry, each for three steps."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results, self.configs, self.inits = folder, {}, {}, {}
        self.read: dict[Path, dict[str, torch.Tensor]] = {}
        for recipe in SCENE_RECIPES:
            config = micro_stage(recipe, imitates=True)
            init = [self.results[earlier].checkpoint for earlier in TAKES_FROM[recipe]]
            result = run_stage(config, out=folder / recipe, init=init)
            self.configs[recipe], self.inits[recipe], self.results[recipe] = config, init, result

    def of_stage(self, stage: str) -> str:
        """The last recipe of a stage."""
        return [recipe for recipe, config in self.configs.items() if config.stage == stage][-1]

    def last(self, stage: str) -> Path:
        return self.results[self.of_stage(stage)].checkpoint

    def earlier(self, stage: str) -> Path:
        """The checkpoint of step 2 of 3."""
        return self.folder / self.of_stage(stage) / "step-00000002"

    def tensors(self, checkpoint: Path) -> dict[str, torch.Tensor]:
        if checkpoint not in self.read:
            self.read[checkpoint] = tensors(self.configs[checkpoint.parent.name], checkpoint)
        return self.read[checkpoint]

    def same(self, checkpoint: Path, other: Path, prefix: str = "") -> list[bool]:
        """For each tensor whose name starts with the prefix, in either: whether both have it bit for bit."""
        ours, theirs = (
            {name: tensor for name, tensor in self.tensors(c).items() if name.startswith(prefix)}
            for c in (checkpoint, other)
        )
        assert ours.keys() == theirs.keys() and ours, f"{prefix} has other names in {other}"
        return [torch.equal(tensor, theirs[name]) for name, tensor in ours.items()]


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Chain:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "VALIDATION_BATCHES", 1)
        return Chain(tmp_path_factory.mktemp("chain"))


@pytest.mark.parametrize("recipe", SCENE_RECIPES)
def test_recipe_runs_and_says_what_it_was(chain, recipe):
    result, config = chain.results[recipe], chain.configs[recipe]
    assert result.finished and result.step == 3
    assert torch.tensor(result.last["loss"]).isfinite()
    records = [json.loads(line) for line in (chain.folder / recipe / "metrics.jsonl").read_text().splitlines()]
    (evaluation,) = (record for record in records if record["kind"] == "evaluate")
    assert evaluation["values"].keys() == result.last["terms"].keys()
    saved = json.loads((result.checkpoint / "config.json").read_text())
    init = [f"{c.parent.name}/{c.name}" for c in chain.inits[recipe]]
    frozen = saved["recipe"].pop("frozen")
    assert len(frozen) == 16 and saved["recipe"] == json.loads(json.dumps(config.to_dict() | {"init": init}))
    assert {key: saved[key] for key in ("loop", "optimizer", "schedule")} == config.training.to_dict()


@pytest.mark.parametrize("recipe", SCENE_RECIPES)
def test_recipe_fits_its_architecture(recipe):
    """The committed recipe itself, not its shrunk copy: everything but the steps."""
    config = RECIPES[recipe]()
    model = find_model(config.model)
    side = config.data.crop_px or config.data.size_px
    if config.stage in LANGUAGE_STAGES:
        special = find_tokenizer(config.tokenizer).special
        assert special.num_regions == model.selection.max_regions
        assert special.base_vocab_size == model.language.vocab_size
    else:
        assert side % model.patch_size == 0
    assert config.stage in ("pretrain", "detect", "speak") or side == model.image_size
    assert set(config.data.sources) <= set(model.proposer.sources)


def test_registered_models_build():
    """Every architecture has a configuration whose parts fit together."""
    for name in MODELS:
        config = find_model(name)
        with torch.device("meta"):
            assert sum(parameter.numel() for parameter in GromaModel(config).parameters()) > 0
        assert config.grid_size * config.patch_size == config.image_size and config.grid_size % 2 == 0


def test_pretraining_goes_on_with_what_it_learned(chain):
    assert not all(chain.same(chain.earlier("pretrain"), chain.last("pretrain"), "encoder."))
    for recipe, config in chain.configs.items():
        if config.stage == "pretrain":
            assert set(load_file(chain.results[recipe].checkpoint / "model" / PARTS_FILE)) == {
                f"{part}.{name}"
                for part, module in build_objective(config).parts().items()
                for name in module.state_dict()
            }, "the encoder, and the heads for a further run of the same stage"


def test_detection_trains_the_proposer(chain):
    frozen = chain.configs[chain.of_stage("detect")].encoder_lr_scale == 0
    assert all(chain.same(chain.last("pretrain"), chain.last("detect"), "encoder.")) == frozen
    assert not all(chain.same(chain.earlier("detect"), chain.last("detect"), "proposer."))


def test_speaking_hands_on_the_language_model_and_what_it_imagined(chain):
    assert {name.split(".")[0] for name in chain.tensors(chain.last("speak"))} == {"language", "tables"}
    assert not all(chain.same(chain.earlier("speak"), chain.last("speak"), "language.base."))
    assert not all(chain.same(chain.earlier("speak"), chain.last("speak"), "language.added_"))


def test_alignment_leaves_the_language_model_as_it_is(chain):
    align = chain.last("align")
    assert all(chain.same(chain.last("detect"), align, "encoder."))
    assert all(chain.same(chain.last("detect"), align, "proposer."))
    assert all(chain.same(chain.last("speak"), align, "language.base."))
    for part in ("language.added_embeddings", "language.added_head", "projector.", "region_encoder."):
        assert not all(chain.same(chain.earlier("align"), align, part)), part


def test_instruction_trains_the_language_model(chain):
    align, instruct = chain.last("align"), chain.last("instruct")
    assert all(chain.same(align, instruct, "encoder."))
    assert all(chain.same(align, instruct, "proposer."))
    for part in ("language.base.", "language.added_head", "projector.", "region_encoder."):
        assert not all(chain.same(align, instruct, part)), part


@pytest.mark.parametrize("stage", ["pretrain", "align"])
def test_a_stage_resumes_bit_for_bit(chain, stage, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "VALIDATION_BATCHES", 1)
    recipe = chain.of_stage(stage)
    config, init = chain.configs[recipe], chain.inits[recipe]
    result = run_stage(config, out=tmp_path, init=init, resume=chain.earlier(stage))
    assert result.step == 3
    again, once = tensors(config, result.checkpoint), chain.tensors(chain.last(stage))
    assert again.keys() == once.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in once.items())


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_the_last_stages_save_a_model_that_answers(chain, stage):
    assistant = groma.load(chain.last(stage) / "model", device="cpu")
    weights = assistant.model.state_dict()
    assert weights.keys() == chain.tensors(chain.last(stage)).keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in chain.tensors(chain.last(stage)).items())
    scene = make_scene("test", 0, 0, size_px=SIDE_PX)
    assert assistant.preprocessing.size_px == SIDE_PX == assistant.model.config.image_size
    answer = assistant.ask(scene.image, "What is this?", decoding=Decoding(max_new_tokens=3))
    assert answer.finish_reason in ("stop", "length")


def test_resuming_under_another_configuration_is_refused(chain, tmp_path):
    recipe = chain.of_stage("align")
    config = chain.configs[recipe]
    with pytest.raises(InputError, match=r"recipe\.init was .*step-00000003"):
        run_stage(config, out=tmp_path, init=chain.inits[recipe][:1], resume=chain.earlier("align"))
    other = replace(config, data=replace(config.data, questions=5))
    with pytest.raises(InputError, match=r"recipe\.data\.questions was 3 and is now 5"):
        run_stage(other, out=tmp_path, init=chain.inits[recipe], resume=chain.earlier("align"))


def test_resuming_from_a_namesake_with_other_weights_is_refused(chain, tmp_path):
    """Frozen weights come from where a run started, so they must be the same."""
    recipe = chain.of_stage("detect")
    (init,) = chain.inits[recipe]
    namesake = tmp_path / init.parent.name / init.name
    shutil.copytree(init, namesake)
    file = namesake / "model" / PARTS_FILE
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("encoder.") and name.endswith("norm1.weight"))
    save_file(weights | {name: weights[name] + 1e-3}, file)
    with pytest.raises(InputError, match=r"recipe\.frozen was"):
        run_stage(chain.configs[recipe], out=tmp_path / "out", init=[namesake], resume=chain.earlier("detect"))


# --- what does not fit ----------------------------------------------------------------------------------------


def test_parts_of_other_shapes_are_all_listed(chain, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "other", lambda: micro_config(encoder={"hidden_size": 64, "num_hidden_layers": 2}))
    config = replace(micro_stage("tiny-detect"), model="other")
    with pytest.raises(CheckpointError) as error:
        run_stage(config, out=tmp_path, init=[chain.last("pretrain")])
    text = str(error.value)
    assert "encoder.backbone.embeddings.cls_token has shape (1, 1, 32), expected (1, 1, 64)" in text
    assert "encoder.backbone.encoder.layer.2.norm1.weight is not known" in text
    assert text.count("has shape") > 10


def test_nothing_is_loaded_when_one_part_does_not_fit(tmp_path):
    fits, misfit = torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)
    (tmp_path / "model").mkdir()
    save_parts({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)}, tmp_path / "model")
    before = fits.weight.clone()
    with pytest.raises(CheckpointError, match=r"b\.bias has shape .*b\.weight has shape"):
        load_parts({"a": fits, "b": misfit}, tmp_path)
    assert torch.equal(fits.weight, before)
    assert load_parts({"a": fits}, tmp_path) == ["a"]
    assert not torch.equal(fits.weight, before)


def test_checkpoints_without_the_part_are_refused(chain, tmp_path):
    with pytest.raises(CheckpointError, match="none of the parts encoder, proposer"):
        run_stage(micro_stage("tiny-detect"), out=tmp_path, init=[chain.last("speak")])
    with pytest.raises(CheckpointError, match="nowhere"):
        run_stage(micro_stage("tiny-detect"), out=tmp_path, init=[tmp_path / "nowhere"])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "parts.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="cannot be read"):
        run_stage(micro_stage("tiny-detect"), out=tmp_path, init=[tmp_path])


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("tiny-detect", {"model": "huge"}, "no architecture 'huge'"),
        ("tiny-detect", {"data": {"size_px": 72}}, "cannot be cut into patches of 16 px"),
        ("tiny-align", {"data": {"size_px": 96}}, "must be the model's image_size, 64, got 96"),
        ("tiny-align", {"model": "few"}, "40 region tokens .* 'few' has 7"),
    ],
)
def test_what_does_not_fit_the_architecture_is_refused(recipe, changes, message, monkeypatch):
    monkeypatch.setitem(MODELS, "few", lambda: micro_config(selection={"max_regions": 7}))
    config = micro_stage(recipe, **changes.pop("data", {}))
    with pytest.raises(InputError, match=message):
        build_objective(replace(config, **changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stage": "dream"}, "stage"),
        ({"stage": "align", "tokenizer": ""}, "tokenizer"),
        ({"encoder_lr_scale": -1.0}, "encoder_lr_scale"),
    ],
)
def test_impossible_stages_are_refused(changes, named):
    with pytest.raises(InputError, match=rf"StageConfig\.{named}"):
        replace(micro_stage("tiny-detect"), **changes)


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"crop_px": 0}, {"sources": ()}, {"questions": 0}])
def test_impossible_data_is_refused(changes):
    data = micro_stage("tiny-detect").data
    with pytest.raises(InputError, match=rf"SceneData\.{next(iter(changes))}"):
        replace(data, **changes)


def test_a_tokenizer_folder_can_be_given(tmp_path):
    tokenizer = find_tokenizer("groma-tiny")
    tokenizer.save(tmp_path)
    assert find_tokenizer(str(tmp_path)).special == tokenizer.special
    with pytest.raises(CheckpointError, match="no tokenizer"):
        find_tokenizer("groma-giant")


@pytest.mark.parametrize("recipe", ["tiny-detect", "tiny-align"])
def test_validation_is_always_the_same(recipe, monkeypatch):
    monkeypatch.setattr(run, "VALIDATION_BATCHES", 2)
    config = micro_stage(recipe)
    objective = build_objective(config).eval()
    first, second = validation_terms(objective, config), validation_terms(objective, config)
    assert first == second and first
    shown = build_stream(config, run.World(), split="validation").next()
    trained = build_stream(config, run.World()).next()
    assert not torch.equal(shown.images, trained.images)
