"""`groma label INPUT --task TASK --out FOLDER`: label many pictures, on many processes or machines, resumable."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from groma.cli.arguments import Switch
from groma.cli.boundary import INTERRUPTED, OK
from groma.cli.loading import DEFAULT_MODEL, ModelName, Placement
from groma.cli.output import figures_table, note, show, write_json, write_line
from groma.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from groma.label.folder import Share
    from groma.label.inputs import Input
    from groma.label.report import Report, Tally
    from groma.label.run import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """Who labels."""

    workers: int = 1
    """Processes, or actors of Ray, each with the model. 0: this process alone."""
    threads: int | None = None
    """Threads that each computes with. None: cores divided by workers."""
    stuck_after: Annotated[float | None, tyro.conf.arg(metavar="SECONDS")] = None
    """End a worker that has pictures in hand and finishes none for so long, as if it had died. None: wait for ever."""
    share: Annotated[str, tyro.conf.arg(metavar="K/N")] = "1/1"
    """Label the K-th of N shares: one command a machine, all with the same --out on a disk that they share."""
    ray: Switch = False
    """Workers are actors of Ray, started here or at --ray-address."""
    ray_address: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """A Ray cluster: auto, host:port or ray://host:port. Every machine of it must see the input under the same path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Label many pictures: captions with boxes, detections or descriptions; the same command goes on after a stop."""

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """A folder, a .txt or .jsonl list, .tar shards, .parquet files or pictures, or patterns: 'set/{00..12}.tar'."""
    task: str
    """grounded-caption, detect or describe."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder for the labels."""
    format: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """jsonl, coco or parquet; may be given several times. labels.jsonl is always written."""
    question: str | None = None
    """Of grounded-caption: what is asked. None: Describe the image in detail."""
    phrase: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Of detect: what to look for, all of it; may be given several times. None: whatever is proposed."""
    min_objectness: float | None = None
    """Of detect and describe: only proposals that are at least so sure to be something, 0..1. None: 0.3."""
    max_boxes: int | None = None
    """Of describe, for pictures that come without boxes: so many proposals at most. None: 20."""
    max_new_tokens: int = 512
    """Tokens an answer may have at most."""
    image_column: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Of .parquet files: the column of pictures. None: image, bytes, path or the like."""
    limit: int | None = None
    """Only the first so many pictures. None: all."""
    retry_failed: Switch = False
    """Try pictures again that could not be labelled before."""
    max_bad: float = 1.0
    """Give up once more than this share of pictures cannot be labelled, 0..1."""
    batch_size: int = 16
    """Pictures that are labelled together."""
    json: Switch = False
    """Print one JSON value and nothing else."""
    model: ModelName = DEFAULT_MODEL
    """A model that comes with the package, a checkpoint folder or a hub name."""
    placement: Annotated[Placement, tyro.conf.arg(name="")] = field(default_factory=Placement)
    hands: Annotated[Hands, tyro.conf.arg(name="")] = field(default_factory=Hands)

    def run(self) -> int:
        """Label."""
        from groma.label.run import Watching, label
        from groma.train.interruption import interruptions

        job = self._job()
        with interruptions(can_force=True) as interrupted, _progress() as on_progress:
            watching = Watching(
                interrupted=interrupted, on_input=_tell_left_out, on_progress=on_progress, on_stopping=_tell_stopping
            )
            report = label(job, watching)
            stopped = interrupted.is_set() and report.left > 0
        self._present(report)
        return INTERRUPTED if stopped else OK

    def _job(self) -> "Job":
        from groma.label.run import Job, Workers
        from groma.label.tasks import Options

        return Job(
            inputs=self.inputs,
            out=self.out,
            task=self.task,
            options=Options(
                question=self.question,
                phrases=self.phrase,
                min_objectness=self.min_objectness,
                max_boxes=self.max_boxes,
                max_new_tokens=self.max_new_tokens,
            ),
            formats=self.format,
            image_column=self.image_column,
            limit=self.limit,
            share=_share(self.hands.share),
            retry_failed=self.retry_failed,
            max_bad=self.max_bad,
            model=self.model,
            device=self.placement.device,
            dtype=self.placement.dtype,
            batch_size=self.batch_size,
            workers=Workers(
                count=self.hands.workers,
                threads=self.hands.threads,
                stuck_after_s=self.hands.stuck_after,
                ray=self.hands.ray or self.hands.ray_address is not None,
                ray_address=self.hands.ray_address,
            ),
        )

    def _present(self, report: "Report") -> None:
        values = report.to_dict()
        examples = values.pop("examples")
        if self.json:
            write_json(values | {"examples": examples})
        else:
            show(figures_table(values, "label", ""))
            if report.complete:
                write_line(f"written: {self.out}")
        for example in examples:
            note(f"no label for {example['key']}: {example['reason']}")
        if report.failed > len(examples):
            note(f"... and {report.failed - len(examples)} more, see failures.jsonl once all is done")
        if report.left:
            note(f"stopped, {report.left} pictures are left; all labels are kept, and the same command goes on")
        elif not report.complete:
            note("this share is done; labels.jsonl is written by the command that finishes last")


def _share(text: str) -> "Share":
    from groma.label.folder import Share

    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--share is {text!r}, expected K/N with K from 1 to N, such as 2/8")
    return Share(int(match[1]), int(match[2]))


def _tell_left_out(opened: "Input") -> None:
    if opened.left_out:
        told = ", ".join(f"{count} of {ending}" for ending, count in sorted(opened.left_out.items())[:8])
        note(f"{len(opened.items)} to label; files that are none of these are left out: {told}")


def _tell_stopping() -> None:
    note("stopping: what is being labelled is finished first; Ctrl-C again stops at once")


@contextmanager
def _progress() -> "Generator[Callable[[Tally], None]]":
    """A bar with rate and time left on standard error, if somebody is looking."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns: list[Any] = [BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")]
    columns += [TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("loading the model", total=None)

        def tick(tally: "Tally") -> None:
            rate = f"{tally.done / tally.seconds:.1f}/s" if tally.seconds > 0 else "loading the model"
            failed = f", {tally.failed} failed" if tally.failed else ""
            progress.update(task, total=tally.todo, completed=tally.done, description=rate + failed)

        yield tick
