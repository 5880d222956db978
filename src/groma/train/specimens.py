"""Answers of the model in training, drawn: people look at what it says, not only at its loss.

samples of a mixture -> a question about each -> the assistant's public calls -> contact sheet
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from groma.boxes import cxcywh_to_xyxy_px, to_tuples
from groma.data.cleaning import BadSampleError
from groma.data.mixture import MixtureSet
from groma.data.tasks import dialogues_of
from groma.inference.assistant import Groma
from groma.inference.contact_sheet import LETTER_PX, TILE_PX, contact_sheet, stacked
from groma.inference.generate import Decoding
from groma.inference.lettering import Lettering, caption_strip
from groma.inference.result import GroundedAnswer
from groma.prompt.dialogue import Phrase, Referred, Segment, Text, Turn

MAX_NEW_TOKENS = 96
"""Longest answer that is waited for."""


@dataclass(frozen=True, slots=True)
class Specimen:
    """A picture and a question that its annotation gives rise to."""

    picture: Image.Image
    """RGB, as it is seen."""
    turn: Turn
    """The question with the annotated answer."""
    boxes_cxcywh: tuple[tuple[float, float, float, float], ...]
    """Boxes that the turn names, normalized."""
    heading: str
    """Which sample it is."""


def find_specimens(sets: Sequence[MixtureSet], count: int, *, seed: int) -> list[Specimen]:
    """Usable samples of all sets in turn, always the same ones; fewer if there are fewer."""
    found: list[Specimen] = []
    orders = [one.data.order(seed) for one in sets]
    for place in range(max(len(one.data) for one in sets)):
        for one, order in zip(sets, orders, strict=True):
            if len(found) == count:
                return found
            if place < len(one.data):
                found += _specimen(one, order[place])
    return found


def _specimen(one: MixtureSet, number: int) -> list[Specimen]:
    try:
        sample = one.data.sample(number)
    except BadSampleError:
        return []  # counted where it is trained on
    dialogues = dialogues_of(one.task, sample.annotation, np.random.default_rng(number), one.options)
    if not dialogues:
        return []
    dialogue = dialogues[number % len(dialogues)]  # sets that give rise to several kinds show all of them
    return [Specimen(sample.picture, dialogue.turns[0], dialogue.boxes_cxcywh, f"{one.name} {number}")]


def answer_specimens(groma: Groma, specimens: Sequence[Specimen]) -> Image.Image:
    """A contact sheet: each picture with the answer's boxes, the question, the answer, and the annotated one."""
    return contact_sheet([_tile(specimen, ask_turn(groma, specimen)) for specimen in specimens])


def ask_turn(groma: Groma, specimen: Specimen) -> GroundedAnswer:
    """Put the question to the assistant as a user would: a phrase to locate, or words that point at boxes."""
    turn, decoding = specimen.turn, Decoding(max_new_tokens=MAX_NEW_TOKENS)
    phrase = next((segment.text for segment in turn.question if isinstance(segment, Phrase)), None)
    if phrase is not None:
        expected = [segment.boxes for segment in turn.answer or () if not isinstance(segment, Text | Referred)]
        several = sum(map(len, expected)) > 1
        return groma.locate(specimen.picture, phrase, all=several, decoding=decoding)
    pointed = [segment.box for segment in turn.question if isinstance(segment, Referred)]
    words = "".join(_words(segment, pointed) for segment in turn.question)
    boxes_cxcywh = torch.tensor([specimen.boxes_cxcywh[box] for box in dict.fromkeys(pointed)]).reshape(-1, 4)
    boxes_xyxy_px = to_tuples(cxcywh_to_xyxy_px(boxes_cxcywh, *specimen.picture.size))
    return groma.ask(specimen.picture, words, regions=boxes_xyxy_px, grounded=turn.grounded, decoding=decoding)


def _words(segment: Segment, pointed: Sequence[int]) -> str:
    """A segment of a question as a user types it: boxes by their number, numbers in brackets doubled."""
    if isinstance(segment, Referred):
        return f"[{list(dict.fromkeys(pointed)).index(segment.box) + 1}]"
    text = segment.text if isinstance(segment, Text | Phrase) else ""
    return re.sub(r"\[(\d+)\]", r"[[\1]]", text) if pointed else text


def _tile(specimen: Specimen, answer: GroundedAnswer) -> Image.Image:
    words = "".join(s.text if isinstance(s, Text | Phrase) else "(boxes)" for s in specimen.turn.answer or ())
    told = caption_strip(f"annotated: {words}", (), TILE_PX, Lettering(LETTER_PX), heading=specimen.heading)
    return stacked([answer.draw(specimen.picture, width_px=TILE_PX, caption=True), told])
