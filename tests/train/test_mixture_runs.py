"""Stages on annotated pictures: from a whole model, on own data and published formats, looked at first and counted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import SCENE_RECIPES, SIDE_PX
from PIL import Image

import groma
from groma.data.catalogue import CATALOGUE
from groma.data.collate import VisionBatch
from groma.data.scenes.export import PICTURES, export_scenes
from groma.data.scenes.scene import make_scene
from groma.distributed import World
from groma.errors import InputError
from groma.train import trackers
from groma.train.config import LoopConfig
from groma.train.mixtures import LEAST_SEEN, Tally, look_at, make_stream, open_file, steps_of
from groma.train.recipes import RECIPES, TOKENIZER
from groma.train.run import SPECIMENS, build_objective, make_blueprint, run_stage
from groma.train.stage import MixtureData, StageConfig


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROMA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def export(folder: Path, name: str, count: int, *, seed: int = 3) -> dict:
    """A set of scenes in the format of a catalogue entry; returns its lines in a mixture."""
    scenes = [make_scene("train", k, seed, size_px=SIDE_PX) for k in range(count)]
    file = export_scenes(scenes, CATALOGUE[name].format, folder / name)
    return {"set": name, "annotations": f"{name}/{file.name}", "pictures": f"{name}/{PICTURES}"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with two mixtures and an own .jsonl beside its pictures."""
    folder = tmp_path_factory.mktemp("data")
    detection = [export(folder, "coco", 12), export(folder, "sa1b", 8)]
    language = [export(folder, "refcoco", 6), export(folder, "flickr30k", 6), export(folder, "own", 6)]
    (folder / "detect.yaml").write_text(json.dumps({"sets": detection}))
    (folder / "language.yaml").write_text(json.dumps({"sets": language}))
    (folder / "own.jsonl").write_text(
        (folder / "own/annotations.jsonl").read_text().replace('"image": "', f'"image": "own/{PICTURES}/')
    )
    return folder


def finetuning(stage: str, file: Path, *, steps: int = 4, recipe: str = "finetune", **mixture) -> StageConfig:
    config = RECIPES[f"{recipe}-{stage}"]()
    loop = LoopConfig(steps=steps, log_every=1, save_every=2, evaluate_every=0)
    data = {"batch_size": 2, "epochs": 0.0, "workers": 0, "specimens": 0} | mixture
    return replace(
        config,
        mixture=replace(config.mixture, file=str(file), **data),
        training=replace(config.training, loop=loop),
    )


def records(out: Path, kind: str = "train") -> list[dict]:
    return [r for r in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if r["kind"] == kind]


def test_all_stages_follow_each_other_from_a_whole_model(base, files, tmp_path):
    detect = run_stage(finetuning("detect", files / "detect.yaml"), out=tmp_path / "detect", init=[base])
    align = run_stage(
        finetuning("align", files / "language.yaml", steps=6), out=tmp_path / "align", init=[base, detect.checkpoint]
    )
    instruct = run_stage(
        finetuning("instruct", files / "own.jsonl"), out=tmp_path / "instruct", init=[align.checkpoint]
    )
    before, after = groma.load(base).model.state_dict(), groma.load(instruct.checkpoint / "model").model.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"proposer", "region_encoder", "projector", "language"}
    aligned = groma.load(align.checkpoint / "model").model.state_dict()
    words = [name for name in before if name.startswith("language.base.")]
    assert words and all(torch.equal(aligned[name], before[name]) for name in words)  # stage 2 leaves them alone
    provenance = groma.load(instruct.checkpoint / "model").model.config.provenance
    assert [(step["stage"], step["steps"]) for step in provenance["trained_on"]] == [("align", 6), ("instruct", 4)]


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in SCENE_RECIPES])
def test_every_recipe_for_annotated_pictures_runs(base, files, tmp_path, recipe):
    family, stage = recipe.split("-")
    file = files / ("detect.yaml" if stage == "detect" else "language.yaml")
    config = finetuning(stage, file, recipe=family, steps=2)
    assert config.stage == stage and RECIPES[recipe]().mixture.epochs > 0
    result = run_stage(config, out=tmp_path / "run", init=[base])
    assert result.finished and result.step == 2
    assert (result.checkpoint / "model").is_dir()


