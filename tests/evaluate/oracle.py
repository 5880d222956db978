"""Assistants that need no model: one knows every scene by heart, the others spoil its answers in one way each."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from groma.data.scenes.referring import EXPRESSIONS, left_to_right
from groma.data.scenes.scene import Scene, make_scene
from groma.data.scenes.wording import thing_of
from groma.data.wording import with_article
from groma.inference.result import Entity, GroundedAnswer, Region

SIDE_PX = 96


@dataclass
class Seen:
    """A picture that the oracle has recognized."""

    scene: Scene


class Oracle:
    """Answers from the true scene through the calls that the benchmark makes of a `Groma`.

    Phrases are looked up among all true expressions of the scene, not among the benchmark's questions.
    """

    def __init__(self, *, n: int, seed: int, splits: Sequence[str] = ("test",), size_px: int = SIDE_PX) -> None:
        self.preprocessing = SimpleNamespace(size_px=size_px)
        scenes = [make_scene(split, index, seed, size_px=size_px) for split in splits for index in range(n)]
        self._scenes = {scene.image.tobytes(): scene for scene in scenes}
        self.calls: list[tuple[str, int]] = []

    # --- what the benchmark calls -----------------------------------------------------------------------------

    def see(self, images: list[Any]) -> list[Seen]:
        self.calls.append(("see", len(images)))
        return [Seen(self._scenes[image.tobytes()]) for image in images]

    def regions(self, seen: list[Seen]) -> list[list[Region]]:
        return [list(self._regions(picture.scene)) for picture in seen]

    def locate(self, seen: list[Seen], phrases: list[str], *, all: bool = False, decoding=None) -> list[GroundedAnswer]:
        self.calls.append(("locate", len(phrases)))
        members = self._all if all else self._one
        return [
            self._answer(s.scene, phrase, [(phrase, members(s.scene, phrase))])
            for s, phrase in zip(seen, phrases, strict=True)
        ]

    def describe(
        self, seen: list[Seen], boxes: list[list[Sequence[float]]], *, decoding=None
    ) -> list[list[GroundedAnswer]]:
        answers = []
        for picture, given in zip(seen, boxes, strict=True):
            by_box = {o.box_xyxy_px: o for o in picture.scene.objects}
            entries = [by_box[tuple(box)] for box in given]
            texts = [with_article(thing_of(self.name(entry.name), entry.colour)) for entry in entries]
            answers.append([self._answer(picture.scene, text + ".", []) for text in texts])
        return answers

    def ask(self, seen: list[Seen], question: str, *, grounded: bool, decoding=None) -> list[GroundedAnswer]:
        assert grounded and "Describe" in question
        answers = []
        for picture in seen:
            objects = picture.scene.objects
            phrases = [
                (with_article(thing_of(objects[k].name, objects[k].colour)), [k]) for k in left_to_right(picture.scene)
            ]
            answers.append(self._answer(picture.scene, ", ".join(phrase for phrase, _ in phrases), phrases))
        return answers

    # --- what it knows, and where it can be spoiled -----------------------------------------------------------

    score = 1.0

    def name(self, name: str) -> str:
        return name

    def box(self, box_xyxy_px: Sequence[float]) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = map(float, box_xyxy_px)
        return x1, y1, x2, y2

    def choose(self, scene: Scene, found: list[int]) -> list[int]:
        """Objects to be named, of those that the phrase means."""
        return found

    def _one(self, scene: Scene, phrase: str) -> list[int]:
        bare = phrase.removeprefix("the ").removeprefix("a ").removeprefix("an ")
        found = {e.target for expressions in EXPRESSIONS.values() for e in expressions(scene) if e.text == bare}
        assert len(found) <= 1, f"{phrase} means {found}"
        return self.choose(scene, sorted(found))

    def _all(self, scene: Scene, phrase: str) -> list[int]:
        return self.choose(scene, [k for k, entry in enumerate(scene.objects) if entry.name == phrase])

    def _regions(self, scene: Scene) -> tuple[Region, ...]:
        return tuple(
            Region(id=k, box_xyxy_px=self.box(entry.box_xyxy_px), objectness=1.0, source="proposal")
            for k, entry in enumerate(scene.objects)
        )

    def _answer(self, scene: Scene, text: str, phrases: list[tuple[str, list[int]]]) -> GroundedAnswer:
        entities, start = [], 0
        for phrase, members in phrases:
            if not members:
                continue
            start = text.index(phrase, start)
            entities.append(
                Entity(
                    phrase=phrase,
                    start=start,
                    end=start + len(phrase),
                    region_ids=tuple(members),
                    score=self.score,
                    region_scores=(self.score,) * len(members),
                )
            )
            start += len(phrase)
        return GroundedAnswer(
            text=text,
            entities=tuple(entities),
            regions=self._regions(scene),
            finish_reason="stop",
            raw_text=text,
            image_size_px=(scene.size_px, scene.size_px),
        )


class Silent(Oracle):
    """Finds nothing, names nothing."""

    def _regions(self, scene: Scene) -> tuple[Region, ...]:
        return ()

    def choose(self, scene: Scene, found: list[int]) -> list[int]:
        return []

    def name(self, name: str) -> str:
        return "thing"

    def ask(self, seen: list[Seen], question: str, *, grounded: bool, decoding=None) -> list[GroundedAnswer]:
        return [self._answer(picture.scene, "I see nothing.", []) for picture in seen]


class Shifted(Oracle):
    """Every box lies two thirds of its width beside its object."""

    def box(self, box_xyxy_px: Sequence[float]) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = map(float, box_xyxy_px)
        shift = 2 / 3 * (x2 - x1)
        return x1 + shift, y1, x2 + shift, y2


class Shrunk(Oracle):
    """Every box has its object's middle, but only 60% of its area."""

    def box(self, box_xyxy_px: Sequence[float]) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = map(float, box_xyxy_px)
        dx, dy = ((1 - 0.6**0.5) / 2 * side for side in (x2 - x1, y2 - y1))
        return x1 + dx, y1 + dy, x2 - dx, y2 - dy


class Credulous(Oracle):
    """Finds what is not there: takes the first object."""

    def choose(self, scene: Scene, found: list[int]) -> list[int]:
        return found or [0]


class Stammering(Oracle):
    """Names every region of an answer's first object twice, by two regions that both lie on it."""

    def _regions(self, scene: Scene) -> tuple[Region, ...]:
        once = super()._regions(scene)
        again = (
            Region(id=k + len(once), box_xyxy_px=r.box_xyxy_px, objectness=1.0, source="proposal")
            for k, r in enumerate(once)
        )
        return (*once, *again)

    def _all(self, scene: Scene, phrase: str) -> list[int]:
        found = super()._all(scene, phrase)
        return [*found, found[0] + len(scene.objects)]


class Repeating(Oracle):
    """Describes its first object nine times over."""

    def ask(self, seen: list[Seen], question: str, *, grounded: bool, decoding=None) -> list[GroundedAnswer]:
        phrases = [f"a {picture.scene.objects[0].name}" for picture in seen]
        return [
            self._answer(picture.scene, ", ".join([phrase] * 9), [(phrase, [0])] * 9)
            for picture, phrase in zip(seen, phrases, strict=True)
        ]


class Unsure(Oracle):
    """Right, but only 70% sure of it."""

    score = 0.7
