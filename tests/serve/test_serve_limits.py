"""Limits of time and of connections, and what is told to those who wait when a server stops."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hostile_server import LIMIT_S, Server, chat, running
from plain_requests import CHAT

from groma.engine.engine import Engine, EngineSettings
from groma.serve.guards import SECURITY_HEADERS
from patience import SOON_S, soon, wait_for
from slow_backend import slowly
from small_models import endless_groma


def slow_engine(metrics: Any) -> Engine:
    assistant = endless_groma(max_position_embeddings=1024)
    settings = EngineSettings(max_batch=1)
    return Engine(assistant, settings, observer=metrics, backend=slowly(assistant, 0.1))


@pytest.fixture(scope="module")
def slow() -> Iterator[Server]:
    """A server that answers one at a time, slowly, and takes few connections."""
    with running(make_engine=slow_engine, time_limit_s=60.0, max_connections=4) as server:
        wait_for(lambda: server.ask("GET", "/health").status == 200)
        yield server


def test_questions_end_when_their_time_is_over(slow, monkeypatch):
    monkeypatch.setattr(slow.service, "settings", replace(slow.service.settings, time_limit_s=0.5))
    monkeypatch.setattr(slow.service.pictures, "settings", slow.service.settings)
    with soon():
        reply = slow.ask("POST", CHAT, chat(max_tokens=300))
    assert (reply.status, reply.json["error"]["type"]) == (504, "timeout_error")
    assert "0.5 s" in reply.message
    streamed = slow.ask("POST", CHAT, chat(max_tokens=300, stream=True))
    events = [line for line in streamed.body.split(b"\n\n") if line]
    assert json.loads(events[-1].removeprefix(b"data: "))["error"]["type"] == "timeout_error"
    assert slow.idle()


# S5, was broken because uvicorn's own reply is plain text, without the form and the headers of the others
def test_more_connections_than_are_taken(slow):
    idle = [slow.connect() for _ in range(4)]
    try:
        time.sleep(0.1)
        reply = slow.ask("GET", "/health")
        assert reply.status == 503
        assert reply.headers["content-type"] == "application/json"
        assert reply.json["error"]["type"] == "unavailable_error"
        for name, value in SECURITY_HEADERS.items():
            assert reply.headers[name.lower()] == value
    finally:
        for sock in idle:
            sock.close()


# S7, was broken for streams, as nobody looked after their client before the first token
@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_while_waiting_gives_its_place_up(slow, stream):
    body = json.dumps(chat(max_tokens=300, stream=stream))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    with slow.connect() as first, slow.connect() as second:
        first.sendall((head + body).encode())
        wait_for(lambda: slow.engine.running == 1)
        second.sendall((head + body).encode())
        wait_for(lambda: slow.engine.waiting == 1)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        second.close()
        wait_for(lambda: slow.engine.waiting == 0, SOON_S)
        assert slow.engine.running == 1
    wait_for(lambda: slow.engine.running == 0, SOON_S)


# S6, was broken because a request that is still answered when the time is over is cancelled and answered with 500
def test_what_takes_longer_than_the_server_waits_is_told_so():
    replies: list[Any] = []
    with running(make_engine=slow_engine, drain_time_s=1.0) as server:
        wait_for(lambda: server.ask("GET", "/health").status == 200)
        thread = threading.Thread(target=lambda: replies.append(server.ask("POST", CHAT, chat(max_tokens=400))))
        thread.start()
        wait_for(lambda: server.engine.running == 1)
        began = time.monotonic()
    assert time.monotonic() - began < SOON_S
    thread.join(LIMIT_S)
    (reply,) = replies
    assert reply.status == 503
    assert reply.json["error"]["type"] == "unavailable_error"
