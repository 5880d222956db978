"""Scene -> questions: dialogues with everything that an evaluation needs to know about them.

Scene -> exchanges (segments point at objects) -> Question (a Dialogue whose segments point at its boxes)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from groma.data.scenes import wording
from groma.data.scenes.exchanges import EXCHANGES, Exchange, make_exchange
from groma.data.scenes.scene import Scene
from groma.data.wording import fill, pick
from groma.errors import InputError
from groma.prompt.dialogue import Dialogue, Grounding, Phrase, Referred, Segment, Text, Turn

CONVERSATION = "conversation"
"""The kind that strings two to four exchanges together."""
KINDS: tuple[str, ...] = (*EXCHANGES, CONVERSATION)
"""All kinds of questions."""

_CONVERSATION_KINDS = tuple(EXCHANGES)
_FOLLOW_UP_SHARE = 0.5  # turns about one tinted object that are followed by "What colour is it?"
_TRIES = 8  # draws for one question that differs from the others about the scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A phrase of an answer and the objects that it means."""

    turn: int
    """Index of the turn whose answer has the phrase."""
    phrase: str
    """Its words."""
    objects: tuple[int, ...]
    """Indices into Scene.objects, from left to right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A dialogue about a scene with its true answers."""

    kind: str
    """One of KINDS."""
    dialogue: Dialogue
    """All turns answered."""
    box_objects: tuple[int, ...]
    """For each of Dialogue.boxes_cxcywh the index of its object in Scene.objects."""
    targets: tuple[Target, ...]
    """All grounded phrases of all answers, in order."""
    turn_kinds: tuple[str, ...]
    """The kind of every turn; one of EXCHANGES or, for "What colour is it?", "colour"."""
    name: str | None
    """The name that the last turn asks for or about, if there is one."""
    colour: str | None
    """The colour in the last turn's question or right answer, if there is one."""

    @property
    def answer_text(self) -> str:
        """The last answer as plain words."""
        return plain_text(self.dialogue.turns[-1].answer or ())


def questions_for(
    scene: Scene,
    rng: np.random.Generator,
    *,
    kinds: Sequence[str] | Mapping[str, float] = KINDS,
    count: int = 1,
) -> list[Question]:
    """Questions about a scene, no two of which ask the same in the same words.

    Args:
        scene: What is asked about.
        rng: Source of all choices: same state, same questions.
        kinds: Kinds to draw from, evenly, or kind -> weight. Kinds that a scene gives rise to no question of
            (a relation needs two objects of one kind) are passed over.
        count: How many are wanted.

    Returns:
        At most `count` questions; fewer if the scene does not give rise to as many.

    Raises:
        InputError: A kind does not exist or has a negative weight, or all weights are 0.
    """
    weights = _checked_weights(kinds)
    questions: list[Question] = []
    asked: set[tuple[tuple[Segment, ...], ...]] = set()
    for _ in range(count):
        for _ in range(_TRIES):
            question = _draw_question(scene, rng, weights)
            if question is None:
                return questions
            words = tuple(turn.question for turn in question.dialogue.turns)
            key = (*words, tuple(Referred(index) for index in question.box_objects))
            if key not in asked:
                asked.add(key)
                questions.append(question)
                break
    return questions


def question_of(kind: str, scene: Scene, rng: np.random.Generator) -> Question | None:
    """A question of one kind, or None where the scene gives rise to none.

    Raises:
        InputError: The kind does not exist.
    """
    _checked_weights((kind,))
    if kind == CONVERSATION:
        return _assemble(kind, scene, _draw_conversation(scene, rng))
    exchange = make_exchange(kind, scene, rng)
    return None if exchange is None else _assemble(kind, scene, [exchange])


def plain_text(segments: Sequence[Segment]) -> str:
    """The words of segments, without regions."""
    return "".join(segment.text for segment in segments if isinstance(segment, Text | Phrase))


