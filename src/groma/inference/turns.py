"""From what a user asks to a dialogue, and from earlier answers back into one.

question, boxes, history --> Exchange: a dialogue whose last turn is open, and which of its boxes the user points at

Earlier answers come back as boxes, not as region numbers: the boxes of a new question can change which regions a
picture has, and so every number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from groma.boxes import to_tuples, xyxy_px_to_cxcywh
from groma.errors import InputError
from groma.inference.request import BoxesXyxyPx, check_boxes_xyxy_px, check_phrase, check_switch, question_segments
from groma.inference.result import Box, Entity, GroundedAnswer
from groma.prompt.dialogue import Dialogue, Grounding, Phrase, Segment, Text, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One question about one picture, with what was said before."""

    question: str
    """as the user asked it"""
    dialogue: Dialogue
    """all turns; the last has no answer yet"""
    user_boxes: tuple[int, ...] = ()
    """indices of the dialogue's boxes that the user points at; those of this question come first, so that of boxes
    which overlap much it is theirs that becomes a region"""
    listed: tuple[int, ...] = ()
    """of those, the ones of the first turn, which take part in the choice of regions"""
    asked: tuple[int, ...] = ()
    """of those, the ones of this question: [1], [2], ..."""
    looked_for: str | None = None
    """the phrase that is to be located; None: another question"""
    all: bool = False
    """every instance of it is to be located"""

    @property
    def grounded(self) -> bool:
        """Whether phrases tied to boxes are asked for."""
        return self.dialogue.turns[-1].grounded

    @property
    def boxes_cxcywh(self) -> Tensor:
        """(n, 4) all boxes of the dialogue."""
        return torch.tensor(self.dialogue.boxes_cxcywh, dtype=torch.float32).reshape(-1, 4)

    @property
    def user_boxes_cxcywh(self) -> Tensor:
        """(u, 4) the boxes that the user points at, earlier turns' included."""
        return self.boxes_cxcywh[list(self.user_boxes)]

    @property
    def listed_boxes_cxcywh(self) -> Tensor:
        """(l, 4) the user's boxes of the first turn."""
        return self.boxes_cxcywh[list(self.listed)]

    @property
    def added_boxes_cxcywh(self) -> Tensor:
        """(u - l, 4) the user's boxes of later turns, in the order in which they came."""
        return self.boxes_cxcywh[sorted(set(self.user_boxes) - set(self.listed))]

    @property
    def asked_boxes_cxcywh(self) -> Tensor:
        """(k, 4) the boxes of this question."""
        return self.boxes_cxcywh[list(self.asked)]


@dataclass(slots=True)
class _Boxes:
    """The boxes of a dialogue while it is written."""

    size_px: tuple[int, int]
    cxcywh: list[Box] = field(default_factory=list[Box])
    of_user: list[int] = field(default_factory=list[int])

    def add(self, boxes_xyxy_px: Tensor, *, from_user: bool) -> tuple[int, ...]:
        """(n, 4) -> their indices."""
        first = len(self.cxcywh)
        self.cxcywh += to_tuples(xyxy_px_to_cxcywh(boxes_xyxy_px.reshape(-1, 4), *self.size_px))
        added = tuple(range(first, len(self.cxcywh)))
        self.of_user += added if from_user else ()
        return added


def asking(
    question: str,
    regions: BoxesXyxyPx | None,
    *,
    size_px: tuple[int, int],
    max_regions: int,
    grounded: bool,
    history: Sequence[GroundedAnswer] = (),
) -> Exchange:
    """A question in the user's words.

    Args:
        question: text; [1], [2], ... stand for `regions` (groma.inference.request).
        regions: boxes that the question points at, xyxy in pixels of the picture, or None.
        size_px: width and height of the picture.
        max_regions: boxes of the user that fit, those of earlier turns included.
        grounded: ask for phrases that are tied to boxes.
        history: earlier answers about the same picture, oldest first.

    Raises:
        InputError: the question or a box cannot be used, there are too many boxes, or the history is about another
            picture.
    """
    if isinstance(history, GroundedAnswer) or not isinstance(history, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"history must be a list of earlier answers, oldest first, not {type(history).__name__}")
    check_switch(grounded, "grounded")
    boxes = _Boxes(size_px)
    turns: list[Turn] = []
    of_first = 0
    for answer in history:
        turns.append(_past_turn(answer, boxes))
        of_first = len(boxes.of_user) if len(turns) == 1 else of_first
    room = max_regions - len(boxes.of_user)
    if room < 0:
        raise InputError(
            f"the earlier turns point at {len(boxes.of_user)} regions, but at most {max_regions} fit: leave some of "
            "the history out"
        )
    asked = boxes.add(check_boxes_xyxy_px(regions, *size_px, limit=room), from_user=True)
    segments = question_segments(question, len(asked), first_box=asked[0] if asked else 0)
    turns.append(Turn(question=segments, grounded=grounded))
    return Exchange(
        question=question,
        dialogue=Dialogue(tuple(turns), tuple(boxes.cxcywh)),
        user_boxes=(*asked, *(box for box in boxes.of_user if box not in asked)),
        asked=asked,
        listed=tuple(boxes.of_user[:of_first]) if turns[:-1] else asked,
    )


