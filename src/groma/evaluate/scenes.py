"""Benchmark "scenes": how well a model finds, names, refers to and refuses things in procedural scenes.

scene -> questions (data.scenes) -> assistant's own calls (locate, describe, ask, regions) -> tallies -> metrics
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groma.boxes import pairwise_iou
from groma.data.scenes.questions import Question, question_of
from groma.data.scenes.referring import groups
from groma.data.scenes.scene import Scene, SceneObject, make_scene
from groma.data.scenes.wording import COLOURS, thing_of
from groma.evaluate.benchmark import DECODING
from groma.evaluate.matching import found_once
from groma.evaluate.measures import Groups, Measure
from groma.evaluate.statistics import Figure, Share, calibration_error, calibration_sums
from groma.inference.assistant import Groma
from groma.inference.pictures import Seen
from groma.inference.result import Entity, GroundedAnswer

BATCH = 16
"""Scenes that are worked on together; the results do not depend on it."""

FOUND_IOU = 0.5
"""A region is right if it overlaps its object at least so much."""

REFERRING = {
    "refer_name": ("refer_name",),
    "refer_attribute": ("refer_attribute",),
    "refer_relation": ("refer_relation", "refer_ordinal"),
}
"""Metric -> kinds of questions that count for it, the preferred one first: a relation to another object ("the dog left
of the cup") is asked wherever a scene has one, a place in the row ("the second dog from the left") in the others.
Attributes, relations and ordinals are asked only where at least two objects of the kind are in the scene, so that the
name alone does not decide."""

RECALLS = ("recall50", "recall75")
"""The metrics that need no words: all that is measured on objects whose names were never learned."""

KEYS = (
    *RECALLS,
    "refer_name",
    "refer_attribute",
    "refer_relation",
    "name_region",
    "locate_all_f1",
    "refused_absent",
    "refused_present",
    "caption_grounding",
    "ece",
)
"""The metrics, in the order they are reported."""

CAPTION = "Describe the image in detail."


@dataclass(slots=True)
class Tally:
    """What was counted on one scene."""

    shares: dict[str, Share] = field(default_factory=dict)
    """Metric -> right and total."""
    located: list[tuple[int, int, int]] = field(default_factory=list)
    """Of each "locate all" answer: regions that are right, regions named, objects that should have been."""
    scores: list[tuple[float, bool]] = field(default_factory=list)
    """Of every region that a locate answer named: its confidence, and whether it was right."""

    def count(self, metric: str, right: bool) -> None:
        """One more case of a metric."""
        share = self.shares.setdefault(metric, Share())
        share.total += 1
        share.right += right

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Tally":
        """Reads what `to_dict` wrote, also after a trip through JSON."""
        right, named, wanted = zip(*values["located"], strict=True) if values["located"] else ((), (), ())
        return cls(
            shares={metric: Share(**share) for metric, share in values["shares"].items()},
            located=list(zip(right, named, wanted, strict=True)),
            scores=[(score, hit) for score, hit in values["scores"]],
        )


@dataclass(frozen=True, slots=True)
class Results:
    """What was counted on all scenes, scene by scene: objects of one scene are not independent of each other."""

    scenes: tuple[Tally, ...]

    def metrics(self) -> dict[str, float]:
        """All of KEYS; NaN where no case occurred."""
        figures = self.figures()
        return {key: figures[key].value if key in figures else math.nan for key in KEYS}

    def figures(self) -> dict[str, Figure]:
        """The metrics that had cases, with 95% intervals by bootstrap over scenes."""
        return {key: measure.figure() for key, measure in self.measures().items() if measure.cases}

    def measures(self) -> dict[str, Measure]:
        """All of KEYS."""
        return {key: self._measure(key) for key in KEYS}

    def located(self) -> tuple[int, int, int]:
        """Of all "locate all" answers: regions that are right, regions named, objects that should have been."""
        right, named, wanted = np.sum([row for tally in self.scenes for row in tally.located], axis=0).tolist()
        return right, named, wanted

    def _measure(self, key: str) -> Measure:
        groups = Groups([str(number) for number in range(len(self.scenes))])
        if key == "locate_all_f1":
            rows = [np.sum(tally.located or [(0, 0, 0)], axis=0) for tally in self.scenes]
            return groups.of_sums(rows, _f1, cases=sum(len(tally.located) for tally in self.scenes))
        if key == "ece":
            rows = [calibration_sums(tally.scores) for tally in self.scenes]
            return groups.of_sums(rows, calibration_error, cases=sum(len(tally.scores) for tally in self.scenes))
        return groups.shares([tally.shares.get(key, Share()) for tally in self.scenes])


def _f1(sums: NDArray[np.float64]) -> float:
    """(3,) right, named and wanted -> harmonic mean of precision and recall over all of them."""
    right, named, wanted = sums.tolist()
    return 2 * right / (named + wanted) if named + wanted else math.nan


def evaluate_scenes(assistant: Groma, *, n: int, seed: int, split: str = "test") -> Results:
    """Ask about scenes 0 .. n-1 of a series.

    Args:
        assistant: the model.
        n: how many scenes.
        seed: which series; training scenes never occur in an evaluation split, whatever the seed.
        split: "test", "test_style" or "test_objects" (see `make_scene`); the last has names the model never
            learned, so only recall is counted.

    Raises:
        InputError: there is no such split, or the seed is out of range.
    """
    tallies: list[Tally] = []
    for start in range(0, n, BATCH):
        tallies += count_scenes(assistant, range(start, min(start + BATCH, n)), seed=seed, split=split)
    return Results(tuple(tallies))


def count_scenes(assistant: Groma, numbers: Sequence[int], *, seed: int, split: str) -> list[Tally]:
    """The same for scenes of these numbers, asked about together; what is counted does not depend on the others."""
    scenes = [make_scene(split, number, seed, size_px=assistant.preprocessing.size_px) for number in numbers]
    seen = assistant.see([scene.image for scene in scenes])
    asked = [
        _Asked(scene, picture, np.random.default_rng((seed, number)), Tally())
        for number, scene, picture in zip(numbers, scenes, seen, strict=True)
    ]
    _count_recall(assistant, asked)
    if split != "test_objects":
        _count_referring(assistant, asked)
        _count_all_of_a_kind(assistant, asked)
        _count_names(assistant, asked)
        _count_captions(assistant, asked)
    return [one.tally for one in asked]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A scene that is asked about."""

    scene: Scene
    seen: Seen
    """What the model saw of it."""
    rng: np.random.Generator
    """Draws the questions."""
    tally: Tally


def _count_recall(assistant: Groma, asked: Sequence[_Asked]) -> None:
    for one, regions in zip(asked, assistant.regions([one.seen for one in asked]), strict=True):
        overlap = _overlap([r.box_xyxy_px for r in regions], [o.box_xyxy_px for o in one.scene.objects])
        for column in overlap.T:
            best = max(column.tolist(), default=0.0)
            one.tally.count("recall50", best >= 0.5)
            one.tally.count("recall75", best >= 0.75)


def _count_referring(assistant: Groma, asked: Sequence[_Asked]) -> None:
    """Locate one thing for each metric, and one thing that is not there."""
    cases = [(one, metric, q) for one in asked for metric, q in _locate_questions(one.scene, one.rng)]
    answers = assistant.locate([one.seen for one, _, _ in cases], [_phrase(q) for *_, q in cases], decoding=DECODING)
    for (one, metric, question), answer in zip(cases, answers, strict=True):
        if metric == "refused_absent":
            one.tally.count(metric, not answer.entities)
            _count_scores(one.tally, answer, [])
            continue
        wanted_xyxy_px = [one.scene.objects[i].box_xyxy_px for i in question.targets[0].objects]
        right = _count_scores(one.tally, answer, wanted_xyxy_px)
        one.tally.count(metric, bool(right) and right[0])
        one.tally.count("refused_present", not answer.entities)


def _count_all_of_a_kind(assistant: Groma, asked: Sequence[_Asked]) -> None:
    """Locate all objects of one name."""
    kinds = [_a_kind(one.scene, one.rng) for one in asked]
    answers = assistant.locate([one.seen for one in asked], [name for name, _ in kinds], all=True, decoding=DECODING)
    for one, (_, members), answer in zip(asked, kinds, answers, strict=True):
        right = _count_scores(one.tally, answer, [one.scene.objects[i].box_xyxy_px for i in members])
        one.tally.located.append((sum(right), len(right), len(members)))
        one.tally.count("refused_present", not answer.entities)


def _locate_questions(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, Question]]:
    """One question for each metric that the scene gives rise to one of; the first kind that it does."""
    for metric, kinds in (*REFERRING.items(), ("refused_absent", ("absent",))):
        possible = [q for kind in kinds if (q := question_of(kind, scene, rng)) is not None]
        if possible:
            yield metric, possible[0]


