"""LLaVA-Bench (COCO): open questions, judged pairwise against answers of a language model that read the annotations.

The published protocol (Liu et al. 2023, arXiv 2304.08485): 90 questions about 30 pictures of COCO; the figure is the
model's total score over the reference's. Here each pair is judged in both orders, and the prompt is our own wording:
figures of different judges or wordings are not comparable, so both are written beside them.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groma.curate.endpoint import MODEL_VARIABLE, find_access
from groma.errors import InputError
from groma.evaluate.benchmark import Figures, QuestionBenchmark
from groma.evaluate.data_folder import PictureFolder, Place, find_annotations, identity_of_files, spaced
from groma.evaluate.judging import PROMPT_VERSION, Pair, Verdict, judge_model, judge_pairs
from groma.evaluate.measures import Groups, Measure
from groma.evaluate.questions import Question
from groma.inference.generate import Decoding
from groma.inference.result import Box

QUESTIONS = ("qa90_questions.jsonl", "questions.jsonl")
REFERENCES = ("qa90_gpt4_answer.jsonl", "reference_answers.jsonl")
CONTEXTS = ("caps_boxes_coco2014_val_80.jsonl", "context.jsonl")
"""What the files may be called."""

CATEGORIES = ("conversation", "detail", "reasoning")
"""Kinds of questions; files may write "conv" and "complex"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    picture: str
    category: str
    question: str
    reference: str
    context: str


