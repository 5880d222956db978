"""`groma data check|show|pack`: look at what a mixture holds, before it is trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from groma.cli.arguments import Switch, check_count, check_seed
from groma.cli.data_example import Example, Published
from groma.cli.output import (
    check_picture_target,
    check_target,
    note,
    save_json,
    save_picture,
    show,
    write_json,
    write_line,
)
from groma.errors import InputError

if TYPE_CHECKING:
    from groma.data.check import SetReport
    from groma.data.mixture import MixtureConfig, MixtureSet

Config = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Verify files, pictures, boxes and spans of a mixture, and count."""

    config: Config
    """A mixture's YAML file, or your own .jsonl."""
    limit: int | None = None
    """Look at so many samples of each set, drawn at random. None: at all."""
    seed: int = 0
    """Of the draw."""
    workers: int | None = None
    """Processes that decode. None: one for each core."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write what was found to this file, with examples of every fault."""
    json: Switch = False
    """Print one JSON value and nothing else."""

    def run(self) -> int:
        """Look through it; 2 if a set has more bad samples than the mixture allows."""
        check_seed(self.seed)
        limit = None if self.limit is None else check_count(self.limit, "--limit")
        if self.report is not None:
            check_target(self.report, "--report")
        from groma.data.check import available_cores, check_mixture

        config = _mixture(self.config)
        workers = available_cores() if self.workers is None else self.workers
        reports = check_mixture(config, limit=limit, seed=self.seed, workers=workers, tell=_tell)
        values = {"max_bad_share": config.max_bad_share, "sets": [report.to_dict() for report in reports]}
        if self.report is not None:
            save_json(values, self.report)
        if self.json:
            write_json(values)
        else:
            show(_table(reports))
            _tell_faults(reports)
        over = [report.name for report in reports if report.bad_share > config.max_bad_share]
        if over:
            note(f"more than {config.max_bad_share:.1%} of the samples cannot be used in {', '.join(over)}")
        return 2 if over else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """Draw samples as a contact sheet: picture, boxes, dialogue, and which tokens are trained."""

    config: Config
    """A mixture's YAML file, or your own .jsonl."""
    out: Annotated[Path, tyro.conf.arg(metavar="SHEET.png")] = Path("sheet.png")
    """Where the sheet goes."""
    n: int = 16
    """How many samples, of all sets in turn."""
    seed: int = 0
    """Which ones."""
    detection: Switch = False
    """As stage 1 sees them: augmented, boxes alone."""
    model: str = "groma-tiny"
    """Whose tokenizer, chat format and picture size are used."""

    def run(self) -> int:
        """Draw."""
        count, seed = check_count(self.n, "--n"), check_seed(self.seed)
        check_picture_target(self.out, self.config)
        from groma.data.augment import Augmentation
        from groma.data.lessons import DetectionLessons
        from groma.data.mixture import open_mixture
        from groma.inference.contact_sheet import contact_sheet
        from groma.train.blueprint import read_blueprint
        from groma.train.mixtures import dialogue_lessons
        from groma.train.sheet import draw_samples

        lessons = dialogue_lessons(read_blueprint(self.model))
        if self.detection:
            lessons = DetectionLessons(preprocessing=lessons.preprocessing, augmentation=Augmentation())
        tiles = draw_samples(open_mixture(_mixture(self.config)), lessons, count=count, seed=seed, tell=note)
        if not tiles:
            raise InputError(f"{self.config}: none of the first samples of any set can be used; see groma data check")
        save_picture(contact_sheet(tiles), self.out)
        write_line(f"written: {self.out}")
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Write a set of a mixture as WebDataset shards."""

    config: Config
    """A mixture's YAML file, or your own .jsonl."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """A new folder for the shards."""
    set: str = ""
    """Which set, by its name in the mixture; not needed if there is one."""
    shard_mb: int = 256
    """Size of a shard in megabytes, about."""
    json: Switch = False
    """Print one JSON value and nothing else."""

    def run(self) -> int:
        """Pack."""
        size = check_count(self.shard_mb, "--shard-mb") * 1_000_000
        from groma.data.mixture import open_mixture
        from groma.data.packed import pack

        one = _find_set(open_mixture(_mixture(self.config)), self.set)
        told = pack(one.data, self.out, shard_bytes=size)
        values = {"set": one.name, "out": str(self.out), **told}
        write_json(values) if self.json else write_line(
            f"{told['samples']} samples in {told['shards']} shards: {self.out}; left out: {told['left_out']}"
        )
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Check, show or pack what a mixture holds; make an example; print the published mixtures."""

    command: (
        Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[Show, tyro.conf.subcommand("show")]
        | Annotated[Pack, tyro.conf.subcommand("pack")]
        | Annotated[Example, tyro.conf.subcommand("example")]
        | Annotated[Published, tyro.conf.subcommand("published")]
    )

    def run(self) -> int:
        """Hand on."""
        return self.command.run()


def _mixture(file: Path) -> "MixtureConfig":
    from groma.data.mixture import read_data

    return read_data(file)


def _tell(report: "SetReport") -> None:
    note(f"{report.name}: {report.checked} of {report.samples} looked at, {report.bad} bad")


def _find_set(sets: "tuple[MixtureSet, ...]", name: str) -> "MixtureSet":
    found = [one for one in sets if not name or one.name == name]
    if len(found) != 1:
        names = ", ".join(one.name for one in sets)
        raise InputError(f"--set {name!r} names {len(found)} sets: give one of {names}.")
    return found[0]


def _table(reports: "list[SetReport]") -> Any:
    from rich.table import Table

    table = Table("set", "samples", "looked at", "bad", "boxes", "turns")
    for report in reports:
        numbers = (report.samples, report.checked, report.bad, report.boxes, report.turns)
        table.add_row(report.name, *(f"{number:,}" for number in numbers))
    return table


def _tell_faults(reports: "list[SetReport]") -> None:
    """How often each kind of fault came, with the first example."""
    for report in reports:
        for kind, count in report.to_dict()["faults"].items():
            example = f", e.g. {report.examples[kind][0]}" if kind in report.examples else ""
            write_line(f"{report.name}: {kind} {count:,}{example}")
