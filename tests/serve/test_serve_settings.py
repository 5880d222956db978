"""How a server is set up: what is refused, who gets in, how it starts, stops and fails."""

import json
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostile_server import GOOD_URL, LIMIT_S, Server, chat, read_to_end, running, user, wait_for

from groma.cli import main
from groma.cli.serve import read_keys
from groma.engine.engine import Engine, EngineSettings
from groma.errors import CheckpointError, InputError
from groma.pretrained import save
from groma.serve.guards import SECURITY_HEADERS
from groma.serve.run import listen
from groma.serve.settings import ServeSettings, check_keys, is_key, is_loopback
from slow_backend import slowly
from small_models import small_groma

KEY, OTHER_KEY = "key-of-the-tests-0123456789", "another-key-of-the-tests-9876"
CHAT = "/v1/chat/completions"

# --- settings --------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"port": -1}, "port"),
    ({"port": 65536}, "port"),
    ({"max_body_bytes": 0}, "max_body_bytes"),
    ({"max_picture_bytes": -1}, "max_picture_bytes"),
    ({"max_pictures": 0}, "max_pictures"),
    ({"max_messages": 0}, "max_messages"),
    ({"max_connections": 0}, "max_connections"),
    ({"upload_time_s": 0}, "upload_time_s"),
    ({"time_limit_s": -1}, "time_limit_s"),
    ({"drain_time_s": NAN}, "drain_time_s"),
    ({"remote_time_s": -INF}, "remote_time_s"),
    ({"api_keys": ("short",)}, "API key 1"),
    ({"api_keys": (KEY, "key with a blank in it")}, "API key 2"),
    ({"api_keys": (KEY, KEY, "schl\u00fcssel-der-tests-0123")}, "API key 3"),
    ({"api_keys": ("line\nbreak-of-a-key-0123",)}, "API key 1"),
    ({"api_keys": ("\x00" * 20,)}, "API key 1"),
    ({"host": "0.0.0.0"}, "--open-to-all"),
    ({"host": "::"}, "--open-to-all"),
    ({"host": ""}, "--open-to-all"),
    ({"host": "192.168.0.1"}, "--open-to-all"),
    ({"host": "example.org"}, "--open-to-all"),
    ({"host": "[::]"}, "--open-to-all"),
    ({"host": "localhost.example.org"}, "--open-to-all"),
    ({"host": "127.0.0.1.example.org"}, "--open-to-all"),
    ({"host": "0"}, "--open-to-all"),
    ({"cors_origins": ("*",)}, "origin"),
    ({"cors_origins": ("null",)}, "origin"),
    ({"cors_origins": ("example.org",)}, "origin"),
    ({"cors_origins": ("https://example.org/",)}, "origin"),
    ({"cors_origins": ("https://example.org/page",)}, "origin"),
    ({"cors_origins": ("https://example.org", "ftp://example.org")}, "origin"),
]


@pytest.mark.parametrize(("values", "word"), REFUSED)
def test_settings_that_cannot_be(values, word):
    with pytest.raises(InputError, match=re.escape(word)) as caught:
        ServeSettings(**values)
    assert "\n" not in str(caught.value)
    for key in values.get("api_keys", ()):
        assert key not in str(caught.value)


# S2, was broken because infinity is taken, and breaks the server when it starts or stops
@pytest.mark.parametrize("name", ["upload_time_s", "drain_time_s", "remote_time_s"])
def test_times_are_finite(name):
    with pytest.raises(InputError, match=name):
        ServeSettings(**{name: INF})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"host": "localhost"},
        {"host": "::1"},
        {"host": "[::1]"},
        {"host": "127.8.8.8"},
        {"host": "0.0.0.0", "api_keys": (KEY,)},
        {"host": "0.0.0.0", "open_to_all": True},
        {"port": 0},
        {"port": 65535},
        {"cors_origins": ("https://example.org", "http://127.0.0.1:8080")},
    ],
)
def test_settings_that_can_be(values):
    ServeSettings(**values)


def test_keys_are_not_shown():
    assert KEY not in repr(ServeSettings(api_keys=(KEY,)))


