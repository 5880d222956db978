"""What the tree promises, read from the sources: who imports whom, and what nobody does (docs/flow.md)."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "groma"

FOUNDATION = {"errors", "boxes", "image_file", "image", "storage", "strict_yaml", "distributed"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "boxes": {"errors"},
    "storage": {"errors"},
    "strict_yaml": {"errors"},
    "distributed": {"errors"},
    "image_file": {"errors"},
    "image": {"errors", "boxes", "image_file"},
    "prompt": FOUNDATION,
    "data": FOUNDATION | {"prompt"},
    "model": FOUNDATION | {"prompt"},
    "convert": FOUNDATION | {"prompt", "model"},
    "inference": FOUNDATION | {"prompt", "model"},
    "pretrained": FOUNDATION | {"prompt", "model", "convert", "inference"},
    "train": FOUNDATION | {"prompt", "data", "model", "inference", "pretrained"},
    "curate": FOUNDATION | {"prompt", "data", "inference"},
    "evaluate": FOUNDATION | {"prompt", "data", "model", "inference", "pretrained", "curate"},
    "label": FOUNDATION | {"prompt", "data", "model", "inference", "pretrained", "curate", "evaluate"},
    "engine": FOUNDATION | {"prompt", "model", "inference"},
    "serve": FOUNDATION | {"prompt", "model", "inference", "engine"},
    "bench": FOUNDATION | {"prompt", "data", "model", "inference", "pretrained"},
    "cli": FOUNDATION
    | {"prompt", "data", "model", "inference", "convert", "pretrained", "train", "curate", "evaluate"}
    | {"bench", "label", "engine", "serve"},
    "__init__": {"errors", "image", "inference", "pretrained"},
}
"""Room -> the rooms it may import, besides itself. A room that is missing here fails the test below."""

OPTIONAL_ALWAYS = {"torchvision", "torchaudio", "mmcv", "mmdet"}
"""Packages that must never be needed, whatever pyproject.toml says."""


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported name, dotted, with its line; also those inside functions and for type checking alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def offenders(breaks_rule, files: list[Path]) -> list[str]:
    """`path:line: import` of every import for which `breaks_rule(file, name)`."""
    return [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in files
        for name, line in imports(ast.parse(file.read_text(encoding="utf-8")))
        if breaks_rule(file, name)
    ]


def is_or_is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def against_the_flow(file: Path, name: str) -> bool:
    if not is_or_is_in(name, "groma"):
        return False
    parts = name.split(".")
    is_room = len(parts) > 1 and ((PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").is_file())
    target = parts[1] if is_room else "__init__"
    return target not in MAY_IMPORT[room_of(file)] | {room_of(file), "__init__"}


def test_every_room_is_known():
    assert {room_of(file) for file in source_files()} - {"assets"} <= set(MAY_IMPORT)


def test_imports_run_one_way():
    assert offenders(against_the_flow, source_files()) == []


def test_the_import_test_can_fail():
    """The rule itself: a model that reads data is caught, one that reads prompts is not."""
    file = PACKAGE / "model" / "imaginary.py"
    assert against_the_flow(file, "groma.data.collate.VisionBatch")
    assert against_the_flow(file, "groma.image.load_image") is False
    assert against_the_flow(file, "groma.prompt.tokens.Special") is False
    assert against_the_flow(PACKAGE / "boxes.py", "groma.image.load_image")


def test_only_the_command_line_knows_tyro():
    others = [file for file in source_files() if room_of(file) != "cli"]
    assert offenders(lambda _, name: is_or_is_in(name, "tyro"), others) == []


@pytest.mark.parametrize("room", ["data", "prompt"])
def test_rooms_without_networks(room):
    files = [file for file in source_files() if room_of(file) == room]
    assert files
    assert offenders(lambda _, name: is_or_is_in(name, "torch.nn"), files) == []
    used = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.nn")
    ]
    assert used == []


def test_packages_that_are_never_needed():
    assert offenders(lambda _, name: name.split(".")[0] in OPTIONAL_ALWAYS, source_files()) == []


def test_no_room_for_odds_and_ends():
    vague = {"utils", "util", "misc", "helpers", "common"}
    assert [file for file in source_files() if vague & set(file.with_suffix("").parts[len(PACKAGE.parts) :])] == []


IMPORT_ALL = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

absent = set(sys.argv[1:])
find_spec = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, *where: None if name.partition(".")[0] in absent else find_spec(name, *where)
)
import groma
names = [m.name for m in pkgutil.walk_packages(groma.__path__, "groma.") if not m.name.endswith("__main__")]
names = [name for name in names if not name.startswith("groma.serve.")]  # its extra is what the room is made of
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_every_module_imports_with_the_core_dependencies():
    """No extra, and none of the packages that are never needed, is imported just by importing.

    The room `serve` may import its own extra; whoever imports that room does so when it is used, or fails here.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        re.split(r"[<>=!~\[; ]", requirement)[0].replace("-", "_")
        for requirements in project["optional-dependencies"].values()
        for requirement in requirements
    } - {"groma"}  # extras that name other extras
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *sorted(extras | OPTIONAL_ALWAYS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 40


TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".cff", ".json", ".jsonl", ".sh", ".cfg", ""}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|Users|mnt|scratch)/\w|[A-Z]:\\\\?Users")


def text_files() -> Iterator[Path]:
    for entry in sorted(ROOT.iterdir()):
        if entry.name in {".git", "runs", "out", "dist"} or (entry.name.startswith(".") and entry.name != ".ci"):
            continue
        files = [entry] if entry.is_file() else sorted(file for file in entry.rglob("*") if file.is_file())
        yield from (file for file in files if file.suffix in TEXT and "__pycache__" not in file.parts)


def test_no_file_holds_a_path_of_some_machine():
    found = [
        f"{file.relative_to(ROOT)}:{number}: {match.group()}"
        for file in text_files()
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if (match := MACHINE_PATH.search(line))
    ]
    assert found == []


def test_the_path_test_can_fail():
    assert MACHINE_PATH.search("/".join(("read", "home", "someone", "x")).removeprefix("read"))
    assert not MACHINE_PATH.search("https://example.org/home/page and ../shared/golden")
