"""Files are complete or absent; JSON and checksums are strict."""

from pathlib import Path

import pytest

from groma.errors import CheckpointError, InputError
from groma.storage import (
    atomic_file,
    atomic_folder,
    read_json,
    verify_checksums,
    write_bytes,
    write_checksums,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/notes.txt"
    write_text(path, "öld\r\n")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_bytes() == "öld\r\n".encode() and names(path.parent) == ["notes.txt"]
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and names(path.parent) == ["notes.txt"]


def test_a_folder_is_replaced_only_when_complete(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    with atomic_folder(folder) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner/a").write_text("1")
        assert not folder.exists()
    with pytest.raises(RuntimeError), atomic_folder(folder) as temporary:
        (temporary / "b").write_text("2")
        raise RuntimeError
    assert names(folder) == ["inner"]
    with atomic_folder(folder) as temporary:
        (temporary / "c").write_text("3")
    assert names(folder) == ["c"] and names(tmp_path) == ["checkpoint"]


def test_json_is_strict_and_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, None]})
    assert read_json(path) == {"b": [1, 2.5, None]}
    for value in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(InputError, match=r"a\.json: cannot be written as JSON"):
            write_json(path, value)
    assert read_json(path) == {"b": [1, 2.5, None]}
    with pytest.raises(InputError, match=r"none\.json: there is no such file"):
        read_json(tmp_path / "none.json")
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"a\.json: not a readable JSON file"):
        read_json(path, error=CheckpointError)


def test_checksums_find_every_fault(tmp_path: Path) -> None:
    for name in ("kept", "changed", "lost"):
        write_text(tmp_path / "model" / name, name)
    write_checksums(tmp_path)
    verify_checksums(tmp_path)
    write_text(tmp_path / "model/changed", "otherwise")
    (tmp_path / "model/lost").unlink()
    with pytest.raises(CheckpointError) as error:
        verify_checksums(tmp_path)
    text = str(error.value)
    assert "model/changed has changed" in text and "model/lost is missing" in text and "kept" not in text
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(CheckpointError, match=r"checksums\.json: there is no such file"):
        verify_checksums(tmp_path)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        verify_checksums(tmp_path / "absent")
