"""Messages to questions, answers to messages.

    messages -> the pictures of the latest message that has any, and the turns since -> one job for each picture
    answers  -> content, and `grounding`: entities and regions, each with the number of its picture

The model reads one picture at a time. A question about several is asked about each, and the answers are joined.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from groma.engine.engine import Engine
from groma.engine.pictures import Picture
from groma.engine.ticket import Answered, Job
from groma.errors import InputError
from groma.inference.generate import Decoding
from groma.inference.request import OVERHANG_PX, check_boxes_xyxy_px
from groma.inference.result import Entity, GroundedAnswer, Region
from groma.serve.bodies import AssistantMessage, ChatBody, ImagePart, SystemMessage, TextPart, UserMessage
from groma.serve.errors import HttpError
from groma.serve.picture_input import PictureInput
from groma.serve.service import Asker
from groma.serve.settings import ServeSettings

BETWEEN = "\n\n"
"""What stands between the answers about several pictures."""

CHARACTERS_A_TOKEN = 32
"""No text has tokens that are longer on average."""

MAX_CHARACTERS = 400_000
"""Of a conversation in any case: what is longer would hold up the others while it is read."""

MAX_PAST_BOXES = 4000
"""Boxes that earlier answers may name in all."""

SYSTEM_LEFT_OUT = "the system message was left out: the model was trained without any"
GREETING_LEFT_OUT = "the assistant's message before the first question was left out"
OTHERS_LEFT_OUT = "earlier turns were left out, as they are about other pictures"


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and, unless it is the last, its answer."""

    text: str
    regions: list[list[float]]
    grounded: bool
    answer: AssistantMessage | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation about one or several pictures."""

    image_urls: tuple[str, ...]
    turns: tuple[Turn, ...]
    """since these pictures came; the last has no answer"""
    warnings: tuple[str, ...]


def read_chat(body: ChatBody, settings: ServeSettings) -> Chat:
    """What is asked.

    Raises:
        HttpError: the messages make no conversation about a picture.
    """
    if len(body.messages) > settings.max_messages:
        raise _wrong(f"there are {len(body.messages)} messages, but at most {settings.max_messages} are taken")
    spoken = [message for message in body.messages if not isinstance(message, SystemMessage)]
    warnings = (SYSTEM_LEFT_OUT,) if len(spoken) < len(body.messages) else ()
    if not spoken or not isinstance(spoken[-1], UserMessage):
        raise _wrong("the last message must be a user's")
    if isinstance(spoken[0], AssistantMessage):  # as pages do that greet
        spoken, warnings = spoken[1:], (*warnings, GREETING_LEFT_OUT)
    image_urls, turns = _told(spoken, body)
    if sum(isinstance(message, AssistantMessage) for message in spoken) > len(turns) - 1:  # the last has no answer
        warnings = (*warnings, OTHERS_LEFT_OUT)
    if not image_urls:
        raise _wrong("no message has a picture: add a part of type image_url")
    if len(image_urls) > settings.max_pictures:
        raise _wrong(f"a message has {len(image_urls)} pictures, but at most {settings.max_pictures} are taken")
    if len(image_urls) > 1 and any(turn.regions for turn in turns):
        raise _wrong("regions belong to one picture, but the message has several: ask about one at a time")
    return Chat(image_urls, tuple(turns), warnings)


def _told(spoken: Sequence[UserMessage | AssistantMessage], body: ChatBody) -> tuple[tuple[str, ...], list[Turn]]:
    """The latest pictures, and the turns about them."""
    image_urls: tuple[str, ...] = ()
    turns: list[Turn] = []
    has_own = False  # the pictures came with the question that is not answered yet
    for message in spoken:
        if isinstance(message, AssistantMessage):
            if not turns or turns[-1].answer is not None:
                raise _wrong("an assistant's message must follow a user's")
            turns[-1], has_own = replace(turns[-1], answer=message), False
            continue
        urls = _urls(message)
        if urls:
            image_urls = image_urls + urls if has_own else urls
            has_own = True
            turns = [turn for turn in turns if turn.answer is None]  # earlier turns are about other pictures
        turn = _turn(message, body if message is spoken[-1] else None)
        if turns and turns[-1].answer is None:
            turn = _merged(turns.pop(), turn)
        turns.append(turn)
    return image_urls, turns


def _wrong(text: str) -> HttpError:
    return HttpError(400, text, param="messages")


def _urls(message: UserMessage) -> tuple[str, ...]:
    if isinstance(message.content, str):
        return ()
    return tuple(part.image_url.url for part in message.content if isinstance(part, ImagePart))


def _turn(message: UserMessage, body: ChatBody | None) -> Turn:
    """A question; what stands beside the messages is of the last one."""
    text = message.content
    if not isinstance(text, str):
        text = "\n".join(part.text for part in text if isinstance(part, TextPart))
    regions, grounded = message.regions, message.grounded
    if body is not None:
        if body.regions is not None and regions is not None:
            raise _wrong("regions stand both in the last message and beside the messages: give them once")
        regions = body.regions if regions is None else regions
        grounded = body.grounded if grounded is None else grounded
    return Turn(text, regions or [], True if grounded is None else grounded)


def _merged(first: Turn, second: Turn) -> Turn:
    """Two messages of a user in a row as one question."""
    if first.regions and second.regions:
        raise _wrong("two messages of a user in a row have regions: put them into one message")
    text = "\n".join(text for text in (first.text, second.text) if text.strip())
    return Turn(text, first.regions or second.regions, second.grounded)


def decoding_of(body: ChatBody, default: Decoding) -> Decoding:
    """How tokens are chosen, where anything is said of it.

    Raises:
        InputError: an option cannot be used.
    """
    return Decoding(
        max_new_tokens=default.max_new_tokens if body.most_tokens is None else body.most_tokens,
        temperature=default.temperature if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=0 if body.seed is None else body.seed % 2**63,
    )


async def jobs_of(
    chat: Chat,
    engine: Engine,
    pictures: PictureInput,
    *,
    decoding: Decoding,
    at_least: int | None,
    asker: Asker,
    streams: bool,
) -> list[Job]:
    """A job for each picture.

    Args:
        chat: what is asked.
        engine: who answers.
        pictures: opens them.
        decoding: how tokens are chosen.
        at_least: tokens for which there must be room; None: all that an answer may have.
        asker: who asks, and when.
        streams: whether what is said is wanted token by token.

    Raises:
        HttpError: a picture or an earlier message cannot be used.
        InputError: the question, its regions or a picture cannot be used.
    """
    _check_length(chat, engine)
    opened = await asyncio.gather(*(pictures.from_url(url, engine) for url in chat.image_urls))
    last = chat.turns[-1]

    def job(number: int, picture: Picture) -> Job:
        history = [_past(turn, picture, number, len(opened), engine) for turn in chat.turns[:-1]]
        made = engine.question(
            picture, last.text, last.regions, grounded=last.grounded, history=history, decoding=decoding
        )
        return replace(asker.asking(made), streams=streams, at_least=at_least)

    return await asyncio.to_thread(lambda: [job(number, picture) for number, picture in enumerate(opened)])


def _check_length(chat: Chat, engine: Engine) -> None:
    """See whether a conversation can fit at all, before anything of it is read.

    Raises:
        HttpError: it is far too long.
    """
    context = engine.assistant.model.config.context_tokens
    told = [turn.answer for turn in chat.turns if turn.answer is not None]
    letters = sum(len(turn.text) for turn in chat.turns) + sum(len(_content(answer)) for answer in told)
    if letters > min(CHARACTERS_A_TOKEN * context, MAX_CHARACTERS):
        raise _wrong(f"the conversation has {letters:,} characters, more than the model's {context:,} tokens hold")
    groundings = [answer.grounding for answer in told if answer.grounding is not None]
    boxes = sum(len(entity.boxes_xyxy_px) for grounding in groundings for entity in grounding.entities)
    if boxes > MAX_PAST_BOXES:
        raise _wrong(f"the earlier answers name {boxes:,} boxes, but at most {MAX_PAST_BOXES:,} are taken")


def _content(message: AssistantMessage) -> str:
    content = message.content or ""
    if isinstance(content, str):
        return content
    return "\n".join(text for part in content if (text := part.text or part.refusal))


# --- earlier answers -------------------------------------------------------------------------------------------------


def _past(turn: Turn, picture: Picture, number: int, count: int, engine: Engine) -> GroundedAnswer:
    """An earlier turn about one of the pictures."""
    assert turn.answer is not None
    content = _content(turn.answer)
    start, end = 0, len(content)
    told = turn.answer.grounding
    if told is not None and count > 1 and len(told.images) == count:
        start, end = told.images[number].start, told.images[number].end
    if not 0 <= start <= end <= len(content):
        raise _wrong("an assistant's message has a grounding that does not fit its content: send both as they came")
    limit = engine.assistant.max_regions
    asked = check_boxes_xyxy_px(turn.regions, *picture.size_px, limit=limit).tolist() if turn.regions else []
    regions = [
        Region(id=k, box_xyxy_px=tuple(box), objectness=1.0, source="user", numbers=(k + 1,))
        for k, box in enumerate(asked)
    ]
    entities: list[Entity] = []
    for entity in () if told is None else told.entities:
        if entity.image != number:
            continue
        boxes = check_boxes_xyxy_px(entity.boxes_xyxy_px, *picture.size_px, limit=limit).tolist()
        ids = tuple(range(len(regions), len(regions) + len(boxes)))
        regions += [
            Region(id=k, box_xyxy_px=tuple(box), objectness=1.0, source="proposal")
            for k, box in zip(ids, boxes, strict=True)
        ]
        entities.append(
            Entity(
                phrase=entity.phrase,
                start=entity.start - start,
                end=entity.end - start,
                region_ids=ids,
                score=1.0,
                region_scores=(1.0,) * len(ids),
            )
        )
    entities.sort(key=lambda entity: (entity.start, entity.end))
    if any(one.end > other.start for one, other in pairwise(entities)):
        raise _wrong("an assistant's message has a grounding whose phrases overlap: send it as it came")
    try:
        return GroundedAnswer(
            text=content[start:end],
            entities=tuple(entities),
            regions=tuple(regions),
            finish_reason="stop",
            raw_text="",
            image_size_px=picture.size_px,
            question=turn.text,
            grounded=turn.grounded,
        )
    except InputError as error:
        raise _wrong(f"an assistant's grounding does not fit its content ({error}): send both as they came") from None


# --- replies ---------------------------------------------------------------------------------------------------------


def heading(number: int, count: int) -> str:
    """What stands before the answer about one of several pictures."""
    return f"Image {number + 1}: " if count > 1 else ""


def entity_dict(entity: Entity, image: int, offset: int) -> dict[str, Any]:
    """An entity as it is told; its span counts in the whole content."""
    values = asdict(entity) | {"image": image, "start": entity.start + offset, "end": entity.end + offset}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def region_dict(region: Region, image: int | None = None) -> dict[str, Any]:
    """A region as it is told."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(region).items()}
    return values if image is None else {"image": image, **values}


