"""A server for the page alone: its files, as the real one serves them, and answers that a test prescribes."""

import asyncio
import base64
import contextlib
import io
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "src" / "groma" / "serve" / "page"
PARTS = {file.name for file in PAGE.iterdir()}
SCENE = ROOT / "examples" / "scene.png"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

SCENE_BOXES: dict[str, tuple[float, float, float, float]] = {
    "a gray balloon": (47.9, 22.3, 111.1, 132.5),
    "a bicycle": (44.9, 279.9, 240.0, 444.1),
    "a burger": (134.0, 188.4, 203.8, 262.0),
    "a red key": (165.0, 3.1, 317.3, 171.4),
    "a banana": (224.1, 66.4, 411.9, 226.2),
    "a cyan turtle": (290.7, 257.5, 388.4, 335.3),
    "a brown rocket": (389.4, 400.9, 465.7, 455.4),
}
"""Where things are in examples/scene.png; left, top, right, bottom in pixels."""

SCENE_TEXT = (
    "The image shows a gray balloon, a bicycle, a burger, a red key, a banana, a cyan turtle and a brown rocket."
)


def entity(
    text: str, phrase: str, boxes: list[tuple[float, float, float, float]], ids: list[int], score: float = 0.97
) -> dict[str, Any]:
    """A phrase of a text, as the API tells it: characters are counted as Python does."""
    start = text.index(phrase)
    return {
        "image": 0,
        "phrase": phrase,
        "start": start,
        "end": start + len(phrase),
        "score": score,
        "region_ids": ids,
        "region_scores": [score] * len(ids),
        "boxes_xyxy_px": [list(box) for box in boxes],
    }


def scene_entities() -> list[dict[str, Any]]:
    return [
        entity(SCENE_TEXT, phrase, [box], [number], 0.97 - number / 50)
        for number, (phrase, box) in enumerate(SCENE_BOXES.items())
    ]


def proposals(count: int = 24) -> list[dict[str, Any]]:
    """Regions whose objectness falls from 0.99 in even steps; the first ones are the scene's things."""
    boxes = list(SCENE_BOXES.values())
    boxes += [(10.0 * k, 12.0 * k, 10.0 * k + 90, 12.0 * k + 70) for k in range(count - len(boxes))]
    return [
        {"image": 0, "id": k, "box_xyxy_px": list(box), "objectness": 0.99 - k * 0.9 / count, "source": "proposal"}
        | {"numbers": []}
        for k, box in enumerate(boxes[:count])
    ]


@dataclass(kw_only=True)
class Say:
    """An answer, streamed in pieces of `step` characters; entities are told once their phrase is out."""

    text: str = SCENE_TEXT
    entities: list[dict[str, Any]] = field(default_factory=list)
    step: int = 12
    hold_at: int | None = None
    """Characters after which it waits for `go`."""
    go: threading.Event = field(default_factory=threading.Event)
    fail: str | None = None
    """Ends with this error instead of its last chunk."""
    breaks_off: bool = False
    """Ends without a last chunk."""
    finish: str = "stop"


@dataclass(kw_only=True)
class Refuse:
    """An error status."""

    status: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """Sent instead of the usual JSON."""


def scene_answer(**changes: Any) -> Say:
    return Say(entities=scene_entities(), **changes)


