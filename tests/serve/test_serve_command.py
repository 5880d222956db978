"""The command `groma serve`: what it refuses, how it starts and how it stops."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_server import LIMIT_S, Server, chat, read_to_end, running
from plain_requests import CHAT, KEY, asked

from groma.cli import main
from groma.engine.engine import Engine
from groma.errors import CheckpointError, InputError
from groma.pretrained import save
from groma.serve.run import listen
from groma.serve.settings import ServeSettings
from patience import soon, wait_for
from small_models import endless_groma


@pytest.fixture(autouse=True)
def no_keys_around(monkeypatch):
    monkeypatch.delenv("GROMA_API_KEYS", raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Folder of a saved model."""
    folder = tmp_path_factory.mktemp("model") / "random"
    save(endless_groma(max_position_embeddings=1024), folder)
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
        (["--vllm-option", "seed=1"], "--vllm,"),
        (["--vllm", "x", "--vllm-option", "seed"], "NAME=VALUE"),
        (["--vllm", "x", "--vllm-option", "seed=1", "--vllm-option", "seed=2"], "seed twice"),
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
    with soon():
        assert "broken" in refused(broken, "--port", 0)


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
        return Engine(endless_groma(max_position_embeddings=1024), observer=metrics)

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

    with soon(), running(make_engine=make) as server:
        wait_for(lambda: server.ask("GET", "/health").status == 503)
    loaded.set()


# --- stopping --------------------------------------------------------------------------------------------------------


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
    body = json.dumps(chat(max_tokens=900, stream=True))
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    kept = server.connect()
    with kept, server.connect() as sock:
        sock.sendall((head + body).encode())
        answer = sock.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200")
        popen.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(server))
        assert popen.poll() is None and b"[DONE]" not in answer  # it still answers the first
        answer += read_to_end(sock)
    assert answer.count(b"data: [DONE]") == 1
    assert b'"finish_reason":"length"' in answer
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
