"""The documentation is true where a machine can tell: its links lead somewhere, its commands exist."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from groma.cli import main, parse
from groma.cli.train import DATA_FLAG, _parse, _value_of, find_recipe

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|#|mailto:|\d)([^)#\s]+)")
COMMAND_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
PYTHON_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
FILE_IN_TEXT = re.compile(r"`((?:src/groma|tests|scripts|docs|examples)/[\w./-]*\w)`")


def commands(pages: Sequence[Path] = PAGES) -> list[str]:
    return [
        part.partition("#")[0].strip()
        for page in pages
        for block in COMMAND_BLOCK.findall(page.read_text(encoding="utf-8"))
        for line in block.replace("\\\n", " ").splitlines()
        for part in line.split("&&")
        if part.strip().startswith("groma ")
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [name for name in FILE_IN_TEXT.findall(text) if not (ROOT / name).exists()]
    assert missing == []


def test_commands_are_found():
    assert len(commands()) >= 8


@pytest.mark.parametrize("command", commands())
def test_documented_commands_are_understood(command):
    _, *arguments = shlex.split(command)
    if arguments[0] == "train":
        _parse(find_recipe(arguments[1], from_files=_value_of(DATA_FLAG, arguments) is not None), arguments[2:])
        return
    parse(arguments)


@pytest.mark.slow
@pytest.mark.timeout(900)  # the slowest of machines
def test_the_walk_through_finetuning_works(tmp_path, monkeypatch):
    """Every command of the page, in its order."""
    walk = commands([ROOT / "docs" / "finetune.md"])
    assert len(walk) >= 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))
    for command in walk:
        assert main(shlex.split(command)[1:]) == 0, command
    for made in ("sheet.png", "report.json", "answer.png", "runs/mine/specimens/step-00000008.png"):
        assert (tmp_path / made).is_file(), made
    assert list((tmp_path / "runs/mine/tensorboard").iterdir())


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    (code,) = PYTHON_BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    *others, locating, comparing = code.strip().splitlines()
    scope = {}
    exec("\n".join(others), scope)
    located, compared = eval(locating.partition("#")[0], scope), eval(comparing, scope)
    assert "a cyan turtle" in capsys.readouterr().out and (tmp_path / "answer.png").is_file()
    assert [entity.phrase for entity in located.entities] == ["the cyan turtle"]
    assert compared.text == "The bicycle is larger than the turtle."


def test_the_readmes_data_line_runs(tmp_path, monkeypatch):
    (line,) = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "data example" in line]
    monkeypatch.chdir(tmp_path)
    for command in line.split("&&"):
        _, *arguments = shlex.split(command)
        assert main(arguments) == 0, command
    assert (tmp_path / "sheet.png").is_file()
