"""Runs a server until it is told to stop; then running questions are answered first."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from groma.errors import InputError
from groma.serve.app import build_app
from groma.serve.service import Service
from groma.serve.settings import ServeSettings

KEEP_ALIVE_S = 15
"""Seconds that a connection may be idle between two requests."""


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
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
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
        http=_patient(settings.upload_time_s),
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_time_s)),
        h11_max_incomplete_event_size=1 << 16,
    )
    server = _Server(config)
    service.on_failure = server.stop
    asyncio.run(server.serve(sockets=[sock]))
    if service.failure is not None:
        raise service.failure


class _Server(uvicorn.Server):
    """uvicorn's server, that ends with status 0 when it was told to stop; uvicorn's own ends by the signal."""

    def stop(self) -> None:
        """Finish what runs; told a second time: at once."""
        self.force_exit = self.should_exit
        self.should_exit = True

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


def _patient(seconds: float) -> type[H11Protocol]:
    """Uvicorn's protocol, that ends connections on which no request begins; uvicorn itself waits for ever."""

    class Patient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._first = self.loop.call_later(seconds, self._end_if_idle)

        def connection_lost(self, exc: Exception | None) -> None:
            self._first.cancel()
            super().connection_lost(exc)

        def _end_if_idle(self) -> None:
            if self.cycle is None:
                self.transport.close()

    return Patient


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
