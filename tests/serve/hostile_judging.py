"""The server that is attacked, and what is wrong with its replies."""

import io
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from hostile_http import CHAT, CLOSED, KEY, MAX_BODY_BYTES, MAX_PICTURE_BYTES, MAX_PIXELS, Case, http
from hostile_server import Server, chat, running, user

from groma.engine.engine import EngineSettings

UPLOAD_S = 3.0
ANSWER_S = 30.0
"""Seconds after which a reply to one request counts as a hang."""

LEAK = re.compile(
    rf"/(?:{Path(__file__).parts[1]}|usr|root|home)/|"
    r"Traceback|File \"|site-packages|\.py\b|\b0x[0-9a-f]{6,}|<_io|object at|<class|"
    r"NoneType|\b(?!PostScript)[A-Z][a-z]+(?:[A-Z][a-z]+)+\b|\w+(?:Error|Exception|Warning)\b|"
    r"groma\.\w|pydantic|starlette|numpy|torch"
)
"""What tells of the inside: paths, modules, classes."""

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
}


def alike(one: Any, other: Any) -> bool:
    """Whether two values of JSON are equal but for rounding: what was read before is not computed again."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-2
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


@contextmanager
def attacked() -> Iterator[Server]:
    """The server that is attacked, with small limits."""
    caches = {"picture_cache_bytes": 4 << 20, "prefix_cache_bytes": 4 << 20}
    settings = EngineSettings(max_batch=8, max_queue=64, max_pixels=MAX_PIXELS, **caches)
    with running(
        engine=settings,
        api_keys=(KEY,),
        max_body_bytes=MAX_BODY_BYTES,
        max_picture_bytes=MAX_PICTURE_BYTES,
        upload_time_s=UPLOAD_S,
        time_limit_s=20.0,
    ) as server:
        yield server


GOOD = http("POST", CHAT, chat(user("What is [1]?", regions=[[10, 10, 60, 60]]), max_tokens=12))


def parsed(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a reply."""

    class Said:
        def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
            return io.BytesIO(raw)

    reply = HTTPResponse(Said())  # pyright: ignore[reportArgumentType]
    reply.begin()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()


def good_answer(server: Server) -> Any:
    status, _, body = parsed(server.raw(GOOD, timeout_s=ANSWER_S))
    assert status == 200
    return json.loads(body)["choices"]


def warmed_up(server: Server) -> dict[str, Any]:
    """A good answer, and what the server takes once it has warmed up."""
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: good_answer(server), range(40)))
    return {"answer": good_answer(server), "bytes": memory_bytes(), "threads": threading.active_count()}


def memory_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_connections(server: Server) -> list[str]:
    """Connections that the server holds, of Linux's table."""
    port = f":{server.port:04X}"
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return [row[2] for row in rows if row[1].endswith(port) and row[3] in ("01", "08")]  # established, half closed


def judge(one: Case, raw: bytes) -> str | None:
    """What is wrong with a reply; None: nothing."""
    if not raw:
        return None if CLOSED in one.statuses else "closed without a word"
    try:
        status, headers, body = parsed(raw)
    except (HTTPException, ValueError) as error:
        return f"no HTTP: {error!r}"
    if status not in one.statuses:
        return f"status {status}, expected {sorted(one.statuses)}: {body[:200]!r}"
    if status < 400 or (one.broken and headers.get("content-type", "").startswith("text/plain")):
        return None
    return judge_error(status, headers, body)


def judge_error(status: int, headers: dict[str, str], body: bytes) -> str | None:
    if headers.get("content-type") != "application/json" or headers.get("x-content-type-options") != "nosniff":
        return f"headers {headers}"
    try:
        told = json.loads(body.decode("utf-8"))
    except ValueError:
        return f"no JSON: {body[:200]!r}"
    if set(told) != {"error"} or set(told["error"]) != {"message", "type", "param", "code"}:
        return f"another form: {body[:200]!r}"
    message, kind, param = (told["error"][name] for name in ("message", "type", "param"))
    if kind != TYPES.get(status):
        return f"type {kind} with status {status}"
    if not isinstance(message, str) or not message or len(message) > 600 or "\n" in message:
        return f"no sentence: {message!r:.300}"
    if param is not None and (not isinstance(param, str) or len(param) > 250):
        return f"param {param!r:.300}"
    if leak := LEAK.search(f"{message} {param}"):
        return f"tells {leak[0]!r}: {message}"
    return None


def check(server: Server, cases: list[Case]) -> None:
    """Send them all; none may be answered wrongly, late or not at all."""
    wrong: list[str] = []
    for one in cases:
        began = time.monotonic()
        try:
            fault = judge(one, server.raw(one.sent, timeout_s=ANSWER_S))
        except TimeoutError:
            fault = f"no end after {ANSWER_S} s"
        seconds = time.monotonic() - began
        if fault is None and seconds > ANSWER_S / 2:
            fault = f"took {seconds:.1f} s"
        if fault is not None:
            wrong.append(f"{one.name}: {fault}")
    assert not wrong, f"{len(wrong)} of {len(cases)}\n" + "\n".join(wrong[:40])
