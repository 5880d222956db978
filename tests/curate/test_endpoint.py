"""The endpoint's client against a real server, with and without streaming: answers, and every kind of fault."""

import asyncio
import builtins
import socket
from datetime import UTC, datetime

import pytest

from chat_server import ChatServer, Cut, Drip, EndEarly, Raw, Refuse, Say
from groma.curate.endpoint import (
    Access,
    EndpointError,
    OpenAIEndpoint,
    find_access,
    retry_after_s,
    whole_reply,
)
from groma.curate.ledger import Reply, Tokens
from groma.errors import InputError, MissingExtraError
from patience import soon

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "top_k": 3}
KEY = "sk-secret-of-the-tests"


def ask(url: str, *, stream: bool = False, timeout_s: float = 20, body=BODY) -> Reply:
    async def run() -> Reply:
        endpoint = OpenAIEndpoint(Access(url=url, key=KEY), timeout_s=timeout_s, stream=stream)
        try:
            return await endpoint.ask(body)
        finally:
            await endpoint.close()

    return asyncio.run(run())


def fault(server: ChatServer, action, **options) -> EndpointError:
    server.behaviour = lambda *_: action
    with pytest.raises(EndpointError) as caught:
        ask(server.url, **options)
    assert len(server.bodies) == 1  # trying again is not the client's business
    return caught.value


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer(server, stream):
    server.behaviour = lambda *_: Say(content="caf\u00e9 " * 50)
    reply = ask(server.url, stream=stream)
    expected = Reply(content="caf\u00e9 " * 50, finish="stop", tokens=Tokens(1000, 200), model="test-vision-1")
    assert reply == expected
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    sent = {name: value for name, value in server.bodies[0].items() if not name.startswith("stream")}
    assert sent == BODY
    assert ("stream" in server.bodies[0]) is stream


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_its_cost(server, stream):
    server.behaviour = lambda *_: Say(content="x", usage=None, finish="length")
    reply = ask(server.url, stream=stream)
    assert (reply.tokens, reply.finish) == (None, "length")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "may_retry", "is_fatal", "may_be_paid"),
    [
        (400, False, False, False),
        (401, False, True, False),
        (402, False, True, False),
        (403, False, False, False),
        (404, False, True, False),
        (422, False, False, False),
        (408, True, False, True),
        (429, True, False, False),
        (500, True, False, False),
        (503, True, False, False),
        (504, True, False, True),
        (529, True, False, False),
    ],
)
def test_statuses(server, stream, status, may_retry, is_fatal, may_be_paid):
    error = fault(server, Refuse(status=status), stream=stream)
    assert error.kind == str(status)
    assert (error.may_retry, error.is_fatal, error.may_be_paid) == (may_retry, is_fatal, may_be_paid)
    assert f"{server.url} answered {status}: no" in str(error)


def test_a_spent_quota_is_not_waited_for(server):
    body = '{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    error = fault(server, Refuse(status=429, body=body))
    assert error.is_fatal and "You exceeded your quota" in str(error)


def test_the_wait_that_is_asked_for(server):
    assert fault(server, Refuse(status=429, headers={"Retry-After": "7.5"})).wait_s == 7.5


def test_errors_that_are_no_json(server):
    error = fault(server, Refuse(status=502, body="<html>Bad gateway</html>"))
    assert (error.kind, error.may_retry) == ("502", True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_drip_ends(server, stream):
    with soon():
        error = fault(server, Drip(), stream=stream, timeout_s=0.4)
    assert (error.kind, error.may_retry, error.may_be_paid) == ("timeout", True, True)
    assert "no whole answer within 0.4 s" in str(error)


@pytest.mark.parametrize("stream", [False, True])
def test_a_connection_that_breaks_in_the_middle(server, stream):
    error = fault(server, Cut(), stream=stream)
    assert error.kind in ("connection", "truncated")
    assert (error.may_retry, error.may_be_paid) == (True, True)


def test_a_stream_that_ends_before_the_answer_does(server):
    error = fault(server, EndEarly(), stream=True)
    assert (error.kind, error.may_retry, error.may_be_paid) == ("truncated", True, True)
    assert "in the middle of the answer, after 400 characters" in str(error)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "truncated"),
        (b'{"choices": [', "truncated"),
        (b"<html>welcome</html>", "truncated"),
        (b"\xff\xfe", "truncated"),
        (b"[]", "bad_reply"),
        (b"null", "bad_reply"),
        (b'{"choices": []}', "bad_reply"),
        (b'{"choices": [{"message": null}]}', "bad_reply"),
        (b'{"error": {"message": "overloaded"}}', "error_in_reply"),
    ],
)
def test_answers_that_are_none(server, body, kind):
    error = fault(server, Raw(body=body))
    assert (error.kind, error.may_retry) == (kind, True)


def test_streams_that_are_none(server):
    assert fault(server, Raw(body=b"data: {nonsense\n\n"), stream=True).kind == "truncated"
    assert fault_again(server, b'data: {"choices": [7]}\n\n').kind == "bad_reply"
    assert fault_again(server, b'data: {"error": {"message": "overloaded"}}\n\n').kind == "error_in_stream"
    assert fault_again(server, b"").kind == "truncated"


def fault_again(server: ChatServer, body: bytes) -> EndpointError:
    server.bodies.clear()
    return fault(server, Raw(body=body), stream=True)


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EndpointError, match="no connection") as caught:
        ask(url)
    assert (caught.value.kind, caught.value.may_retry, caught.value.may_be_paid) == ("connection", True, False)


def test_a_key_that_is_echoed_is_not_shown(server):
    error = fault(server, Refuse(status=401, body=f'{{"error": {{"message": "wrong key {KEY}"}}}}'))
    assert "wrong key ***" in str(error) and KEY not in str(error)


def test_lenient_reading():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    reply = whole_reply({"choices": [{"message": {"content": parts, "refusal": "no"}}], "usage": {"prompt_tokens": 3}})
    assert reply == Reply(content="ab", finish="stop", refusal="no")
    assert whole_reply({"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}).content == ""


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 09:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
    ],
)
def test_retry_after(headers, expected):
    assert retry_after_s(headers, datetime(2026, 11, 22, 10, tzinfo=UTC)) == expected


def test_where_to_ask(monkeypatch):
    assert find_access(url=None) == Access(url="https://api.openai.com/v1", key=KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1/")
    assert find_access(url=None).url == "http://localhost:8000/v1"
    assert find_access(url="https://a.example/v1").url == "https://a.example/v1"
    monkeypatch.setenv("OTHER_KEY", "other")
    assert find_access(url=None, key_variable="OTHER_KEY").key == "other"
    assert find_access(url=None, key_variable="NO_SUCH_KEY").key == ""  # a server of one's own needs none
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(InputError, match="needs a key: set the environment variable NO_SUCH_KEY"):
        find_access(url=None, key_variable="NO_SUCH_KEY")
    with pytest.raises(InputError, match="'localhost:8000' is no address"):
        find_access(url="localhost:8000")


def test_neither_key_nor_password_is_shown():
    access = Access(url="https://user:pass@a.example:99/v1?token=x", key=KEY)
    assert access.shown_url == "https://a.example:99/v1"
    assert KEY not in repr(access) and "pass" not in repr(access) and "token" not in repr(access)


def test_without_the_package(monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name.partition(".")[0] == "openai":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'groma\[curate\]'"):
        OpenAIEndpoint(Access(url="http://localhost/v1", key=""), timeout_s=1)
