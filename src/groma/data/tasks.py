"""Tasks: what is learned from an annotation. Annotation -> Dialogue, wording included; no files, no tokens.

A task that finds nothing in an annotation that it could ask gives None, and the sample counts as one with nothing to
learn. Boxes of a dialogue are those that it uses, in the order of their first appearance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from groma.boxes import suppress_overlaps, to_tuples, xyxy_px_to_cxcywh
from groma.data import wording
from groma.data.annotation import Annotation, Exchange, Passage, Span
from groma.data.wording import fill, join, pick, with_article
from groma.errors import InputError
from groma.prompt.dialogue import Dialogue, Grounding, Phrase, Referred, Segment, Text, Turn

OVERLAP = 0.6
"""Of several regions of a picture that are described in one conversation, those that overlap more are left out
(released code, Visual Genome)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """How a task asks."""

    wordings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Wordings of a set's own, by the keys of wording.TASK_WORDINGS."""
    classes: tuple[str, ...] = ()
    """All classes of the set; where every instance of each has a box, the others are known to be absent."""
    max_turns: int = 10
    """Regions or classes in one conversation, at most."""
    absent_share: float = 0.0
    """Share of questions that are about something that is not in the picture."""
    repeat_phrase: bool = False
    """"Locate" is answered with the phrase before its regions, "a red car <r3>", instead of regions alone as published:
    small models learn the first far sooner (docs/tiny.md)."""

    def wordings_of(self, key: str) -> Sequence[str]:
        """The set's own wordings, or the common ones."""
        return self.wordings.get(key) or wording.TASK_WORDINGS[key]


Task = Callable[[Annotation, np.random.Generator, TaskOptions], Dialogue | None]


def refer(annotation: Annotation, rng: np.random.Generator, options: TaskOptions) -> Dialogue | None:
    """Labels are expressions: "Locate <p>the man in red</p> in the image."; up to `max_turns` of them."""
    chosen = _some(len(annotation.labels), options.max_turns, rng)
    turns = [_locating("locate", annotation.labels[box], (box,), rng, options) for box in chosen]
    return _dialogue(annotation, turns)


def locate_phrases(annotation: Annotation, rng: np.random.Generator, options: TaskOptions) -> Dialogue | None:
    """Phrases of captions are located (GRIT): a phrase with several boxes is asked for with "all"."""
    spans = [(p.text[s.start : s.end].strip(), s.boxes) for p in annotation.passages for s in p.spans]
    turns = [
        _locating("locate_all" if len(boxes) > 1 else "locate", phrase, boxes, rng, options)
        for phrase, boxes in (spans[number] for number in _some(len(spans), options.max_turns, rng))
    ]
    return _dialogue(annotation, turns)


def locate_classes(annotation: Annotation, rng: np.random.Generator, options: TaskOptions) -> Dialogue | None:
    """Labels are classes: "Locate all <p>dog</p> in this image.", and at a set share something absent."""
    boxes_of: dict[str, list[int]] = {}
    for box, label in enumerate(annotation.labels):
        boxes_of.setdefault(label, []).append(box)
    present = [name for name in boxes_of if name not in annotation.unsure]
    absent = [name for name in _absent(annotation, options) if name not in boxes_of]
    asked = [present[number] for number in _some(len(present), options.max_turns, rng)]
    turns: list[Turn] = []
    for name in asked:
        if absent and rng.random() < options.absent_share:
            turns.append(_about_absent(absent[int(rng.integers(len(absent)))], rng, options))
        elif options.absent_share and rng.random() < options.absent_share:
            turns.append(_about_present(name, boxes_of[name], rng, options))
        else:
            turns.append(_locating("locate_all", name, tuple(boxes_of[name]), rng, options))
    if not turns and absent and options.absent_share:
        turns.append(_about_absent(absent[int(rng.integers(len(absent)))], rng, options))
    return _dialogue(annotation, turns)


