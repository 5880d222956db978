"""The journal: what was appended is there, half a line is not, damage is named, two processes cannot hold it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from groma.curate.journal import Journal
from groma.errors import InputError


def values(path: Path) -> list:
    with Journal(path) as journal:
        return [value for _, value in journal.entries()]


def test_appended_and_read(tmp_path):
    path = tmp_path / "deep" / "journal.jsonl"
    with Journal(path) as journal:
        places = [journal.append({"n": n, "text": "caf\u00e9\n"}) for n in range(3)]
        assert journal.read(places[1]) == {"n": 1, "text": "caf\u00e9\n"}
    with Journal(path) as journal:
        assert [place for place, _ in journal.entries()] == places
        journal.append("last")
        assert [value["n"] for _, value in list(journal.entries())[:3]] == [0, 1, 2]
    assert values(path)[3] == "last"


@pytest.mark.parametrize("half", [b'{"n": 3', b'{"n": 3}', b"\x00" * 70_000, b'"' + b"x" * 200_000])
def test_half_a_line_is_taken_away(tmp_path, half):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("x" * 70_000)
        journal.append({"n": 2})
    whole = path.read_bytes()
    path.write_bytes(whole + half)
    with Journal(path) as journal:
        assert path.read_bytes() == whole
        journal.append({"n": 4})
    assert values(path)[1:] == [{"n": 2}, {"n": 4}]


def test_nothing_but_half_a_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"n"')
    assert values(path) == []
    assert path.read_bytes() == b""


def test_damage_in_the_middle_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": \n{"n": 3}\n')
    with pytest.raises(InputError, match=r"journal\.jsonl, line 2 is damaged"):
        values(path)


def test_it_is_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    with Journal(tmp_path / "journal.jsonl") as journal:
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
        journal.append("x")
        assert synced == [len('"x"\n')]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("first")

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(InputError, match="No space left on device; nothing is lost"):
                journal.append("second")
        journal.append("third")
    assert values(path) == ["first", "third"]


def test_what_is_no_json_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal, pytest.raises(InputError, match="cannot be written as JSON"):
        journal.append(float("nan"))
    assert values(path) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        Journal(tmp_path / "file" / "journal.jsonl")


TRY = "import sys; from pathlib import Path; from groma.curate.journal import Journal; Journal(Path(sys.argv[1]))"


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path):
        done = subprocess.run([sys.executable, "-c", TRY, str(path)], capture_output=True, text=True)
        assert "another run is at work here" in done.stderr
    assert subprocess.run([sys.executable, "-c", TRY, str(path)], capture_output=True).returncode == 0
