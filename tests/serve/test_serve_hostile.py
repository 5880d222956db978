"""What strangers send: each hostile request gets its error, and the server is as well afterwards as before."""

import contextlib
import io
import json
import os
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, HTTPResponse
from typing import Any

import pytest
from hostile_http import (
    CHAT,
    CLOSED,
    DESCRIBE,
    FILE,
    KEY,
    LOCATE,
    MAX_BODY_BYTES,
    MAX_PICTURE_BYTES,
    MAX_PIXELS,
    REGIONS,
    Case,
    case,
    form,
    http,
)
from hostile_pictures import png
from hostile_requests import CATEGORIES, TYPED, again, assistant, entity, past
from hostile_server import GOOD_URL, Server, chat, data_url, file_of, good_png, read_to_end, running, user, wait_for
from PIL import Image

from groma.engine.engine import Engine, EngineSettings
from groma.inference.generate import Decoding
from groma.inference.preparing import Request
from groma.inference.turns import Exchange, locating
from groma.serve import reading
from groma.serve.bodies import ChatBody
from groma.serve.errors import HttpError
from small_models import small_groma

pytestmark = [
    pytest.mark.filterwarnings("ignore::groma.inference.request.BoxClippedWarning"),
    pytest.mark.filterwarnings("ignore::groma.inference.request.BoxesMergedWarning"),
]

UPLOAD_S = 1.0
ANSWER_S = 10.0
"""Seconds after which a reply to one request counts as a hang."""

LEAK = re.compile(
    r"Traceback|File \"|/(?:work|usr|root|home)/|site-packages|\.py\b|\b0x[0-9a-f]{6,}|<_io|object at|<class|"
    r"NoneType|\b(?!PostScript)[A-Z][a-z]+(?:[A-Z][a-z]+)+\b|\w+(?:Error|Exception|Warning)\b|"
    r"groma\.\w|pydantic|starlette|numpy|torch"
)
"""What tells of the inside: paths, modules, classes."""

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    caches = {"picture_cache_bytes": 4 << 20, "prefix_cache_bytes": 4 << 20}
    settings = EngineSettings(max_batch=8, max_queue=64, max_pixels=MAX_PIXELS, **caches)
    with running(
        engine=settings,
        api_keys=(KEY,),
        max_body_bytes=MAX_BODY_BYTES,
        max_picture_bytes=MAX_PICTURE_BYTES,
        upload_time_s=UPLOAD_S,
        time_limit_s=8.0,
    ) as server:
        yield server


GOOD = http("POST", CHAT, chat(user("What is [1]?", regions=[[10, 10, 60, 60]]), max_tokens=12))


