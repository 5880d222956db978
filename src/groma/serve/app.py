"""The application: addresses, their description, the page."""

import os
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from groma.errors import GromaError
from groma.inference.request import BoxClippedWarning, BoxesMergedWarning
from groma.serve import boxes, completions
from groma.serve.description import described
from groma.serve.errors import HttpError, as_http, error_response
from groma.serve.guards import EXPOSED, App, Guards
from groma.serve.service import Service

Handler = Callable[..., Any]

PAGE = Path(__file__).parent / "page"

EXAMPLES = {
    "scene.png": "Describe the image in detail.",
    "owl.jpg": "Where is the owl?",
    "frogs.jpg": "Locate all frogs in this image.",
}
"""Pictures of the page -> what can be asked about them."""


def build_app(service: Service) -> App:
    """Everything, guarded."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # what is said about boxes is told by the reply; in many threads a warning's filters would get mixed up
        for kind in (BoxClippedWarning, BoxesMergedWarning):
            warnings.simplefilter("ignore", kind)
        service.load()
        yield
        service.close()

    app = FastAPI(
        title="Groma",
        version=version("groma"),
        description="A grounded assistant: point at regions of a picture, get phrases tied to boxes.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # the usual pages of FastAPI load scripts from elsewhere
        redoc_url=None,
    )
    _add_questions(app, service)
    _add_state(app, service)
    _add_page(app, service)
    app.add_exception_handler(GromaError, _tell)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(ClientDisconnect, _tell_nobody)
    app.add_exception_handler(Exception, _tell_nothing)
    app.openapi = cache(lambda: described(app, with_keys=bool(service.settings.api_keys)))
    guarded: Any = app
    if service.settings.cors_origins:
        guarded = CORSMiddleware(
            app,
            allow_origins=list(service.settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # pages that are let in may send what their clients send
            expose_headers=list(EXPOSED),
        )
    return Guards(guarded, service.settings, on_reply=service.metrics.replied)


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await completions.complete(request, service)

    @app.post("/locate")
    async def locate(request: Request) -> Response:
        return await boxes.locate(request, service)

    @app.post("/describe")
    async def describe(request: Request) -> Response:
        return await boxes.describe(request, service)

    @app.post("/regions")
    async def regions(request: Request) -> Response:
        return await boxes.regions(request, service)


def _get(app: FastAPI, path: str, **options: Any) -> Callable[[Handler], Handler]:
    """An address that can be read, and looked after by those who ask for the head alone."""

    def add(handler: Handler) -> Handler:
        app.head(path, include_in_schema=False)(handler)
        return app.get(path, **options)(handler)

    return add


def _add_state(app: FastAPI, service: Service) -> None:
    @_get(app, "/v1/models", summary="The model")
    async def models() -> dict[str, Any]:
        model = {"id": service.model_name, "object": "model", "created": 0, "owned_by": "groma"}
        return {"object": "list", "data": [model]}

    @_get(app, "/v1/models/{name:path}", summary="The model by its name")
    async def model(name: str) -> dict[str, Any]:
        if name != service.model_name:
            raise HttpError(404, f"there is no model of that name: it is {service.model_name}")
        return {"id": name, "object": "model", "created": 0, "owned_by": "groma"}

    @_get(app, "/health", summary="Whether questions are answered")
    async def health() -> Response:
        ready = service.state == "ready"
        return JSONResponse({"status": service.state}, status_code=200 if ready else 503)

    @_get(app, "/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI, service: Service) -> None:
    @_get(app, "/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @_get(app, "/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html", headers={"Cache-Control": "no-cache"})

    @_get(app, "/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return FileResponse(PAGE / "icon.svg", media_type="image/svg+xml")

    @_get(app, "/page/config.json", include_in_schema=False)
    async def config() -> dict[str, Any]:
        ready = service.state == "ready"
        return {
            "model": service.model_name,
            "key_needed": bool(service.settings.api_keys),
            "max_upload_bytes": service.settings.max_picture_bytes,
            "max_regions": service.engine.assistant.max_regions if ready else 100,
            "examples": [
                {"name": name, "url": f"page/examples/{name}", "question": question}
                for name, question in EXAMPLES.items()
            ],
        }

    files = StaticFiles(directory=PAGE)

    @_get(app, "/page/{path:path}", include_in_schema=False)
    async def part(path: str, request: Request) -> Response:
        # parts of a file are of no use here, and faulty ones would be answered in a form of their own
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
        return await files.get_response(os.path.normpath(path), request.scope)


# --- errors ----------------------------------------------------------------------------------------------------------


async def _tell(_: Request, error: Exception) -> Response:
    assert isinstance(error, GromaError)
    return error_response(error)


async def _tell_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {404: "there is nothing at this address", 405: "this address takes another method"}
    text = texts.get(error.status_code, "the request cannot be used")
    return error_response(HttpError(error.status_code, text, headers=dict(error.headers or {})))


async def _tell_nobody(_: Request, __: Exception) -> Response:
    """Who went away in the middle of a request is told nothing, and it is no fault of the server."""
    return Response(status_code=400)


async def _tell_nothing(_: Request, error: Exception) -> Response:
    """Whatever else breaks: the log has it, the client does not."""
    return error_response(as_http(GromaError(str(error))))
