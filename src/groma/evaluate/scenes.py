"""Benchmark "scenes": how well a model finds, names, refers to and refuses things in procedural scenes.

scene -> questions (data.scenes) -> assistant's own calls (locate, describe, ask, regions) -> tallies -> metrics
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from groma.boxes import pairwise_iou
from groma.data.scenes.questions import Question, question_of
from groma.data.scenes.referring import groups
from groma.data.scenes.scene import Scene, make_scene
from groma.data.scenes.wording import COLOURS, thing_of
from groma.evaluate.statistics import Figure, Share, bootstrap, expected_calibration_error
from groma.inference.assistant import Groma
from groma.inference.generate import Decoding
from groma.inference.pictures import Seen
from groma.inference.result import Box, Entity, GroundedAnswer

DECODING = Decoding(max_new_tokens=160)
"""Greedy; nine objects with phrases and regions take 110 tokens, so nothing that is right is cut."""

BATCH = 16
"""Scenes that are worked on together; the results do not depend on it."""

FOUND_IOU = 0.5
"""A region is right if it overlaps its object at least so much."""

REFERRING = {
    "refer_name": ("refer_name",),
    "refer_attribute": ("refer_attribute",),
    "refer_relation": ("refer_relation", "refer_ordinal"),
}
"""Metric -> kinds of questions that count for it. Attributes, relations and ordinals are asked only where at least
two objects of the kind are in the scene, so that the name alone does not decide."""

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
class Tallies:
    """Counts that the metrics are made of."""

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

    def metrics(self) -> dict[str, float]:
        """All of KEYS; NaN where no case occurred."""
        values = {key: self.shares.get(key, Share()).value for key in KEYS}
        values["locate_all_f1"] = _f1(np.asarray(self.located, dtype=float).reshape(-1, 3))
        values["ece"] = _calibration(np.asarray(self.scores, dtype=float).reshape(-1, 2))
        return values

    def figures(self) -> dict[str, Figure]:
        """The metrics that had cases, with 95% intervals: Wilson's for shares, else by bootstrap over answers."""
        figures = {key: share.figure() for key, share in self.shares.items()}
        if self.located:
            figures["locate_all_f1"] = bootstrap(self.located, _f1)
        if self.scores:
            figures["ece"] = bootstrap(self.scores, _calibration)
        return {key: figures[key] for key in KEYS if key in figures}


def _f1(rows: NDArray[np.float64]) -> float:
    """(n, 3) right, named and wanted -> harmonic mean of precision and recall over all of them."""
    right, named, wanted = rows.sum(0).tolist()
    return 2 * right / (named + wanted) if named + wanted else float("nan")


def _calibration(rows: NDArray[np.float64]) -> float:
    """(n, 2) confidence and 0 or 1 -> calibration error."""
    return expected_calibration_error(rows[:, 0].tolist(), rows[:, 1].tolist())


def evaluate_scenes(assistant: Groma, *, n: int, seed: int, split: str = "test") -> Tallies:
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
    tallies = Tallies()
    for start in range(0, n, BATCH):
        numbers = range(start, min(start + BATCH, n))
        scenes = [make_scene(split, number, seed, size_px=assistant.preprocessing.size_px) for number in numbers]
        seen = assistant.see([scene.image for scene in scenes])
        _count_recall(tallies, assistant, scenes, seen)
        if split != "test_objects":
            rngs = [np.random.default_rng((seed, number)) for number in numbers]
            asked = list(zip(scenes, seen, rngs, strict=True))
            _count_referring(tallies, assistant, asked)
            _count_all_of_a_kind(tallies, assistant, asked)
            _count_names(tallies, assistant, asked)
            _count_captions(tallies, assistant, scenes, seen)
    return tallies


Asked = tuple[Scene, Seen, np.random.Generator]
"""A scene, what the model saw of it, and what draws the questions about it."""


def _count_recall(tallies: Tallies, assistant: Groma, scenes: Sequence[Scene], seen: Sequence[Seen]) -> None:
    for scene, regions in zip(scenes, assistant.regions(list(seen)), strict=True):
        overlap = _overlap([r.box_xyxy_px for r in regions], [o.box_xyxy_px for o in scene.objects])
        for column in overlap.T:
            best = max(column.tolist(), default=0.0)
            tallies.count("recall50", best >= 0.5)
            tallies.count("recall75", best >= 0.75)


def _count_referring(tallies: Tallies, assistant: Groma, asked: Sequence[Asked]) -> None:
    """Locate one thing for each metric, and one thing that is not there."""
    cases = [(s, picture, metric, q) for s, picture, rng in asked for metric, q in _locate_questions(s, rng)]
    answers = assistant.locate(
        [picture for _, picture, _, _ in cases], [_phrase(q) for *_, q in cases], decoding=DECODING
    )
    for (scene, _, metric, question), answer in zip(cases, answers, strict=True):
        if metric == "refused_absent":
            tallies.count(metric, not answer.entities)
            _count_scores(tallies, answer, [])
            continue
        right = _count_scores(tallies, answer, [scene.objects[i].box_xyxy_px for i in question.targets[0].objects])
        tallies.count(metric, bool(right) and right[0])
        tallies.count("refused_present", not answer.entities)