def locating(phrase: str, *, all: bool) -> Exchange:
    """The question where something is, in the words that the method was trained with.

    Raises:
        InputError: the phrase is empty or no text, or `all` is neither True nor False.
    """
    phrase = check_phrase(phrase)
    check_switch(all, "all")
    before, after = ("Locate all ", " in this image.") if all else ("Locate ", " in the image.")
    turn = Turn(question=(Text(before), Phrase(phrase), Text(after)))
    return Exchange(question=f"{before}{phrase}{after}", dialogue=Dialogue((turn,)), looked_for=phrase, all=all)


def located(answer: GroundedAnswer, phrase: str, *, all: bool) -> GroundedAnswer:
    """What an answer to `locating` says, as one entity at most; what was looked for is kept with it.

    Published weights answer with regions alone; such a text becomes the phrase that was asked for, so that spans stay
    true. Without `all`, only the first region counts (the measure of referring expressions).
    """
    entities, text = answer.entities, answer.text
    if not text.strip() and entities:
        text = phrase
        entities = (_joined(entities, phrase),)
    if not all and entities:
        first = entities[0]
        scores = first.region_scores[:1]
        entities = (replace(first, region_ids=first.region_ids[:1], region_scores=scores, score=scores[0]),)
    return replace(answer, text=text, entities=entities, looked_for=phrase, looked_for_all=all)


def _joined(groups: Sequence[Entity], phrase: str) -> Entity:
    """Bare groups of regions as one entity; a region that is named twice counts where it is named first."""
    scores: dict[int, float] = {}
    for group in groups:
        for region, score in zip(group.region_ids, group.region_scores, strict=True):
            scores.setdefault(region, score)
    return Entity(
        phrase=phrase,
        start=0,
        end=len(phrase),
        region_ids=tuple(scores),
        score=sum(scores.values()) / len(scores),
        region_scores=tuple(scores.values()),
    )


def _past_turn(answer: GroundedAnswer, boxes: _Boxes) -> Turn:
    """An earlier answer as context; its boxes are added to `boxes`."""
    if not isinstance(answer, GroundedAnswer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"history is a list of earlier answers, not of {type(answer).__name__}")
    if answer.image_size_px != boxes.size_px:
        (width, height), (old_width, old_height) = boxes.size_px, answer.image_size_px
        raise InputError(
            f"the history is about a picture of {old_width}x{old_height} pixels, this one has {width}x{height}: a "
            "conversation stays with one picture"
        )
    if answer.looked_for is not None:
        return replace(
            locating(answer.looked_for, all=answer.looked_for_all).dialogue.turns[0],
            answer=_past_segments(answer, boxes),
        )
    asked = {number: region.box_xyxy_px for region in answer.regions for number in region.numbers}
    numbered = boxes.add(torch.tensor([asked[number] for number in sorted(asked)]), from_user=True)
    question = question_segments(answer.question, len(asked), first_box=numbered[0] if numbered else 0)
    return Turn(question=question, answer=_past_segments(answer, boxes), grounded=answer.grounded)


def _past_segments(answer: GroundedAnswer, boxes: _Boxes) -> tuple[Segment, ...]:
    """What was answered, its regions as boxes."""
    segments: list[Segment] = []
    cursor = 0
    for entity in answer.entities:
        segments += [Text(answer.text[cursor : entity.start])] if entity.start > cursor else []
        named = boxes.add(torch.tensor(entity.boxes_xyxy_px), from_user=False)
        if entity.phrase:
            segments.append(Phrase(entity.phrase, boxes=named))
        elif named:
            segments.append(Grounding(boxes=named))
        cursor = entity.end
    segments += [Text(answer.text[cursor:])] if cursor < len(answer.text) else []
    return tuple(segments)
