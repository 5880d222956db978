"""The command: from files to files, a preview that asks nobody, and one sentence for what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import tyro
from PIL import Image

from chat_server import Refuse, Say
from groma.cli.boundary import guarded
from groma.cli.curate import Curate


class Ran(NamedTuple):
    """What one command did."""

    status: int
    out: str
    err: str


@pytest.fixture
def curate(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs `groma curate` in this process."""

    def run(*arguments: object) -> Ran:
        status = guarded(
            lambda given: tyro.cli(Curate, prog="groma curate", args=given).run(), list(map(str, arguments))
        )
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run


SMALL = ("--picture.min-side-px", 240, "--picture.max-side-px", 480, "--line.first-wait-s", 0.01)


@pytest.fixture
def arguments(made_up_set, server, tmp_path) -> list[object]:
    file, pictures = made_up_set(5)
    return [file, "--pictures", pictures, "--out", tmp_path / "out", "--base-url", server.url, "--model", "m", *SMALL]


def sentence(ran: Ran) -> str:
    assert ran.status == 2, ran
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("groma: error: ")
    return line.removeprefix("groma: error: ")


def test_from_files_to_files(curate, arguments, tmp_path):
    ran = curate(*arguments, "--json", "--n", 4, "--budget.price-in", 2, "--budget.price-out", 8)
    assert (ran.status, ran.err) == (0, "")
    report = json.loads(ran.out)
    assert report["pictures"]["kept"] == 4
    assert report["paid_in_all_runs"]["money"] == pytest.approx(4 * (2 * 1000 + 8 * 200) / 1e6)
    assert len(json.loads((tmp_path / "out" / "instruct.json").read_text())) == 4


def test_for_people(curate, arguments, tmp_path):
    ran = curate(*arguments)
    assert ran.status == 0
    rows = {cells[1].strip(): cells[2].strip() for cells in (line.split("\u2502") for line in ran.out.splitlines())
            if len(cells) == 4}  # fmt: skip
    assert rows["pictures.kept"] == "5"
    assert rows["paid_in_all_runs.question_tokens"] == "5,000"
    assert rows["paid_in_all_runs.money"] == "-"
    assert "".join(ran.out.split()).endswith("".join(f"written: {tmp_path / 'out' / 'instruct.json'}".split()))


def test_model_and_address_from_the_environment(curate, made_up_set, server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_MODEL", "from-the-environment")
    monkeypatch.setenv("MY_KEY", "another-key")
    file, pictures = made_up_set(2)
    ran = curate(file, "--pictures", pictures, "--out", tmp_path / "out", "--key-variable", "MY_KEY", *SMALL)
    assert ran.status == 0, ran.err
    assert server.bodies[0]["model"] == "from-the-environment"
    assert server.headers[0]["authorization"] == "Bearer another-key"


def test_fields_of_the_request(curate, arguments, server):
    changed = ("--asking.extra", '{"top_k": 5}', "--asking.no-json-mode", "--asking.answer-tokens", 700, "--n", 1)
    assert curate(*arguments, *changed).status == 0
    body = server.bodies[0]
    assert (body["top_k"], body["max_tokens"]) == (5, 700)
    assert "response_format" not in body


def test_a_preview_asks_nobody(curate, made_up_set, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    file, pictures = made_up_set(5)
    (pictures / "001.png").unlink()
    prices = ("--budget.price-in", 2, "--budget.price-out", 8)
    ran = curate(file, "--pictures", pictures, "--out", tmp_path / "out", "--preview", 3, "--json", *prices)
    assert ran.status == 0, ran.err
    shown = json.loads(ran.out)
    assert (shown["pictures"], shown["skipped"]) == (3, {"missing_picture": 1})
    cost = shown["a_request_at_most"]
    assert cost["money"] == pytest.approx((2 * cost["question_tokens"] + 8 * cost["answer_tokens"]) / 1e6)
    folder = Path(shown["folder"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "0001.jpg", "0001.txt", "0002.jpg", "0002.txt", "0003.jpg", "0003.txt",
    ]  # fmt: skip
    assert Image.open(folder / "0001.jpg").size == (768, 576)
    text = (folder / "0001.txt").read_text()
    assert "picture: 000.png" in text and "1: red rectangle" in text and "(the picture)" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["preview"]


def test_a_budget(curate, arguments):
    ran = curate(*arguments, "--budget.max-tokens", 6000, "--json")
    assert ran.status == 0
    assert json.loads(ran.out)["stopped"] == "budget"
    assert ran.err == "groma: stopped at the budget; the same command with a larger one goes on\n"


def test_pictures_without_an_answer(curate, arguments, server):
    server.behaviour = lambda body, before: Refuse(status=400) if before == 0 else Say(content="")
    ran = curate(*arguments, "--n", 2, "--json")
    assert (ran.status, json.loads(ran.out)["unanswered"]) == (0, {"400": 2})
    assert "some pictures got no answer" in ran.err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("--pictures", "nowhere"), "--pictures 'nowhere' is no folder"),
        (("--n", 0), "--n must be at least 1, got 0"),
        (("--preview", 0), "--preview must be at least 1"),
        (("--seed", -1), "--seed must be from 0"),
        (("--model", ""), "the model has no name: give --model or set OPENAI_MODEL"),
        (("--format", "cocoo"), "There is no annotation format 'cocoo'"),
        (("--base-url", "localhost"), "'localhost' is no address"),
        (("--trusted", "nowhere.json"), "nowhere.json"),
    ],
)
def test_what_can_be_mended(curate, arguments, changes, expected):
    assert expected in sentence(curate(*arguments, *changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("--budget.max-money", 1), "max_money needs the prices"),
        (("--rules.min-exchanges", 9), "more than max_exchanges"),
        (("--asking.extra", "{"), "which is no JSON"),
    ],
)
def test_settings_that_cannot_be(curate, arguments, changes, expected):
    ran = curate(*arguments, *changes)
    assert ran.status == 2
    assert expected in " ".join(ran.err.replace("\u2502", " ").split())
    assert "Traceback" not in ran.err


def test_a_wrong_key(curate, arguments, server):
    server.behaviour = lambda *_: Refuse(status=401, body='{"error": {"message": "bad sk-secret-of-the-tests"}}')
    said = sentence(curate(*arguments))
    assert "answered 401: bad *** (the key was not accepted)" in said


def test_no_key_for_openai_itself(curate, made_up_set, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    file, pictures = made_up_set(1)
    said = sentence(curate(file, "--pictures", pictures, "--out", tmp_path / "out", "--model", "m"))
    assert "needs a key: set the environment variable OPENAI_API_KEY" in said


def test_trusted_annotations(curate, arguments, made_up_set, tmp_path):
    trusted = tmp_path / "set" / "trusted.json"
    content = json.loads((tmp_path / "set" / "regions.json").read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["caption"] != "red rectangle"]
    trusted.write_text(json.dumps(content))
    ran = curate(*arguments, "--trusted", trusted, "--json")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["boxes_dropped"] == {"untrusted": 5}
