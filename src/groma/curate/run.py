"""Makes conversations of annotations: the one run that joins all stops, and the files it leaves.

    annotation -> preparing -> asking -> checking -> outcomes.jsonl -> instruct.json, left_out.jsonl, report.json
                     |            |                       |
                  skipped     unanswered             finished: never again

Workers of one event loop take annotations in turn; pictures are drawn in threads. Files are written in the order of
the annotations, so that they do not depend on who was quicker, nor on how often the run was interrupted.
"""

import asyncio
import heapq
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groma.curate.asking import Asker, NotAskedError, UnansweredError
from groma.curate.checking import Remark, Verdict, judge
from groma.curate.endpoint import Endpoint
from groma.curate.instruct import to_record, write_records
from groma.curate.ledger import Ledger, Reply
from groma.curate.outcomes import Outcome, Outcomes
from groma.curate.pace import Stop
from groma.curate.preparing import Prepared, SkippedError, prepare, sample_id
from groma.curate.report import Report, Tally, make_report
from groma.curate.request import next_request
from groma.curate.settings import Budget, Line, Recipe
from groma.data.annotation import Annotation
from groma.data.cleaning import Fault
from groma.errors import GromaError, InputError
from groma.storage import atomic_file, json_text, write_json

ANSWERS_FILE = "answers.jsonl"
INSTRUCT_FILE = "instruct.json"
LEFT_OUT_FILE = "left_out.jsonl"
REPORT_FILE = "report.json"

WATCH_S = 0.1
"""How often a run looks whether it was interrupted, in seconds."""

HOPELESS = ("refused",)
"""Faults after which asking again would end alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a run works on and how."""

    pictures: Path
    """Folder that the annotations' paths start from."""
    out: Path
    """Folder for all files; one with an unfinished run of the same recipe is gone on with."""
    recipe: Recipe
    """What is made."""
    line: Line
    """How the endpoint is talked to."""
    budget: Budget
    """What may be spent."""
    answers: Path | None = None
    """File of answers, which several folders may share, one run at a time. None: in the folder."""
    trusted: Mapping[str, Annotation] | None = None
    """Picture -> exact boxes that confirm those of the annotations; None: all boxes are taken as they are."""


def curate(
    annotations: Iterable[Annotation | Fault],
    endpoint: Endpoint,
    job: Job,
    *,
    interrupted: threading.Event | None = None,
    on_progress: Callable[[Tally], None] | None = None,
) -> Report:
    """Make conversations. Call it again with the same folder to go on; what is finished is never asked for again.

    Args:
        annotations: What is known about each picture, one annotation a picture; a fault stands for one that could not
            be read.
        endpoint: Who is asked; it is closed at the end.
        job: Folders, recipe, limits.
        interrupted: Once it is set, nothing new is asked, answers under way are waited for, and everything is written.
        on_progress: Called after each picture with the counts so far.

    Returns:
        The yield, which is in the folder as well.

    Raises:
        InputError: The folder belongs to another recipe or cannot be written, or the endpoint is of no use; in the last
            case everything that was answered has been written.
    """

    async def whole() -> Report:
        try:
            return await curate_async(annotations, endpoint, job, interrupted=interrupted, on_progress=on_progress)
        finally:
            await endpoint.close()

    return asyncio.run(whole())


async def curate_async(
    annotations: Iterable[Annotation | Fault],
    endpoint: Endpoint,
    job: Job,
    *,
    interrupted: threading.Event | None = None,
    on_progress: Callable[[Tally], None] | None = None,
) -> Report:
    """See `curate`, for callers with an event loop of their own; the endpoint is not closed."""
    answers = job.answers or job.out / ANSWERS_FILE
    with Outcomes(job.out, job.recipe) as outcomes, Ledger(answers) as ledger:
        run = _Run(annotations, endpoint, job, outcomes, ledger, on_progress or (lambda _: None))
        watch = asyncio.create_task(_watch(interrupted, run.stop))
        try:
            await asyncio.gather(*(run.work() for _ in range(job.line.concurrency)))
        finally:
            watch.cancel()
        report = run.write()
    if run.stop.error is not None:
        raise run.stop.error
    return report


async def _watch(interrupted: threading.Event | None, stop: Stop) -> None:
    """Turn the caller's event into an end of the run."""
    while interrupted is not None and not interrupted.is_set():
        await asyncio.sleep(WATCH_S)
    if interrupted is not None:
        stop.now("interrupted")


