"""A real server on a free port of this machine, with a small random model, for tests that attack it."""

import base64
import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image

from groma.engine.engine import Engine, EngineSettings
from groma.serve import run
from groma.serve.metrics import Metrics
from groma.serve.service import Service
from groma.serve.settings import ServeSettings
from patience import wait_for
from small_models import picture, small_groma

CONTEXT = 1024
"""Tokens of the small model: enough for the server's longest answer."""

LIMIT_S = 20.0
"""Seconds after which a test gives a server up that does not answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The sentence of an error in the documented form."""
        return self.json["error"]["message"]


@dataclass(slots=True)
class Server:
    """A server that runs."""

    service: Service
    port: int

    @property
    def engine(self) -> Engine:
        return self.service.engine

    def connect(self, timeout_s: float = LIMIT_S) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = LIMIT_S,
    ) -> Reply:
        """One well-formed request; what is neither bytes nor text is sent as JSON."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = (body if isinstance(body, str) else json.dumps(body)).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def raw(self, sent: bytes, *, timeout_s: float = LIMIT_S, half_close: bool = False) -> bytes:
        """Whatever the server says to these bytes until it closes, or `timeout_s` are over (TimeoutError)."""
        with self.connect(timeout_s) as sock:
            try:
                sock.sendall(sent)
                if half_close:
                    sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it may close before it has read all
            return read_to_end(sock, timeout_s)

    def idle(self, seconds: float = LIMIT_S) -> bool:
        """Wait until nobody waits for the model or is answered by it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.engine.running == 0 and self.engine.waiting == 0:
                return True
            time.sleep(0.02)
        return False


def read_to_end(sock: socket.socket, timeout_s: float = LIMIT_S) -> bytes:
    """Everything up to the end of a connection, however it ends; TimeoutError if it does not."""
    until, said = time.monotonic() + timeout_s, b""
    while True:
        sock.settimeout(max(0.001, until - time.monotonic()))
        try:
            part = sock.recv(1 << 16)
        except ConnectionError:
            return said
        if not part:
            return said
        said += part


@contextmanager
def running(
    *,
    engine: EngineSettings | None = None,
    make_engine: Callable[[Metrics], Engine] | None = None,
    send_buffer_bytes: int | None = None,
    **settings: Any,
) -> Iterator[Server]:
    """A server as `groma serve` runs it, but in a thread; ready, unless `make_engine` is given."""
    torch.set_num_threads(1)

    def make(metrics: Metrics) -> Engine:
        return Engine(small_groma(max_position_embeddings=CONTEXT), engine, observer=metrics)

    chosen = ServeSettings(**{"port": 0, "drain_time_s": 5.0} | settings)
    service = Service(chosen, make_engine or make, model_name="small")
    sock = run.listen(chosen)
    if send_buffer_bytes is not None:  # connections inherit it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    server = Server(service, sock.getsockname()[1])
    thread = threading.Thread(target=_serve, args=(service, sock), name="test-server", daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.ask("GET", "/health").status == 200 or make_engine is not None)
        yield server
    finally:
        service.on_failure()  # what stops it: signals reach the main thread alone
        thread.join(LIMIT_S)
        assert not thread.is_alive(), "the server does not stop"


def _serve(service: Service, sock: socket.socket) -> None:
    # signals reach the main thread alone
    with patch.object(run._Server, "capture_signals", lambda _: contextlib.nullcontext()):
        run.serve(service, sock)


# --- what is sent ----------------------------------------------------------------------------------------------------


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def good_png(seed: int = 0, size: tuple[int, int] = (120, 90)) -> bytes:
    return file_of(picture(seed, size))


GOOD_URL = data_url(good_png())


def user(text: str | None = "What is this?", *urls: str, **more: Any) -> dict[str, Any]:
    """A user's message with pictures; without any, the good one."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls or (GOOD_URL,)]
    if text is not None:
        parts.append({"type": "text", "text": text})
    return {"role": "user", "content": parts, **more}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    """A chat's body; short answers."""
    return {"messages": list(messages) or [user()], "max_tokens": 6, **more}