def parsed(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a reply."""

    class Said:
        def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
            return io.BytesIO(raw)

    reply = HTTPResponse(Said())  # pyright: ignore[reportArgumentType]
    reply.begin()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()


def good_answer(server: Server) -> Any:
    status, _, body = parsed(server.raw(GOOD, timeout_s=ANSWER_S))
    assert status == 200
    return json.loads(body)["choices"]


@pytest.fixture(scope="module")
def before(server: Server) -> dict[str, Any]:
    """A good answer, and what the server takes once it has warmed up."""
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: good_answer(server), range(40)))
    return {"answer": good_answer(server), "bytes": memory_bytes(), "threads": threading.active_count()}


def memory_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def judge(one: Case, raw: bytes) -> str | None:
    """What is wrong with a reply; None: nothing."""
    if not raw:
        return None if CLOSED in one.statuses else "closed without a word"
    try:
        status, headers, body = parsed(raw)
    except (HTTPException, ValueError) as error:
        return f"no HTTP: {error!r}"
    if status not in one.statuses:
        return f"status {status}, expected {sorted(one.statuses)}: {body[:200]!r}"
    if status < 400 or (one.broken and headers.get("content-type", "").startswith("text/plain")):
        return None
    return judge_error(status, headers, body)


def judge_error(status: int, headers: dict[str, str], body: bytes) -> str | None:
    if headers.get("content-type") != "application/json" or headers.get("x-content-type-options") != "nosniff":
        return f"headers {headers}"
    try:
        told = json.loads(body.decode("utf-8"))
    except ValueError:
        return f"no JSON: {body[:200]!r}"
    if set(told) != {"error"} or set(told["error"]) != {"message", "type", "param", "code"}:
        return f"another form: {body[:200]!r}"
    message, kind, param = (told["error"][name] for name in ("message", "type", "param"))
    if kind != TYPES.get(status):
        return f"type {kind} with status {status}"
    if not isinstance(message, str) or not message or len(message) > 600 or "\n" in message:
        return f"no sentence: {message!r:.300}"
    if param is not None and (not isinstance(param, str) or len(param) > 250):
        return f"param {param!r:.300}"
    if leak := LEAK.search(f"{message} {param}"):
        return f"tells {leak[0]!r}: {message}"
    return None


def check(server: Server, cases: list[Case]) -> None:
    """Send them all; none may be answered wrongly, late or not at all."""
    wrong: list[str] = []
    for one in cases:
        began = time.monotonic()
        try:
            fault = judge(one, server.raw(one.sent, timeout_s=ANSWER_S))
        except TimeoutError:
            fault = f"no end after {ANSWER_S} s"
        seconds = time.monotonic() - began
        if fault is None and seconds > ANSWER_S / 2:
            fault = f"took {seconds:.1f} s"
        if fault is not None:
            wrong.append(f"{one.name}: {fault}")
    assert not wrong, f"{len(wrong)} of {len(cases)}\n" + "\n".join(wrong[:40])


def test_there_are_many():
    assert sum(len(list(cases())) for cases in CATEGORIES.values()) >= 500


@pytest.mark.parametrize("category", CATEGORIES)
def test_hostile_requests(server, before, category):
    check(server, list(CATEGORIES[category]()))
    assert server.idle()
    assert good_answer(server) == before["answer"]


# --- those that broke something ---------------------------------------------------------------------------------------

INFLATES = zlib.compress(bytes(20_000_000), 9)

# each of these was answered wrongly once, for the reason beside it
FOUND = {
    "host": [  # H1: urlsplit raises in Guards._checked; 500 in plain text
        case(f"host {host!r}", http("GET", "/health", None, [("Host", host)]), 400, 403)
        for host in ("[//", "]//", "[x//y", "//[", "[:]//")
    ],
    "charset": [  # H2: python-multipart's names are decoded by any codec; UnicodeError -> 500
        case(name, form(FILE, kind=f"multipart/form-data; boundary=limit; charset={name}"), 200, 400)
        for name in ("undefined", "idna", "punycode")
    ],
    "class": [  # H3: pydantic tells the class that it expected
        case(f"body {body!r}", http("POST", path, body), 400)
        for body in (b"[]", b"null", b"1", b'"x"', b"true", b"[{}]")
        for path in (CHAT, LOCATE, DESCRIBE, REGIONS)
    ]
    + [
        case(f"{more}", http("POST", CHAT, chat(**more)), 400)
        for more in ({"stream_options": 1}, {"stream_options": "x"}, {"stream_options": []})
    ]
    + [
        case(f"grounding {value!r}", http("POST", CHAT, chat(user(), assistant(grounding=value), again())), 400)
        for value in ("x", 1, [])
    ]
    + [
        case("entity of text", http("POST", CHAT, past("x")), 400),
        case("pictures of text", http("POST", CHAT, past(images=["x"])), 400),
        case("body of 500 lists", http("POST", CHAT, b"[" * 500 + b"]" * 500)),
    ],
    "long": [  # H4: what is wrong is told again in full length
        case("phrase", http("POST", CHAT, past(entity("a" * 5000, 0, 1))), 400),
        case("span", http("POST", CHAT, past(entity("b", 0, 5000), content="a" * 6000)), 400),
        case("max_tokens", http("POST", CHAT, chat(max_tokens=10**4000)), 400),
        case("box", http("POST", CHAT, past(entity(end=10**4000))), 400),
    ],
    "words": [  # H14: Pillow's own words are told
        case(name.decode(), http("POST", REGIONS, {"image": data_url(png(2, 2, (name, b"a\x00\x00" + INFLATES)))}), 400)
        for name in (b"zTXt", b"iCCP")
    ],
    "data": [  # H15: asked for as a data URL in any case, but read in small letters alone
        case(scheme, http("POST", REGIONS, {"image": GOOD_URL.replace("data:", scheme)}), 200)
        for scheme in ("DATA:", "Data:")
    ],
    "redirect": [  # H5: a slash too much is answered with a redirect to the name that the client gave
        case(path, http("POST", path, {}), 404, 405) for path in (LOCATE + "/", CHAT + "/", "/health/", "/page")
    ],
    "range": [  # H6: errors of starlette's files have no documented form
        case(given, http("GET", "/page/app.js", None, [("Range", given)]), 200, 206, 400, 416)
        for given in ("x", "bytes=x", "bytes=5-2", "bytes=999999999-", "items=0-5")
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(server, before, name):
    check(server, FOUND[name])
    assert good_answer(server) == before["answer"]


# H7, was broken, and ended everybody's answer: float32 makes 0 of a tiny top_p and no token is left to draw
@pytest.mark.parametrize("options", [{"temperature": 1, "top_p": 5e-324}, {"temperature": 2e-6, "top_p": 1e-300}])
def test_a_question_that_cannot_be_drawn_does_not_end_the_others(server, options):
    long = http("POST", CHAT, chat(max_tokens=200, stream=True))
    with server.connect() as sock:
        sock.sendall(long)
        said = sock.recv(1 << 16)
        wait_for(lambda: server.engine.running == 1, 5)
        status, _, _ = parsed(server.raw(http("POST", CHAT, chat(**options)), timeout_s=ANSWER_S))
        said += read_to_end(sock)
    assert b"data: [DONE]" in said, said[-300:]
    assert status in (200, 400)


# H8, was broken because every error of a list is kept, and a name is compared letter by letter; all that time the
# interpreter is held. A megabyte takes seconds, the 28 that are taken by default minutes and 12 GB
@pytest.mark.parametrize(
    "values",
    [
        {"messages": [1] * 400_000},
        {"messages": [{"role": "user", "content": [1] * 400_000}]},
        {"messages": [again()], "modalities": [1] * 400_000},
        {"messages": [again()], "response_format": {str(number): "x" for number in range(80_000)}},
        {"messages": [again()], "logit_bias": {str(number): "x" for number in range(80_000)}},
        {"messages" * 300_000: 1},
    ],
    ids=["messages", "parts", "modalities", "format", "bias", "name"],
)
def test_many_errors_cost_little(values):
    began = time.monotonic()
    with pytest.raises(HttpError):
        reading.check(values, ChatBody)
    assert time.monotonic() - began < 0.15


def slowest_health(server: Server, sent: bytes) -> tuple[float, float]:
    """Seconds that a request takes, and the longest that /health takes meanwhile."""
    took: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            began = time.monotonic()
            assert server.ask("GET", "/health").status == 200
            took.append(time.monotonic() - began)
            time.sleep(0.01)

    thread = threading.Thread(target=look)
    thread.start()
    began = time.monotonic()
    try:
        status, _, _ = parsed(server.raw(sent, timeout_s=60))
    finally:
        done.set()
        thread.join()
    assert status in (400, 413)
    return time.monotonic() - began, max(took)


CROWD = [entity("a", 2 * n, 2 * n + 1, [[n % 60, 10, n % 60 + 30, 60]] * 12) for n in range(1000)]


# H9, was broken because a text is encoded whole by the engine's thread (and holds the interpreter) before it is found
# too long; and because boxes of the past are checked in the event loop, in a time that grows with their square
@pytest.mark.parametrize(
    "body",
    [
        chat(user("word " * 500_000)),
        chat(user(), assistant("word " * 500_000), again()),
        chat(user(), *[assistant("a " * 1000, grounding={"entities": CROWD}), again()] * 4),
    ],
    ids=["question", "past", "boxes"],
)
def test_what_is_far_too_long_holds_nobody_up(server, body):
    seconds, health = slowest_health(server, http("POST", CHAT, body))
    assert health < 0.7, f"/health took {health:.1f} s"
    assert seconds < 2.0


# Python has codecs whose time grows with the square of the text, and forms are read in the event loop
def test_a_form_with_a_slow_codec_holds_nobody_up(server):
    field = ('form-data; name="min_objectness"', b"-" + b"a" * 60_000)
    kind = "multipart/form-data; boundary=limit; charset=punycode"
    seconds, _ = slowest_health(server, form(FILE, *[field] * 19, kind=kind))
    assert seconds < 1.5


HUGE = struct.pack(">IIBBBBB", 9000, 9000, 1, 0, 0, 0, 0)
DIB = struct.pack("<IiiHHIIiiII", 40, 9000, 18_000, 1, 1, 0, 0, 0, 0, 0, 0) + bytes(8)


# H10, was broken because Pillow's reader of icons decodes while it opens, before the pixels are counted; there is
# nothing in these, so that decoding them tells that they are cut off
@pytest.mark.parametrize(
    "content",
    [png(9000, 9000, (b"IDAT", b""), bits=1, colour=0), png(1, 1, (b"IHDR", HUGE), (b"IDAT", b"")), DIB],
    ids=["PNG", "PNG with two heads", "DIB"],
)
def test_the_pixels_of_an_icon_are_counted_before_it_is_decoded(server, content):
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 1, len(content), 22) + content
    status, _, body = parsed(server.raw(http("POST", REGIONS, {"image": data_url(icon)})))
    assert status == 400
    assert b"9000x9000" in body or b"icon" in body, body  # counted, or refused as it is


# --- slow and impatient clients --------------------------------------------------------------------------------------


def drip(server: Server, first: bytes, each: bytes, *, most_s: float = 4.0) -> tuple[float, bytes]:
    """Send a beginning, then something every now and then; how long the server puts up with it, and what it says."""
    began, said = time.monotonic(), b""
    with server.connect() as sock:
        sock.sendall(first)
        sock.settimeout(0.15)
        while time.monotonic() - began < most_s:
            try:
                part = sock.recv(1 << 16)
                if not part:
                    break
                said += part
            except TimeoutError:
                try:
                    sock.sendall(each)
                except OSError:
                    break
            except OSError:
                break
    return time.monotonic() - began, said


HEAD = f"Host: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n".encode()
BODY = b"POST /regions HTTP/1.1\r\n" + HEAD + b"Content-Length: 1000\r\n\r\n"

DRIPS = {
    "silence": (b"", b""),
    "request line": (b"G", b"E"),
    "headers": (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
    "header": (b"GET / HTTP/1.1\r\nX: ", b"y"),
    "body": (BODY, b" "),
    "silent body": (BODY, b""),
    "chunks": (BODY.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked"), b"1\r\n \r\n"),
    "lines before": (b"\r\n", b"\r\n"),
    "form": (
        BODY.replace(b"\r\n\r\n", b"\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"), b"X: y\r\n"
    ),
    "expects": (BODY.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"), b""),
}  # fmt: skip

# H11, was broken: the connection was held for ever. A clock ran for the first request of a connection alone, and
# whatever arrives after an answer stops the one that ends idle connections
DRIPS_AFTER_AN_ANSWER = {
    "headers of a second request": (b"GET /health HTTP/1.1\r\n" + HEAD + b"\r\nGET / HTTP/1.1\r\n", b"X: y\r\n"),
    "body of an unknown address": (BODY.replace(b"/regions", b"/nothing"), b" "),
    "body of a GET": (BODY.replace(b"POST /regions", b"GET /health"), b" "),
    "body without a key": (BODY.replace(KEY.encode(), b"wrong"), b" "),
    "body of an unknown host": (BODY.replace(b"127.0.0.1", b"elsewhere"), b" "),
    "body that is too large": (BODY.replace(b"1000", b"9999999"), b" "),
}


def judge_drip(server: Server, name: str, first: bytes, each: bytes) -> str | None:
    seconds, said = drip(server, first, each)
    if seconds > 3 * UPLOAD_S:
        return f"{name}: held for more than {seconds:.1f} s"
    statuses = {parsed(said)[0]} if said and not said.startswith(b"HTTP/1.1 100") else set()
    return None if statuses <= {200, 400, 401, 403, 404, 408, 413} else f"{name}: {statuses}"


@pytest.mark.parametrize("drips", [DRIPS, DRIPS_AFTER_AN_ANSWER], ids=["first", "after"])
def test_who_is_slow_is_not_waited_for(server, before, drips):
    with ThreadPoolExecutor(len(drips)) as pool:
        faults = list(pool.map(lambda name: judge_drip(server, name, *drips[name]), drips))
        health = server.ask("GET", "/health", headers={"Authorization": f"Bearer {KEY}"})
    assert health.status == 200
    assert [fault for fault in faults if fault] == []
    assert good_answer(server) == before["answer"]


# H12, was broken because nothing limits the time in which a client takes what it asked for
def test_who_does_not_read_is_not_waited_for(server):
    asked = http("GET", "/page/app.js", None, [("Connection", "keep-alive")]) * 3000
    held = len(open_connections(server))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.settimeout(0.5)
        sock.connect(("127.0.0.1", server.port))
        with contextlib.suppress(TimeoutError):
            sock.sendall(asked)
        wait_for(lambda: len(open_connections(server)) <= held, 4 * UPLOAD_S)


# DEFECT H17: fails, as a connection is closed only once what is left has been sent, be it too little to pause for
def test_who_leaves_a_little_unread_is_not_waited_for():
    with running(upload_time_s=0.5, send_buffer_bytes=4096) as server, socket.socket() as sock:
        wait_for(lambda: not open_connections(server))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(http("GET", "/page/app.js", None, [("Connection", "keep-alive")]) * 6)
        wait_for(lambda: len(open_connections(server)) == 1)
        wait_for(lambda: not open_connections(server), 4)


def open_connections(server: Server) -> list[str]:
    """Connections that the server holds, of Linux's table."""
    port = f":{server.port:04X}"
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return [row[2] for row in rows if row[1].endswith(port) and row[3] in ("01", "08")]  # established, half closed


def abrupt(server: Server, sent: bytes, wait_s: float) -> None:
    """Send, wait, and go away without a word (RST)."""
    with server.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(sent)
        time.sleep(wait_s)


def test_who_goes_away_leaves_nothing_behind(server, before):
    long = chat(max_tokens=300)
    whole = [
        http("POST", CHAT, long),
        http("POST", CHAT, long | {"stream": True}),
        http("POST", REGIONS, {"image": GOOD_URL}),
    ]
    whole += [http("POST", DESCRIBE, {"image": GOOD_URL, "boxes": [[n, n, 50, 50] for n in range(20)]}), form(FILE)]
    partly = [sent[: len(sent) * share // 10] for sent in whole for share in (1, 5, 9)]
    gone = [(sent, wait_s) for sent in whole + partly for wait_s in (0.0, 0.05, 0.3)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda one: abrupt(server, *one), gone))
    wait_for(lambda: server.engine.running == 0 and server.engine.waiting == 0, 5)
    assert good_answer(server) == before["answer"]


# H13, was broken because every client that goes away in the middle of its request is logged as a fault, with a trace
def test_who_goes_away_while_sending_is_no_fault_of_the_server(server, caplog):
    with caplog.at_level("WARNING"):
        for sent in (BODY + b"{", form(FILE)[:-300]):
            abrupt(server, sent, 0.05)
        time.sleep(0.3)
    assert [record.getMessage()[:80] for record in caplog.records if record.exc_info] == []


def test_who_closes_its_half_is_answered_or_let_go(server):
    for sent in (http("GET", "/health"), GOOD):
        raw = server.raw(sent, half_close=True, timeout_s=ANSWER_S)
        assert not raw or parsed(raw)[0] == 200
    assert server.idle()


def test_garbage_behind_a_request_is_no_second_one(server):
    first = http("GET", "/health", None, [("Connection", "keep-alive")])
    for junk in (
        b"\x00" * 50,
        b"{}" * 50 + b"\r\n\r\n",
        b"GET /x\r\n\r\n",
        b"\r\n\r\n\r\nx\r\n\r\n",
    ):
        raw = server.raw(first + junk, timeout_s=ANSWER_S)
        assert raw.startswith(b"HTTP/1.1 200")
        replies = re.findall(rb"HTTP/1\.1 (\d+)", raw)
        assert replies in ([b"200"], [b"200", b"400"])


def test_a_body_that_is_longer_than_announced_is_not_read_as_a_request(server):
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    sent = http("POST", "/nothing", b"{}" + smuggled, [("Connection", "keep-alive"), ("Content-Length", "2")])
    replies = re.findall(rb"HTTP/1\.1 (\d+)", server.raw(sent, timeout_s=ANSWER_S))
    assert replies == [b"404", b"401"]  # two requests on one connection, and the second has no key of its own


def test_many_requests_on_one_connection(server):
    one = http("GET", "/health", None, [("Connection", "keep-alive")])
    raw = server.raw(one * 200 + http("GET", "/health"), timeout_s=ANSWER_S)
    assert len(re.findall(rb"HTTP/1\.1 200 OK", raw)) == 201


def test_a_full_queue_says_so_and_empties(server, before):
    body = {"image": GOOD_URL, "boxes": [[n, n, 50, 50] for n in range(40)]}  # a client may hold 32 places
    raw = server.raw(http("POST", DESCRIBE, body), timeout_s=ANSWER_S)
    status, headers, content = parsed(raw)
    assert status == 429
    assert judge_error(status, headers, content) is None
    assert int(headers["retry-after"]) >= 1
    assert server.idle()
    assert good_answer(server) == before["answer"]


# --- text stays text -------------------------------------------------------------------------------------------------


class Reader:
    """A model that nobody else asks: what a prompt's special ids are."""

    def __init__(self) -> None:
        self.groma = small_groma()
        self.engine = Engine(self.groma)
        self.picture = self.engine.picture(good_png())
        assert self.picture.pixels is not None
        (self.seen,) = self.groma.see_pixels(self.picture.pixels[None], [self.picture.size_px])

    def ids(self, exchange: Exchange | None) -> list[int]:
        """The ids that no text has."""
        assert exchange is not None
        (prepared,) = self.groma.prepare([Request(self.seen, exchange, Decoding(max_new_tokens=8))])
        special = self.groma.tokenizer.special
        control = {number for number in (special.bos, special.eos, special.unk) if number is not None}
        read: list[int] = prepared.prompt.token_ids.tolist()
        return [number for number in read if number >= special.base_vocab_size or number in control]

    def asked(self, text: str, regions: list[list[float]] | None) -> list[int]:
        return self.ids(self.engine.question(self.picture, text, regions).exchange)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.mark.parametrize("text", TYPED)
def test_special_tokens_that_are_typed_stay_text(reader, text):
    for regions in (None, [[10.0, 10.0, 60.0, 60.0]]):
        assert reader.asked(text, regions) == reader.asked("word", regions)
    for every in (False, True):
        assert reader.ids(locating(text, all=every)) == reader.ids(locating("word", all=every))


def test_special_tokens_of_an_earlier_answer_stay_text(server):
    def read(content: str, phrase: str) -> int:
        body = past(entity(phrase, 0, len(phrase), [[10, 10, 60, 60]]), content=content)
        _, _, reply = parsed(server.raw(http("POST", CHAT, body | {"max_tokens": 1})))
        return json.loads(reply)["usage"]["prompt_tokens"]

    # a special token would be one id; its letters are several
    words = {text: read(text + " and more", text) for text in ("<r5>", "</s>", "<image>", "[grounding]", "<refer_box>")}
    plain = read("x and more", "x")
    for text, count in words.items():
        assert count > plain + 1, text


# --- in the end ------------------------------------------------------------------------------------------------------


# H8 showed here as well: the memory of all those errors
def test_nothing_is_left_in_the_end(server, before):
    assert server.idle()
    wait_for(lambda: len(open_connections(server)) == 0, 20)
    assert good_answer(server) == before["answer"]
    cores = os.cpu_count() or 1
    pools = min(8, cores) + 8 + min(32, cores + 4) + 40  # pictures, fetching, bodies, starlette's files
    assert threading.active_count() <= before["threads"] + pools
    assert memory_bytes() - before["bytes"] < 300 << 20
    metrics = server.ask("GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"})
    assert b"groma_running 0.0" in metrics.body
    assert b"groma_queue_length 0.0" in metrics.body


def test_pictures_are_not_kept_beyond_their_memory(server):
    for seed in range(30):
        image = Image.new("RGB", (30, 30), (seed, 0, 0))
        assert parsed(server.raw(http("POST", REGIONS, {"image": data_url(file_of(image))})))[0] == 200
    assert server.engine.pictures.num_bytes <= 4 << 20
    assert server.engine.prefixes.num_bytes <= 4 << 20
