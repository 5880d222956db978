"""The request about one picture: instructions, worked examples, the numbered picture and what is known about it.

    system     instructions
    user       example 1   assistant  its conversation
    ...
    user       the picture as a data URL, region texts, captions
    (assistant  a bad answer   user  what is wrong with it)

The body is what is sent, but for the fields that only say how the answer travels. Its digest is the key under which
the answer is kept: an equal request is never paid for twice, whichever endpoint it goes to.
"""

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from groma.curate.instructions import EXAMPLE_PICTURE, WORKED_EXAMPLES, complaint, instructions
from groma.curate.notation import write_conversation, write_phrases
from groma.curate.regions import Regions
from groma.curate.settings import Asking, PictureSettings, Recipe

MAX_TEXT_CHARS = 300
"""Characters of a region's text that are sent; the rest is cut off."""
MAX_CAPTIONS = 8
"""Captions that are sent, at most."""
CHARS_PER_TOKEN = 3
"""Characters a token has at least, on average: an estimate to reserve money by, on the safe side for English."""

Message = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to the model."""

    body: Mapping[str, Any]
    """Fields of a chat completion: model, messages and the rest."""
    key: str
    """SHA-256 digest of the body, in hexadecimal."""
    text_tokens: int
    """What its texts cost, estimated."""


def first_request(numbered: Image.Image, regions: Regions, recipe: Recipe) -> Request:
    """Ask for a conversation.

    Args:
        numbered: The picture with numbers on it (groma.curate.numbering).
        regions: What the numbers stand for.
        recipe: Model, limits, how the picture is sent.
    """
    messages: list[Message] = [{"role": "system", "content": instructions(recipe.rules)}]
    for example in WORKED_EXAMPLES:
        told = f"{EXAMPLE_PICTURE}\n\n{_facts(example.regions, example.captions)}"
        messages.append({"role": "user", "content": told})
        messages.append({"role": "assistant", "content": write_conversation(example.turns)})
    captions = [write_phrases(caption) for caption in regions.captions]
    parts = [_picture_part(numbered, recipe.picture), {"type": "text", "text": _facts(regions.texts, captions)}]
    messages.append({"role": "user", "content": parts})
    return _request(messages, recipe)


def next_request(request: Request, answer: str, faults: Sequence[str], recipe: Recipe) -> Request:
    """Ask again, after an answer that cannot be used.

    Args:
        request: The request before.
        answer: What came.
        faults: What is wrong with it, one sentence each.
        recipe: As for the first request.
    """
    messages: list[Message] = [
        *request.body["messages"],
        {"role": "assistant", "content": answer},
        {"role": "user", "content": complaint(tuple(faults))},
    ]
    return _request(messages, recipe)


def jpeg_bytes(image: Image.Image, quality: int) -> bytes:
    """A picture as it is sent; colours are not subsampled, so that thin lines keep theirs."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def readable(request: Request) -> str:
    """A request for people: roles and texts, with a word in place of the picture."""
    blocks: list[str] = []
    for message in request.body["messages"]:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "(the picture)") for part in content]
        blocks.append(f"=== {message['role']} ===\n" + "\n".join(texts))
    return "\n\n".join(blocks) + "\n"


def _facts(texts: Sequence[str], captions: Sequence[str]) -> str:
    """What is known about a picture, as the model reads it."""
    lines = [f"{number}: {_cut(text) if text else '(no description)'}" for number, text in enumerate(texts, start=1)]
    facts = "Regions:\n" + "\n".join(lines)
    if captions:
        facts += "\n\nCaptions:\n" + "\n".join(f"- {_cut(caption)}" for caption in captions[:MAX_CAPTIONS])
    return facts


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 3].rstrip() + "..."


def _picture_part(image: Image.Image, settings: PictureSettings) -> dict[str, Any]:
    encoded = base64.b64encode(jpeg_bytes(image, settings.jpeg_quality)).decode("ascii")
    url: dict[str, Any] = {"url": f"data:image/jpeg;base64,{encoded}"}
    if settings.detail is not None:
        url["detail"] = settings.detail
    return {"type": "image_url", "image_url": url}


def _request(messages: list[Message], recipe: Recipe) -> Request:
    return make_request(messages, model=recipe.model, asking=recipe.asking)


def make_request(messages: list[Message], *, model: str, asking: Asking) -> Request:
    """A request of these messages, and what it is known by."""
    body: dict[str, Any] = {"model": model, "messages": messages, asking.tokens_field: asking.answer_tokens}
    if asking.temperature is not None:
        body["temperature"] = asking.temperature
    if asking.json_mode:
        body["response_format"] = {"type": "json_object"}
    body |= asking.extra_fields()
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Request(
        body=body,
        key=hashlib.sha256(canonical.encode()).hexdigest(),
        text_tokens=math.ceil(sum(map(_text_chars, messages)) / CHARS_PER_TOKEN),
    )


def _text_chars(message: Message) -> int:
    content = message["content"]
    if isinstance(content, str):
        return len(content.encode())
    return sum(len(part.get("text", "").encode()) for part in content)