def describe_region(annotation: Annotation, rng: np.random.Generator, options: TaskOptions) -> Dialogue | None:
    """Labels are descriptions: "Please briefly describe <region>."; one of the boxes."""
    return describe_regions(annotation, rng, replace(options, max_turns=1))


def describe_regions(annotation: Annotation, rng: np.random.Generator, options: TaskOptions) -> Dialogue | None:
    """The same for up to `max_turns` boxes that hardly overlap, one question each (Visual Genome, stage 3)."""
    described = [box for box, label in enumerate(annotation.labels) if label.strip()]
    order = [described[number] for number in rng.permutation(len(described))]
    if len(order) > 1:
        corners = torch.tensor([annotation.boxes_xyxy_frame[box] for box in order])
        order = [order[row] for row in suppress_overlaps(corners, OVERLAP, options.max_turns)]
    turns = [
        Turn(
            question=fill(pick(options.wordings_of("describe_region"), rng), {"box": Referred(box)}),
            answer=(Text(_sentence(annotation.labels[box])),),
        )
        for box in order[: options.max_turns]
    ]
    return _dialogue(annotation, turns)


def describe_image(annotation: Annotation, rng: np.random.Generator, options: TaskOptions) -> Dialogue | None:
    """A caption of the whole picture, with its phrases grounded where it has any (Flickr30k Entities)."""
    if not annotation.passages:
        return None
    passage = annotation.passages[int(rng.integers(len(annotation.passages)))]
    question = (Text(pick(options.wordings_of("describe_image"), rng)),)
    turn = Turn(question=question, answer=_grounded(passage), grounded=bool(passage.spans))
    return _dialogue(annotation, [turn] if passage.text.strip() else [])


def converse(annotation: Annotation, rng: np.random.Generator, options: TaskOptions) -> Dialogue | None:
    """The conversation of the annotation, as it is (LLaVA, ShareGPT-4V, Groma Instruct, your own)."""
    return _dialogue(annotation, [_turn(exchange) for exchange in annotation.exchanges])


TASKS: dict[str, Task] = {
    "refer": refer,
    "locate_phrases": locate_phrases,
    "locate_classes": locate_classes,
    "describe_region": describe_region,
    "describe_regions": describe_regions,
    "describe_image": describe_image,
    "converse": converse,
}
"""Name of a task -> what it makes of an annotation."""


EVERYTHING = "everything"
"""Instead of a task: all that an annotation is good for, a dialogue each (your own data)."""
_EVERYTHING = ("converse", "describe_image", "locate_classes", "describe_regions")


def dialogues_of(
    task: str, annotation: Annotation, rng: np.random.Generator, options: TaskOptions
) -> tuple[Dialogue, ...]:
    """What a task asks about an annotation; nothing where there is nothing to ask.

    Args:
        task: a key of TASKS, or EVERYTHING.
        annotation: cleaned, so that its frame is known (groma.data.cleaning).
        rng: source of all choices.
        options: how it asks.

    Raises:
        InputError: there is no such task.
    """
    if task not in (*TASKS, EVERYTHING):
        raise InputError(f"There is no task {task!r}; known are {', '.join((*TASKS, EVERYTHING))}.")
    made = (TASKS[name](annotation, rng, options) for name in (_EVERYTHING if task == EVERYTHING else (task,)))
    return tuple(dialogue for dialogue in made if dialogue is not None)


# --- turns ------------------------------------------------------------------------------------------------------------


def _locating(key: str, phrase: str, boxes: Sequence[int], rng: np.random.Generator, options: TaskOptions) -> Turn:
    boxes = tuple(boxes)
    answer = Phrase(phrase, boxes=boxes) if options.repeat_phrase else Grounding(boxes=boxes)
    return Turn(question=fill(pick(options.wordings_of(key), rng), {"phrase": Phrase(phrase)}), answer=(answer,))


