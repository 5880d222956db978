"""Does it say no? Questions about things that are not in the picture, and as many about things that are.

POPE (Li et al. 2023, arXiv 2305.10355): for each picture as many absent classes as present ones, drawn at random, the
most frequent ones, or those that most often come with what is there. Each is asked twice: "is there a ...?", as POPE
does, and "locate", which is refused by naming no box. Upstream's model never refuses.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from groma.data.wording import with_article
from groma.errors import InputError
from groma.evaluate.benchmark import Figures, QuestionBenchmark, answers_of
from groma.evaluate.benchmarks.detection import NAMES
from groma.evaluate.data_folder import PictureFolder, Place, find_annotations, identity_of_files, spaced
from groma.evaluate.detections import Detected, DetectionFile, read_detections, spoken
from groma.evaluate.measures import Groups
from groma.evaluate.questions import Question
from groma.inference.result import Box

KINDS = ("random", "popular", "adversarial")
"""How absent classes are chosen."""

QUESTIONS = 3
"""Present and absent classes of each picture that are asked about, at most (POPE: 3 of each)."""

EXISTS = "Is there {a_thing} in the image?"


@dataclass(frozen=True, slots=True)
class _Case:
    """One class asked about in one picture."""

    kind: str
    detected: Detected
    label: str
    present: bool


class Absent(QuestionBenchmark):
    """Questions about what is there and what is not."""

    name = "absent"
    told = "is there a ...? and locate, of classes that are there and as many that are not (POPE's three ways)"
    main_metric = "f1"

    def __init__(self, place: Place) -> None:
        """Open it.

        Raises:
            InputError: the data are not there, or have one class alone.
        """
        files = find_annotations(place, NAMES, benchmark=self.name)
        self.read = read_detections(next(iter(files.values())))
        if len(self.read.classes) < 2:
            raise InputError(f"{self.read.file} has one class alone: nothing can be absent.")
        self.place = place
        self.cases = _cases(self.read, place)
        if not self.cases:
            raise InputError(f"{self.read.file}: no picture has both present and absent classes that are sure.")
        self.pictures = PictureFolder(place, (case.detected.picture for case in self.cases))

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def sections(self) -> Sequence[str]:
        """See the base class."""
        return KINDS

    def section_of(self, number: int) -> str:
        """See the base class."""
        return self.cases[number].kind

    def identity(self) -> dict[str, Any]:
        """See the base class."""
        return {"files": identity_of_files([self.read.file]), "n": self.place.n, "seed": self.place.seed}

    def picture(self, number: int) -> Image.Image:
        """See the base class."""
        return self.pictures.open(self.cases[number].detected.picture)

    def questions(self, number: int) -> Sequence[Question]:
        """See the base class."""
        thing = spoken(self.cases[number].label)
        exists = EXISTS.format(a_thing=with_article(thing))
        return (Question(call="ask", text=exists), Question(call="locate_all", text=thing))

    def wanted(self, number: int) -> tuple[Box, ...]:
        """See the base class."""
        case = self.cases[number]
        return tuple(thing.box_xyxy_px for thing in case.detected.things if thing.label == case.label)

    def figures(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> Figures:
        """See the base class.

        accuracy, precision, recall, f1, yes: of "is there" as POPE defines them, "yes" being what is looked for.
        refused_absent, refused_present: share of "locate" questions without a box, for what is not and what is there.
        """
        numbers = list(records)
        groups = Groups([self.cases[number].detected.picture for number in numbers])
        answers = [answers_of(records[number]) for number in numbers]
        yes = np.array([says_yes(existing.text) for existing, _ in answers])
        refused = np.array([float(not located.boxes_xyxy_px) for _, located in answers])
        there = np.array([self.cases[number].present for number in numbers])
        counts = np.stack([yes & there, yes, there], axis=1).astype(float)
        return {
            "accuracy": groups.share(yes == there),
            "precision": groups.ratio(yes & there, yes, cases=int(yes.sum())),
            "recall": groups.ratio(yes & there, there, cases=int(there.sum())),
            "f1": groups.of_sums(list(counts), _f1, cases=len(numbers)),
            "yes": groups.share(yes),
            "refused_absent": groups.share(np.where(there, np.nan, refused)),
            "refused_present": groups.share(np.where(there, refused, np.nan)),
        }

    def quality(self, number: int, record: Mapping[str, Any]) -> float | None:
        """See the base class: half for each of the two answers."""
        existing, located = answers_of(record)
        present = self.cases[number].present
        return ((says_yes(existing.text) == present) + (bool(located.boxes_xyxy_px) == present)) / 2


def says_yes(text: str) -> bool:
    """POPE's reading of an answer: its first sentence means no if "no" or "not" is among its words, else yes."""
    first = re.split(r"[.!?\n]", text.strip(), maxsplit=1)[0]
    words = re.findall(r"[a-z']+", first.lower())
    return bool(words) and not any(word in ("no", "not") or word.endswith("n't") for word in words)


def _f1(sums: np.ndarray) -> float:
    hits, said, there = sums.tolist()
    return 2 * hits / (said + there) if said + there else float("nan")


def _cases(read: DetectionFile, place: Place) -> list[_Case]:
    """Questions about all pictures, kind by kind."""
    frequency = Counter(label for one in read.pictures for label in one.labels)
    together = _together(read)
    chosen = [read.pictures[number] for number in spaced(len(read.pictures), place.n)]
    cases: list[_Case] = []
    for kind in KINDS:
        for number, one in enumerate(chosen):
            rng = np.random.default_rng((place.seed, KINDS.index(kind), number))
            present = [label for label in one.labels if label not in one.unsure]
            absent = _surely_absent(one, read)
            count = min(QUESTIONS, len(present), len(absent))
            asked = [present[place] for place in sorted(rng.permutation(len(present))[:count])]
            missing = _choose(kind, one, absent, count, rng, frequency, together)
            cases += [_Case(kind, one, label, True) for label in asked]
            cases += [_Case(kind, one, label, False) for label in missing]
    return cases


def _surely_absent(one: Detected, read: DetectionFile) -> list[str]:
    labels = set(one.labels) | one.unsure
    candidates = sorted(one.absent) if read.is_lvis else sorted(read.classes)
    return [label for label in candidates if label not in labels]


def _choose(
    kind: str,
    one: Detected,
    absent: list[str],
    count: int,
    rng: np.random.Generator,
    frequency: Mapping[str, int],
    together: Mapping[str, Counter[str]],
) -> list[str]:
    """Absent classes to ask about; of equals, the first by name."""
    if kind == "random":
        return [absent[place] for place in sorted(rng.permutation(len(absent))[:count])]
    if kind == "popular":
        return sorted(absent, key=lambda label: -frequency.get(label, 0))[:count]
    company = Counter[str]()
    for label in one.labels:
        company.update(together.get(label, Counter()))
    return sorted(absent, key=lambda label: -company[label])[:count]


def _together(read: DetectionFile) -> dict[str, Counter[str]]:
    """Class -> how often each other one is in the same picture."""
    counts: dict[str, Counter[str]] = {}
    for one in read.pictures:
        for label in one.labels:
            counts.setdefault(label, Counter()).update(other for other in one.labels if other != label)
    return counts