def content_of(answers: Sequence[Answered]) -> tuple[str, dict[str, Any]]:
    """The whole text, and what it is tied to."""
    content = ""
    images, entities, regions = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    for number, answered in enumerate(answers):
        answer = answered.answer
        assert answer is not None
        content += (BETWEEN if number else "") + heading(number, len(answers))
        start = len(content)
        content += answer.text
        width, height = answer.image_size_px
        images.append({"width_px": width, "height_px": height, "start": start, "end": len(content)})
        entities += [entity_dict(entity, number, start) for entity in answer.entities]
        regions += [region_dict(region, number) for region in answer.regions]
    grounded = any(answered.answer is not None and answered.answer.grounded for answered in answers)
    return content, {"grounded": grounded, "images": images, "entities": entities, "regions": regions}


def warnings_of(chat: Chat, answers: Sequence[Answered]) -> list[str]:
    """What the client should know about the question's boxes, one sentence each."""
    told = list(chat.warnings)
    for answered in answers:
        for region in answered.regions:
            first, *others = region.numbers or (0,)
            told += [f"boxes [{first}] and [{n}] overlap so much that they are one region" for n in others]
            given = chat.turns[-1].regions[first - 1] if first else list(region.box_xyxy_px)
            if not others and was_clipped([given], [region.box_xyxy_px]):
                told.append(f"box [{first}] reaches beyond the picture and was clipped to it")
    return told


def was_clipped(given: Sequence[Sequence[float]], taken: Sequence[Sequence[float]]) -> list[int]:
    """Numbers of the boxes of which a part that can be seen was cut off."""
    moved = (max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in zip(given, taken, strict=True))
    return [number for number, px in enumerate(moved) if px > 2 * OVERHANG_PX]


def finish_reason(answers: Sequence[Answered]) -> str:
    """It is "length" if one was cut."""
    reasons = {answered.answer.finish_reason for answered in answers if answered.answer is not None}
    return "length" if "length" in reasons else "stop"


def usage_dict(answers: Sequence[Answered]) -> dict[str, Any]:
    """What the answers cost, as OpenAI tells it."""
    prompt = sum(answered.usage.prompt_tokens for answered in answers)
    said = sum(answered.usage.completion_tokens for answered in answers)
    cached = sum(answered.usage.cached_tokens for answered in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said,
        "total_tokens": prompt + said,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
