"""groma train: recipes, the file and the flags that change them, runs, resuming."""

import json
from pathlib import Path

import pytest
import yaml
from commands import sentence

from groma.strict_yaml import read_overrides, to_yaml
from groma.train.recipes import RECIPES

QUICK = (
    *("--data.batch-size", 2, "--data.size-px", 64, "--training.loop.log-every", 1),
    *("--training.loop.evaluate-every", 0, "--training.loop.precision", "fp32"),
)
"""Flags that make two steps of the small recipe a matter of seconds."""


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_prints_a_file_that_gives_it_back(groma, tmp_path, name):
    ran = groma("train", name, "--print-config")
    assert ran.status == 0
    path = tmp_path / "config.yaml"
    path.write_text(ran.out)
    other = next(recipe() for recipe_name, recipe in RECIPES.items() if recipe_name != name)
    assert read_overrides(path, other) == RECIPES[name]()


def test_recipe_then_file_then_flags(groma, tmp_path):
    path = tmp_path / "changes.yaml"
    path.write_text("training:\n  loop: {steps: 111, seed: 5}\n  optimizer: {lr: 2e-5}\n")
    flags = ("--training.loop.steps", 222, "--print-config")
    for spelled in (("--config", path), (f"--config={path}",)):
        values = yaml.safe_load(groma("train", "detect", *spelled, *flags).out)
        assert values["training"]["loop"]["steps"] == 222  # flag
        assert values["training"]["loop"]["seed"] == 5  # file
        assert values["training"]["optimizer"]["lr"] == 2e-5
        assert values["detection"]["assignment"] == RECIPES["tiny-detect"]().detection.assignment  # recipe


def test_data_choose_the_recipe_that_finetunes(groma):
    for spelled in (("--data", "mine.jsonl"), ("--data=mine.jsonl",)):
        values = yaml.safe_load(groma("train", "instruct", *spelled, "--mixture.epochs", 2, "--print-config").out)
        assert (values["mixture"]["file"], values["mixture"]["epochs"]) == ("mine.jsonl", 2.0)
        expected = RECIPES["finetune-instruct"]().training.optimizer.lr
        assert (values["model"], values["training"]["optimizer"]["lr"]) == ("", expected)


def test_print_config_as_json(groma):
    values = json.loads(groma("train", "detect", "--print-config", "--json").out)
    assert values == json.loads(json.dumps(yaml.safe_load(to_yaml(RECIPES["tiny-detect"]()))))


def test_stage_names_stand_for_recipes(groma):
    for stage in ("pretrain", "detect"):
        assert yaml.safe_load(groma("train", stage, "--print-config").out)["stage"] == stage


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("tiny-detekt",), "did you mean 'tiny-detect'?"),
        (("zzz",), "known are "),
        (("detect", "--config", "missing.yaml"), "missing.yaml: there is no such file"),
        (("detect", "--from", "missing"), "missing"),
        (("finetune-instruct",), "(--data)"),
        (("instruct", "--data", "mine.jsonl"), "--from"),
        (("instruct", "--data", "mine.jsonl", "--from", "groma-tiny"), "mine.jsonl"),
        (("instruct", "--data", "mine.csv", "--from", "groma-tiny"), "expected a mixture (.yaml) or your own data"),
    ],
)
def test_what_cannot_be_trained(groma, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in sentence(groma("train", *arguments, *(QUICK if "--from" in arguments else ())))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--training.loop.stepz", 1), "--training.loop.steps"),
        (("--training.loop.steps", 0), "LoopConfig.steps must be a whole number, at least 1"),
        (("--training.loop.steps", "many"), "many"),
        (("--config",), "--config"),
    ],
)
def test_flags_that_do_not_fit(groma, flags, expected):
    ran = groma("train", "detect", *flags)
    assert (ran.status, ran.out) == (2, "")
    assert expected in " ".join(ran.err.replace("│", " ").split())
    assert "Traceback" not in ran.err


def test_help_of_a_recipe_lists_its_fields(groma):
    ran = groma("train", "detect", "--help")
    assert ran.status == 0
    assert all(flag in ran.out for flag in ("--training.optimizer.lr", "--detection.assignment", "--from", "--resume"))


@pytest.mark.slow
def test_a_run_and_its_resumption(groma, tmp_path):
    out = tmp_path / "run"
    ran = groma("train", "detect", "--out", out, "--training.loop.steps", 1, *QUICK, "--json")
    assert ran.status == 0, ran.err
    result = json.loads(ran.out)
    assert (result["step"], result["finished"]) == (1, True)
    assert Path(result["checkpoint"]).is_dir()
    again = ("train", "detect", "--out", out, "--training.loop.steps", 2, *QUICK)
    assert "holds a run already" in sentence(groma(*again))
    assert "steps" in sentence(groma(*again, "--resume"))
    more = groma(*again, "--resume", "--may-change-steps")
    assert more.status == 0, more.err
    assert "step" in more.out


def test_an_out_that_is_a_file(groma, tmp_path):
    (tmp_path / "run").write_text("not a folder")
    ran = groma("train", "detect", "--out", tmp_path / "run", "--training.loop.steps", 1, *QUICK)
    assert ran.status == 2, ran
    assert "cannot be written to" in ran.err.splitlines()[-1]