class LlavaBench(QuestionBenchmark):
    """Questions with a judge."""

    name = "llava-bench"
    main_metric = "all"
    decoding = Decoding(max_new_tokens=512)

    def __init__(self, place: Place) -> None:
        """Open it, and make sure that there is a judge before anything is asked.

        Raises:
            InputError: files are missing or do not belong together, or there is no judge.
        """
        self.files = _find(place)
        self.judge, self.model = place.judge, judge_model(place.judge, os.environ.get(MODEL_VARIABLE))
        self.access = find_access(url=place.judge.url or None)
        cases = _read(*self.files)
        self.cases = [cases[number] for number in spaced(len(cases), place.n)]
        self.pictures = PictureFolder(place, (case.picture for case in self.cases))
        self.place = place
        self.told = (
            f"open questions, judged by {self.model} (prompt {PROMPT_VERSION}, both orders) against reference answers: "
            "total score over theirs"
        )

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def sections(self) -> Sequence[str]:
        """See the base class."""
        return ("all",)

    def section_of(self, number: int) -> str:
        """See the base class."""
        return "all"

    def identity(self) -> dict[str, Any]:
        """See the base class; another judge makes it another run."""
        judge = {"model": self.model, "url": self.access.shown_url, "prompt": PROMPT_VERSION}
        return {"files": identity_of_files(self.files), "n": self.place.n, "judge": judge}

    def picture(self, number: int) -> Image.Image:
        """See the base class."""
        return self.pictures.open(self.cases[number].picture)

    def questions(self, number: int) -> Sequence[Question]:
        """See the base class."""
        return (Question(call="ask_plainly", text=self.cases[number].question),)

    def wanted(self, number: int) -> tuple[Box, ...]:
        """See the base class: none."""
        return ()

    def finish(self, records: list[dict[str, Any]], out: Path | None) -> list[dict[str, Any]]:
        """Have all answers judged; the record gets "verdicts", (reference, model) in both orders."""
        if all("verdicts" in record for record in records):
            return records
        pairs = [
            Pair(
                question=case.question,
                picture=case.context,
                first=case.reference,
                second=record["answers"][0]["text"],
            )
            for case, record in zip(self.cases, records, strict=True)
        ]
        judged = judge_pairs(pairs, judge=self.judge, model=self.model, out=out)
        return [
            record | {"verdicts": [_plain(verdict) for verdict in verdicts]}
            for record, verdicts in zip(records, judged, strict=True)
        ]

    def figures(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> Figures:
        """See the base class.

        conversation, detail, reasoning, all: the model's total score over the reference's, both orders together.
        reference_first, model_first: the same of one order alone; their distance is the judge's liking for a place.
        unjudged: share of verdicts without two scores.
        """
        numbers = list(records)
        groups = Groups([self.cases[number].picture for number in numbers])
        both = np.array([[_scores(verdict) for verdict in records[number]["verdicts"]] for number in numbers])
        categories = np.array([self.cases[number].category for number in numbers])

        def relative(rows: np.ndarray, orders: Sequence[int]) -> Measure:
            chosen = np.where(rows[:, None, None], both, np.nan)[:, list(orders)]
            sums = np.nansum(chosen, axis=1)
            cases = int((~np.isnan(chosen[..., 0])).any(axis=1).sum())
            return groups.ratio(sums[:, 1], sums[:, 0], cases=cases, at_most=math.inf)

        figures = {name: relative(categories == name, (0, 1)) for name in CATEGORIES}
        every = np.ones(len(numbers), dtype=bool)
        return figures | {
            "all": relative(every, (0, 1)),
            "reference_first": relative(every, (0,)),
            "model_first": relative(every, (1,)),
            "unjudged": groups.mean(np.isnan(both[..., 0]).mean(axis=1)),
        }

    def quality(self, number: int, record: Mapping[str, Any]) -> float | None:
        """See the base class: the model's mean score, as a share of 10."""
        scores = [_scores(verdict)[1] for verdict in record["verdicts"] if verdict is not None]
        return float(np.mean(scores)) / 10 if scores else None


def _plain(verdict: Verdict | None) -> list[float] | None:
    return None if verdict is None else [verdict.first, verdict.second]


def _scores(verdict: Sequence[float] | None) -> tuple[float, float]:
    return (math.nan, math.nan) if verdict is None else (verdict[0], verdict[1])


def _find(place: Place) -> tuple[Path, Path, Path]:
    """Questions, reference answers and contexts."""
    if place.annotations is not None:
        raise InputError("llava-bench has three files: give --data FOLDER with them instead of --annotations.")
    found = [
        next(iter(find_annotations(place, {what: names}, benchmark="llava-bench").values()))
        for what, names in (("questions", QUESTIONS), ("reference answers", REFERENCES), ("contexts", CONTEXTS))
    ]
    return found[0], found[1], found[2]


def _read(questions: Path, references: Path, contexts: Path) -> list[_Case]:
    answers = {row["question_id"]: row["text"] for row in _rows(references, ("question_id", "text"))}
    told = {row["image"]: _context(row) for row in _rows(contexts, ("image",))}
    cases: list[_Case] = []
    for row in _rows(questions, ("question_id", "image", "text", "category")):
        if row["question_id"] not in answers:
            raise InputError(f"{references} has no answer to question {row['question_id']}.")
        if row["image"] not in told:
            raise InputError(f"{contexts} says nothing about the picture {row['image']}.")
        cases.append(
            _Case(
                picture=row["image"],
                category=_category(row["category"], questions),
                question=row["text"],
                reference=answers[row["question_id"]],
                context=told[row["image"]],
            )
        )
    if not cases:
        raise InputError(f"{questions} has no questions.")
    return cases


def _category(name: str, file: Path) -> str:
    for category, start in (("conversation", "conv"), ("detail", "detail"), ("reasoning", "complex")):
        if start in name or category in name:
            return category
    raise InputError(f"{file}: category {name!r} is none of {', '.join(CATEGORIES)}.")


def _context(row: Mapping[str, Any]) -> str:
    """Captions, and boxes as they are written: what the reference answers were made from."""
    captions = row.get("captions") or []
    lines = list(captions) if isinstance(captions, list) else [str(captions)]
    for thing in row.get("instances") or []:
        lines.append(f"{thing['category']}: {json.dumps(thing['bbox'])}")
    return "\n".join(map(str, lines))


def _rows(file: Path, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{file}, line {number}: no JSON: {error}.") from error
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise InputError(f"{file}, line {number}: {', '.join(missing)} missing: is it another benchmark's file?")
        rows.append(row)
    return rows
