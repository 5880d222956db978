"""The folder of a run: what is asked of which pictures, the labels so far, and the labels in the end.

| file | what |
|---|---|
| `run.json` | input, task, model: a folder of another run is refused |
| `parts/labels-1-of-1.jsonl` | while it runs: a line a batch, appended and synced; one file for each share |
| `labels.jsonl` | once every picture is through: a line a label, in the order of the input |
| `failures.jsonl` | the same for pictures that have none: why |
| `report.json` | how many, how fast |

What is read from it is read so that killing any process at any moment loses nothing that was in it, and takes each
picture once: of several lines about a picture a label goes before failures, the first label or the last failure.
"""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from groma.curate.journal import Journal, whole_lines
from groma.errors import InputError
from groma.label.items import Item
from groma.label.labeller import Outcome
from groma.storage import atomic_file, check_same_run, json_text, read_json_object, write_json

RUN, LABELS, FAILURES, PARTS, LOCK = "run.json", "labels.jsonl", "failures.jsonl", "parts", ".lock"

OPEN, FAILED, LABELLED = 0, 1, 2
"""What is known of a picture."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which of several commands this is, each of which labels its share of the pictures."""

    number: int = 1
    """From 1."""
    count: int = 1
    """How many there are."""

    def of(self, total: int) -> range:
        """Its pictures' numbers: one after another, so that each share reads few shards."""
        return range(total * (self.number - 1) // self.count, total * self.number // self.count)

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder says about a picture."""

    row: dict[str, Any] | None
    """Its label; None: it failed."""
    reason: str
    """Why it failed."""


class LabelFolder:
    """Labels on disk. Every share of a run has one of the same folder; workers have none."""

    def __init__(self, folder: Path, items: Sequence[Item], share: Share) -> None:
        """Nothing is read or written yet."""
        self.folder, self.items, self.share = folder, items, share
        self.state = bytearray(len(items))
        """What is known of each picture: OPEN, FAILED or LABELLED."""
        self._journal: Journal | None = None
        self._numbers: dict[str, int] | None = None
        self._files: list[Path] = []
        self._sizes: list[int] = []
        self._file_of = array("H", bytes(2 * len(items)))
        self._place_of = array("q", bytes(8 * len(items)))

    def open(self, identity: Mapping[str, Any]) -> None:
        """Make the folder, or open one of the same run, and find out what is done.

        Args:
            identity: what defines the run, as far as is known before the model is loaded.

        Raises:
            InputError: it holds another run or something else, cannot be written, is damaged, or another process is
                at work on the same share.
        """
        wanted = _plain(identity)
        try:
            self._check_nothing_else()
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / LOCK):
                if (self.folder / RUN).is_file():
                    found = read_json_object(self.folder / RUN)
                    check_same_run(self.folder, {k: v for k, v in found.items() if k not in _LATER}, wanted)
                else:
                    write_json(self.folder / RUN, wanted)
            self._journal = Journal(self.folder / PARTS / f"labels-{self.share}.jsonl")
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror or error}.") from error
        self.scan()

    def check_model(self, model: Mapping[str, Any]) -> None:
        """Add what is known once a model is loaded.

        Raises:
            InputError: the run's labels so far are another model's.
        """
        known = _plain(model)
        with FileLock(self.folder / LOCK):
            found = read_json_object(self.folder / RUN)
            there = {key: found[key] for key in known if key in found}
            if there:
                check_same_run(self.folder, there, known)
            else:
                write_json(self.folder / RUN, found | known)

    def append(self, outcome: Outcome) -> None:
        """Write down what became of some pictures: it is on disk when this returns.

        Raises:
            InputError: it cannot be written; nothing that was written before is lost.
        """
        if self._journal is None:
            raise InputError(f"{self.folder} is closed.")
        self._journal.append({"labels": dict(outcome.rows), "failures": dict(outcome.failures)})
        for number, _ in outcome.failures:
            self.state[number] = max(self.state[number], FAILED)
        for number, _ in outcome.rows:
            self.state[number] = LABELLED

    def close(self) -> None:
        """Let go of the file of labels."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    # --- reading -----------------------------------------------------------------------------------------------------

    def scan(self) -> None:
        """Find out what is done, by all shares, and where it stands."""
        self.state = bytearray(len(self.items))
        parts = sorted((self.folder / PARTS).glob("labels-*.jsonl"))
        self._files = [self.folder / LABELS, self.folder / FAILURES, *parts]
        self._sizes = [0] * len(self._files)
        for number, file in enumerate(self._files):
            if file.is_file():
                for place, length, labels, failures in self._lines(file):
                    self._note(number, place, labels, failures)
                    self._sizes[number] = place + length

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """What is known of every picture that is done, in the order of the input."""
        opened: dict[int, IO[bytes]] = {}
        last: tuple[int, int, dict[str, Any]] | None = None
        try:
            for number, state in enumerate(self.state):
                if state == OPEN:
                    continue
                file, place = self._file_of[number], self._place_of[number]
                if last is None or last[:2] != (file, place):
                    if file not in opened:
                        opened[file] = self._files[file].open("rb")
                    opened[file].seek(place)
                    last = (file, place, json.loads(opened[file].readline()))
                yield number, _entry(last[2], number)
        finally:
            for stream in opened.values():
                stream.close()

    def _note(self, file: int, place: int, labels: Sequence[int], failures: Sequence[int]) -> None:
        for numbers, state in ((failures, FAILED), (labels, LABELLED)):
            for number in numbers:
                if not 0 <= number < len(self.items):
                    raise InputError(f"{self._files[file]} has a label of picture {number} of {len(self.items)}.")
                if self.state[number] < state or self.state[number] == state == FAILED:
                    self.state[number], self._file_of[number], self._place_of[number] = state, file, place

    def _lines(self, file: Path) -> Iterator[tuple[int, int, list[int], list[int]]]:
        """Of each line its place and length, and the numbers of the pictures that it labels and that it says failed."""
        place = 0
        for count, line in enumerate(whole_lines(file), start=1):
            try:
                value = json.loads(line)
                if file.name == LABELS:
                    yield place, len(line), [self._number(value["key"])], []
                elif file.name == FAILURES:
                    yield place, len(line), [], [self._number(value["key"])]
                else:
                    labels, failures = ([int(number) for number in value[kind]] for kind in ("labels", "failures"))
                    yield place, len(line), labels, failures
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{file}, line {count} is damaged ({type(error).__name__}: {error}): remove that line, and what it "
                    "said is labelled again."
                ) from None
            place += len(line)

    def _number(self, key: str) -> int:
        if self._numbers is None:
            self._numbers = {item.key: number for number, item in enumerate(self.items)}
        return self._numbers[key]

    def _check_nothing_else(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file: give a folder.")
        if not self.folder.exists() or (self.folder / RUN).is_file():
            return
        if other := sorted(path.name for path in self.folder.iterdir() if not path.name.startswith(".")):
            raise InputError(f"{self.folder} holds something else than labels ({other[0]}): give a new folder.")

    # --- finishing ---------------------------------------------------------------------------------------------------

    def merge(self) -> None:
        """Write all labels and failures into one file each, in the order of the input; parts that are in them go.

        Called under `lock`, after `close` and `scan`.

        Raises:
            InputError: they cannot be written.
        """
        failures_file, labels_file = self.folder / FAILURES, self.folder / LABELS
        is_merged = labels_file.is_file() and failures_file.is_file() and not any(self._sizes[2:])
        try:
            if is_merged:
                return self._drop_parts()
            with (
                atomic_file(labels_file) as labels_temporary,
                atomic_file(failures_file) as failures_temporary,
                labels_temporary.open("wb") as labels,
                failures_temporary.open("wb") as failures,
            ):
                for number, entry in self.entries():
                    value = entry.row or {"key": self.items[number].key, "reason": entry.reason}
                    line = json_text(value, what="a label").encode() + b"\n"
                    (failures if entry.row is None else labels).write(line)
            self._drop_parts()
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror or error}.") from error

    def _drop_parts(self) -> None:
        """Delete parts all of which was merged; what another process writes at, or has written at since, stays."""
        for file, size in zip(self._files, self._sizes, strict=True):
            if file.parent.name != PARTS:
                continue
            try:
                with Journal(file):
                    if file.stat().st_size == size:
                        file.unlink()
            except InputError:
                continue  # it is another process's
        with suppress(OSError):
            (self.folder / PARTS).rmdir()

    def lock(self) -> FileLock:
        """What is held by who finishes the run, as several shares may end at the same time."""
        return FileLock(self.folder / LOCK)


_LATER = frozenset({"model", "dtype"})
"""What a run's identity has only once a model is loaded."""


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json_text(dict(values), what="the run"))


def _entry(value: Mapping[str, Any], number: int) -> Entry:
    """A picture's part of a line of any file."""
    if "labels" not in value:
        return Entry(None, value["reason"]) if "reason" in value else Entry(dict(value), "")
    row = value["labels"].get(str(number))
    return Entry(row, "" if row is not None else value["failures"][str(number)])
