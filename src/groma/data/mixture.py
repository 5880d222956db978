"""Mixtures: which sets a stage is trained on, in which shares. A user's YAML file -> open data sets.

```yaml
root: /data                     # where relative paths start; without it, the folder of this file
sets:
  - set: refcoco                # a name of the catalogue
    annotations: refcoco/train.json
    pictures: coco/train2014
  - set: grit
    packed: s3://bucket/grit    # instead of annotations and pictures: shards of `groma data pack`
    share: 0.1                  # an epoch takes a tenth of it; 2 would take all of it twice
```
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from groma.data.annotated_set import AnnotatedSet, LooseSet
from groma.data.catalogue import CATALOGUE, Entry
from groma.data.packed import PackedSet
from groma.data.sources import Source
from groma.data.tasks import EVERYTHING, TASKS, TaskOptions
from groma.data.wording import TASK_WORDINGS, slots_of
from groma.errors import InputError
from groma.strict_yaml import read_overrides

PLACEHOLDER = "FOLDER_OF_THE_DATA_SETS"
"""Stands in the published mixtures where a folder must be filled in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConfig:
    """One set of a mixture."""

    set: str
    """Its name in the catalogue."""
    name: str = ""
    """What it is called in logs; empty: its name in the catalogue."""
    annotations: str = ""
    """Its annotation file."""
    pictures: str = ""
    """The folder that the annotations' paths of pictures start from."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Text in the annotations' paths of pictures -> what stands in its place on disk."""
    packed: str = ""
    """Instead of both: the location of its shards, a folder or an fsspec URL."""
    share: float = 1.0
    """How often an epoch goes through it."""
    task: str = ""
    """What is learned from it, if not what the catalogue says."""
    wordings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Its own wordings of questions, by task (groma.data.wording.TASK_WORDINGS)."""
    max_turns: int | None = None
    """Regions or classes in one conversation, at most."""
    absent_share: float | None = None
    """Share of questions about something that is not in the picture."""
    repeat_phrase: bool | None = None
    """"Locate" is answered with the phrase before its regions."""

    def __post_init__(self) -> None:
        where = f"set {self.name or self.set!r}"
        if self.set not in CATALOGUE:
            raise InputError(f"{where}: not in the catalogue; known are {', '.join(CATALOGUE)}.")
        if self.task and self.task not in (*TASKS, EVERYTHING):
            raise InputError(f"{where}: there is no task {self.task!r}; known are {', '.join((*TASKS, EVERYTHING))}.")
        if bool(self.packed) == bool(self.annotations or self.pictures):
            raise InputError(f"{where}: give annotations and pictures, or packed.")
        if not self.packed and not (self.annotations and self.pictures):
            raise InputError(f"{where}: give both annotations and pictures.")
        if not self.share > 0:
            raise InputError(f"{where}: share must be above 0, got {self.share}.")
        if self.absent_share is not None and not 0 <= self.absent_share < 1:
            raise InputError(f"{where}: absent_share must be at least 0 and below 1, got {self.absent_share}.")
        for key, wordings in self.wordings.items():
            _check_wordings(key, wordings, where)


def _check_wordings(key: str, wordings: Sequence[str], where: str) -> None:
    if key not in TASK_WORDINGS:
        raise InputError(f"{where}: there are no wordings {key!r}; known are {', '.join(TASK_WORDINGS)}.")
    needed = slots_of(TASK_WORDINGS[key][0])
    for wording in wordings:
        if slots_of(wording) != needed:
            slots = ", ".join(f"{{{slot}}}" for slot in sorted(needed)) or "no slots"
            raise InputError(f"{where}: the wording {wording!r} of {key!r} must have {slots}.")
    if not wordings:
        raise InputError(f"{where}: wordings of {key!r} are empty: leave them out, or give some.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureConfig:
    """The sets of a stage."""

    sets: tuple[SetConfig, ...] = ()
    """At least one; the names in logs differ."""
    root: str = ""
    """Folder that relative paths start from."""
    max_bad_share: float = 0.01
    """Training refuses a set of which more samples than this share cannot be used."""

    def __post_init__(self) -> None:
        names = [one.name or one.set for one in self.sets]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"The mixture has two sets called {', '.join(repeated)}: give them a `name`.")
        if not 0 <= self.max_bad_share <= 1:
            raise InputError(f"max_bad_share must be between 0 and 1, got {self.max_bad_share}.")


def published_mixture(stage: str) -> str:
    """YAML of what a stage of the published model learned from; its root is PLACEHOLDER.

    Args:
        stage: "detect", "align" or "instruct".
    """
    return (files("groma") / "data" / "published" / f"{stage}.yaml").read_text(encoding="utf-8")


def read_mixture(file: Path) -> MixtureConfig:
    """A mixture's YAML file; relative paths in it start at its folder, or at its `root`.

    Raises:
        InputError: the file cannot be read, or a key or value does not fit; names it.
    """
    config = read_overrides(file, MixtureConfig())
    if config.root == PLACEHOLDER:
        raise InputError(f"{file}: root is still {PLACEHOLDER}: put the folder there that the data sets lie in.")
    return replace(config, root=str((file.parent / config.root).absolute()))


def read_data(file: Path) -> MixtureConfig:
    """What `--data` takes: a mixture's YAML file, or your own .jsonl, whose pictures are found from its folder.

    Raises:
        InputError: the file is neither, or cannot be read.
    """
    if file.suffix in (".yaml", ".yml"):
        return read_mixture(file)
    if file.suffix == ".jsonl":
        one = SetConfig(
            set="own", name=file.stem, annotations=str(file.absolute()), pictures=str(file.parent.absolute())
        )
        return MixtureConfig(sets=(one,))
    raise InputError(f"{file}: expected a mixture (.yaml) or your own data (.jsonl).")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureSet:
    """An open set and what is learned from it."""

    name: str
    """For logs."""
    data: AnnotatedSet
    """Its samples."""
    entry: Entry
    """What the catalogue knows of it."""
    task: str
    """What stages 2 and 3 learn."""
    options: TaskOptions
    """How they ask."""
    share: float
    """How often an epoch goes through it."""


def open_mixture(config: MixtureConfig) -> tuple[MixtureSet, ...]:
    """Open every set; annotation files are indexed if they are new.

    Raises:
        InputError: the mixture is empty, or a file cannot be used; names the set.
        MissingExtraError: reading needs a package that is not installed.
    """
    if not config.sets:
        raise InputError("The mixture has no sets.")
    return tuple(_open(one, Path(config.root)) for one in config.sets)


def _open(config: SetConfig, root: Path) -> MixtureSet:
    entry = CATALOGUE[config.set]
    data = _open_data(config, entry, root)
    own = {"max_turns": config.max_turns, "absent_share": config.absent_share, "repeat_phrase": config.repeat_phrase}
    changed = dict(entry.options) | {name: value for name, value in own.items() if value is not None}
    classes = data.classes if entry.exhaustive else ()
    return MixtureSet(
        name=config.name or config.set,
        data=data,
        entry=entry,
        task=config.task or entry.task,
        options=TaskOptions(wordings=config.wordings, classes=classes, **changed),
        share=config.share,
    )


def _open_data(config: SetConfig, entry: Entry, root: Path) -> AnnotatedSet:
    if config.packed:
        return PackedSet(config.packed if "://" in config.packed else str(root / config.packed))
    pictures = root / config.pictures
    if not pictures.is_dir():
        raise InputError(f"set {config.name or config.set!r}: there is no folder {pictures}.")
    return LooseSet(Source(root / config.annotations, entry.format), pictures, config.renamed)
