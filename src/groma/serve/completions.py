"""`POST /v1/chat/completions`, streaming or not."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from groma.engine.ticket import Answered, Event
from groma.errors import GromaError
from groma.inference.result import Entity
from groma.prompt.parse import TextDelta
from groma.serve.bodies import ChatBody
from groma.serve.chat import (
    BETWEEN,
    Chat,
    content_of,
    decoding_of,
    entity_dict,
    finish_reason,
    heading,
    jobs_of,
    read_chat,
    usage_dict,
    warnings_of,
)
from groma.serve.errors import as_http, error_body
from groma.serve.leaving import unless_gone
from groma.serve.reading import read_json
from groma.serve.service import Service, Waiting


async def complete(request: Request, service: Service) -> Response:
    """Answer a conversation's last question.

    Raises:
        GromaError: it cannot be answered.
    """
    engine = service.engine
    body = await read_json(request, ChatBody)
    chat = read_chat(body, service.settings)
    coming = jobs_of(
        chat,
        engine,
        service.pictures,
        decoding=decoding_of(body, engine.default_decoding),
        at_least=engine.at_least if body.most_tokens is None else None,
        asker=service.asker(request),
        streams=bool(body.stream),
    )
    jobs = await unless_gone(coming, request)
    reply = _Reply(service.model_name, chat)
    if not body.stream:
        answers = await service.run(jobs, request)
        request.state.logged = usage_dict(answers)
        return JSONResponse(reply.whole(answers))
    waiting = Waiting(engine)
    try:
        waiting.submit(jobs)
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        stream = reply.stream(waiting, len(jobs), request, include_usage=include_usage)
        # what is wrong with the question is told by the status, before anything is sent
        first = await unless_gone(anext(stream), request)
    except BaseException:
        waiting.give_up()
        raise
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_told(first, stream, waiting, request), media_type="text/event-stream", headers=headers)


async def _told(first: str, stream: AsyncIterator[str], waiting: Waiting, request: Request) -> AsyncIterator[str]:
    """The events of a stream; what goes wrong on the way is its last."""
    try:
        yield first
        async for event in stream:
            yield event
    except GromaError as error:
        told = error_body(as_http(error))
        request.state.logged = {"error": told["error"]["type"]}
        yield _event(told)
    finally:
        waiting.give_up()


def _event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False, separators=(',', ':'))}\n\n"


class _Reply:
    """One reply, in OpenAI's form."""

    def __init__(self, model: str, chat: Chat) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex[:24]}"
        self.created, self.model, self.chat = int(time.time()), model, chat
        self._usage: dict[str, Any] = {}  # what each chunk says of it

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _grounding(self, answers: list[Answered]) -> tuple[str, dict[str, Any]]:
        content, grounding = content_of(answers)
        if told := warnings_of(self.chat, answers):
            grounding["warnings"] = told
        return content, grounding

    def whole(self, answers: list[Answered]) -> dict[str, Any]:
        """Everything at once."""
        content, grounding = self._grounding(answers)
        message = {"role": "assistant", "content": content, "refusal": None, "grounding": grounding}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(answers)}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage_dict(answers)}

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice], **self._usage})

    async def stream(
        self, waiting: Waiting, count: int, request: Request, *, include_usage: bool
    ) -> AsyncIterator[str]:
        """Chunk by chunk; the answers about several pictures one after the other."""
        self._usage = {"usage": None} if include_usage else {}
        answers: list[Answered] = []
        length = entities = 0
        for number in range(count):
            opening = (BETWEEN if number else "") + heading(number, count)
            begun = False
            length += len(opening)
            async for event in waiting.events(number):
                if not begun:
                    begun = True
                    role = {} if number else {"role": "assistant"}
                    yield self._chunk({**role, "content": opening})
                if isinstance(event, Answered):
                    answers.append(event)
                    length += len(event.answer.text) if event.answer is not None else 0
                else:
                    yield self._chunk(_delta(event, number, length, entities))
                    entities += isinstance(event, Entity)
        request.state.logged = usage_dict(answers)
        _, grounding = self._grounding(answers)
        yield self._chunk({"grounding": grounding}, finish_reason(answers))
        if include_usage:
            yield _event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage_dict(answers)})
        yield "data: [DONE]\n\n"


def _delta(event: Event, image: int, offset: int, index: int) -> dict[str, Any]:
    """Text, or a phrase whose regions have just been named; by `index` clients put lists of chunks together."""
    if isinstance(event, TextDelta):
        return {"content": event.text}
    assert isinstance(event, Entity)
    return {"content": "", "entities": [{"index": index, **entity_dict(event, image, offset)}]}
