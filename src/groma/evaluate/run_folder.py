"""The folder of a run: what was run, and the answers so far, safe against being killed at any moment.

| file | what |
|---|---|
| `run.json` | benchmark, cases, model, how it computed: a folder of another run is refused |
| `parts/answers-0.jsonl` | of process 0: a line a batch, appended and synced |
| `answers.jsonl` | all of them, a line a case, once every batch is there |

What is measured on them and drawn is in the same folder (groma.evaluate.report).
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groma.curate.journal import Journal, whole_lines
from groma.errors import InputError
from groma.storage import atomic_file, check_same_run, json_text, read_json_object, write_json

RUN, ANSWERS, PARTS = "run.json", "answers.jsonl", "parts"


class RunFolder:
    """Answers on disk. Every process of a run has one of the same folder."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, rank: int = 0) -> None:
        """Open a folder, new or of the same run.

        Args:
            folder: where.
            identity: what defines the run, as JSON values.
            rank: number of this process; the first one writes what there is only one of.

        Raises:
            InputError: the folder holds another run, or something else.
        """
        self.folder, self.rank = folder, rank
        self._file = folder / PARTS / f"answers-{rank}.jsonl"
        wanted = json.loads(json_text(dict(identity), what="the run"))
        if (folder / RUN).is_file():
            check_same_run(folder, read_json_object(folder / RUN), wanted)
        elif folder.exists() and any(p.name != RUN and not p.name.startswith(".") for p in folder.iterdir()):
            raise InputError(f"{folder} holds something else than a benchmark's run: give a new folder.")
        self._identity = wanted
        self._journal: Journal | None = None

    def begin(self) -> None:
        """Write down what is run. Called on the first process, after all have opened the folder.

        Raises:
            InputError: nothing can be written there.
        """
        try:
            if not (self.folder / RUN).is_file():
                write_json(self.folder / RUN, self._identity)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror or error}.") from error

    def finished(self) -> dict[int, dict[str, Any]]:
        """Number of a case -> its record, of all processes so far. Lines that were cut off are left out."""
        if (self.folder / ANSWERS).is_file():
            rows = [json.loads(line) for line in (self.folder / ANSWERS).read_text(encoding="utf-8").splitlines()]
            return {row["case"]: row["record"] for row in rows}
        found: dict[int, dict[str, Any]] = {}
        for file in sorted((self.folder / PARTS).glob("answers-*.jsonl")):
            for line in whole_lines(file):
                found |= {int(number): record for number, record in json.loads(line).items()}
        return found

    def append(self, records: Mapping[int, Mapping[str, Any]]) -> None:
        """Write a batch's records: all of them are on disk when this returns, or the line counts for nothing."""
        if self._journal is None:
            self._journal = Journal(self._file)
        self._journal.append({str(number): record for number, record in records.items()})

    def close(self) -> None:
        """Let go of the file of answers."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def complete(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write all answers in order, a line a case; the parts go."""
        with atomic_file(self.folder / ANSWERS) as temporary, temporary.open("w", encoding="utf-8") as file:
            for number, record in enumerate(records):
                file.write(json_text({"case": number, "record": record}, what="an answer") + "\n")
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
