"""A real HTTP server that speaks chat completions, as well or as badly as a test wants it to."""

import contextlib
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

QUESTION_TOKENS, ANSWER_TOKENS = 1000, 200
USAGE = {"prompt_tokens": QUESTION_TOKENS, "completion_tokens": ANSWER_TOKENS}


@dataclass(frozen=True, kw_only=True)
class Say:
    """An ordinary answer."""

    content: str | None
    finish: str = "stop"
    usage: dict[str, int] | None = field(default_factory=lambda: dict(USAGE))
    message: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """An error status."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"error": {"message": "no"}}'


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Status 200 and these bytes."""

    body: bytes


@dataclass(frozen=True, kw_only=True)
class Cut:
    """An answer whose second half never comes: the connection is closed in its middle."""

    content: str = "x" * 400


@dataclass(frozen=True, kw_only=True)
class EndEarly:
    """A stream that ends properly, but before the answer does."""

    content: str = "x" * 400


@dataclass(frozen=True, kw_only=True)
class Drip:
    """A byte now and then, without end, until the caller hangs up."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Nothing until the event is set; then an ordinary answer, or none at all."""

    until: threading.Event
    answers: bool = True


Action = Say | Refuse | Raw | Cut | EndEarly | Drip | Hold
Behaviour = Callable[[dict[str, Any], int], Action]
"""(body of a request, how often the same body has come before) -> what happens."""


def number_of_regions(body: dict[str, Any]) -> int:
    """How many regions a request is about."""
    texts = [part["text"] for part in picture_message(body)["content"] if part["type"] == "text"]
    return len(re.findall(r"^\d+: ", texts[0], re.MULTILINE))


def picture_message(body: dict[str, Any]) -> dict[str, Any]:
    """The message that brings the picture."""
    (message,) = (message for message in body["messages"] if isinstance(message["content"], list))
    return message


def conversation(*texts: str) -> str:
    """An answer to the letter: questions and answers by turns."""
    turns = [{"role": ("user", "assistant")[n % 2], "text": text} for n, text in enumerate(texts)]
    return json.dumps({"conversation": turns})


def good_answer(body: dict[str, Any]) -> str:
    """A conversation that keeps every rule and names all regions."""
    numbers = range(1, number_of_regions(body) + 1)
    first = " and ".join(f"[one thing]({number})" for number in numbers)
    return conversation(
        "What is there?", f"There is {first}.", "Are there several?", "Yes, [the first two](1,2) stand out."
    )


def well_behaved(body: dict[str, Any], before: int) -> Action:
    """Answers everything at once."""
    return Say(content=good_answer(body))


class ChatServer:
    """Listens on a free port of this machine; used as a context manager.

    Attributes:
        bodies: Every request's body, in the order they came.
        answered: Digest of a body -> how often it was answered in full, as an endpoint would charge for it.
    """

    def __init__(self, behaviour: Behaviour = well_behaved) -> None:
        self.behaviour = behaviour
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.answered: Counter[str] = Counter()
        self._came: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "ChatServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[str, Action]:
        """Note a request; returns its digest and what is to be done with it."""
        plain = {name: value for name, value in body.items() if not name.startswith("stream")}
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            before = self._came[digest]
            self._came[digest] += 1
        return digest, self.behaviour(body, before)

    def charge(self, digest: str) -> None:
        with self._lock:
            self.answered[digest] += 1


def in_turn(*actions: Action | None) -> Behaviour:
    """Behaves so for the first requests, whatever they are about, and well afterwards. None: well."""
    lock, left = threading.Lock(), list(actions)

    def behave(body: dict[str, Any], before: int) -> Action:
        with lock:
            action = left.pop(0) if left else None
        return action or well_behaved(body, before)

    return behave


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(TimeoutError, ConnectionError):  # the caller hung up
                super().handle()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            digest, action = server.take(body, {name.lower(): value for name, value in self.headers.items()})
            if self.path != "/v1/chat/completions":
                action = Refuse(status=404, body='{"error": {"message": "no such path"}}')
            if isinstance(action, Hold):
                action.until.wait()
                if not action.answers:
                    self.close_connection = True
                    return
                action = well_behaved(body, 0)
            if isinstance(action, Say):
                server.charge(digest)
            streams = bool(body.get("stream"))
            match action:
                case Refuse():
                    self._send(action.status, action.body.encode(), action.headers)
                case Raw():
                    self._send(200, action.body, {})
                case Drip():
                    self._drip()
                case Cut() | EndEarly() if streams:
                    self._stream(_pieces(action.content, None, None), whole=isinstance(action, EndEarly))
                case Cut() | EndEarly():
                    whole = json.dumps(_completion(Say(content=action.content))).encode()
                    self._send(200, whole[: len(whole) // 2], {}, length=len(whole))
                case Say() if streams:
                    self._stream(_pieces(action.content or "", action.finish, action.usage), whole=True)
                case Say():
                    self._send(200, json.dumps(_completion(action)).encode(), {})

        def _send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body) if length is None else length))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = length is not None

        def _stream(self, pieces: Sequence[dict[str, Any]], *, whole: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in pieces:
                self._chunk(f"data: {json.dumps(piece)}\n\n")
            if whole:
                self._chunk("data: [DONE]\n\n")
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        def _chunk(self, text: str) -> None:
            self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
            self.wfile.flush()

        def _drip(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.close_connection = True
            for _ in range(1000):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)

    return Handler


def _completion(say: Say) -> dict[str, Any]:
    message = {"role": "assistant", "content": say.content, **say.message}
    completion: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "test-vision-1",
        "choices": [{"index": 0, "message": message, "finish_reason": say.finish}],
    }
    return completion | ({"usage": say.usage} if say.usage else {})


def _pieces(content: str, finish: str | None, usage: dict[str, int] | None) -> list[dict[str, Any]]:
    """A streamed answer: its text in pieces of 30 characters, why it ended, what it cost."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "test-vision-1"}
    deltas = [{"role": "assistant", "content": ""}]
    deltas += [{"content": content[start : start + 30]} for start in range(0, len(content), 30)]
    pieces: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    if finish is not None:
        pieces.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        pieces.append({**head, "choices": [], "usage": usage})
    return pieces