def _phrase(question: Question) -> str:
    """What a "locate" question looks for."""
    if question.targets:
        return question.targets[0].phrase
    return f"the {thing_of(question.name or 'object', question.colour)}"


def _a_kind(scene: Scene, rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
    """A name in the scene and the objects of that name; kinds with several objects first."""
    kinds = groups(scene)
    several = [name for name, members in kinds.items() if len(members) > 1]
    names = several or list(kinds)
    name = names[rng.integers(len(names))]
    return name, kinds[name]


def _count_scores(tally: Tally, answer: GroundedAnswer, wanted_xyxy_px: Sequence[Sequence[float]]) -> list[bool]:
    """Note the confidence of every region that a locate answer names; returns which of them are right."""
    boxes_xyxy_px = [box for entity in answer.entities for box in entity.boxes_xyxy_px]
    scores = [score for entity in answer.entities for score in entity.region_scores]
    right = found_once(_overlap(boxes_xyxy_px, wanted_xyxy_px).numpy(), FOUND_IOU)
    tally.scores += zip(scores, right, strict=True)
    return right


def _count_names(assistant: Groma, asked: Sequence[_Asked]) -> None:
    """Describe the true box of one object; right if the answer has its name, whatever colour it says."""
    chosen = [one.scene.objects[one.rng.integers(len(one.scene.objects))] for one in asked]
    described = assistant.describe([one.seen for one in asked], [[o.box_xyxy_px] for o in chosen], decoding=DECODING)
    for one, entry, (answer,) in zip(asked, chosen, described, strict=True):
        one.tally.count("name_region", _split_thing(answer.text)[0] == entry.name)


def _count_captions(assistant: Groma, asked: Sequence[_Asked]) -> None:
    """Describe the whole picture; every grounded phrase must lie on an object that it fits and that no phrase before
    it lay on, so that saying the same again does not pay.

    A caption that grounds nothing counts as one wrong phrase, so that silence does not pay either.
    """
    answers = assistant.ask([one.seen for one in asked], CAPTION, grounded=True, decoding=DECODING)
    for one, answer in zip(asked, answers, strict=True):
        left = list(one.scene.objects)
        if not answer.entities:
            one.tally.count("caption_grounding", False)
        for entity in answer.entities:
            entry = _fitting(entity, left)
            one.tally.count("caption_grounding", entry is not None)
            if entry is not None:
                left.remove(entry)


def _fitting(entity: Entity, objects: Sequence[SceneObject]) -> SceneObject | None:
    """The object of the phrase's name and, if it says one, colour, on which its first region lies best."""
    name, colour = _split_thing(entity.phrase)
    fitting = [o for o in objects if o.name == name and (colour is None or colour in o.may_be_called)]
    overlap = _overlap(entity.boxes_xyxy_px[:1], [entry.box_xyxy_px for entry in fitting])
    if not overlap.numel() or overlap.max() < FOUND_IOU:
        return None
    return fitting[int(overlap.argmax())]


def _split_thing(text: str) -> tuple[str, str | None]:
    """Take "A red sailing boat." apart: ("sailing boat", "red")."""
    words = text.strip().rstrip(".").lower().split()
    if words and words[0] in ("a", "an", "the"):
        words = words[1:]
    if words and words[0] in COLOURS:
        return " ".join(words[1:]), words[0]
    return " ".join(words), None


def _overlap(a_xyxy_px: Sequence[Sequence[float]], b_xyxy_px: Sequence[Sequence[float]]) -> torch.Tensor:
    """(n, m) IoU."""
    a, b = (torch.tensor(list(boxes), dtype=torch.float32).reshape(-1, 4) for boxes in (a_xyxy_px, b_xyxy_px))
    return pairwise_iou(a, b)
