"""An assistant without a model, which answers what a function tells it, in the shapes of the real one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from groma.inference.result import Box, Entity, GroundedAnswer, Region


@dataclass
class Seen:
    """A picture that was seen."""

    image: Image.Image


class Knowing:
    """Answers by what `boxes_of(picture, phrase, all)` and `text_of(picture, question, boxes)` say.

    Pictures are told apart by the colour of their first pixel, an integer.
    """

    def __init__(
        self,
        boxes_of: Callable[[int, str, bool], Sequence[tuple[Box, float]]] = lambda *_: (),
        text_of: Callable[[int, str, Sequence[Box]], str] = lambda *_: "",
        regions_of: Callable[[int], Sequence[tuple[Box, float]]] = lambda _: (),
    ) -> None:
        self.boxes_of, self.text_of, self.regions_of = boxes_of, text_of, regions_of
        self.preprocessing = SimpleNamespace(size_px=64)
        self.model = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.model.weight)
        torch.nn.init.zeros_(self.model.bias)
        self.seen: list[int] = []
        self.asked: list[tuple[int, str]] = []

    def see(self, images: Sequence[Image.Image]) -> list[Seen]:
        self.seen += [number_of(image) for image in images]
        return [Seen(image) for image in images]

    def locate(self, seen: Sequence[Seen], phrases: Sequence[str], *, all: bool = False, decoding: Any = None):
        return [self._located(one, phrase, all) for one, phrase in zip(seen, phrases, strict=True)]

    def describe(self, seen: Sequence[Seen], boxes: Sequence[Sequence[Box]], *, decoding: Any = None):
        return [
            [self._said(one, self.text_of(number_of(one.image), "describe", [box])) for box in own]
            for one, own in zip(seen, boxes, strict=True)
        ]

    def ask(self, seen: Sequence[Seen], questions: Sequence[str], *, regions=None, grounded=True, decoding=None):
        return [
            self._said(one, self.text_of(number_of(one.image), question, ()))
            for one, question in zip(seen, questions, strict=True)
        ]

    def regions(self, seen: Sequence[Seen]) -> list[list[Region]]:
        return [_regions(self.regions_of(number_of(one.image))) for one in seen]

    def _located(self, one: Seen, phrase: str, all_of_them: bool) -> GroundedAnswer:
        number = number_of(one.image)
        self.asked.append((number, phrase))
        found = list(self.boxes_of(number, phrase, all_of_them))
        entity = Entity(
            phrase="",
            start=0,
            end=0,
            region_ids=tuple(range(len(found))),
            score=1.0,
            region_scores=tuple(score for _, score in found),
        )
        return GroundedAnswer(
            text="",
            entities=(entity,) if found else (),
            regions=tuple(_regions(found)),
            finish_reason="stop",
            raw_text="",
            image_size_px=one.image.size,
        )

    def _said(self, one: Seen, text: str) -> GroundedAnswer:
        """Text with [phrase|x1,y1,x2,y2] for phrases that are tied to a box."""
        clean, entities, regions = "", [], []
        for part in text.split("["):
            inside, bracket, rest = part.partition("]")
            if not bracket:
                clean += part
                continue
            phrase, _, corners = inside.partition("|")
            x1, y1, x2, y2 = map(float, corners.split(","))
            entities.append((phrase, len(clean)))
            regions.append(((x1, y1, x2, y2), 1.0))
            clean += phrase + rest
        return GroundedAnswer(
            text=clean,
            entities=tuple(
                Entity(phrase=p, start=s, end=s + len(p), region_ids=(k,), score=1.0, region_scores=(1.0,))
                for k, (p, s) in enumerate(entities)
            ),
            regions=tuple(_regions(regions)),
            finish_reason="stop",
            raw_text=text,
            image_size_px=one.image.size,
        )


def _regions(found: Sequence[tuple[Box, float]]) -> list[Region]:
    return [Region(id=k, box_xyxy_px=box, objectness=score, source="proposal") for k, (box, score) in enumerate(found)]


def numbered(number: int, size_px: tuple[int, int] = (100, 100)) -> Image.Image:
    """A picture that says its number."""
    return Image.new("RGB", size_px, (number // 256, number % 256, 7))


def number_of(image: Image.Image) -> int:
    """What `numbered` wrote."""
    red, green, _ = image.getpixel((0, 0))
    return red * 256 + green
