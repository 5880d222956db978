"""`groma curate ANNOTATIONS`: conversations about pictures, written by a vision model behind an endpoint."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from groma.cli.arguments import Switch, check_count, check_seed
from groma.cli.boundary import INTERRUPTED, OK
from groma.cli.output import figures_table, note, show, write_json, write_line
from groma.curate.settings import Asking, Budget, Line, PictureSettings, Recipe, RegionSettings, Rules
from groma.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from groma.curate.annotations import AnnotationFile
    from groma.curate.report import Report, Tally
    from groma.curate.run import Job
    from groma.data.annotation import Annotation

MODEL_VARIABLE = "OPENAI_MODEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """Who is asked."""

    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The vision model, as the endpoint calls it. None: what the variable OPENAI_MODEL says."""
    base_url: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Address of an OpenAI-compatible endpoint. None: what OPENAI_BASE_URL says, else OpenAI's own."""
    key_variable: Annotated[str, tyro.conf.arg(metavar="VARIABLE")] = "OPENAI_API_KEY"
    """Name of the environment variable with the key. A key on the command line could be read by other users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curate:
    """Let a vision model write conversations about pictures whose regions are described."""

    annotations: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ANNOTATIONS")]
    """File with boxes and what they show."""
    pictures: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder with the pictures."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder for the conversations and all that belongs to them. The same command goes on where it stopped."""
    format: Annotated[str, tyro.conf.arg(metavar="NAME")] = "coco_region_captions"
    """Format of the annotations, e.g. coco, coco_region_captions, coco_grounded_captions or own (docs/curate.md)."""
    trusted: Annotated[Path | None, tyro.conf.arg(metavar="ANNOTATIONS")] = None
    """Annotations with exact boxes: boxes that none of these confirms are dropped, others are moved onto it."""
    trusted_format: Annotated[str, tyro.conf.arg(metavar="NAME")] = "coco"
    """Format of those."""
    n: int | None = None
    """So many annotations, the first ones. None: all."""
    seed: int = 0
    """Which regions are drawn by lot."""
    preview: int | None = None
    """Ask nothing: write so many numbered pictures, and what would be sent with them, to look at."""
    answers: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File of all answers that were paid for; that of another folder saves asking again. None: one in --out."""
    json: Switch = False
    """Print one JSON value and nothing else."""
    endpoint: Annotated[EndpointOptions, tyro.conf.arg(name="")] = field(default_factory=EndpointOptions)
    budget: Budget = field(default_factory=Budget)
    line: Line = field(default_factory=Line)
    regions: RegionSettings = field(default_factory=RegionSettings)
    picture: PictureSettings = field(default_factory=PictureSettings)
    rules: Rules = field(default_factory=Rules)
    asking: Asking = field(default_factory=Asking)

    def run(self) -> int:
        """Make them, or show what would be asked."""
        if not self.pictures.is_dir():
            raise InputError(f"--pictures {str(self.pictures)!r} is no folder")
        for flag, count in (("--n", self.n), ("--preview", self.preview)):
            if count is not None:
                check_count(count, flag)
        recipe = Recipe(
            # a preview asks nobody, so that it needs no name
            model=self.endpoint.model or os.environ.get(MODEL_VARIABLE, "") or ("?" if self.preview else ""),
            seed=check_seed(self.seed),
            regions=self.regions,
            picture=self.picture,
            rules=self.rules,
            asking=self.asking,
        )
        return self._show_preview(recipe, self.preview) if self.preview is not None else self._make(recipe)

    def _make(self, recipe: Recipe) -> int:
        from groma.curate.endpoint import OpenAIEndpoint, find_access
        from groma.curate.run import INSTRUCT_FILE, curate
        from groma.train.interruption import interruptions

        access = find_access(url=self.endpoint.base_url, key_variable=self.endpoint.key_variable)
        endpoint = OpenAIEndpoint(access, timeout_s=self.line.timeout_s, stream=self.line.stream)
        annotations, job = self._annotations(), self._job(recipe)
        total = min(len(annotations), self.n or len(annotations))
        with interruptions(can_force=True) as interrupted, _progress(total) as on_progress:
            report = curate(islice(annotations, total), endpoint, job, interrupted=interrupted, on_progress=on_progress)
        self._present(report, self.out / INSTRUCT_FILE)
        return INTERRUPTED if report.stopped == "interrupted" else OK

    def _show_preview(self, recipe: Recipe, count: int) -> int:
        from groma.curate.ledger import money
        from groma.curate.preview import preview

        shown = preview(islice(self._annotations(), self.n), self._job(recipe), count)
        values: dict[str, Any] = {
            "folder": str(shown.folder),
            "pictures": shown.count,
            "skipped": shown.skipped,
            "a_request_at_most": {
                "question_tokens": shown.tokens.question,
                "answer_tokens": shown.tokens.answer,
                "money": money(shown.tokens, self.budget),
            },
        }
        if self.json:
            write_json(values)
        else:
            show(figures_table(values, "preview", ""))
        return OK

    def _present(self, report: "Report", written: Path) -> None:
        values = report.to_dict()
        if self.json:
            write_json(values)
        else:
            show(figures_table(values, "curate", ""))
            write_line(f"written: {written}")
        if report.stopped == "budget":
            note("stopped at the budget; the same command with a larger one goes on")
        elif report.stopped is not None:
            note(f"{report.stopped}, all saved; the same command goes on")
        elif values["pictures"]["unanswered"]:
            note("some pictures got no answer; the same command asks about them again")

    def _annotations(self) -> "AnnotationFile":
        from groma.curate.annotations import read_annotations

        return read_annotations(self.annotations, self.format)

    def _job(self, recipe: Recipe) -> "Job":
        from groma.curate.run import Job

        return Job(
            pictures=self.pictures,
            out=self.out,
            recipe=recipe,
            line=self.line,
            budget=self.budget,
            answers=self.answers,
            trusted=self._trusted(),
        )

    def _trusted(self) -> "dict[str, Annotation] | None":
        """Picture -> its exact boxes; a record that cannot be read is an error here, as it would go unseen."""
        if self.trusted is None:
            return None
        from groma.curate.annotations import read_annotations
        from groma.data.annotation import Annotation

        found: dict[str, Annotation] = {}
        for annotation in read_annotations(self.trusted, self.trusted_format):
            if not isinstance(annotation, Annotation):
                raise InputError(f"--trusted: {annotation.told}")
            found[annotation.picture] = annotation
        return found


@contextmanager
def _progress(total: int) -> "Generator[Callable[[Tally], None]]":
    """A line on standard error that says how far it is, if somebody is looking."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=total)

        def tick(tally: "Tally") -> None:
            told = f"kept {tally.kept}, rejected {tally.rejected.total()}, skipped {tally.skipped.total()}"
            unanswered = tally.unanswered.total()
            told += f", unanswered {unanswered}" if unanswered else ""
            progress.update(task, completed=tally.done, description=told)

        yield tick