def test_names_by_which_a_server_is_called():
    own = {"localhost", "127.0.0.1", "::1"}
    assert ServeSettings().hosts == own
    assert ServeSettings(host="[::1]").hosts == own
    assert ServeSettings(trusted_hosts=("Groma.Example.Org",)).hosts == own | {"groma.example.org"}
    assert ServeSettings(host="192.168.0.1", api_keys=(KEY,)).hosts == own | {"192.168.0.1"}
    assert "*" in ServeSettings(host="0.0.0.0", api_keys=(KEY,)).hosts
    named = ServeSettings(host="0.0.0.0", api_keys=(KEY,), trusted_hosts=("groma.example.org",))
    assert "*" not in named.hosts and "groma.example.org" in named.hosts


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.test", "127.1", "0", "::ffff:8.8.8.8", "x"]
)
def test_not_this_machine(host):
    assert not is_loopback(host)


def test_keys():
    keys = (KEY, OTHER_KEY)
    check_keys(keys)
    assert is_key(KEY, keys) and is_key(OTHER_KEY, keys)
    for given in (
        "",
        KEY[:-1],
        KEY + "x",
        KEY.upper(),
        " " + KEY,
        f"{KEY},{OTHER_KEY}",
        "\xff\xfe",
        "\udcff",
        "a" * 10**6,
    ):
        assert not is_key(given, keys)
    assert not is_key("", ())
    assert not is_key(KEY, ())


# --- keys of a file and of the environment ---------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_keys_around(monkeypatch):
    monkeypatch.delenv("GROMA_API_KEYS", raising=False)


