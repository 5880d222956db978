"""What stands before every request: known host, known origin, a key, a body that is neither too large nor too slow.

Plain ASGI, so that nothing is read before it may be.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect

from groma.serve.errors import GONE, HttpError, error_response
from groma.serve.settings import ServeSettings, is_key

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOG = logging.getLogger("groma.serve")

OPEN_PATHS = ("/health", "/", "/docs", "/openapi.json", "/favicon.ico")
OPEN_PREFIX = "/page/"
"""What is told without a key: nothing that a model made."""

EXPOSED = ("Retry-After", "X-Request-Id")
"""Headers that pages of other origins, where they may call, can read."""

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guards:
    """Wraps the application."""

    def __init__(self, app: App, settings: ServeSettings, *, on_reply: Callable[[int], None] = lambda status: None):
        """Guard `app`; `on_reply` is told the status of every reply."""
        self.app, self.settings, self._on_reply = app, settings, on_reply
        self._held = _Held(settings.max_held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Watched(scope, send, self.settings.cors_origins)
        scope.setdefault("state", {}).update(request_id=request.id, began=time.monotonic())
        try:
            client = self._checked(scope)
            scope["state"]["client"] = client
            with _Body(receive, self.settings, self._held) as body:
                await self.app(scope, body.receive, request.send)
        except ClientDisconnect:
            pass  # nobody is there to be told
        except HttpError as error:
            if not request.started:
                await error_response(error)(scope, receive, request.send)
        finally:
            self._on_reply(request.status or GONE)
            request.log()

    def _checked(self, scope: Scope) -> str:
        """Who asks, for those who may.

        Raises:
            HttpError: they may not.
        """
        headers = Headers(scope=scope)
        hosts = self.settings.hosts
        host = headers.get("host", "")
        name = _hostname(host)
        # probes call by any name, and what they are told is nobody's secret
        if "*" not in hosts and name.lower() not in hosts and scope["path"] != "/health":
            # a web page whose name was made to point at this machine would come in by the loopback address
            raise HttpError(403, "the host by which this server was called is not known: name it with --trusted-host")
        origin = headers.get("origin")
        if origin is not None and not self._is_known(origin, host):
            raise HttpError(403, "web pages of other origins may not call: allow them with --cors-origin")
        length = headers.get("content-length")
        if length is not None and length.isdigit() and int(length) > self.settings.max_body_bytes:
            raise _too_large(self.settings)
        return self._client(scope, headers)

    def _is_known(self, origin: str, host: str) -> bool:
        if origin in self.settings.cors_origins:
            return True
        return _is_plain(origin) and urlsplit(origin).netloc.lower() == host.lower()

    def _client(self, scope: Scope, headers: Headers) -> str:
        """A name for who asks, by key or else by address."""
        peer = scope.get("client")
        address = peer[0] if peer else "local"
        if not self.settings.api_keys:
            return str(address)
        path = scope["path"]
        kind, _, key = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and is_key(key.strip(), self.settings.api_keys):
            return f"key:{uuid.uuid5(uuid.NAMESPACE_OID, key.strip()).hex[:8]}"
        if path in OPEN_PATHS or path.startswith(OPEN_PREFIX) or scope["method"] == "OPTIONS":
            return str(address)
        raise HttpError(401, "a key is needed: send Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"})


def _hostname(host: str) -> str:
    """The name in a Host header, without port; nothing if it cannot be read."""
    try:
        parts = urlsplit(f"//{host}")
        return (parts.hostname or "") if parts.port != 0 else ""  # a port that is none raises
    except ValueError:
        return ""


def _is_plain(text: str) -> bool:
    """Without what urlsplit chokes on."""
    try:
        urlsplit(f"//{text}" if "//" not in text else text).port  # noqa: B018
    except ValueError:
        return False
    return True


def _too_large(settings: ServeSettings) -> HttpError:
    return HttpError(413, f"the request has more than {settings.max_body_bytes:,} bytes")


@dataclass(slots=True)
class _Held:
    """Bytes of all requests that are in memory."""

    limit: int
    count: int = 0


class _Body(AbstractContextManager["_Body"]):
    """What comes in, counted and timed; it counts among all that is held until the request has ended."""

    def __init__(self, receive: Receive, settings: ServeSettings, held: _Held) -> None:
        self._receive, self._settings, self._held = receive, settings, held
        self._deadline = time.monotonic() + settings.upload_time_s
        self._size = 0
        self._whole = False

    async def receive(self) -> Message:
        """The next message."""
        if self._whole:  # what is awaited now is that the client goes away
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            text = f"the request did not arrive within {self._settings.upload_time_s:g} s"
            raise HttpError(408, text, headers={"Connection": "close"}) from None
        if message["type"] == "http.request":
            self._take(len(message.get("body", b"")))
            self._whole = not message.get("more_body", False)
        return message

    def _take(self, count: int) -> None:
        self._size += count
        self._held.count += count
        if self._size > self._settings.max_body_bytes:
            raise _too_large(self._settings)
        if self._held.count > self._held.limit:
            text = "the server holds as much as it may: come again"
            raise HttpError(503, text, headers={"Retry-After": "5", "Connection": "close"})

    def __exit__(self, *_: object) -> None:
        self._held.count -= self._size


class _Watched:
    """What goes out: headers are added, and how it went is logged, without any content."""

    def __init__(self, scope: Scope, send: Send, cors_origins: tuple[str, ...]) -> None:
        self.scope, self._send = scope, send
        origin = Headers(scope=scope).get("origin")
        self._origin = origin if origin in cors_origins else None
        self.id = uuid.uuid4().hex[:12]
        self.started = False
        self.status = 0
        self._began = time.monotonic()

    async def send(self, message: Message) -> None:
        """The next message."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = MutableHeaders(raw=message["headers"])
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
            headers["X-Request-Id"] = self.id
            if self._origin is not None:  # pages that may call also see why they were refused
                headers.setdefault("Access-Control-Allow-Origin", self._origin)
                headers.setdefault("Access-Control-Expose-Headers", ", ".join(EXPOSED))
                headers.add_vary_header("Origin")
        await self._send(message)

    def log(self) -> None:
        """One line."""
        seconds = round(time.monotonic() - self._began, 4)
        known = self.scope.get("state", {}).get("logged", {})
        entry = {
            "request": self.id,
            "client": self.scope.get("state", {}).get("client"),
            "method": self.scope["method"],
            "path": self.scope["path"][:200],
            "status": self.status or GONE,
            "seconds": seconds,
            **known,
        }
        LOG.info(json.dumps(entry))
