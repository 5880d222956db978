"""Bodies of requests -> checked values: JSON, or a form with a file. Parsed in a thread, so that others go on."""

import asyncio
import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from groma.engine.engine import Engine
from groma.engine.pictures import Picture
from groma.serve.bodies import AS_PARTS, AS_TEXT, PIXEL
from groma.serve.errors import HttpError
from groma.serve.leaving import unless_gone
from groma.serve.picture_input import PictureInput

B = TypeVar("B", bound=BaseModel)

WORDS: dict[str, str] = dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "it must be an object")
"""Kinds of errors that pydantic tells with the names of our classes -> what is told instead."""

_CHARSET = re.compile(r"charset\s*=\s*\"?([^\";\s]*)", re.IGNORECASE)

MAX_VALUES = 200_000
"""Values of a JSON body, about: a few bytes of text can take a hundred in memory. Pictures count as one."""

IN_FORM = PIXEL
"""What stands for the picture of a form while its other fields are checked."""


async def read_json(request: Request, kind: type[B]) -> B:
    """A JSON body.

    Raises:
        HttpError: it is no JSON, or has other fields than it should.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpError(415, "the request's body is compressed: send it as it is")
    content = await request.body()
    return await asyncio.get_running_loop().run_in_executor(None, _parsed, content, kind)


def _parsed(content: bytes, kind: type[B]) -> B:
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise HttpError(400, f"the request's body has more than {MAX_VALUES:,} values")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise HttpError(400, "the request's body is not valid JSON") from None
    return check(values, kind)


def check(values: Any, kind: type[B]) -> B:
    """Values of a body.

    Raises:
        HttpError: they are not what is expected; one sentence about the first.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part not in (AS_TEXT, AS_PARTS))
        text = WORDS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
        text = text[:1].lower() + text[1:]
        raise HttpError(400, f"{place}: {text}"[:400] if place else text[:400], param=place[:200] or None) from None
    except RecursionError:
        raise HttpError(400, "the request's body is nested too deeply") from None


async def read_with_picture(
    request: Request, kind: type[B], pictures: PictureInput, engine: Engine
) -> tuple[B, Picture]:
    """A body with a picture: JSON with a data URL, or a form with a file.

    Raises:
        HttpError: the body cannot be used.
        InputError: the picture cannot be read.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await _read_form(request, kind, pictures, engine)
    body = await read_json(request, kind)
    url = getattr(body, "image")  # noqa: B009  # all such bodies have it
    return body, await unless_gone(pictures.from_url(url, engine), request)


async def _read_form(request: Request, kind: type[B], pictures: PictureInput, engine: Engine) -> tuple[B, Picture]:
    charset = _CHARSET.search(request.headers["content-type"])
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise HttpError(400, "the form must be in UTF-8")  # some of Python's codecs take very long, others fail
    try:
        form = await request.form(max_files=1, max_fields=20, max_part_size=1 << 16)
    except HTTPException as error:
        raise HttpError(400, f"the form cannot be read: {error.detail}") from None
    except UnicodeError:
        raise HttpError(400, "the form cannot be read: it is not UTF-8") from None
    try:
        upload = form.get("image")
        if not isinstance(upload, UploadFile):
            raise HttpError(400, "the form needs a file in its field image (curl -F image=@picture.jpg)", param="image")
        names = [name for name, _ in form.multi_items()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            name = twice[:60]
            raise HttpError(400, f"the form has {name!r} twice: several boxes are one list of lists", param=name)
        texts = {name for name, field in kind.model_fields.items() if field.annotation is str}
        fields = {
            name: value if name in texts else _field(value) for name, value in form.items() if isinstance(value, str)
        }
        body = check({**fields, "image": IN_FORM}, kind)
        content = await upload.read()
    finally:
        await form.close()
    return body, await unless_gone(pictures.from_bytes(content, engine), request)


def _field(text: str) -> Any:
    """A form's field: lists, numbers and truth values are written as in JSON; everything else is text."""
    if text[:1] in "[{" or text in ("true", "false"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text
