"""What a server holds at most: bodies of many at once, values of one body, threads that decode."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
from hostile_http import CHAT
from hostile_server import GOOD_URL, Server, chat, read_to_end, running, user

from groma.serve.reading import MAX_VALUES
from patience import cheaply, soon, wait_for

MIB = 1 << 20
UPLOADS = 5
"""Each sends one megabyte of two; three and a half may be held."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(max_body_bytes=2 * MIB, max_held_bytes=3 * MIB + MIB // 2, upload_time_s=10.0) as server:
        yield server


def test_bodies_of_many_at_once_are_counted_together(server):
    """However many connections there are, each with a body that is never finished."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {2 * MIB}\r\n\r\n".encode()
    socks = [server.connect() for _ in range(UPLOADS)]
    for sock in socks[:3]:
        sock.sendall(head + bytes(MIB))
    for sock in socks[3:]:
        time.sleep(0.2)
        with suppress(OSError):  # who is refused need not be read to the end
            sock.sendall(head + bytes(MIB))
        told = read_to_end(sock)
        assert told.startswith(b"HTTP/1.1 503") and b"unavailable_error" in told and b"come again" in told
        assert b"retry-after: 5\r\n" in told.lower() and b"connection: close\r\n" in told.lower()
    assert server.ask("POST", CHAT, chat()).status == 200  # what is small still gets in
    for sock in socks:
        sock.close()
    wait_for(lambda: server.ask("POST", CHAT, bytes(MIB)).status == 400)  # there is room again, and it is no JSON
    for _ in range(8):  # what is answered is not held any more
        assert server.ask("POST", CHAT, bytes(MIB)).status == 400


@pytest.mark.parametrize("values", [b"[],", b"1,", b'{"":', b"[", b'"",'])
def test_bodies_of_very_many_values_are_not_read(server, values):
    """A byte or two of JSON can take a hundred in memory."""
    body = b'{"messages": [' + values * (3 * MAX_VALUES)
    with cheaply(2.0):
        reply = server.ask("POST", CHAT, body[: 2 * MIB])
    assert reply.status == 400 and "more than 200,000 values" in reply.message


def test_a_picture_and_much_text_are_few_values(server):
    long = "a, " * (MAX_VALUES // 2)
    reply = server.ask("POST", CHAT, chat(user(long, GOOD_URL)))
    assert reply.status == 400 and "more than the model's 1,024 tokens hold" in reply.message


def test_who_waits_for_a_thread_to_decode_is_told_when_it_takes_too_long(server, monkeypatch):
    opened, go_on = server.engine.picture, threading.Event()

    def slow(content):
        go_on.wait(60)
        return opened(content)

    monkeypatch.setattr(server.engine, "picture", slow)
    monkeypatch.setattr(server.service.pictures, "settings", replace(server.service.settings, time_limit_s=0.3))
    with ThreadPoolExecutor(12) as pool, soon():  # those that have no thread do not wait for one
        replies = list(pool.map(lambda _: server.ask("POST", "/regions", {"image": GOOD_URL}), range(12)))
    go_on.set()
    assert {reply.status for reply in replies} == {504}
    assert "not decoded within 0.3 s" in replies[0].message
    monkeypatch.undo()
    assert server.ask("POST", "/regions", {"image": GOOD_URL}).status == 200