def _checked_weights(kinds: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    weights = dict(kinds) if isinstance(kinds, Mapping) else dict.fromkeys(kinds, 1.0)
    unknown = sorted(set(weights) - set(KINDS))
    if unknown:
        raise InputError(f"There is no kind of question {', '.join(unknown)}; the kinds are {', '.join(KINDS)}.")
    if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
        raise InputError(f"Weights of kinds of questions must be 0 or more and not all 0, got {weights}.")
    return weights


def _draw_question(scene: Scene, rng: np.random.Generator, weights: Mapping[str, float]) -> Question | None:
    """A question of a kind drawn by weight, passing over the kinds that the scene has none of."""
    left = {kind: weight for kind, weight in weights.items() if weight > 0}
    while left:
        ends = np.cumsum(list(left.values()))
        place = int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
        kind = tuple(left)[min(place, len(left) - 1)]
        question = question_of(kind, scene, rng)
        if question is not None:
            return question
        del left[kind]
    return None


def _draw_conversation(scene: Scene, rng: np.random.Generator) -> list[Exchange]:
    """Two to four exchanges of mixed kinds; now and then one asks on about "it"."""
    exchanges: list[Exchange] = []
    length = int(rng.integers(2, 5))
    while len(exchanges) < length:
        follow_up = _follow_up(scene, exchanges, rng)
        if follow_up is not None:
            exchanges.append(follow_up)
            continue
        kind = _CONVERSATION_KINDS[rng.integers(len(_CONVERSATION_KINDS))]
        exchange = make_exchange(kind, scene, rng)
        if exchange is not None and all(exchange.question != earlier.question for earlier in exchanges):
            exchanges.append(exchange)
    return exchanges


def _follow_up(scene: Scene, exchanges: list[Exchange], rng: np.random.Generator) -> Exchange | None:
    """Asks "What colour is it?" after a question about one tinted object whose colour was not yet said."""
    if not exchanges or exchanges[-1].about is None or exchanges[-1].kind == "colour":
        return None
    last = exchanges[-1]
    colour = scene.objects[exchanges[-1].about].colour
    said = plain_text(last.question) + plain_text(last.answer)
    if colour is None or colour in said or rng.random() >= _FOLLOW_UP_SHARE:
        return None
    return Exchange(
        kind="colour",
        question=fill(pick(wording.COLOUR_OF_IT, rng), {}),
        answer=(Text(f"It is {colour}."),),
        colour=colour,
        about=last.about,
    )


def _assemble(kind: str, scene: Scene, exchanges: Sequence[Exchange]) -> Question:
    """Turns segments that point at objects into a dialogue that carries just the boxes it uses."""
    order: dict[int, int] = {}  # object -> box of the dialogue, by first appearance
    turns, targets = [], []
    for number, exchange in enumerate(exchanges):
        for segment in exchange.answer:
            if isinstance(segment, Phrase) and segment.boxes:
                targets.append(Target(turn=number, phrase=segment.text, objects=segment.boxes))
        turn = Turn(
            question=tuple(_renumbered(segment, order) for segment in exchange.question),
            answer=tuple(_renumbered(segment, order) for segment in exchange.answer),
            grounded=exchange.grounded,
        )
        turns.append(turn)
    boxes_cxcywh = scene.boxes_cxcywh
    return Question(
        kind=kind,
        dialogue=Dialogue(turns=tuple(turns), boxes_cxcywh=tuple(boxes_cxcywh[index] for index in order)),
        box_objects=tuple(order),
        targets=tuple(targets),
        turn_kinds=tuple(exchange.kind for exchange in exchanges),
        name=exchanges[-1].name,
        colour=exchanges[-1].colour,
    )


def _renumbered(segment: Segment, order: dict[int, int]) -> Segment:
    """The segment with indices of objects replaced by indices of the dialogue's boxes."""
    match segment:
        case Referred(box):
            return Referred(order.setdefault(box, len(order)))
        case Phrase() | Grounding():
            return replace(segment, boxes=tuple(order.setdefault(box, len(order)) for box in segment.boxes))
        case Text():
            return segment
