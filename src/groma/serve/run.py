"""Runs a server until it is told to stop; then running questions are answered first."""

import asyncio
import contextlib
import json
import logging
import math
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from groma.errors import InputError
from groma.serve.app import build_app
from groma.serve.errors import HttpError, error_response
from groma.serve.guards import SECURITY_HEADERS
from groma.serve.service import Service
from groma.serve.settings import ServeSettings

KEEP_ALIVE_S = 15
"""Seconds that a connection may be idle between two requests."""


BACKLOG = 2048
"""Connections that wait to be taken, as uvicorn's own."""


def listen(settings: ServeSettings) -> socket.socket:
    """Take the port.

    Raises:
        InputError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host.strip("[]"), settings.port))
        sock.listen(BACKLOG)  # two servers may bind one port, but not listen at it
    except (OSError, TypeError, UnicodeError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or "it is no address of this machine"
        raise InputError(f"cannot listen at {settings.host}:{settings.port}: {reason}; choose another --port") from None
    return sock


def serve(service: Service, sock: socket.socket) -> None:
    """Answer until SIGTERM or Ctrl-C.

    Raises:
        Exception: the model could not be loaded.
    """
    settings = service.settings
    config = uvicorn.Config(
        build_app(service),  # pyright: ignore[reportArgumentType]  # ASGI, as uvicorn's types have it
        http=_patient(settings),
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # what a client says of its own address is not believed
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.drain_time_s) + 5,  # those who are told so need a moment, too
        h11_max_incomplete_event_size=1 << 16,
    )
    server = _Server(config, service)
    service.on_failure = server.stop
    asyncio.run(server.serve(sockets=[sock]))
    if service.failure is not None:
        raise service.failure


class _Server(uvicorn.Server):
    """uvicorn's server, that ends with status 0 when it was told to stop; uvicorn's own ends by the signal."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def stop(self) -> None:
        """Finish what runs; told a second time: at once."""
        self.force_exit = self.should_exit
        if self.force_exit:  # what is cut off now would be told with traces
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Questions that still run when the time is over are told that the server stops."""
        timer = asyncio.get_running_loop().call_later(self.service.settings.drain_time_s, self.service.stop_now)
        await super().shutdown(sockets)
        timer.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop it."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


def _patient(settings: ServeSettings) -> type[H11Protocol]:
    """Uvicorn's protocol with a clock: uvicorn itself waits for ever for a request, and for who does not read."""
    seconds = settings.upload_time_s

    class Patient(H11Protocol):
        _idle: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                self.app = _full
            self._wait_for_request()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._idle, self._unread):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait_for_request()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._unread is not None:
                self._unread.cancel()

        def _wait_for_request(self) -> None:
            if self._idle is not None:
                self._idle.cancel()
            self._idle = self.loop.call_later(seconds, self._end_if_idle)

        def _end_if_idle(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                # to close would be to wait for a client that leaves a little unread
                end = self.transport.abort if self.transport.get_write_buffer_size() else self.transport.close
                end()

    return Patient


async def _full(scope: Any, receive: Any, send: Any) -> None:
    """The reply where there are too many connections."""
    error = HttpError(
        503, "the server has too many connections: come again", headers={"Retry-After": "5", "Connection": "close"}
    )
    response = error_response(error)
    response.headers.update(SECURITY_HEADERS)
    await response(scope, receive, send)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as JSON; a message that is JSON already is merged."""
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        message = record.getMessage()
        try:
            values = json.loads(message) if message.startswith("{") else {"message": message}
        except ValueError:
            values = {"message": message}
        entry |= values
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def log_to_stderr(level: str) -> None:
    """Structured logs of the server and the engine."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("groma.serve", "groma.engine", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper() if name != "uvicorn.error" else "WARNING")
