"""Pictures behind https addresses through the server: what is fetched, and what its clients are told of it."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hostile_judging import alike
from hostile_server import GOOD_URL, Server, chat, running, user
from tls_server import dripping, leading, ok

from groma.serve.remote import RemotePictures
from patience import SOON_S

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(remote_pictures=True, remote_time_s=10.0) as server:
        yield server


@pytest.fixture(scope="module")
def closed() -> Iterator[Server]:
    """As it is unless told otherwise."""
    with running() as server:
        yield server


def asked(server: Server, url: str) -> list[Any]:
    """A chat and the plain addresses about a picture."""
    return [
        server.ask("POST", CHAT, chat(user("What is this?", url))),
        server.ask("POST", CHAT, chat(user("What is this?", url), stream=True)),
        server.ask("POST", "/locate", {"image": url, "phrase": "dog"}),
        server.ask("POST", "/describe", {"image": url, "boxes": [[1, 1, 50, 50]]}),
        server.ask("POST", "/regions", {"image": url}),
    ]


@pytest.mark.parametrize("url", ["https://pictures.test/a.png", "http://127.0.0.1/", "file:///etc/passwd", "a.png"])
def test_nothing_is_fetched_unless_the_server_was_told_to(closed, url, monkeypatch):
    fetched: list[str] = []
    monkeypatch.setattr(RemotePictures, "fetch", lambda _, url: fetched.append(url))
    for reply in asked(closed, url):
        assert reply.status == 400
        assert "must be a data URL" in reply.message
    assert fetched == []


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://localhost/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "https://100.100.100.200/latest/meta-data",
        "https://0/",
        "https://0x7f000001/",
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "https://127.0.0.1:8000/",
        "https://a@127.0.0.1/",
        "ftp://127.0.0.1/",
        "https://[",
        "HTTPS://127.0.0.1/",
    ],
)
def test_private_hosts_are_refused_and_nothing_is_told_of_them(server, url):
    for reply in asked(server, url):
        assert reply.status == 400
        assert reply.json["error"]["type"] == "invalid_request_error"
        told = reply.message.lower()
        assert len(told) < 400 and "\n" not in told
        for word in ("refused", "errno", "traceback", "ssl", "timed out", "metadata", "gaierror", "socket"):
            assert word not in told.replace(url.lower(), "")


# R6, was status 500, as half of a surrogate pair in an error's text cannot be sent
def test_a_host_that_is_no_unicode(server):
    for reply in asked(server, "https://\udcff/"):
        assert reply.status == 400


# R7, was broken because the whole host is told again
def test_a_very_long_host(server):
    for reply in asked(server, "https://" + "a" * 20_000):
        assert reply.status == 400
        assert len(reply.message) < 1000


def test_open_and_closed_ports_inside_look_the_same(server):
    with socket.create_server(("127.0.0.1", 0)):
        told = {reply.message for reply in asked(server, "https://127.0.0.1/")}
        told |= {reply.message.replace("127.0.0.9", "127.0.0.1") for reply in asked(server, "https://127.0.0.9/")}
    assert len(told) == 1


def test_a_fetched_picture_is_answered_about_as_one_that_was_sent(server, tls, monkeypatch):
    monkeypatch.setattr(server.service.pictures, "_remote", tls.pictures())
    one = server.ask("POST", CHAT, chat(user("What is this?", "https://pictures.test/a.png")))
    other = server.ask("POST", CHAT, chat(user("What is this?", GOOD_URL)))
    assert one.status == other.status == 200
    assert alike(one.json["choices"], other.json["choices"])
    assert len(tls.requests) == 1


@pytest.mark.parametrize(
    "content", [b"<html>secret of the inside</html>", b"secret of the inside", b"", b"\x89PNG\r\n"]
)
def test_what_is_fetched_and_is_no_picture_is_not_told(server, tls, monkeypatch, content):
    monkeypatch.setattr(server.service.pictures, "_remote", tls.pictures())
    tls.answer = lambda sock, _: sock.sendall(ok(content))
    for reply in asked(server, "https://pictures.test/a.png"):
        assert reply.status == 400
        assert "secret" not in reply.message


# R2, was status 500, see test_serve_remote.py
def test_a_redirect_that_cannot_be_read_is_the_clients_error(server, tls, monkeypatch):
    monkeypatch.setattr(server.service.pictures, "_remote", tls.pictures())
    tls.answer = leading(*["https://[/"] * 5)
    for reply in asked(server, "https://pictures.test/a.png"):
        assert reply.status == 400


# R5, was broken because pictures that wait for a thread to fetch them have no time limit
def test_many_slow_hosts_do_not_hold_a_request_beyond_its_time(server, tls, monkeypatch):
    pictures = server.service.pictures
    monkeypatch.setattr(pictures, "_remote", tls.pictures(time_limit_s=2.0))
    monkeypatch.setattr(pictures, "settings", replace(pictures.settings, remote_time_s=2.0))
    tls.answer = dripping(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n")
    took: list[float] = []

    def ask() -> None:
        began = time.monotonic()
        reply = server.ask("POST", "/regions", {"image": "https://pictures.test/slow"})
        took.append(time.monotonic() - began)
        assert reply.status in (400, 429, 503, 504)

    threads = [threading.Thread(target=ask) for _ in range(96)]  # twelve times as many as are fetched at once
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(took) == 96
    assert max(took) < SOON_S


def test_the_server_is_well_afterwards(server):
    assert server.ask("GET", "/health").status == 200
    assert server.ask("POST", CHAT, chat()).status == 200
    assert server.idle()
