"""A real server on a free port of this machine, in a thread, with a small model of random weights."""

import asyncio
import base64
import contextlib
import io
import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import uvicorn
from PIL import Image

from groma.engine.engine import Engine, EngineSettings
from groma.inference.assistant import Groma
from groma.serve.app import build_app
from groma.serve.run import listen
from groma.serve.service import Service
from groma.serve.settings import ServeSettings
from patience import wait_for
from slow_backend import slowly


class Served:
    """A server that runs."""

    def __init__(
        self, assistant: Groma, settings: ServeSettings, engine_settings: EngineSettings, step_s: float
    ) -> None:
        self.assistant = assistant
        backend = slowly(assistant, step_s)
        self.service = Service(
            settings,
            lambda metrics: Engine(assistant, engine_settings, backend=backend, observer=metrics),
            model_name="small",
        )
        self._sock = listen(settings)
        self.port: int = self._sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(build_app(self.service), log_config=None, access_log=False, ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve(sockets=[self._sock])))

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self.service.state == "ready", 30)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    @property
    def engine(self) -> Engine:
        return self.service.engine

    def wait_idle(self) -> None:
        """Until nobody is answered any more."""
        wait_for(lambda: not self.engine.running and not self.engine.waiting)

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON (or text) and headers of a reply."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if content else {}
        connection.request(method, path, content, {**kind, **headers})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        kind, headers = reply.getheader("Content-Type") or "", {name.lower(): v for name, v in reply.getheaders()}
        if kind.startswith("image/") and "svg" not in kind:
            return reply.status, content, headers
        text = content.decode()
        return reply.status, json.loads(text) if text and kind.startswith("application/json") else text, headers


@contextlib.contextmanager
def served(
    assistant: Groma,
    settings: ServeSettings | None = None,
    engine_settings: EngineSettings | None = None,
    *,
    step_s: float = 0.0,
) -> Iterator[Served]:
    """Serve in a `with` block; every step takes `step_s` longer."""
    server = Served(assistant, settings or ServeSettings(port=0), engine_settings or EngineSettings(), step_s)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def png(image: Image.Image) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def data_url(image: Image.Image) -> str:
    """A picture as clients send it."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def user(text: str, *images: Image.Image, **more: Any) -> dict[str, Any]:
    """A user's message."""
    parts = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}], **more}