def _count_all_of_a_kind(tallies: Tallies, assistant: Groma, asked: Sequence[Asked]) -> None:
    """Locate all objects of one name."""
    kinds = [_a_kind(scene, rng) for scene, _, rng in asked]
    answers = assistant.locate(
        [picture for _, picture, _ in asked], [name for name, _ in kinds], all=True, decoding=DECODING
    )
    for (scene, _, _), (_, members), answer in zip(asked, kinds, answers, strict=True):
        right = _count_scores(tallies, answer, [scene.objects[i].box_xyxy_px for i in members])
        tallies.located.append((sum(right), len(right), len(members)))
        tallies.count("refused_present", not answer.entities)


def _locate_questions(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, Question]]:
    """One question for each metric that the scene gives rise to one of."""
    for metric, kinds in (*REFERRING.items(), ("refused_absent", ("absent",))):
        possible = [q for kind in kinds if (q := question_of(kind, scene, rng)) is not None]
        if possible:
            yield metric, possible[rng.integers(len(possible))]


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


def _count_scores(tallies: Tallies, answer: GroundedAnswer, wanted_xyxy_px: Sequence[Sequence[float]]) -> list[bool]:
    """Note the confidence of every region that a locate answer names; returns which of them are right."""
    boxes_xyxy_px = [box for entity in answer.entities for box in entity.boxes_xyxy_px]
    scores = [score for entity in answer.entities for score in entity.region_scores]
    right = _found(boxes_xyxy_px, wanted_xyxy_px)
    tallies.scores += zip(scores, right, strict=True)
    return right


def _count_names(tallies: Tallies, assistant: Groma, asked: Sequence[Asked]) -> None:
    """Describe the true box of one object; right if the answer has its name, whatever colour it says."""
    chosen = [scene.objects[rng.integers(len(scene.objects))] for scene, _, rng in asked]
    described = assistant.describe(
        [picture for _, picture, _ in asked], [[o.box_xyxy_px] for o in chosen], decoding=DECODING
    )
    for entry, (answer,) in zip(chosen, described, strict=True):
        tallies.count("name_region", _split_thing(answer.text)[0] == entry.name)


def _count_captions(tallies: Tallies, assistant: Groma, scenes: Sequence[Scene], seen: Sequence[Seen]) -> None:
    """Describe the whole picture; every grounded phrase must lie on an object that it fits.

    A caption that grounds nothing counts as one wrong phrase, so that silence does not pay.
    """
    for scene, answer in zip(scenes, assistant.ask(list(seen), CAPTION, grounded=True, decoding=DECODING), strict=True):
        for entity in answer.entities or (None,):
            tallies.count("caption_grounding", entity is not None and _fits(entity, scene))


def _fits(entity: Entity, scene: Scene) -> bool:
    """Whether the phrase's first region lies on an object of its name and, if it says one, colour."""
    name, colour = _split_thing(entity.phrase)
    fitting = [
        entry.box_xyxy_px
        for entry in scene.objects
        if entry.name == name and (colour is None or colour in entry.may_be_called)
    ]
    return any(_found(entity.boxes_xyxy_px[:1], fitting))


def _split_thing(text: str) -> tuple[str, str | None]:
    """Take "A red sailing boat." apart: ("sailing boat", "red")."""
    words = text.strip().rstrip(".").lower().split()
    if words and words[0] in ("a", "an", "the"):
        words = words[1:]
    if words and words[0] in COLOURS:
        return " ".join(words[1:]), words[0]
    return " ".join(words), None


def _found(boxes_xyxy_px: Sequence[Box], wanted_xyxy_px: Sequence[Sequence[float]]) -> list[bool]:
    """Which boxes find an object (IoU at least FOUND_IOU); each object is found once, by the box that fits best."""
    overlap = _overlap(boxes_xyxy_px, wanted_xyxy_px)
    found = [False] * len(boxes_xyxy_px)
    while overlap.numel() and overlap.max() >= FOUND_IOU:
        row, column = divmod(int(overlap.argmax()), overlap.shape[1])
        overlap[row], overlap[:, column] = 0.0, 0.0
        found[row] = True
    return found


def _overlap(a_xyxy_px: Sequence[Sequence[float]], b_xyxy_px: Sequence[Sequence[float]]) -> torch.Tensor:
    """(n, m) IoU."""
    a, b = (torch.tensor(list(boxes), dtype=torch.float32).reshape(-1, 4) for boxes in (a_xyxy_px, b_xyxy_px))
    return pairwise_iou(a, b)
