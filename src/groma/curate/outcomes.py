"""What became of every picture: finished ones are written down as they finish, and are never asked about again.

OUT/recipe.json     what the folder belongs to; another recipe is refused
OUT/outcomes.jsonl  the journal: a line a finished picture
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from groma.curate.checking import Remark
from groma.curate.instructions import wording_digest
from groma.curate.journal import Journal
from groma.curate.settings import Recipe
from groma.errors import InputError
from groma.storage import read_json_object, write_json

RECIPE_FILE = "recipe.json"
OUTCOMES_FILE = "outcomes.jsonl"
RULES_EDITION = 1
"""Grows when an answer is judged in another way, so that a folder does not mix both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one picture that was asked about."""

    id: str
    """Digest of what was asked (groma.curate.preparing.sample_id)."""
    picture: str
    """Its path below the folder of pictures."""
    record: Mapping[str, Any] | None = None
    """The conversation in the published format; None if it was rejected."""
    faults: tuple[Remark, ...] = ()
    """Why it was rejected; the first is what is counted."""
    repairs: tuple[Remark, ...] = ()
    """What was mended in what was kept."""
    attempts: int = 1
    """How often it was asked about."""
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    """Why boxes became no regions -> how many."""


class Outcomes:
    """Outcomes of a folder by their id; used as a context manager."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        """Open a folder of results, or begin one.

        Args:
            folder: Where results go; made if it is missing.
            recipe: What they are made by.

        Raises:
            InputError: It holds results of another recipe, another run is at work there, it cannot be written, or its
                journal is damaged.
        """
        self._journal = Journal(folder / OUTCOMES_FILE)
        self._place_of: dict[str, int] = {}
        try:
            _check_recipe(folder / RECIPE_FILE, recipe)
            for place, entry in self._journal.entries():
                self._place_of[_id(entry, self._journal.path)] = place
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()

    def add(self, outcome: Outcome) -> None:
        """A picture is finished.

        Raises:
            InputError: It cannot be written.
        """
        self._place_of[outcome.id] = self._journal.append(asdict(outcome))

    def get(self, sample_id: str) -> Outcome | None:
        """What became of a sample; None if it is not finished."""
        place = self._place_of.get(sample_id)
        return None if place is None else _outcome(self._journal.read(place))


def _check_recipe(path: Path, recipe: Recipe) -> None:
    """Write the recipe down, or compare it with the one that is there."""
    now = {"rules_edition": RULES_EDITION, "wording": wording_digest(), **asdict(recipe)}
    if not path.exists():
        write_json(path, now)
        return
    before, after = _flat(read_json_object(path)), _flat(now)
    changed = [name for name in after.keys() | before.keys() if before.get(name) != after.get(name)]
    if changed:
        listed = ", ".join(f"{name} ({before.get(name)!r} -> {after.get(name)!r})" for name in sorted(changed))
        raise InputError(
            f"{path.parent} holds results of another recipe: {listed}: give another folder; with --answers its file of "
            "answers can be used there"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(cast(dict[str, Any], value), f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _id(entry: Any, path: Path) -> str:
    try:
        return _outcome(entry).id
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no file of outcomes ({type(error).__name__}: {error}).") from error


def _outcome(entry: Mapping[str, Any]) -> Outcome:
    fields = dict(entry)
    for name in ("faults", "repairs"):
        fields[name] = tuple(Remark(**remark) for remark in fields[name])
    return Outcome(**fields)