def _about_absent(name: str, rng: np.random.Generator, options: TaskOptions) -> Turn:
    """Half of the time "is there", half of the time "locate"."""
    if rng.random() < 0.5:
        question = fill(pick(options.wordings_of("exists"), rng), {"a_thing": with_article(name)})
        return Turn(question=question, answer=fill(wording.NOT_PRESENT, {"thing": name}))
    question = fill(pick(options.wordings_of("locate_all"), rng), {"phrase": Phrase(name)})
    return Turn(question=question, answer=fill(wording.ABSENT, {"thing": name}))


def _about_present(name: str, boxes: Sequence[int], rng: np.random.Generator, options: TaskOptions) -> Turn:
    """The same question about what is there: else the words alone would give the answer away."""
    phrase = Phrase(with_article(name), boxes=tuple(boxes[:1]))
    question = fill(pick(options.wordings_of("exists"), rng), {"a_thing": with_article(name)})
    return Turn(question=question, answer=fill(wording.PRESENT, {"phrase": phrase}))


def _turn(exchange: Exchange) -> Turn:
    return Turn(question=_pointing(exchange.question), answer=_grounded(exchange.answer), grounded=exchange.grounded)


def _grounded(passage: Passage) -> tuple[Segment, ...]:
    """Text with its spans as grounded phrases; of spans that overlap, the longest."""
    return _cut(passage, lambda span: [Phrase(passage.text[span.start : span.end], boxes=span.boxes)])


def _pointing(passage: Passage) -> tuple[Segment, ...]:
    """Text whose spans are replaced by the user's boxes."""
    return _cut(passage, lambda span: [Referred(box) for box in span.boxes])


def _cut(passage: Passage, segments_of: Callable[[Span], Sequence[Segment]]) -> tuple[Segment, ...]:
    pieces: list[Segment | str] = []
    cursor = 0
    for span in _apart(passage.spans):
        pieces += [passage.text[cursor : span.start], *segments_of(span)]
        cursor = span.end
    return join([*pieces, passage.text[cursor:]])


def _apart(spans: Sequence[Span]) -> list[Span]:
    """Spans by position; where some overlap, the longest stays, the first of equals."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start - s.end, s.start)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return sorted(kept, key=lambda s: s.start)


# --- from an annotation's boxes to a dialogue's -----------------------------------------------------------------------


def _dialogue(annotation: Annotation, turns: Sequence[Turn]) -> Dialogue | None:
    """Turns that name boxes of the annotation -> a dialogue with just the boxes it uses; None without turns."""
    if not turns:
        return None
    order: dict[int, int] = {}  # box of the annotation -> box of the dialogue, by first appearance
    renumbered = tuple(
        replace(
            turn,
            question=tuple(_renumbered(segment, order) for segment in turn.question),
            answer=tuple(_renumbered(segment, order) for segment in turn.answer or ()),
        )
        for turn in turns
    )
    if not order:
        return Dialogue(renumbered)
    assert annotation.frame is not None, "annotations are cleaned first"
    corners = torch.tensor([annotation.boxes_xyxy_frame[box] for box in order], dtype=torch.float64)
    width, height = annotation.frame
    return Dialogue(renumbered, tuple(to_tuples(xyxy_px_to_cxcywh(corners, width, height))))


def _renumbered(segment: Segment, order: dict[int, int]) -> Segment:
    match segment:
        case Referred(box):
            return Referred(order.setdefault(box, len(order)))
        case Phrase() | Grounding():
            return replace(segment, boxes=tuple(order.setdefault(box, len(order)) for box in segment.boxes))
        case Text():
            return segment


def _absent(annotation: Annotation, options: TaskOptions) -> list[str]:
    """Classes that are surely not in the picture, in a fixed order."""
    there = {*annotation.labels, *annotation.unsure}
    return [name for name in dict.fromkeys((*annotation.absent, *options.classes)) if name not in there]


def _some(count: int, most: int, rng: np.random.Generator) -> list[int]:
    """Up to `most` of the numbers below `count`, in random order."""
    return rng.permutation(count)[:most].tolist()


def _sentence(text: str) -> str:
    """A description with a capital at its start alone (released code, region captions)."""
    return text.strip().lower().capitalize()
