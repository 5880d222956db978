"""convert, info and evaluate."""

import json

import pytest
from commands import sentence

from groma.cli.output import figures_table, show
from small_models import CONTEXT, IMAGE_SIZE, MAX_REGIONS, small_groma


def test_info_for_machines(groma, model):
    facts = json.loads(groma("info", model, "--json").out)
    parts = facts["parameters"]
    counted = sum(parameter.numel() for parameter in small_groma().model.parameters())
    assert parts["total"] == counted == sum(count for part, count in parts.items() if part != "total")
    assert set(parts) == {"encoder", "proposer", "region_encoder", "projector", "language", "total"}
    assert facts["geometry"] == "corrected"
    assert facts["image_size_px"] == IMAGE_SIZE
    assert facts["image_tokens"] == 9
    assert (facts["max_regions"], facts["context_tokens"]) == (MAX_REGIONS, CONTEXT)
    assert facts["chat_format"] == "compact"
    assert facts["provenance"] == {"stages": ["random weights"]}
    assert facts["dtype"] == "float32"
    sizes = facts["bytes_on_disk"]
    assert sizes["model.safetensors"] > 4 * counted
    assert sizes["total"] == sum(size for name, size in sizes.items() if name != "total")


def test_info_for_people(groma, model):
    ran = groma("info", model)
    assert ran.status == 0
    assert "corrected" in ran.out
    assert "parameters.total" in ran.out


def test_no_name_is_cut_short_in_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    show(figures_table({"folder": "/a/" + "long/" * 20 + "end"}, "model", "x"))
    printed = "".join(line.split("│")[2].strip() for line in capsys.readouterr().out.splitlines() if "│" in line)
    assert printed == "/a/" + "long/" * 20 + "end"


def test_convert_gives_the_same_answers(groma, model, picture, tmp_path):
    out = tmp_path / "converted"
    ran = groma("convert", model, out)
    assert (ran.status, ran.out) == (0, f"written: {out}\n"), ran.err

    def answer(folder):
        return json.loads(groma("ask", picture, "What?", "--json", "--max-new-tokens", 16, "--model", folder).out)

    assert answer(out) == answer(model)


def test_convert_overwrites_nothing(groma, model, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    assert "is there already" in sentence(groma("convert", model, tmp_path / "precious"))
    assert (tmp_path / "precious" / "file").read_text() == "kept"


@pytest.mark.slow
def test_evaluate_writes_what_it_prints_and_asks_once(groma, model, tmp_path, monkeypatch):
    arguments = ("evaluate", model, "--n", 2, "--seed", 3, "--out", tmp_path / "run")
    printed = json.loads(groma(*arguments, "--json").out)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())["sections"]["test"]
    assert {metric: figure["value"] for metric, figure in written.items()} == printed
    assert "worst.png" in (tmp_path / "run" / "report.html").read_text()
    monkeypatch.setattr("groma.evaluate.benchmarks.scenes.count_scenes", None)  # asked again, it would fail
    again = groma(*arguments)
    assert "recall50" in again.out and "written:" in again.out
    compared = json.loads(groma("evaluate", "--compare", tmp_path / "run", tmp_path / "run", "--n", 2, "--seed", 3,
                                "--json").out)  # fmt: skip
    assert compared["test"]["recall50"]["difference"]["value"] == 0
    assert "other cases" in sentence(groma("evaluate", "--compare", tmp_path / "run", tmp_path / "run", "--n", 3))
    assert "holds another run" in sentence(groma("evaluate", model, "--n", 3, "--out", tmp_path / "run"))


@pytest.mark.slow
def test_evaluate_scenes_keys(groma, model):
    """The real benchmark on two scenes: the keys that are promised, each a number or null."""
    figures = json.loads(groma("evaluate", model, "--n", 2, "--seed", 1, "--json").out)
    promised = {"recall50", "recall75", "refer_name", "refer_attribute", "refer_relation", "name_region"}
    promised |= {"locate_all_f1", "refused_absent", "refused_present", "caption_grounding", "ece"}
    assert promised <= set(figures)
    assert all(value is None or isinstance(value, int | float | dict | list) for value in figures.values())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--benchmark", "scene"), "did you mean 'scenes'?"),
        (("--benchmark", "xyzzy"), "known are "),
        (("--n", 0), "--n must be at least 1"),
        (("--seed", -1), "--seed must be from 0"),
        (("--n", 1, "--out", "/dev/null/run"), "cannot be written"),
        (("--data", "."), "makes its own pictures"),
        (("--split", "tset"), "no split 'tset'"),
        (("--batch-size", 0), "--batch-size must be at least 1"),
        (("--rename", "x"), "--rename must be OLD=NEW"),
        (("--benchmark", "refcoco"), "give --data FOLDER"),
    ],
)
def test_evaluate_refuses(groma, model, options, expected):
    assert expected in sentence(groma("evaluate", model, *options))
