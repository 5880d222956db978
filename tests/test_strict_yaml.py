"""YAML files that change a configuration: read strictly, converted by the fields' types."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from groma.errors import InputError
from groma.strict_yaml import read_overrides, to_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    rate: float = 1.0
    steps: int = 10
    kind: Literal["slow", "fast"] = "slow"
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"Inner.steps must be at least 1, got {self.steps}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    name: str = "a"
    flag: bool = False
    pair: tuple[float, float] = (0.0, 1.0)
    words: tuple[str, ...] = ("x",)
    folder: Path | None = None
    weights: dict[str, float] = field(default_factory=lambda: {"a": 1.0, "b": 2.0})


@pytest.fixture
def read(tmp_path):
    def read(text, config=None):
        path = tmp_path / "changes.yaml"
        path.write_text(text, encoding="utf-8")
        return read_overrides(path, config or Outer())

    return read


def test_what_is_not_named_stays(read):
    before = Outer(name="kept", inner=Inner(steps=7, limit=2.0))
    assert read("inner: {rate: 0.5}", before) == replace(before, inner=replace(before.inner, rate=0.5))
    assert read("", before) == before
    assert read("# nothing but a comment", before) == before


@pytest.mark.parametrize(
    ("text", "rate"), [("2e-5", 2e-5), ("2.0e-5", 2e-5), ("1", 1.0), ("'3.5'", 3.5), ("1e3", 1000.0), ("-1e-3", -1e-3)]
)
def test_numbers_that_yaml_takes_for_text(read, text, rate):
    got = read(f"inner:\n  rate: {text}\n").inner.rate
    assert got == rate
    assert type(got) is float


def test_every_type(read):
    changed = read(
        "name: 'on'\nflag: true\npair: [1, 2e-1]\nwords: [a, b]\nfolder: some/where\nweights: {c: 3}\n"
        "inner: {kind: fast, limit: null, steps: 1_000}"
    )
    assert changed == Outer(
        name="on",
        flag=True,
        pair=(1.0, 0.2),
        words=("a", "b"),
        folder=Path("some/where"),
        weights={"c": 3.0},
        inner=Inner(kind="fast", limit=None, steps=1000),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inner: {stepz: 3}", "inner: unknown key 'stepz'; did you mean 'steps'?"),
        ("nonsense: 3", "unknown key 'nonsense'; known are inner, name, flag, pair, words, folder, weights."),
        ("1: 3", "unknown key 1"),
        ("inner: 3", "inner: expected a mapping of fields, got 3"),
        ("[1, 2]", "expected a mapping of fields"),
        ("inner: {steps: 2.5}", "inner.steps: expected a whole number, got 2.5"),
        ("inner: {steps: 2e3}", "inner.steps: expected a whole number, got '2e3'"),
        ("inner: {steps: true}", "inner.steps: expected a whole number, got True"),
        ("inner: {rate: quick}", "inner.rate: expected a number, got 'quick'"),
        ("inner: {rate: nan}", "inner.rate: expected a number, got 'nan'"),
        ("inner: {rate: null}", "inner.rate: expected a number, got None"),
        ("inner: {limit: high}", "inner.limit: expected a number, got 'high'"),
        ("inner: {kind: slower}", "inner.kind: expected one of 'slow', 'fast', got 'slower'"),
        ("inner: {steps: 0}", "inner: Inner.steps must be at least 1, got 0"),
        ("name: yes", "name: expected text (put it in quotes), got True"),
        ("flag: 1", "flag: expected true or false, got 1"),
        ("pair: [1]", "pair: expected a list of 2, got [1]"),
        ("words: a", "words: expected a list, got 'a'"),
        ("words: [a, 1]", "words[1]: expected text (put it in quotes), got 1"),
        ("weights: [a]", "weights: expected a mapping, got ['a']"),
        ("weights: {a: much}", "weights.a: expected a number, got 'much'"),
        ("weights: {1: 2}", "weights: key: expected text (put it in quotes), got 1"),
        ("name: a\nname: b", "'name' is given twice"),
        ("name: [", "not a YAML file"),
        ("name: !!python/object/apply:os.getcwd []", "not a YAML file"),
    ],
)
def test_what_is_refused(read, tmp_path, text, expected):
    with pytest.raises(InputError) as refused:
        read(text)
    assert expected in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "changes.yaml"))
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_overrides(tmp_path / "missing.yaml", Outer())
    with pytest.raises(InputError, match="cannot be read"):
        read_overrides(tmp_path, Outer())
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(InputError, match="cannot be read"):
        read_overrides(tmp_path / "binary.yaml", Outer())


def test_what_is_printed_reads_back(read):
    config = Outer(inner=Inner(rate=2e-5, limit=None, kind="fast"), words=(), folder=Path("a b"), name="yes")
    assert read(to_yaml(config)) == config


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    name: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise InputError(f"Item.weight must be at least 0, got {self.weight}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    items: tuple[Item, ...] = ()


def test_a_list_of_dataclasses_is_built_anew(tmp_path):
    file = tmp_path / "shelf.yaml"
    file.write_text("items: [{name: a}, {name: b, weight: 2e-1}]")
    assert read_overrides(file, Shelf()) == Shelf(items=(Item(name="a"), Item(name="b", weight=0.2)))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("items: [{weight: 1}]", r"items\[0\]: name missing"),
        ("items: [{name: a}, {nam: b}]", r"items\[1\]: unknown key 'nam'; did you mean 'name'"),
        ("items: [{name: a, weight: -1}]", r"items\[0\]: Item.weight must be at least 0"),
        ("items: [a]", r"items\[0\]: expected a mapping of fields, got 'a'"),
    ],
)
def test_a_list_of_dataclasses_is_read_strictly(tmp_path, content, told):
    file = tmp_path / "shelf.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=told):
        read_overrides(file, Shelf())