class _WithPolicy:
    """Sends the policy with every response; written for the protocol, as FastAPI's own kind would slow streams."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"content-security-policy", POLICY.encode()))
            await send(message)

        await self.app(scope, receive, send_with)


class PageServer:
    """Listens on a free port of this machine; a context manager.

    Attributes:
        answers: What the next questions get; without any, the scene is described.
        regions: What /regions finds, or a Refuse.
        config: What the page is told about the server.
        hung_up: How many streams the page left before their end.
        received: (path, headers, body) of every POST.
    """

    def __init__(self) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(self._app(), host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1)
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self.reset()

    def reset(self) -> None:
        self.answers: list[Say | Refuse] = []
        self.regions: list[dict[str, Any]] | Refuse = proposals()
        self.config: dict[str, Any] = {
            "model": "groma-tiny",
            "key_needed": False,
            "max_upload_bytes": 20_000_000,
            "max_regions": 100,
            "examples": [
                {"name": "scene.png", "url": "/page/examples/scene.png", "question": "Describe the image in detail."}
            ],
        }
        self.hung_up = 0
        self.received: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    @property
    def url(self) -> str:
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __enter__(self) -> "PageServer":
        self._thread.start()
        while not self._server.started:
            threading.Event().wait(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(5)

    def _app(self) -> FastAPI:
        app = FastAPI(openapi_url=None)

        @app.get("/")
        def page() -> Response:
            return FileResponse(PAGE / "index.html")

        @app.get("/page/config.json")
        def config() -> Response:
            return JSONResponse(self.config)

        @app.get("/page/examples/scene.png")
        def example() -> Response:
            return FileResponse(SCENE)

        @app.post("/regions")
        async def regions(request: Request) -> Response:
            body = await self._note(request)
            if isinstance(self.regions, Refuse):
                return _refused(self.regions)
            return JSONResponse({"regions": self.regions, "image_size_px": _size_px(body["image"])})

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            body = await self._note(request)
            answer = self.answers.pop(0) if self.answers else scene_answer()
            if isinstance(answer, Refuse):
                return _refused(answer)
            return StreamingResponse(self._stream(answer, body), media_type="text/event-stream")

        @app.get("/page/{name}")
        def part(name: str) -> Response:
            if name not in PARTS:
                return Response(status_code=404)
            return FileResponse(PAGE / name, headers={"Cache-Control": "max-age=600"})

        app.add_middleware(_WithPolicy)
        return app

    async def _note(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        self.received.append((request.url.path, dict(request.headers), body))
        return body

    async def _stream(self, answer: Say, body: dict[str, Any]) -> AsyncIterator[str]:
        is_whole = False
        try:
            for delta, finish in self._deltas(answer, body):
                if isinstance(delta, int):
                    while not answer.go.is_set():
                        await asyncio.sleep(0.02)
                        yield ": still there\n\n"
                    continue
                if isinstance(delta, str):
                    yield f"data: {json.dumps({'error': {'message': delta, 'type': 'server_error'}})}\n\n"
                    break
                choice = {"index": 0, "delta": delta, "finish_reason": finish}
                chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}
                yield f"data: {json.dumps(chunk)}\n\n"
                await asyncio.sleep(0)
            else:
                if not answer.breaks_off:
                    yield "data: [DONE]\n\n"
            is_whole = True
        finally:
            self.hung_up += not is_whole

    def _deltas(self, answer: Say, body: dict[str, Any]) -> Iterator[tuple[dict[str, Any] | int | str, str | None]]:
        """The deltas of an answer; an int stands for a wait, a str for an error."""
        yield {"role": "assistant", "content": ""}, None
        told, out, waited = 0, 0, answer.hold_at is None
        while out < len(answer.text):
            yield {"content": answer.text[out : out + answer.step]}, None
            out = min(out + answer.step, len(answer.text))
            named = [e for e in answer.entities[told:] if e["end"] <= out]
            if named:
                told += len(named)
                yield {"entities": named}, None
            if not waited and answer.hold_at is not None and out >= answer.hold_at:
                waited = True
                yield 0, None
        if answer.fail is not None:
            yield answer.fail, None
        elif not answer.breaks_off:
            yield {"grounding": _grounding(answer, body)}, answer.finish


def _grounding(answer: Say, body: dict[str, Any]) -> dict[str, Any]:
    """What the last chunk tells: every region there is, those of the question among them."""
    url = next(part for part in body["messages"][0]["content"] if part["type"] == "image_url")["image_url"]["url"]
    width, height = _size_px(url)
    question = body["messages"][-1]
    regions = {
        region: {"image": 0, "id": region, "box_xyxy_px": box, "objectness": 0.9, "source": "proposal", "numbers": []}
        for e in answer.entities
        for region, box in zip(e["region_ids"], e["boxes_xyxy_px"], strict=True)
    }
    for number, box in enumerate(question.get("regions", []), start=1):
        region = 90 + number
        regions[region] = {"image": 0, "id": region, "box_xyxy_px": box, "objectness": 1.0, "source": "user"}
        regions[region]["numbers"] = [number]
    return {
        "grounded": question["grounded"],
        "images": [{"width_px": width, "height_px": height, "start": 0, "end": len(regions)}],
        "entities": answer.entities,
        "regions": list(regions.values()),
    }


def _size_px(data_url: str) -> tuple[int, int]:
    """Width and height of the upright picture."""
    with contextlib.closing(Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2])))) as picture:
        return ImageOps.exif_transpose(picture).size


def _refused(refusal: Refuse) -> Response:
    if refusal.body is not None:
        return Response(refusal.body, refusal.status, refusal.headers, "text/html")
    error = {"message": refusal.message, "type": "invalid_request_error", "code": None, "param": None}
    return JSONResponse({"error": error}, refusal.status, refusal.headers)
