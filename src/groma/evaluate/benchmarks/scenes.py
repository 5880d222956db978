"""Procedural held-out scenes: the benchmark that needs no data, made for groma-tiny (groma.evaluate.scenes)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from groma.boxes import to_tuples
from groma.data.scenes.scene import make_scene
from groma.errors import InputError
from groma.evaluate.benchmark import Benchmark, Drawing, Figures
from groma.evaluate.data_folder import Place
from groma.evaluate.scenes import KEYS, RECALLS, Results, Tally, count_scenes
from groma.inference.assistant import Groma

SPLITS = {
    "test": "scenes of the kind that training shows",
    "test_style": "drawn in a style that training never shows",
    "test_objects": "of objects that training never shows (recall alone, as their names were never learned)",
}
"""Split -> what is special about it."""

COUNT = 1000
"""Scenes of each split, unless told otherwise."""


class ScenesBenchmark(Benchmark):
    """Scenes of one or several splits."""

    name = "scenes"
    told = "procedural scenes: find, name, refer to and refuse things"
    main_metric = "recall50"

    def __init__(self, place: Place) -> None:
        """Choose scenes.

        Raises:
            InputError: there is no such split, or data were given.
        """
        unknown = [split for split in place.splits if split not in SPLITS]
        if unknown:
            raise InputError(f"scenes has no split {', '.join(map(repr, unknown))}; it has {', '.join(SPLITS)}.")
        if place.data or place.annotations or place.pictures:
            raise InputError("benchmark scenes makes its own pictures: leave out --data, --annotations and --pictures.")
        self.splits, self.count, self.seed = place.splits or ("test",), place.n or COUNT, place.seed

    def __len__(self) -> int:
        return self.count * len(self.splits)

    @property
    def sections(self) -> Sequence[str]:
        """See the base class: the splits."""
        return self.splits

    def section_of(self, number: int) -> str:
        """See the base class."""
        return self.splits[number // self.count]

    def identity(self) -> dict[str, Any]:
        """See the base class."""
        return {"splits": list(self.splits), "n": self.count, "seed": self.seed}

    def answer(self, assistant: Groma, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """See the base class: what was counted on each scene."""
        records: dict[int, dict[str, Any]] = {}
        for split in dict.fromkeys(map(self.section_of, numbers)):
            own = [number for number in numbers if self.section_of(number) == split]
            scenes = [number % self.count for number in own]
            tallies = count_scenes(assistant, scenes, seed=self.seed, split=split)
            records.update(zip(own, (tally.to_dict() for tally in tallies), strict=True))
        return [records[number] for number in numbers]

    def figures(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> Figures:
        """See the base class: groma.evaluate.scenes.KEYS."""
        measures = Results(tuple(Tally.from_dict(record) for record in records.values())).measures()
        return {metric: measures[metric] for metric in (RECALLS if section == "test_objects" else KEYS)}

    def reliability(self, section: str, records: Mapping[int, Mapping[str, Any]]) -> list[list[tuple[float, bool]]]:
        """See the base class: every region that a "locate" answer named."""
        return [Tally.from_dict(record).scores for record in records.values()]

    def quality(self, number: int, record: Mapping[str, Any]) -> float | None:
        """See the base class: share of all that was counted on the scene, higher being better for all but one."""
        shares = {k: s for k, s in Tally.from_dict(record).shares.items() if k != "refused_present"}
        total = sum(share.total for share in shares.values())
        return sum(share.right for share in shares.values()) / total if total else None

    def drawing(self, number: int, record: Mapping[str, Any]) -> Drawing:
        """See the base class: the scene and what was counted on it."""
        scene = make_scene(self.section_of(number), number % self.count, self.seed, size_px=SIDE_PX)
        shares = Tally.from_dict(record).shares
        return Drawing(
            picture=Image.fromarray(scene.image),
            boxes_xyxy_px=(),
            labels=(),
            wanted_xyxy_px=tuple(to_tuples(torch.tensor([entry.box_xyxy_px for entry in scene.objects]).float())),
            text=", ".join(f"{metric} {share.right}/{share.total}" for metric, share in shares.items()),
        )


SIDE_PX = 224
"""Side of a scene that is drawn for people."""
