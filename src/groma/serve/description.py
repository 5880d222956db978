"""The API described (OpenAPI): bodies are read by hand (groma.serve.reading), so they are added here."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from groma.serve.bodies import ChatBody, DescribeBody, LocateBody, RegionsBody

BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatBody,
    "/locate": LocateBody,
    "/describe": DescribeBody,
    "/regions": RegionsBody,
}
"""Addresses -> what they are sent."""

FORMS = ("/locate", "/describe", "/regions")
"""Addresses that take a form with a file as well."""

HEADS = {
    "/v1/chat/completions": ("Ask", "Ask about pictures, in OpenAI's form, with regions and grounding."),
    "/locate": ("Locate", "Boxes of a phrase."),
    "/describe": ("Describe", "What is in these boxes, one answer each."),
    "/regions": ("Regions", "What the proposer found, best first."),
}
"""Addresses -> name and sentence of their description."""

STATUSES = {
    400: "What was sent cannot be used",
    401: "A key is needed",
    403: "The host or the page's origin is not known",
    408: "The request did not arrive in time",
    413: "Too large",
    415: "The body is compressed",
    429: "Too many wait: come again after Retry-After seconds",
    500: "A fault of the server",
    503: "Starting or stopping, or too much is held: come again after Retry-After seconds",
    504: "It took too long",
}
"""Statuses of errors -> what they mean."""

_ERROR = {"error": {"message": "one sentence", "type": "invalid_request_error", "param": None, "code": None}}
_REGION = {
    "id": 0,
    "box_xyxy_px": [1.0, 1.0, 7.0, 7.0],
    "objectness": 0.98,
    "source": "proposal",
    "numbers": [],
}
_ENTITY = {
    "phrase": "a red square",
    "start": 16,
    "end": 28,
    "region_ids": [0],
    "score": 0.97,
    "region_scores": [0.97],
    "boxes_xyxy_px": [[1.0, 1.0, 7.0, 7.0]],
}
_ANSWER = {
    "text": "The image shows a red square.",
    "entities": [_ENTITY],
    "regions": [_REGION],
    "finish_reason": "stop",
    "image_size_px": [8, 8],
}
_GROUNDING = {
    "grounded": True,
    "images": [{"width_px": 8, "height_px": 8, "start": 0, "end": 29}],
    "entities": [{"image": 0, **_ENTITY}],
    "regions": [{"image": 0, **_REGION}],
}
_MESSAGE = {"role": "assistant", "content": _ANSWER["text"], "refusal": None, "grounding": _GROUNDING}

REPLIES: dict[str, Any] = {
    "/v1/chat/completions": {
        "id": "chatcmpl-0123456789abcdef01234567",
        "object": "chat.completion",
        "created": 1790000000,
        "model": "groma-tiny",
        "choices": [{"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 120,
            "completion_tokens": 16,
            "total_tokens": 136,
            "prompt_tokens_details": {"cached_tokens": 100},
        },
    },
    "/locate": _ANSWER,
    "/describe": {"descriptions": [_ANSWER]},
    "/regions": {"image_size_px": [8, 8], "regions": [_REGION]},
}
"""Addresses -> an example of what they answer."""


def described(app: FastAPI, *, with_keys: bool) -> dict[str, Any]:
    """The description of all addresses; `with_keys`: a key is asked for."""
    told = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = told.setdefault("components", {})
    _, schemas = models_json_schema(
        [(kind, "validation") for kind in BODIES.values()], ref_template="#/components/schemas/{model}"
    )
    components.setdefault("schemas", {}).update(schemas.get("$defs", {}))
    for path, kind in BODIES.items():
        told["paths"][path]["post"] |= _question(path, kind)
    for methods in told["paths"].values():
        for method in methods.values():
            method["responses"].pop("422", None)  # no address answers so
    if with_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        told["security"] = [{"key": []}]
    return told


def _question(path: str, kind: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if path in FORMS:
        file = {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}
        content["multipart/form-data"] = {"schema": {"allOf": [schema, file]}}
    summary, sentence = HEADS[path]
    errors = {
        str(status): {"description": text, "content": {"application/json": {"example": _ERROR}}}
        for status, text in STATUSES.items()
    }
    answer = {"description": "The answer", "content": {"application/json": {"example": REPLIES[path]}}}
    return {
        "summary": summary,
        "description": sentence,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": answer, **errors},
    }