def test_keys_are_read(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n  {KEY}  \r\n{OTHER_KEY}\n{KEY}\n")
    assert read_keys(file) == (KEY, OTHER_KEY)
    monkeypatch.setenv("GROMA_API_KEYS", f" {OTHER_KEY} ,,")
    assert read_keys(None) == (OTHER_KEY,)
    assert read_keys(file) == (OTHER_KEY, KEY)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_files_without_keys(tmp_path, content):
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(InputError):
        read_keys(file)


# S1, was broken because what is left out as a comment counts as a key before, so that the server asks for none
def test_a_file_of_comments_is_a_file_without_keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# our keys\n#{KEY}\n")
    with pytest.raises(InputError):
        read_keys(file)


# S1, was broken for the same reason
def test_a_key_of_the_environment_is_no_comment(monkeypatch):
    monkeypatch.setenv("GROMA_API_KEYS", f"#{KEY}")
    assert read_keys(None) == (f"#{KEY}",)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Folder of a saved model."""
    folder = tmp_path_factory.mktemp("model") / "random"
    save(small_groma(max_position_embeddings=1024), folder)
    return str(folder)


@pytest.fixture
def refused(capsys) -> Iterator[Callable[..., str]]:
    """Runs `groma serve` in this process, which has to end with status 2 and one sentence."""
    loggers = [logging.getLogger(name) for name in ("groma.serve", "groma.engine", "uvicorn.error")]
    kept = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]

    def run(*arguments: object) -> str:
        late = threading.Timer(LIMIT_S, os.kill, (os.getpid(), signal.SIGINT))  # should it be served after all
        late.start()
        try:
            status = main(["serve", *map(str, arguments)])
        finally:
            late.cancel()
        captured = capsys.readouterr()
        said = [line for line in captured.err.splitlines() if line.startswith("groma: error: ")]
        assert status == 2, captured.err
        assert captured.out == ""
        assert len(said) == 1, captured.err
        assert "Traceback" not in captured.err
        return said[0]

    yield run
    for logger, handlers, propagate, level in kept:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--host", "0.0.0.0"], "GROMA_API_KEYS"),
        (["--host", "::"], "GROMA_API_KEYS"),
        (["--host", "192.0.2.1"], "--open-to-all"),
        (["--port", "70000"], "port"),
        (["--port", "-1"], "port"),
        (["--api-key-file", "/nowhere/keys"], "/nowhere/keys"),
        (["--cors-origin", "*"], "origin"),
        (["--max-picture-mib", "0"], "max_picture_bytes"),
        (["--time-limit", "0"], "time_limit"),
        (["--upload-time", "nan"], "upload_time"),
        (["--drain-time", "-1"], "drain_time"),
        (["no-such-model"], "no-such-model"),
        (["./no-such-folder"], "no-such-folder"),
        (["--host", "no-such-host.invalid", "--open-to-all"], "no-such-host.invalid"),
    ],
)
def test_commands_that_are_refused(refused, arguments, word):
    assert word in refused(*arguments)


def test_keys_of_the_environment_let_others_in(refused, monkeypatch):
    monkeypatch.setenv("GROMA_API_KEYS", "short")
    assert "API key 1" in refused("--host", "0.0.0.0")


def test_a_port_in_use(refused, model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(model, "--port", port)


def test_a_missing_extra(refused, monkeypatch):
    monkeypatch.setattr("groma.cli.serve.find_spec", lambda name: None if name == "uvicorn" else object())
    assert "uvicorn: pip install 'groma[serve]'" in refused()


def test_a_model_that_cannot_be_loaded_ends_the_command(refused, model, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in Path(model).iterdir():
        content = file.read_bytes()
        (broken / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    began = time.monotonic()
    assert "broken" in refused(broken, "--port", 0)
    assert time.monotonic() - began < 10


def test_limits_of_the_engine_that_cannot_be_end_the_command(refused, model):
    assert "max_batch" in refused(model, "--port", 0, "--max-batch", 0)
    assert "max_queue" in refused(model, "--port", 0, "--max-queue", -1)


# S2, was status 1 and an "internal error"
@pytest.mark.parametrize(
    "arguments",
    [["--max-megapixels", "nan"], ["--max-megapixels", "inf"], ["--drain-time", "inf"]],
)
def test_numbers_that_are_none(refused, model, arguments):
    refused(model, "--port", 0, *arguments)


# S3, was broken for the first, as such a name raises a TypeError, which is no OSError
@pytest.mark.parametrize("host", ["\udcff", "a" * 70, "a..b", "."])
def test_hosts_that_are_no_names(host):
    with pytest.raises(InputError, match="cannot listen"):
        listen(ServeSettings(host=host, port=0, open_to_all=True))


# --- starting --------------------------------------------------------------------------------------------------------


def test_while_the_model_is_loaded_and_afterwards():
    loaded = threading.Event()

    def make(metrics: Any) -> Engine:
        assert loaded.wait(LIMIT_S)
        return Engine(small_groma(max_position_embeddings=1024), observer=metrics)

    with running(make_engine=make) as server:
        health = server.ask("GET", "/health")
        assert (health.status, health.json) == (503, {"status": "loading"})
        for path, body in asked().items():
            reply = server.ask("POST", path, body)
            assert reply.status == 503
            assert reply.json["error"]["type"] == "unavailable_error"
            assert int(reply.headers["retry-after"]) > 0
        for path in ("/", "/docs", "/openapi.json", "/v1/models", "/metrics", "/page/config.json", "/page/app.js"):
            assert server.ask("GET", path).status == 200
        loaded.set()
        wait_for(lambda: server.ask("GET", "/health").status == 200)
        assert server.ask("GET", "/health").json == {"status": "ready"}
        assert server.ask("POST", CHAT, chat()).status == 200


def test_stopping_while_the_model_is_loaded():
    loaded = threading.Event()

    def make(_: Any) -> Engine:
        loaded.wait(LIMIT_S)
        raise CheckpointError("nobody is interested any more")

    began = time.monotonic()
    with running(make_engine=make) as server:
        wait_for(lambda: server.ask("GET", "/health").status == 503)
    assert time.monotonic() - began < 5
    loaded.set()


def asked() -> dict[str, Any]:
    """Addresses of questions -> a question."""
    return {
        CHAT: chat(),
        "/locate": {"image": GOOD_URL, "phrase": "dog"},
        "/describe": {"image": GOOD_URL, "boxes": [[10, 10, 60, 60]]},
        "/regions": {"image": GOOD_URL},
    }


# --- who gets in -----------------------------------------------------------------------------------------------------

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


# --- limits, and stopping --------------------------------------------------------------------------------------------


def slow_engine(metrics: Any) -> Engine:
    assistant = small_groma(max_position_embeddings=1024)
    settings = EngineSettings(max_batch=1)
    return Engine(assistant, settings, observer=metrics, backend=slowly(assistant, 0.1))


@pytest.fixture(scope="module")
def slow() -> Iterator[Server]:
    """A server that answers one at a time, slowly, and takes few connections."""
    with running(make_engine=slow_engine, time_limit_s=4.0, max_connections=4) as server:
        wait_for(lambda: server.ask("GET", "/health").status == 200)
        yield server


def test_without_origins_no_other_page_may_call(slow):
    reply = slow.ask("OPTIONS", CHAT, headers={"Origin": ORIGIN, **PREFLIGHT})
    assert reply.status == 403
    assert "access-control-allow-origin" not in reply.headers
    reply = slow.ask("GET", "/health", headers={"Origin": f"http://127.0.0.1:{slow.port}"})
    assert reply.status == 200
    assert "access-control-allow-origin" not in reply.headers


def test_questions_end_when_their_time_is_over(slow, monkeypatch):
    monkeypatch.setattr(slow.service, "settings", replace(slow.service.settings, time_limit_s=0.5))
    monkeypatch.setattr(slow.service.pictures, "settings", slow.service.settings)
    began = time.monotonic()
    reply = slow.ask("POST", CHAT, chat(max_tokens=100))
    assert time.monotonic() - began < 3
    assert (reply.status, reply.json["error"]["type"]) == (504, "timeout_error")
    assert "0.5 s" in reply.message
    streamed = slow.ask("POST", CHAT, chat(max_tokens=100, stream=True))
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
    body = json.dumps(chat(max_tokens=30, stream=stream))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    with slow.connect() as first, slow.connect() as second:
        first.sendall((head + body).encode())
        wait_for(lambda: slow.engine.running == 1)
        second.sendall((head + body).encode())
        wait_for(lambda: slow.engine.waiting == 1)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        second.close()
        wait_for(lambda: slow.engine.waiting == 0, 1.5)
        assert slow.engine.running == 1
    wait_for(lambda: slow.engine.running == 0, 1.5)


# S6, was broken because a request that is still answered when the time is over is cancelled and answered with 500
def test_what_takes_longer_than_the_server_waits_is_told_so():
    replies: list[Any] = []
    with running(make_engine=slow_engine, drain_time_s=1.0) as server:
        wait_for(lambda: server.ask("GET", "/health").status == 200)
        thread = threading.Thread(target=lambda: replies.append(server.ask("POST", CHAT, chat(max_tokens=150))))
        thread.start()
        wait_for(lambda: server.engine.running == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    thread.join(LIMIT_S)
    (reply,) = replies
    assert reply.status == 503
    assert reply.json["error"]["type"] == "unavailable_error"


@pytest.fixture
def process(model) -> Iterator[tuple[subprocess.Popen[bytes], int, list[bytes]]]:
    """`groma serve` as people start it: the process, its port, and what it says."""
    command = [
        sys.executable,
        "-m",
        "groma.cli",
        "serve",
        model,
        "--port",
        "0",
        "--drain-time",
        "20",
        "--device",
        "cpu",
    ]
    environment = os.environ | {"GROMA_API_KEYS": KEY, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
    said: list[bytes] = []
    assert process.stderr is not None
    threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True).start()
    try:
        wait_for(lambda: any(b"serving" in line for line in said), 60)
        port = re.search(rb"serving random at http://127\.0\.0\.1:(\d+) ", b"".join(said))
        assert port is not None
        yield process, int(port[1]), said
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def test_sigterm_lets_running_answers_end(process):
    popen, port, said = process
    server = Server(None, port)  # pyright: ignore[reportArgumentType]
    wait_for(lambda: server.ask("GET", "/health").status == 200, 60)
    assert server.ask("GET", "/v1/models").status == 401
    body = json.dumps(chat(max_tokens=500, stream=True))
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    kept = server.connect()
    with kept, server.connect() as sock:
        sock.sendall((head + body).encode())
        answer = sock.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200")
        popen.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(server), 5)
        assert popen.poll() is None and b"[DONE]" not in answer  # it still answers the first
        answer += read_to_end(sock)
    assert answer.count(b"data: [DONE]") == 1
    assert b'"finish_reason":"length"' in answer or b'"finish_reason":"stop"' in answer
    assert popen.wait(20) == 0
    for line in said[1:]:
        assert json.loads(line)["level"] in ("info", "warning"), line
    assert b"Traceback" not in b"".join(said)
    assert KEY.encode() not in b"".join(said)


def refuses(server: Server) -> bool:
    """Whether nobody is let in any more."""
    try:
        server.connect(2).close()
    except ConnectionRefusedError:
        return True
    return False
