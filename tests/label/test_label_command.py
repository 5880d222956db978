"""`groma label` as it is typed: results on standard output, all else on standard error, one sentence if refused."""

import json
from pathlib import Path

import pytest
from label_inputs import folder, jpeg, rows

from groma.cli import main

ROOT = Path(__file__).parents[2]
COUNT = 3


@pytest.fixture
def photos(tmp_path):
    return folder(tmp_path / "photos", COUNT)


@pytest.fixture
def run(model, capsys, tmp_path, monkeypatch):
    """Runs the command in this process: exit status, standard output, lines of standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object):
        given = [str(argument) for argument in arguments]
        quick = {"--model": model, "--workers": 0, "--max-new-tokens": 6}
        more = [str(part) for flag, value in quick.items() if flag not in given for part in (flag, value)]
        status = main(["label", *given, *more])
        captured = capsys.readouterr()
        return status, captured.out, captured.err.splitlines()

    return run


def test_a_run_is_told_as_a_table_or_as_json(run, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"")
    (photos / "notes.md").write_text("x")
    status, out, err = run("photos", "--task", "grounded-caption", "--out", "out", "--format", "coco")
    assert status == 0 and "labelled" in out and out.endswith("written: out\n")
    assert err[0] == "groma: 4 to label; files that are none of these are left out: 1 of .md"
    assert err[1].startswith("groma: no label for bad.jpg: picture ") and len(err) == 2
    assert (tmp_path / "out" / "labels.coco.json").exists()
    status, out, err = run("photos", "--task", "grounded-caption", "--out", "out", "--json")
    report = json.loads(out)
    assert status == 0 and report["done_before"] == 4 and report["complete"] and report["examples"] == []


def test_several_inputs_and_options(run, photos, tmp_path):
    status, out, _ = run(
        *(
            photos / "below" / "000.jpg",
            photos / "001.jpg",
            "--task",
            "detect",
            "--phrase",
            "dog",
            "--phrase",
            "red dog",
        ),
        *("--out", "out", "--json", "--batch-size", 2, "--format", "parquet", "--format", "coco", "--limit", 1),
    )
    assert status == 0 and json.loads(out)["pictures"] == 1
    assert [row["key"] for row in rows(tmp_path / "out" / "labels.jsonl")] == ["below/000.jpg"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["phrases"] == ["dog", "red dog"]


def test_a_share_says_what_is_missing(run, photos):
    status, _, err = run("photos", "--task", "detect", "--out", "out", "--share", "1/2")
    assert status == 0 and err == [
        "groma: this share is done; labels.jsonl is written by the command that finishes last"
    ]
    status, out, err = run("photos", "--task", "detect", "--out", "out", "--share", "2/2")
    assert status == 0 and err == [] and "written: out" in out


def test_more_failures_than_are_told(run, photos, tmp_path):
    for number in range(5):
        (photos / f"bad-{number}.png").write_bytes(jpeg(0)[:50])
    _, _, err = run("photos", "--task", "detect", "--out", "out")
    assert len(err) == 4 and err[-1] == "groma: ... and 2 more, see failures.jsonl once all is done"
    assert len(rows(tmp_path / "out" / "failures.jsonl")) == 5


REFUSED = {
    "empty folder": (("empty",), "folder '{}/empty' holds no pictures"),
    "nothing": (("nowhere",), "'nowhere' is not there"),
    "task": (("photos", "--task", "caption"), "there is no task 'caption'"),
    "format": (("photos", "--format", "voc"), "there is no format 'voc'"),
    "out is the input": (("photos", "--out", "photos"), "--out 'photos' is the input itself"),
    "out is a file": (("photos", "--out", "file.txt"), "file.txt is a file"),
    "out cannot be made": (("photos", "--out", "file.txt/out"), "file.txt/out cannot be written"),
    "share": (("photos", "--share", "0/2"), "--share is '0/2', expected K/N"),
    "threads": (("photos", "--threads", "0"), "--threads must be at least 1"),
    "question": (("photos", "--task", "detect", "--question", "x"), "--question is for --task grounded-caption"),
    "no number": (("photos", "--max-bad", "nan"), "--max-bad must be from 0 to 1"),
    "model": (("photos", "--model", "nobody"), "nobody is no folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_refused_in_one_sentence(run, photos, tmp_path, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("")
    arguments, told = REFUSED[case]
    defaults = {"--task": "grounded-caption", "--out": "out"}
    more = [part for flag, value in defaults.items() if flag not in arguments for part in (flag, value)]
    status, out, err = run(*arguments, *more)
    assert status == 2 and out == ""
    (line,) = err
    assert line.startswith(f"groma: error: {told.format(tmp_path)}"), line


@pytest.mark.slow
def test_groma_tiny_labels_its_example(capsys, tmp_path):
    """What the README says of the example picture, and what is in it, found and described."""
    for task, more in ("grounded-caption", []), ("detect", ["--phrase", "banana", "--phrase", "dog"]), ("describe", []):
        arguments = ["label", str(ROOT / "examples" / "scene.png"), "--task", task, "--out", str(tmp_path / task)]
        assert main([*arguments, "--workers", "0", "--json", *more]) == 0
        assert json.loads(capsys.readouterr().out)["labelled"] == 1
    (caption,), (detected,), (described,) = (
        rows(tmp_path / task / "labels.jsonl") for task in ("grounded-caption", "detect", "describe")
    )
    assert caption["text"].startswith("The image shows a gray balloon, a bicycle, a burger, a red key, a banana,")
    assert caption["key"] == "scene.png" and len(caption["entities"]) == 7
    assert detected["text"] == "banana", "there is no dog"
    (found,) = detected["entities"]
    (named,) = (entity for entity in caption["entities"] if entity["phrase"] == "a banana")
    assert found["boxes_xyxy_px"] == [pytest.approx(box, abs=0.1) for box in named["boxes_xyxy_px"]]
    assert "banana" in described["text"] and len(described["entities"]) >= 7