def test_stage_2_can_speak_in_the_published_template(base, files):
    config = finetuning("align", files / "language.yaml", recipe="published")
    assert config.mixture.chat_format == "vicuna_pretrain"
    blueprint = make_blueprint(config, [base])
    prompts = make_stream(config, open_file(config.mixture.file), blueprint, World()).next().pictures[0].prompts
    tokens = blueprint.speaks()
    text = "".join(tokens.token_bytes(token).decode() for token in prompts[0].token_ids)
    assert "A chat between a curious user" in text
    assert prompts[0].token_ids.count(tokens.special.eos) == 0  # a blank in the place of every end token


def test_the_loss_is_told_for_each_set(base, files, tmp_path):
    run_stage(finetuning("align", files / "language.yaml", epochs=1.0), out=tmp_path / "run", init=[base])
    seen = {}
    for record in records(tmp_path / "run"):
        (name,) = [term.removeprefix("answer/") for term in record["terms"] if term.startswith("answer/")]
        assert record["terms"][f"answer/{name}"] == pytest.approx(record["terms"]["answer"])
        assert record["counts"] == {f"{name}/used": 2}  # a step sees one set
        seen[name] = seen.get(name, 0) + 1
    assert set(seen) == {"refcoco", "flickr30k", "own"}
    run_stage(finetuning("detect", files / "detect.yaml", steps=6), out=tmp_path / "boxes", init=[base])
    names = {term for record in records(tmp_path / "boxes") for term in record["terms"] if "/" in term}
    assert names == {"total/coco", "total/sa1b"}


def test_a_stopped_run_goes_on_exactly(base, files, tmp_path):
    config = finetuning("instruct", files / "language.yaml")
    whole = run_stage(config, out=tmp_path / "whole", init=[base])
    first = tmp_path / "whole" / "step-00000002"
    again = run_stage(config, out=tmp_path / "again", init=[base], resume=first)
    ours, theirs = (groma.load(r.checkpoint / "model").model.state_dict() for r in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(InputError, match="resolved"):  # the same file name, another content
        (files / "other.yaml").write_text(
            json.dumps({"sets": json.loads((files / "language.yaml").read_text())["sets"][:2]})
        )
        other = replace(config, mixture=replace(config.mixture, file=str(files / "other.yaml")))
        run_stage(other, out=tmp_path / "other", init=[base], resume=first)


def test_epochs_decide_the_steps(base, files):
    config = finetuning("detect", files / "detect.yaml", epochs=3.0)
    mixture = open_file(config.mixture.file)
    assert steps_of(config, mixture, 1) == 3 * (12 // 2 + 8 // 2)
    assert steps_of(config, mixture, 2) == 3 * (12 // 4 + 8 // 4)
    assert (
        steps_of(replace(config, mixture=replace(config.mixture, epochs=0.0)), mixture, 2) == config.training.loop.steps
    )


def test_a_set_with_too_many_bad_samples_is_refused_before_anything_is_trained(base, files, tmp_path):
    one = export(tmp_path, "refcoco", 5)
    pictures = sorted((tmp_path / one["pictures"]).iterdir())
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[1].read_bytes()[:100])
    (tmp_path / "mixture.yaml").write_text(json.dumps({"sets": [one]}))
    told = []
    config = finetuning("align", tmp_path / "mixture.yaml")
    with pytest.raises(InputError, match=r"allows 1.0% .*refcoco: .*missing_picture \d+.*000000.png"):
        run_stage(config, out=tmp_path / "run", init=[base], tell=told.append)
    assert len(told) == 1 and told[0].startswith("refcoco: ") and not (tmp_path / "run").exists()
    (tmp_path / "mixture.yaml").write_text(json.dumps({"sets": [one], "max_bad_share": 0.9}))
    run_stage(config, out=tmp_path / "run", init=[base], tell=told.append)
    counts = {}
    for record in records(tmp_path / "run"):
        for name, count in record["counts"].items():
            counts[name] = counts.get(name, 0) + count
    assert sum(counts.values()) == 4 * 2  # left out, not replaced
    assert set(counts) <= {"refcoco/used", "refcoco/missing_picture", "refcoco/corrupt_picture"}
    assert told[-1].startswith(f"refcoco: {counts['refcoco/used']} samples used; ")


def test_looking_may_be_left_out(files):
    mixture, told = open_file(str(files / "own.jsonl")), []
    look_at(mixture, finetuning("align", files / "own.jsonl", look_first=0), World(), told.append)
    assert told == []
    look_at(mixture, finetuning("align", files / "own.jsonl", look_first=2), World(), told.append)
    assert told == ["own: 6 samples, 2 looked at, 0 bad"]


def test_a_run_ends_when_data_turn_out_worse_than_they_looked():
    tally = Tally(0.01)
    tally({"counts": {"a/used": 10, "a/missing_picture": 10, "a/clipped_box": 500}})  # too few to prove anything
    with pytest.raises(InputError, match=r"set 'a': 11 of 21 samples could not be used \(missing_picture 11\)"):
        tally({"counts": {"a/missing_picture": 1}})
    assert LEAST_SEEN == 1000
    large = Tally(0.01)
    large({"counts": {"a/used": 10_000, "a/corrupt_picture": 99}})
    assert large.told() == ["a: 10,000 samples used; corrupt_picture 99"]


def test_evaluation_answers_and_measures_held_out_pictures(base, files, tmp_path):
    config = finetuning("instruct", files / "own.jsonl", specimens=3, validation=str(files / "language.yaml"))
    loop = replace(config.training.loop, evaluate_every=2)
    told = []
    config = replace(config, training=replace(config.training, loop=loop))
    run_stage(config, out=tmp_path / "run", init=[base], tell=told.append)
    sheets = sorted((tmp_path / "run" / SPECIMENS).iterdir())
    assert [sheet.name for sheet in sheets] == ["step-00000002.png", "step-00000004.png"]
    assert Image.open(sheets[0]).width == 3 * 480 + 4 * 16  # three tiles beside each other
    assert str(sheets[1]) in told[-1]
    values = [record["values"] for record in records(tmp_path / "run", "evaluate")]
    assert len(values) == 2 and all(v["answer"] > 0 for v in values) and values[0] != values[1]


def test_a_blank_picture_teaches_nothing(base, files):
    config = finetuning("detect", files / "detect.yaml")
    objective = build_objective(config, make_blueprint(config, [base]))
    images = torch.zeros(1, SIDE_PX, SIDE_PX, 3, dtype=torch.uint8)
    for blank in (True, False):
        batch = VisionBatch(images=images, boxes_cxcywh=(torch.zeros(0, 4),), source="coco", blank=blank)
        objective.zero_grad()
        losses = objective(batch, total_weight=1.0)
        losses.total.backward()
        moved = any(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())
        assert moved is not blank and (losses.total.item() == 0) is blank


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stage": "speak"}, "one of detect, align, instruct with a mixture"),
        ({"model": "tiny", "tokenizer": TOKENIZER, "language": "imitate"}, "imagined tokens"),
    ],
)
def test_what_a_mixture_cannot_train(files, changes, expected):
    config = finetuning("align", files / "own.jsonl")
    if changes.get("language"):
        changes = changes | {"language": replace(config.language, imitation=1.0)}
    with pytest.raises(InputError, match=expected):
        replace(config, **changes)


