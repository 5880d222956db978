"""Who gets in: keys, what stands in every reply, and pages of other origins."""

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hostile_server import Server, chat, running, user
from plain_requests import CHAT, KEY, OTHER_KEY, asked

from groma.serve.guards import SECURITY_HEADERS
from patience import wait_for

ORIGIN = "https://pages.example.org"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(api_keys=(KEY, OTHER_KEY), cors_origins=(ORIGIN,), max_body_bytes=1 << 20) as server:
        yield server


def bearer(key: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **more}


@pytest.mark.parametrize(
    "path", ["/", "/health", "/docs", "/openapi.json", "/favicon.ico", "/page/app.js", "/page/config.json"]
)
def test_what_is_open(server, path):
    assert server.ask("GET", path).status == 200


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/small", "/metrics", "/nothing", "/pages/x", "/health/x", "/page"]
)
def test_what_needs_a_key(server, path):
    reply = server.ask("GET", path)
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert reply.json["error"]["type"] == "authentication_error"
    for key in (KEY, OTHER_KEY):
        assert server.ask("GET", path, headers=bearer(key)).status in (200, 307, 404)


@pytest.mark.parametrize("path", asked())
def test_questions_need_a_key(server, path):
    body = asked()[path]
    assert server.ask("POST", path, body).status == 401
    assert server.ask("POST", path, body, bearer(KEY + "x")).status == 401
    assert server.ask("POST", path, body, bearer(KEY)).status == 200


def test_a_large_body_without_a_key_is_not_read(server):
    head = "POST /regions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900000\r\n\r\n"
    with server.connect(5) as sock:
        sock.sendall(head.encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 401")  # before any of it has come


ASKED_FOR_HEADERS: list[tuple[str, str, Any, int]] = [
    ("GET", "/", None, 200),
    ("GET", "/health", None, 200),
    ("GET", "/page/app.js", None, 200),
    ("GET", "/nothing", None, 404),
    ("DELETE", CHAT, None, 405),
    ("POST", CHAT, {}, 400),
    ("POST", CHAT, chat(), 200),
    ("POST", CHAT, chat(stream=True), 200),
    ("POST", CHAT, b" " * (2 << 20), 413),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), ASKED_FOR_HEADERS)
def test_security_headers_stand_in_every_reply(server, method, path, body, status):
    reply = server.ask(method, path, body, bearer(KEY))
    assert reply.status == status
    check_headers(reply.headers)
    assert re.fullmatch("[0-9a-f]{12}", reply.headers["x-request-id"])
    assert "server" not in reply.headers


def check_headers(headers: dict[str, str]) -> None:
    for name, value in SECURITY_HEADERS.items():
        assert headers[name.lower()] == value
    assert headers["cache-control"] in ("no-store", "no-cache")


def test_security_headers_stand_in_refusals(server):
    for headers in (
        {},
        bearer("wrong"),
        bearer(KEY, Host="elsewhere.test"),
        bearer(KEY, Origin="https://elsewhere.test"),
    ):
        reply = server.ask("GET", "/v1/models", headers=headers)
        assert reply.status in (401, 403)
        check_headers(reply.headers)


def test_ids_of_requests_differ(server):
    assert len({server.ask("GET", "/health").headers["x-request-id"] for _ in range(10)}) == 10


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the server wrote about requests."""
    return [record.getMessage() for record in caplog.records if record.name == "groma.serve"]


def test_logs_hold_no_content_and_no_key(server, caplog):
    with caplog.at_level(logging.DEBUG):
        server.ask("POST", CHAT, chat(user("a very private question")), bearer(KEY))
        server.ask("POST", CHAT, chat(user("a very private question", "data:secret")), bearer(KEY))
        server.ask("GET", "/v1/models?secret=1", headers=bearer("a-wrong-key-0123456789"))
        server.ask("GET", "/x%0a%7b%22level%22:%22error%22%7d", headers=bearer(KEY))
        wait_for(lambda: len(logged(caplog)) >= 4)
    lines = logged(caplog)
    assert len(lines) == 4
    for line in lines:
        entry = json.loads(line)
        assert {"request", "client", "method", "path", "status", "seconds"} <= set(entry)
        assert "\n" not in line
        for word in ("private", "secret", KEY, "a-wrong-key", "base64"):
            assert word not in line


# --- pages of other origins ------------------------------------------------------------------------------------------

PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


def test_a_known_origin_may_call(server):
    reply = server.ask("OPTIONS", CHAT, headers={"Origin": ORIGIN, **PREFLIGHT})
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert "authorization" in reply.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in reply.headers
    for body, status in ((chat(), 200), ({}, 400)):
        reply = server.ask("POST", CHAT, body, bearer(KEY, Origin=ORIGIN))
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert "origin" in reply.headers["vary"].lower()


# S4, was broken because Guards stand outside of the CORS middleware: such a page sees no status and no sentence
@pytest.mark.parametrize(("key", "size", "status"), [("wrong", 10, 401), (KEY, 2 << 20, 413)])
def test_a_known_origin_sees_why_it_was_refused(server, key, size, status):
    reply = server.ask("POST", CHAT, b" " * size, bearer(key, Origin=ORIGIN))
    assert reply.status == status
    assert reply.headers.get("access-control-allow-origin") == ORIGIN


@pytest.mark.parametrize(
    "origin",
    ["https://elsewhere.test", "null", ORIGIN + ".elsewhere.test", ORIGIN.replace("https", "http"), ORIGIN + ":8443"],
)
def test_other_origins_may_not_call(server, origin):
    for reply in (
        server.ask("POST", CHAT, chat(), bearer(KEY, Origin=origin)),
        server.ask("OPTIONS", CHAT, headers={"Origin": origin, **PREFLIGHT}),
        server.ask("GET", "/health", headers={"Origin": origin}),
    ):
        assert reply.status in (400, 403)
        assert "access-control-allow-origin" not in reply.headers


def test_the_servers_own_page_may_call(server):
    for host in (f"127.0.0.1:{server.port}", f"localhost:{server.port}"):
        reply = server.ask("POST", CHAT, chat(), bearer(KEY, Origin=f"http://{host}", Host=host))
        assert reply.status == 200


def test_without_origins_no_other_page_may_call():
    with running() as server:
        reply = server.ask("OPTIONS", CHAT, headers={"Origin": ORIGIN, **PREFLIGHT})
        assert reply.status == 403
        assert "access-control-allow-origin" not in reply.headers
        reply = server.ask("GET", "/health", headers={"Origin": f"http://127.0.0.1:{server.port}"})
        assert reply.status == 200
        assert "access-control-allow-origin" not in reply.headers
