"""Benchmark "scenes": how well a model finds, names, refers to and refuses things in procedural scenes.

    scene -> questions (data.scenes) -> assistant's own calls (locate, describe, ask, regions) -> tallies -> metrics
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from groma.boxes import pairwise_iou
from groma.data.scenes.questions import Question, question_of
from groma.data.scenes.referring import groups
from groma.data.scenes.scene import Scene, make_scene
from groma.data.scenes.wording import COLOURS, thing_of
from groma.evaluate.statistics import Share, expected_calibration_error
from groma.inference.assistant import Groma, Seen
from groma.inference.result import Entity, GroundedAnswer

BATCH = 16
"""Scenes that are worked on together; the results do not depend on it."""

REFERRING = {
    "refer_name": ("refer_name",),
    "refer_attribute": ("refer_attribute",),
    "refer_relation": ("refer_relation", "refer_ordinal"),
}
"""Metric -> kinds of questions that count for it. Attributes, relations and ordinals are asked only where at least
two objects of the kind are in the scene, so that the name alone does not decide."""

KEYS = (
    "recall50",
    "recall75",
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


@dataclass(slots=True)
class Tallies:
    """Counts that the metrics are made of."""

    shares: dict[str, Share] = field(default_factory=dict)
    """metric -> right and total"""
    found: int = 0
    """locate all: regions that are right"""
    named: int = 0
    """locate all: regions that were named"""
    wanted: int = 0
    """locate all: objects that should have been"""
    scores: list[float] = field(default_factory=list)
    """confidence of every region named by a locate answer"""
    right: list[bool] = field(default_factory=list)
    """whether that region was right"""

    def count(self, metric: str, right: bool) -> None:
        """One more case of a metric."""
        share = self.shares.setdefault(metric, Share())
        share.total += 1
        share.right += right

    def metrics(self) -> dict[str, float]:
        """All of KEYS; NaN where no case occurred."""
        values = {key: self.shares[key].value if key in self.shares else float("nan") for key in KEYS}
        both = self.named + self.wanted
        values["locate_all_f1"] = 2 * self.found / both if both else float("nan")
        values["ece"] = expected_calibration_error(self.scores, self.right)
        return values


def evaluate_scenes(assistant: Groma, *, n: int, seed: int, split: str = "test") -> Tallies:
    """Ask about scenes 0 .. n-1 of a series.

    Args:
        assistant: the model.
        n: how many scenes.
        seed: which series; training scenes never occur in an evaluation split, whatever the seed.
        split: "test", "test_style" or "test_objects" (see `make_scene`); the last has names the model never
            learned, so only recall is counted.
    """
    tallies = Tallies()
    for start in range(0, n, BATCH):
        numbers = range(start, min(start + BATCH, n))
        scenes = [make_scene(split, number, seed, size_px=assistant.preprocessing.size_px) for number in numbers]
        seen = assistant.see([scene.image for scene in scenes])
        _count_recall(tallies, assistant, scenes, seen)
        if split != "test_objects":
            rngs = [np.random.default_rng((seed, number)) for number in numbers]
            _count_referring(tallies, assistant, list(zip(scenes, seen, rngs, strict=True)))
            _count_names(tallies, assistant, list(zip(scenes, seen, rngs, strict=True)))
            _count_captions(tallies, assistant, scenes, seen)
    return tallies


def _count_recall(tallies: Tallies, assistant: Groma, scenes: Sequence[Scene], seen: Sequence[Seen]) -> None:
    for scene, regions in zip(scenes, assistant.regions(list(seen)), strict=True):
        best = _overlap([r.box_xyxy_px for r in regions], [o.box_xyxy_px for o in scene.objects]).amax(0)
        for iou in best.tolist():
            tallies.count("recall50", iou >= 0.5)
            tallies.count("recall75", iou >= 0.75)


Asked = tuple[Scene, Seen, np.random.Generator]


def _count_referring(tallies: Tallies, assistant: Groma, asked: Sequence[Asked]) -> None:
    """Locate one thing of each metric, one thing that is not there, and all of a kind."""
    cases = [(s, picture, metric, q) for s, picture, rng in asked for metric, q in _locate_questions(s, rng)]
    answers = assistant.locate([picture for _, picture, _, _ in cases], [_phrase(q) for *_, q in cases])
    for (scene, _, metric, question), answer in zip(cases, answers, strict=True):
        if metric == "refused_absent":
            tallies.count(metric, not answer.entities)
            continue
        wanted = [scene.objects[i].box_xyxy_px for i in question.targets[0].objects]
        right = _first_is_right(answer, wanted)
        tallies.count(metric, right)
        tallies.count("refused_present", not answer.entities)
        _count_scores(tallies, answer, wanted)
    kinds = [(s, picture, *_a_kind(s, rng)) for s, picture, rng in asked]
    answers = assistant.locate([k[1] for k in kinds], [k[2] for k in kinds], all=True)
    for (scene, _, _, members), answer in zip(kinds, answers, strict=True):
        wanted = [scene.objects[i].box_xyxy_px for i in members]
        boxes = [box for entity in answer.entities for box in entity.boxes_xyxy_px]
        tallies.found += _matches(boxes, wanted)
        tallies.named += len(boxes)
        tallies.wanted += len(wanted)
        tallies.count("refused_present", not answer.entities)
        _count_scores(tallies, answer, wanted)


def _locate_questions(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, Question]]:
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


def _count_names(tallies: Tallies, assistant: Groma, asked: Sequence[Asked]) -> None:
    """Describe the true box of one object; right if the answer has its name."""
    chosen = [scene.objects[rng.integers(len(scene.objects))] for scene, _, rng in asked]
    answers = assistant.describe([picture for _, picture, _ in asked], [[o.box_xyxy_px] for o in chosen])
    for entry, (answer,) in zip(chosen, answers, strict=True):
        tallies.count("name_region", _split_thing(answer.text)[0] == entry.name)


def _count_captions(tallies: Tallies, assistant: Groma, scenes: Sequence[Scene], seen: Sequence[Seen]) -> None:
    """Describe the whole picture; every grounded phrase must lie on an object that it fits."""
    for scene, answer in zip(scenes, assistant.ask(list(seen), CAPTION, grounded=True), strict=True):
        for entity in answer.entities:
            tallies.count("caption_grounding", _fits(entity, scene))


CAPTION = "Describe the image in detail."


def _fits(entity: Entity, scene: Scene) -> bool:
    name, colour = _split_thing(entity.phrase)
    fitting = [
        o.box_xyxy_px for o in scene.objects if o.name == name and (colour is None or colour in (o.colour, *o.may_be_called))
    ]
    return _matches(list(entity.boxes_xyxy_px[:1]), fitting) == 1


def _split_thing(text: str) -> tuple[str, str | None]:
    """ "a red sailing boat." -> ("sailing boat", "red")."""
    words = text.strip().rstrip(".").split()
    if words and words[0].lower() in ("a", "an", "the"):
        words = words[1:]
    if words and words[0] in COLOURS:
        return " ".join(words[1:]), words[0]
    return " ".join(words), None


def _first_is_right(answer: GroundedAnswer, wanted: Sequence[Sequence[float]]) -> bool:
    return bool(answer.entities) and _matches(list(answer.entities[0].boxes_xyxy_px[:1]), wanted) == 1


def _count_scores(tallies: Tallies, answer: GroundedAnswer, wanted: Sequence[Sequence[float]]) -> None:
    for entity in answer.entities:
        overlaps = _overlap(entity.boxes_xyxy_px, wanted).amax(1) >= 0.5
        tallies.scores += entity.region_scores
        tallies.right += overlaps.tolist()


def _matches(boxes_xyxy_px: Sequence[Sequence[float]], wanted_xyxy_px: Sequence[Sequence[float]]) -> int:
    """How many boxes find an object (IoU at least 0.5), each object found once, best pairs first."""
    if not boxes_xyxy_px or not wanted_xyxy_px:
        return 0
    overlap = _overlap(boxes_xyxy_px, wanted_xyxy_px)
    count = 0
    while overlap.numel() and overlap.max() >= 0.5:
        row, column = divmod(int(overlap.argmax()), overlap.shape[1])
        overlap[row], overlap[:, column] = 0.0, 0.0
        count += 1
    return count


def _overlap(a_xyxy_px: Sequence[Sequence[float]], b_xyxy_px: Sequence[Sequence[float]]) -> torch.Tensor:
    """(n, m) IoU."""
    a, b = (torch.tensor(list(boxes), dtype=torch.float32).reshape(-1, 4) for boxes in (a_xyxy_px, b_xyxy_px))
    return pairwise_iou(a, b)
