"""Contact sheets of what is learned: picture, boxes, the dialogue as tokens, and which of them are trained on.

People look at data before they train. What is drawn is the lesson itself, after cleaning, cutting and rendering: the
question's tokens grey, the trained ones black, phrases in the colours of their boxes.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from PIL import Image

from groma.boxes import cxcywh_to_xyxy_px, to_tuples
from groma.data.cleaning import BadSampleError
from groma.data.lessons import DetectionLesson, DetectionLessons, DialogueLesson, DialogueLessons
from groma.data.mixture import MixtureSet
from groma.inference.contact_sheet import LETTER_PX, TILE_PX, stacked
from groma.inference.draw import draw_regions, phrase_colors
from groma.inference.lettering import Lettering, Span, caption_strip
from groma.inference.result import Entity, Region
from groma.prompt.parse import ParsedAnswer, parse
from groma.prompt.render import RenderedPrompt
from groma.prompt.tokenizer_base import PromptTokenizer
from groma.prompt.tokens import IGNORE_INDEX


def draw_samples(
    sets: Sequence[MixtureSet],
    lessons: DialogueLessons | DetectionLessons,
    *,
    count: int,
    seed: int,
    tell: Callable[[str], None],
) -> list[Image.Image]:
    """Tiles of samples of all sets in turn; what cannot be used is told and passed over.

    Args:
        sets: what is drawn from.
        lessons: how a stage sees it.
        count: how many tiles; fewer if the sets have fewer samples.
        seed: which samples.
        tell: gets a sentence for every sample that is passed over.
    """
    tiles: list[Image.Image] = []
    for place in range(max(len(one.data) for one in sets)):
        for one in sets:
            if place < len(one.data) and len(tiles) < count:
                number = one.data.order(seed)[place]
                try:
                    tiles.append(_tile(lessons, one, number, np.random.default_rng((seed, number))))
                except BadSampleError as error:
                    tell(f"{one.name} {number}: {error.fault.told}")
    return tiles


def _tile(
    lessons: DialogueLessons | DetectionLessons, one: MixtureSet, number: int, rng: np.random.Generator
) -> Image.Image:
    sample, heading = one.data.sample(number), f"{one.name} {number}"
    if isinstance(lessons, DetectionLessons):
        return detection_tile(lessons(sample, one, rng), heading)
    return dialogue_tile(lessons(sample, one, rng), lessons.tokenizer, heading)


def detection_tile(lesson: DetectionLesson, heading: str) -> Image.Image:
    """A picture of stage 1 with its boxes."""
    picture = Image.fromarray(lesson.pixels)
    boxes = _pixels(lesson.boxes_cxcywh, picture)
    regions = [
        Region(id=number, box_xyxy_px=box, objectness=1.0, source="proposal") for number, box in enumerate(boxes)
    ]
    drawn = draw_regions(picture, regions, width_px=TILE_PX)
    return stacked([drawn, _strip("", (), f"{heading}: {len(boxes)} boxes")])


def dialogue_tile(lesson: DialogueLesson, tokenizer: PromptTokenizer, heading: str) -> Image.Image:
    """A picture of stages 2 and 3 with its dialogues."""
    picture = Image.fromarray(lesson.pixels)
    boxes = _pixels(lesson.prompts.boxes_cxcywh, picture)
    referred = {box for prompt in lesson.prompts.prompts for box in prompt.refer_slots}
    entities: list[Entity] = []
    strips = [_strip("", (), heading)]
    for prompt in lesson.prompts.prompts:
        for question, answer in _turns(prompt, tokenizer):
            found = [
                Entity(
                    phrase=p.text,
                    start=p.start,
                    end=p.end,
                    region_ids=p.regions,
                    score=1.0,
                    region_scores=(1.0,) * len(p.regions),
                )
                for p in answer.phrases
                if p.regions
            ]
            entities += found
            spans = [
                Span(start=e.start, end=e.end, color=color)
                for e, color in zip(entities, phrase_colors(entities), strict=True)
            ][len(entities) - len(found) :]
            strips.append(_strip(answer.raw_text if not answer.text else answer.text, spans, question))
    regions = [
        Region(
            id=number,
            box_xyxy_px=box,
            objectness=1.0,
            source="user" if number in referred else "proposal",
            numbers=(number,) if number in referred else (),
        )
        for number, box in enumerate(boxes)
    ]
    return stacked([draw_regions(picture, regions, entities, width_px=TILE_PX), *strips])


def _turns(prompt: RenderedPrompt, tokenizer: PromptTokenizer) -> Iterator[tuple[str, ParsedAnswer]]:
    """What is not trained on, spelled out, and the trained answer behind it, boxes by their number."""
    special = tokenizer.special
    ground, refer = iter(prompt.ground_slots), iter(prompt.refer_slots)
    question = ""
    pairs = zip(prompt.token_ids, prompt.labels, strict=True)
    for trained, run in groupby(pairs, key=lambda pair: pair[1] != IGNORE_INDEX):
        ids = [token for token, _ in run]
        if trained:
            ids = [special.region(next(ground)) if token == special.ground_box else token for token in ids]
            yield question, parse(ids, tokenizer)
            question = ""
            continue
        for token in ids:
            if token == special.refer_box:
                question += f"[{next(refer)}]"
            elif token not in (special.roi_open, special.roi_close, special.refer_feat):
                text = tokenizer.token_bytes(token).decode("utf-8", "replace")
                question += text or f"{tokenizer.token_name(token)} "
    if question.strip():
        yield question, parse([], tokenizer)


def _pixels(boxes_cxcywh: torch.Tensor, picture: Image.Image) -> list[tuple[float, float, float, float]]:
    return to_tuples(cxcywh_to_xyxy_px(boxes_cxcywh, *picture.size))


def _strip(text: str, spans: Sequence[Span], heading: str) -> Image.Image:
    return caption_strip(text, spans, TILE_PX, Lettering(LETTER_PX), heading=heading)