def test_a_recipe_without_an_architecture_needs_a_model(base, files, tmp_path):
    config = finetuning("align", files / "own.jsonl")
    with pytest.raises(InputError, match="--from"):
        run_stage(config, out=tmp_path)
    with pytest.raises(InputError, match="--data"):
        run_stage(replace(config, mixture=MixtureData(validation="x.yaml")), out=tmp_path, init=[base])


def test_curves_go_to_tensorboard(base, files, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = finetuning("align", files / "own.jsonl", steps=3, validation=str(files / "own.jsonl"))
    config = replace(config, training=replace(config.training, loop=replace(config.training.loop, evaluate_every=3)))
    run_stage(config, out=tmp_path / "run", init=[base], trackers=["tensorboard"])
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"train/loss", "train/answer/own", "train/lr", "data/own/used", "evaluate/answer"} <= set(
        events.Tags()["scalars"]
    )
    drawn = [(event.step, event.value) for event in events.Scalars("train/loss")]
    logged = [(record["step"], record["loss"]) for record in records(tmp_path / "run")]
    assert drawn == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in logged] and len(drawn) == 3


def test_curves_go_to_wandb(tmp_path, monkeypatch):
    logged, started = [], {}

    class Run:
        def log(self, values, step):
            logged.append((step, values))

    class Wandb:
        @staticmethod
        def init(**options):
            started.update(options)
            return Run()

    monkeypatch.setitem(__import__("sys").modules, "wandb", Wandb)
    track = trackers.start_tracker("wandb", tmp_path / "my-run", {"stage": "align"})
    track({"kind": "evaluate", "step": 4, "values": {"answer": 2.0}})
    assert logged == [(4, {"evaluate/answer": 2.0})]
    assert (started["id"], started["resume"], started["config"]) == ("my-run", "allow", {"stage": "align"})
    with pytest.raises(InputError, match="known are tensorboard, wandb"):
        trackers.start_tracker("neptune", tmp_path, {})