class _Run:
    """One run; its workers share everything, as they take turns in one thread."""

    def __init__(
        self,
        annotations: Iterable[Annotation | Fault],
        endpoint: Endpoint,
        job: Job,
        outcomes: Outcomes,
        ledger: Ledger,
        on_progress: Callable[[Tally], None],
    ) -> None:
        self.stop = Stop()
        self._tally = Tally()
        self._job = job
        self._outcomes = outcomes
        self._ledger = ledger
        self._on_progress = on_progress
        self._items = iter(annotations)
        self._place_of: dict[str, int] = {}  # id -> which of the annotations it is, in their order
        self._left_out: list[tuple[int, dict[str, Any]]] = []
        self._asker = Asker(
            endpoint,
            ledger,
            line=job.line,
            budget=job.budget,
            asking=job.recipe.asking,
            stop=self.stop,
        )

    async def work(self) -> None:
        """Take one annotation after the other, until there is none."""
        while True:
            try:
                item = next(self._items, None)
                if item is None:
                    return
                await self._do(item)
            except GromaError as error:  # the disk is full, the annotations end in the middle: write what there is
                self.stop.now("fault", error)
            self._on_progress(self._tally)

    def write(self) -> Report:
        """Write everything that a run leaves, and return its yield.

        Raises:
            InputError: The folder cannot be written to.
        """
        out = self._job.out
        report = make_report(
            self._tally,
            self._ledger,
            self._job.budget,
            stopped=self.stop.reason,
            sent=self._asker.counts,
            faults=self._asker.faults,
        )
        records = (outcome.record for outcome in self._finished() if outcome.record is not None)
        left_out = heapq.merge(sorted(self._left_out, key=_first), self._rejected(), key=_first)
        try:
            write_records(out / INSTRUCT_FILE, records)
            _write_lines(out / LEFT_OUT_FILE, (line for _, line in left_out))
            write_json(out / REPORT_FILE, report.to_dict())
        except OSError as error:
            raise InputError(
                f"{out} cannot be written to: {error.strerror or error}; nothing is lost, run the same command again"
            ) from error
        return report

    async def _do(self, item: Annotation | Fault) -> None:
        """See to one annotation; it ends up in exactly one count."""
        place = self._tally.given
        self._tally.given += 1
        if isinstance(item, Fault):
            self._skip(place, "", item.kind, item.told)
            return
        trusted = self._trusted(item)
        name = sample_id(item, trusted)
        if name in self._place_of:
            self._tally.repeated += 1
            return
        self._place_of[name] = place
        finished = self._outcomes.get(name)
        if finished is not None:
            self._tally.add(finished)
            return
        try:
            if self.stop.reason is not None:
                raise NotAskedError
            prepared = await asyncio.to_thread(prepare, item, self._job.pictures, self._job.recipe, trusted)
            outcome = await self._converse(name, prepared)
            self._outcomes.add(outcome)
        except SkippedError as error:
            self._skip(place, item.picture, error.kind, str(error))
        except UnansweredError as error:
            self._tally.unanswered[error.kind] += 1
            self._left_out.append((place, _left_out(item.picture, f"unanswered_{error.kind}", str(error))))
        except NotAskedError:
            self._tally.waiting += 1
        except BaseException:
            self._tally.waiting += 1  # it is not finished, whatever happened
            raise
        else:
            self._tally.add(outcome)

    async def _converse(self, name: str, prepared: Prepared) -> Outcome:
        """Ask until an answer can be kept, or often enough.

        Raises:
            NotAskedError: The run ended before.
            UnansweredError: There is no answer.
        """
        recipe, request, attempt = self._job.recipe, prepared.request, 1
        while True:
            reply = await self._asker.ask(request)
            verdict = judge_reply(reply, prepared, recipe)
            is_last = attempt == recipe.asking.attempts or any(fault.kind in HOPELESS for fault in verdict.faults)
            if not verdict.faults or is_last:
                return _outcome(name, prepared, verdict, attempt)
            request = next_request(request, reply.content, [fault.told for fault in verdict.faults], recipe)
            attempt += 1

    def _trusted(self, annotation: Annotation) -> Annotation | None:
        """Its trusted boxes: none at all, if there are some of other pictures only."""
        if self._job.trusted is None:
            return None
        return self._job.trusted.get(annotation.picture, Annotation(picture=annotation.picture))

    def _skip(self, place: int, picture: str, kind: str, told: str) -> None:
        self._tally.skipped[kind] += 1
        self._left_out.append((place, _left_out(picture, kind, told)))

    def _finished(self) -> Iterator[Outcome]:
        """Outcomes of this run's annotations, in their order."""
        for name in sorted(self._place_of, key=self._place_of.__getitem__):
            outcome = self._outcomes.get(name)
            if outcome is not None:
                yield outcome

    def _rejected(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for outcome in self._finished():
            if outcome.record is None:
                told = [fault.told for fault in outcome.faults]
                yield self._place_of[outcome.id], _left_out(outcome.picture, outcome.faults[0].kind, *told)


def judge_reply(reply: Reply, prepared: Prepared, recipe: Recipe) -> Verdict:
    """Check what came from an endpoint.

    Args:
        reply: What came.
        prepared: What was asked about.
        recipe: What a conversation must be like.
    """
    if reply.refusal or reply.finish == "content_filter":
        told = reply.refusal or "a filter of the endpoint held the answer back"
        return Verdict(faults=(Remark("refused", told),))
    if reply.finish == "length":
        told = f"the answer was cut off at {recipe.asking.answer_tokens} tokens"
        return Verdict(faults=(Remark("cut_off", told),))
    return judge(reply.content, len(prepared.regions), recipe.rules)


def _outcome(name: str, prepared: Prepared, verdict: Verdict, attempt: int) -> Outcome:
    regions = prepared.regions
    record = None
    if verdict.exchanges:
        record = to_record(
            Annotation(
                picture=prepared.picture,
                frame=(float(regions.size_px[0]), float(regions.size_px[1])),
                boxes_xyxy_frame=regions.boxes_xyxy_px,
                exchanges=verdict.exchanges,
            )
        )
    return Outcome(
        id=name,
        picture=prepared.picture,
        record=record,
        faults=verdict.faults,
        repairs=verdict.repairs if record is not None else (),
        attempts=attempt,
        dropped=regions.dropped,
    )


def _left_out(picture: str, reason: str, *told: str) -> dict[str, Any]:
    return {"picture": picture, "reason": reason, "told": list(told)}


def _first(pair: tuple[int, dict[str, Any]]) -> int:
    return pair[0]


def _write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json_text(value, what=str(path)) + "\n" for value in values)
