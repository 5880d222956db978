"""Labels an input: on any number of workers, resumable, every picture once.

input -> items --dispatcher, crew--> outcomes -> folder: parts -> labels.jsonl -> formats
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma.errors import InputError
from groma.label.crew import Crew, InlineCrew
from groma.label.dispatch import Dispatcher
from groma.label.folder import FAILED, LABELS, OPEN, LabelFolder, Share
from groma.label.formats import FORMATS, check_formats, read_rows
from groma.label.inputs import Input, open_input
from groma.label.labeller import Outcome, Setup, load_model
from groma.label.report import Report, Tally
from groma.label.tasks import LabelTask, Options, make_task
from groma.storage import write_json

if TYPE_CHECKING:
    from groma.inference.assistant import Groma

LOOK_AT = 100
"""Pictures after which the share of failures is looked at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who labels."""

    count: int = 1
    """How many; 0: nobody but this process itself."""
    threads: int | None = None
    """Threads that each computes with; None: cores divided by workers, or what this process has."""
    stuck_after_s: float | None = None
    """One that has pictures in hand and finishes none for so long is ended, as if it had died; None: none is."""
    ray: bool = False
    """They are actors of a Ray cluster instead of processes of this machine."""
    ray_address: str | None = None
    """Where the cluster is: "auto", host:port or ray://...; None: one that is started here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that is asked for."""

    inputs: tuple[str, ...]
    """Paths or patterns; see groma.label.inputs."""
    out: Path
    """Folder for the labels."""
    task: str
    """Name of one of TASKS."""
    options: Options = field(default_factory=Options)
    """How it is done."""
    formats: tuple[str, ...] = ("jsonl",)
    """Names of FORMATS."""
    image_column: str | None = None
    """Of Parquet files: the column of pictures."""
    limit: int | None = None
    """Only the first so many pictures; None: all."""
    share: Share = field(default_factory=Share)
    """Which part of the pictures is this command's."""
    retry_failed: bool = False
    """Try those again that failed before."""
    max_bad: float = 1.0
    """Give up once more than this share of pictures fails."""
    model: str = "groma-tiny"
    """As for `groma.load`."""
    device: str | None = None
    """As for `groma.load`."""
    dtype: Any = None
    """As for `groma.load`."""
    batch_size: int = 16
    """Pictures that are labelled together."""
    workers: Workers = field(default_factory=Workers)
    """Who labels."""
    load: "Callable[[Setup, int], Groma]" = load_model
    """Loads the model in a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """Who is told what happens, and who may stop it."""

    interrupted: threading.Event | None = None
    """Once it is set, what is being labelled is finished and kept, and the rest is left."""
    on_input: Callable[[Input], None] = lambda opened: None
    """Called with the input once it is known."""
    on_progress: Callable[[Tally], None] = lambda tally: None
    """Called whenever pictures are through, and once before."""
    on_stopping: Callable[[], None] = lambda: None
    """Called once the interruption is noticed."""


def label(job: Job, watching: Watching | None = None) -> Report:
    """Label what is not labelled yet.

    Args:
        job: what is asked for.
        watching: who is told what happens.

    Returns:
        What was done; it is in the folder as well.

    Raises:
        InputError: something that is given cannot be used, the folder is another run's, too many pictures fail, or
            workers die again and again; labels so far are kept.
        MissingExtraError: Parquet or Ray needs a package that is not installed.
    """
    watching = watching or Watching()
    task = make_task(job.task, job.options)
    _check(job)
    opened = open_input(job.inputs, image_column=job.image_column, besides=job.out)
    watching.on_input(opened)
    items = opened.items
    folder = LabelFolder(job.out, items, job.share)
    folder.open(_identity(opened, task))
    try:
        numbers = job.share.of(min(len(items), job.limit or len(items)))
        todo = [n for n in numbers if folder.state[n] == OPEN or (job.retry_failed and folder.state[n] == FAILED)]
        tally = Tally(todo=len(todo))
        watching.on_progress(tally)
        deaths = _label(job, task, folder, todo, tally, watching)
    finally:
        folder.close()
    complete = _finish(job, folder, len(items))
    report = _report(folder, numbers, tally, deaths, complete=complete)
    name = "report.json" if job.share.count == 1 else f"report-{job.share}.json"
    try:
        write_json(job.out / name, report.to_dict())
    except OSError as error:
        raise InputError(f"{job.out / name} cannot be written: {error.strerror or error}") from error
    return report


def _check(job: Job) -> None:
    """What can be refused without looking at the input."""
    check_formats(job.formats)
    for count, flag in ((job.batch_size, "--batch-size"), (job.limit, "--limit"), (job.workers.threads, "--threads")):
        if count is not None and count < 1:
            raise InputError(f"{flag} must be at least 1, got {count}")
    if job.workers.count < 0:
        raise InputError(f"--workers must be at least 0, got {job.workers.count}")
    stuck_after_s = job.workers.stuck_after_s
    if stuck_after_s is not None and not (stuck_after_s > 0 and job.workers.count > 0):
        raise InputError(f"--stuck-after must be above 0 and needs --workers 1 or more, got {stuck_after_s:g}")
    if not 0 <= job.max_bad <= 1:
        raise InputError(f"--max-bad must be from 0 to 1, got {job.max_bad}")
    for given in job.inputs:
        if given and Path(given).is_dir() and job.out.exists() and os.path.samefile(given, job.out):
            raise InputError(f"--out {str(job.out)!r} is the input itself: give another folder")


def _identity(opened: Input, task: LabelTask) -> dict[str, Any]:
    """What defines a run: labels of another one are not mixed with it."""
    tokens = (
        {} if task.name == "detect" and not task.options.phrases else {"max_new_tokens": task.options.max_new_tokens}
    )
    return {**opened.identity, "task": task.name, **task.settings(), **tokens}


def _label(
    job: Job,
    task: LabelTask,
    folder: LabelFolder,
    todo: Sequence[int],
    tally: Tally,
    watching: Watching,
) -> int:
    """Label pictures; returns how many workers died."""

    def keep(outcome: Outcome) -> None:
        folder.append(outcome)
        tally.add(outcome)
        watching.on_progress(tally)
        if tally.failed > job.max_bad * max(tally.done, min(LOOK_AT, tally.todo)):
            raise InputError(
                f"{tally.failed} of {tally.done} pictures failed, more than --max-bad {job.max_bad:g} allows, one as "
                f"{tally.examples[0][1]} (all labels so far are kept)"
            )

    def greet(about: dict[str, Any]) -> None:
        folder.check_model({key: about[key] for key in ("model", "dtype")})
        tally.greet(about)

    crew, count = _crew(job, task, len(todo))
    try:
        dispatcher = Dispatcher(
            crew,
            folder.items,
            keep=keep,
            on_ready=greet,
            stuck_after_s=job.workers.stuck_after_s,
            interrupted=watching.interrupted,
            on_stopping=watching.on_stopping,
        )
        dispatcher.run(_batches(todo, job.batch_size), count)
    finally:
        crew.close()
    return dispatcher.deaths


def _batches(todo: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Which pictures are labelled together depends on their numbers alone, and so does the rounding of their scores."""
    for _, numbers in groupby(todo, lambda number: number // size):
        yield tuple(numbers)


def _crew(job: Job, task: LabelTask, pictures: int) -> tuple[Crew, int]:
    """The workers, and how many of them are worth starting."""
    wanted = max(1, min(job.workers.count, -(-pictures // job.batch_size)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = job.workers.threads
    setup = Setup(
        model=job.model,
        device=job.device,
        dtype=job.dtype,
        task=task,
        batch_size=job.batch_size,
        threads=threads or (max(1, cores // job.workers.count) if job.workers.count else 0),
        load=job.load,
    )
    if job.workers.ray:
        from groma.label.ray_crew import RayCrew

        return RayCrew(setup, wanted, address=job.workers.ray_address, threads=threads), wanted
    if job.workers.count == 0:
        return InlineCrew(setup), 1
    from groma.label.processes import ProcessCrew

    return ProcessCrew(setup), wanted


def _finish(job: Job, folder: LabelFolder, total: int) -> bool:
    """Write the files that are wanted, if nothing is missing; whether they are there."""
    with folder.lock():
        folder.scan()
        if OPEN in folder.state[: min(total, job.limit or total)]:
            return False
        folder.merge()
        labels = job.out / LABELS
        # files of an earlier run in other formats would say what labels.jsonl no longer says
        there = (name for name, (file, _) in FORMATS.items() if (job.out / file).exists())
        for name in dict.fromkeys((*job.formats, *there)):
            file, write = FORMATS[name]
            if write is not None:
                try:
                    write(lambda: read_rows(labels), job.out / file, described=job.task == "describe")
                except OSError as error:
                    raise InputError(f"{job.out / file} cannot be written: {error.strerror or error}") from error
    return True


def _report(folder: LabelFolder, numbers: range, tally: Tally, deaths: int, *, complete: bool) -> Report:
    left = sum(folder.state[number] == OPEN for number in numbers)
    return Report(
        pictures=len(numbers),
        labelled=tally.labelled,
        failed=tally.failed,
        done_before=len(numbers) - left - tally.done,
        left=left,
        entities=tally.entities,
        boxes=tally.boxes,
        cut=tally.cut,
        clipped_boxes=tally.clipped,
        seconds=round(tally.seconds, 3),
        seconds_before=round((tally.ready or tally.began) - tally.began, 3),
        pictures_per_s=round(tally.done / tally.seconds, 3) if tally.seconds > 0 else None,
        workers=len(tally.workers),
        workers_died=deaths,
        examples=tuple((folder.items[number].key, reason) for number, reason in tally.examples),
        complete=complete,
    )
