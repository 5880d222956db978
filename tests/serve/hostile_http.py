# ruff: noqa: E501  # tables
"""How hostile requests are written down; and those whose HTTP is wrong: addresses, methods, forms, headers, bytes."""

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hostile_server import GOOD_URL, good_png

KEY = "key-of-the-tests-0123456789"
CHAT, LOCATE, DESCRIBE, REGIONS = "/v1/chat/completions", "/locate", "/describe", "/regions"

MAX_BODY_BYTES, MAX_PICTURE_BYTES, MAX_PIXELS = 3 << 20, 2 << 20, 1_000_000
"""Limits of the server that is attacked."""

CLOSED = 0
"""Instead of a status: the connection is closed without a word."""


@dataclass(frozen=True, slots=True)
class Case:
    """One request."""

    name: str
    sent: bytes
    statuses: frozenset[int]
    """that may come back"""
    broken: bool = False
    """it is no HTTP: an answer need not have the documented form"""


def case(name: str, sent: bytes, *statuses: int, broken: bool = False) -> Case:
    return Case(name, sent, frozenset(statuses or (400,)), broken)


def http(
    method: str,
    path: str,
    body: Any = None,
    headers: Iterable[tuple[str, str | bytes]] = (),
    *,
    key: bool = True,
    length: int | None = None,
) -> bytes:
    """A request; what is neither bytes nor None is sent as JSON. Headers that are given take the place of usual ones."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    given = [(name, value.encode("latin-1") if isinstance(value, str) else value) for name, value in headers]
    names = {name.lower() for name, _ in given}
    usual = {"Host": b"127.0.0.1", "Connection": b"close"}
    if key:
        usual["Authorization"] = f"Bearer {KEY}".encode()
    if body is not None:
        usual |= {"Content-Type": b"application/json", "Content-Length": str(length or len(body)).encode()}
    head = [(name, value) for name, value in usual.items() if name.lower() not in names] + given
    lines = [f"{method} {path} HTTP/1.1".encode("latin-1"), *(name.encode() + b": " + value for name, value in head)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def post(name: str, path: str, body: Any, *statuses: int) -> Case:
    return case(name, http("POST", path, body), *statuses)


def ask(name: str, body: Any, *statuses: int) -> Case:
    return post(name, CHAT, body, *statuses)


# --- addresses and methods -------------------------------------------------------------------------------------------


def addresses() -> Iterator[Case]:
    paths = [
        "/nothing", "/v1", "/v1/", "/v1/completions", "/v2/chat/completions", "//health", "/HEALTH", "/health%00", "/health;x=1",
        "/%00", "/%ff", "/%c0%ae%c0%ae/", "/../health", "/./health", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd",
        "/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page/%2e%2e%2fapp.py", "/page/....//app.py",
        "/page/%5c..%5capp.py", "/page//etc/passwd", "/page/%2fetc/passwd", "/page/%00", "/page/index.html%00.png", "/page/",
        "/page/examples", "/page/examples/../../app.py", "/page/.env", "/page/.git/config", "/page/__pycache__", "/redoc",
        "/page/" + "a" * 4000, "/" + "a/" * 5000, "/.well-known/x", "/v1/models/other", "/v1/models/../x", "/v1/models/%00",
        "/v1/models/" + "x" * 3000, "/metrics/x", "http://127.0.0.1/x", "http://elsewhere.test/health", "/locate%20", "/%25%30%30",
    ]  # fmt: skip
    for path in paths:
        yield case(f"GET {path[:40]}", http("GET", path), 404)
        yield case(f"POST {path[:40]}", http("POST", path, {}), 404, 405)
    for path in ("*", "health", "elsewhere.test:80"):
        for method in ("OPTIONS", "CONNECT", "GET"):
            yield case(f"{method} {path}", http(method, path), 400, 404, 405)
    for path in (CHAT, LOCATE, DESCRIBE, REGIONS):
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get", "X" * 200):
            yield case(f"{method[:9]} {path}", http(method, path), 405)
    for method in ("POST", "PUT", "DELETE", "BREW"):
        for path in ("/", "/health", "/metrics", "/docs", "/v1/models", "/page/config.json"):
            yield case(f"{method} {path}", http(method, path, {}), 405)
    for path in (
        "/health?x=%00",
        "/health?" + "a=b&" * 1000,
        "/health?../../x",
        "/%68ealth",
        "/page/app.js?x",
    ):
        yield case(f"fine {path[:20]}", http("GET", path), 200)


# --- forms -----------------------------------------------------------------------------------------------------------

FILE = ('form-data; name="image"; filename="a.png"', good_png())
PHRASE = ('form-data; name="min_objectness"', b"0.3")


def form(*parts: tuple[str, bytes], boundary: str = "limit", kind: str | None = None, path: str = REGIONS) -> bytes:
    """A form, to the address that answers at once."""
    mark = b"--" + boundary.encode("latin-1")
    body = b"".join(mark + b"\r\nContent-Disposition: " + head.encode("latin-1") + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)  # fmt: skip
    kind = kind or f"multipart/form-data; boundary={boundary}"
    return http("POST", path, body + mark + b"--\r\n", [("Content-Type", kind)])


def forms() -> Iterator[Case]:
    bad = "form-data; name="
    wrong: dict[str, bytes] = {
        "no file": form(PHRASE),
        "no part": form(),
        "two files": form(FILE, FILE),
        "the file is text": form((f'{bad}"image"', good_png())),
        "the file is empty": form((f'{bad}"image"; filename="a.png"', b"")),
        "the file is no picture": form((f'{bad}"image"; filename="a.png"', b"secret")),
        "the file has another name": form((f'{bad}"file"; filename="a.png"', good_png())),
        "the number is text": form(FILE, (f'{bad}"min_objectness"', b"much")),
        "the number is not one": form(FILE, (f'{bad}"min_objectness"', b"nan")),
        "the number is a list": form(FILE, (f'{bad}"min_objectness"', b"[0.1]")),
        "the number is deep": form(FILE, (f'{bad}"min_objectness"', b"[" * 5000)),
        "the number is empty": form(FILE, (f'{bad}"min_objectness"', b"")),
        "unknown field": form(FILE, (f'{bad}"colour"', b"red")),
        "field without a name": form(FILE, ("form-data", b"x")),
        "field with an empty name": form(FILE, (f'{bad}""', b"x")),
        "name of bytes": form(FILE, (f'{bad}"\xff\xfe"', b"x")),
        "30 fields": form(FILE, *[PHRASE] * 30),
        "a huge field": form(FILE, (f'{bad}"min_objectness"', b"1" * 100_000)),
        "a huge name": form(FILE, (f'{bad}"{"a" * 5000}"', b"x")),
        "no boundary": form(FILE, kind="multipart/form-data"),
        "empty boundary": form(FILE, kind="multipart/form-data; boundary="),
        "another boundary": form(FILE, kind="multipart/form-data; boundary=other"),
        "long boundary": form(FILE, boundary="b" * 300),
        "boundary of bytes": form(FILE, kind="multipart/form-data; boundary=\xff\xfe"),
        "mixed": form(FILE, kind="multipart/mixed; boundary=limit"),
        "form-datax": form(FILE, kind="multipart/form-datax; boundary=limit"),
        "urlencoded": http("POST", REGIONS, b"image=x", [("Content-Type", "application/x-www-form-urlencoded")]),
        "empty": http("POST", REGIONS, b"", [("Content-Type", "multipart/form-data; boundary=limit"), ("Content-Length", "0")]),
        "garbage": http("POST", REGIONS, b"\x00\xff" * 500, [("Content-Type", "multipart/form-data; boundary=limit")]),
        "never ends": http("POST", REGIONS, b'--limit\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx', [("Content-Type", "multipart/form-data; boundary=limit")]),
        "head never ends": http("POST", REGIONS, b"--limit\r\n" + b"X: y\r\n" * 5000, [("Content-Type", "multipart/form-data; boundary=limit")]),
        "JSON as a form": http("POST", REGIONS, {"image": GOOD_URL}, [("Content-Type", "multipart/form-data; boundary=limit")]),
        "a form as JSON": form(FILE, kind="application/json"),
        "a form for a chat": form(FILE, path=CHAT),
        "boxes missing": form(FILE, path=DESCRIBE),
        "boxes are text": form(FILE, (f'{bad}"boxes"', b"x"), path=DESCRIBE),
        "boxes are deep": form(FILE, (f'{bad}"boxes"', b"[" * 900 + b"]" * 900), path=DESCRIBE),
        "box is inverted": form(FILE, (f'{bad}"boxes"', b"[[50,50,10,10]]"), path=DESCRIBE),
        "box of infinity": form(FILE, (f'{bad}"boxes"', b"[[1,1,Infinity,50]]"), path=DESCRIBE),
        "phrase missing": form(FILE, path=LOCATE),
        "phrase is blank": form(FILE, (f'{bad}"phrase"', b"  "), path=LOCATE),
        "all is maybe": form(FILE, (f'{bad}"phrase"', b"x"), (f'{bad}"all"', b"maybe"), path=LOCATE),
        "image is text too": form(FILE, (f'{bad}"image"', b"x")),
    }  # fmt: skip
    for name, sent in wrong.items():
        yield case(name, sent)
    too_large = (f'{bad}"image"; filename="a.png"', good_png() + bytes(MAX_PICTURE_BYTES))
    yield case("a huge file", form(too_large), 413)
    for name in ("../../etc/passwd", "a\\..\\b", "con", "a" * 3000, "a.png\x00.exe", "\xff", ""):
        yield case(f"file name {name[:20]!r}", form((f'{bad}"image"; filename="{name}"', good_png())), 200, 400)
    for charset in (
        "utf-16",
        "latin-1",
        "nothing",
        "zlib",
        "rot13",
        "utf-7",
        "unicode_escape",
        "a" * 2000,
        ".",
        "..",
        "os",
    ):
        kind = f"multipart/form-data; boundary=limit; charset={charset}"
        yield case(f"charset {charset[:20]}", form(FILE, kind=kind), 200, 400)
    for kind in (
        "text/plain",
        "application/octet-stream",
        "image/png",
        "",
        "a/b/c",
        ";",
        "application/json; charset=x",
        "\xff",
    ):
        sent = http("POST", REGIONS, {"image": GOOD_URL}, [("Content-Type", kind)])
        yield case(f"type {kind!r}", sent, 200, 400, 415)
        yield case(f"picture as {kind!r}", http("POST", REGIONS, good_png(), [("Content-Type", kind)]), 400, 415)


# --- headers ---------------------------------------------------------------------------------------------------------


def headers() -> Iterator[Case]:
    def get(name: str, *given: tuple[str, str | bytes], statuses: tuple[int, ...], path: str = "/v1/models", key: bool = True) -> Case:  # fmt: skip
        return case(name, http("GET", path, None, given, key=key), *statuses)

    hosts = [
        "elsewhere.test", "127.0.0.1.elsewhere.test", "localhost.elsewhere.test", "127.0.0.2", "[::2]", "elsewhere.test:8000",
        "", " ", ":", ":80", "[::1", "::1]", "[", "]", "[]", "%31", "\xe4",
        "127.0.0.1,elsewhere.test", "127.0.0.1 elsewhere.test", "localhost.", "0x7f.1", "a" * 5000, "\u00b2", "http://127.0.0.1",
    ]  # fmt: skip
    for host in hosts:
        yield get(f"host {host[:30]!r}", ("Host", host), statuses=(400, 403))
    for host in ("127.0.0.1", "127.0.0.1:1", "localhost", "LOCALHOST:8000", "[::1]", "[::1]:8000"):
        yield get(f"host {host}", ("Host", host), statuses=(200,))
    origins = [
        "http://elsewhere.test", "https://127.0.0.1.elsewhere.test", "null", "", "file://", "http://127.0.0.1:1", "chrome-extension://x",
        "http://[", "//", "http://", "http://127.0.0.1@elsewhere.test", "http://elsewhere.test/127.0.0.1", "\xff", "a" * 5000, "http:// ",
    ]  # fmt: skip
    for origin in origins:
        yield get(f"origin {origin[:30]!r}", ("Origin", origin), statuses=(403,))
        yield case(f"origin {origin[:30]!r} to locate", http("POST", LOCATE, {}, [("Origin", origin)]), 403)
    yield get("own origin", ("Origin", "http://127.0.0.1"), statuses=(200,))
    keys: list[str | bytes] = [
        "", " ", "Bearer", "Bearer ", "Bearer  ", "Bearer x", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Bearer x{KEY}", f"Basic {KEY}",
        f"Bearer {KEY.upper()}", f"Bearer {KEY}, Bearer x", f"Bearer\t{KEY}x", KEY, f"Token {KEY}", f"Bearer {KEY}\xe4", "Bearer \xff\xfe",
        b"Bearer \xf0\x9f\x90\xb6", "Bearer " + "a" * 20_000, f"Bearer Bearer {KEY}", "Bearer null", f"bearer:{KEY}", "Bearer *",
    ]  # fmt: skip
    for given in keys:
        for path in ("/v1/models", "/metrics"):
            sent = http("GET", path, None, [("Authorization", given)], key=False)
            yield case(f"key {given[:20]!r} for {path}", sent, 401)
    for path in (CHAT, LOCATE, DESCRIBE, REGIONS):
        yield case(f"no key for {path}", http("POST", path, {}, key=False), 401)
    both = [("Authorization", "Bearer wrong-wrong-wrong"), ("Authorization", f"Bearer {KEY}")]
    yield case("a wrong key and the right one", http("GET", "/v1/models", None, both, key=False), 200, 400, 401)
    yield case("OPTIONS without a key", http("OPTIONS", CHAT, None, key=False), 401, 405)
    for path in (
        "/page/../v1/models",
        "/page/../metrics",
        "/page/%2e%2e/metrics",
        "//metrics",
        "/Metrics",
        "/page/..;/metrics",
    ):
        yield case(f"no key for {path}", http("GET", path, None, key=False), 401, 404)
    more: dict[str, list[tuple[str, str | bytes]]] = {
        "forwarded": [("X-Forwarded-For", "\xff, 1.2.3.4"), ("X-Forwarded-Proto", "javascript"), ("Forwarded", "for=x")],
        "forwarded much": [("X-Forwarded-For", ",".join(["1.2.3.4"] * 3000))],
        "upgrade": [("Connection", "Upgrade, close"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x"), ("Sec-WebSocket-Version", "13")],
        "h2c": [("Connection", "Upgrade, HTTP2-Settings, close"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA")],
        "override": [("X-HTTP-Method-Override", "DELETE"), ("X-Original-URL", "/metrics"), ("X-Rewrite-URL", "/metrics")],
        "accept": [("Accept", "x" * 5000), ("Accept-Encoding", "gzip;q=9999"), ("Accept-Language", "\xff")],
        "many": [(f"X-{number}", "y") for number in range(1000)],
        "cookie": [("Cookie", "a=b; " * 1000)],
        "conditions": [("If-None-Match", "*"), ("If-Modified-Since", "never")],
    }  # fmt: skip
    for name, given in more.items():
        yield get(name, *given, statuses=(200,))


# --- bytes -----------------------------------------------------------------------------------------------------------


TAKEN = ("header that goes on", "version 0.9")
"""What other servers refuse and this one may take."""


def no_http() -> Iterator[Case]:
    key = f"Authorization: Bearer {KEY}\r\nConnection: close\r\n".encode()
    host = b"Host: 127.0.0.1\r\n" + key
    get, send = b"GET /v1/models HTTP/1.1\r\n", b"POST /regions HTTP/1.1\r\n"
    broken: dict[str, bytes] = {
        "no host": get + key + b"\r\n",
        "two hosts": get + host + b"Host: 127.0.0.1\r\n\r\n",
        "header without a colon": get + host + b"nothing\r\n\r\n",
        "header with a blank": get + host + b"X : y\r\n\r\n",
        "header that goes on": get + host + b"X: y\r\n z\r\n\r\n",
        "header of nothing": get + host + b": y\r\n\r\n",
        "header with a zero": get + host + b"X: a\x00b\r\n\r\n",
        "header with a return": get + host + b"X: a\rb\r\n\r\n",
        "header name of bytes": get + host + b"X\xff: a\r\n\r\n",
        "path of bytes": b"GET /\xff HTTP/1.1\r\n" + host + b"\r\n",
        "path with a blank": b"GET /a b HTTP/1.1\r\n" + host + b"\r\n",
        "path with a zero": b"GET /a\x00b HTTP/1.1\r\n" + host + b"\r\n",
        "no path": b"GET HTTP/1.1\r\n" + host + b"\r\n",
        "no version": b"GET /health\r\n\r\n",
        "version 0.9": b"GET /health HTTP/0.9\r\n" + host + b"\r\n",
        "version 2.0": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "version 9": b"GET /health HTTP/9\r\n" + host + b"\r\n",
        "version of text": b"GET /health HTTPS/1.1\r\n" + host + b"\r\n",
        "tls": bytes.fromhex("16030100f4010000f00303") + bytes(240),
        "ssh": b"SSH-2.0-x\r\n",
        "smtp": b"EHLO x\r\nMAIL FROM:<a>\r\n",
        "redis": b"*1\r\n$4\r\nPING\r\n",
        "zeros": bytes(200),
        "bytes": bytes(range(128, 256)) * 4,
        "lengths that differ": send + host + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "negative length": send + host + b"Content-Length: -5\r\n\r\nhello",
        "length of text": send + host + b"Content-Length: five\r\n\r\nhello",
        "length with a sign": send + host + b"Content-Length: +5\r\n\r\nhello",
        "length of another script": send + host + "Content-Length: \u00b2\r\n\r\nhello".encode("latin-1"),
        "length beyond counting": send + host + b"Content-Length: 99999999999999999999999\r\n\r\n",
        "unknown encoding": send + host + b"Transfer-Encoding: gzip\r\n\r\nx",
        "two encodings": send + host + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "encoding with a blank": send + host + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "chunk of text": send + host + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        "chunk of minus": send + host + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
        "chunk of much": send + host + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nx\r\n",
        "chunk that is longer": send + host + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
        "huge header": get + host + b"X: " + b"y" * 400_000 + b"\r\n\r\n",
        "huge path": b"GET /" + b"y" * 400_000 + b" HTTP/1.1\r\n" + host + b"\r\n",
    }  # fmt: skip
    for name, sent in broken.items():
        yield case(name, sent, *([200] if name in TAKEN else []), 400, 403, 404, 408, 413, 431, CLOSED, broken=True)
    whole = json.dumps({"image": GOOD_URL}).encode()
    yield case("HTTP/1.0", http("GET", "/health").replace(b"HTTP/1.1", b"HTTP/1.0"), 200)
    yield case("HTTP/1.0 without a host", b"GET /metrics HTTP/1.0\r\n\r\n", 403)
    large = http("POST", REGIONS, b"{}", [("Content-Length", str(MAX_BODY_BYTES + 1))])
    yield case("announces too much", large, 413)
    yield case("announces much too much", large.replace(str(MAX_BODY_BYTES + 1).encode(), b"9" * 19), 413)
    chunked = [("Transfer-Encoding", "chunked"), ("Content-Type", "application/json")]
    pieces = b"".join(b"8000\r\n" + b" " * 0x8000 + b"\r\n" for _ in range(MAX_BODY_BYTES // 0x8000 + 2)) + b"0\r\n\r\n"
    yield case("sends too much in chunks", http("POST", REGIONS, None, chunked) + pieces, 413)
    small = b"".join(b"%x\r\n%c\r\n" % (1, byte) for byte in whole[:3000]) + b"0\r\n\r\n"
    yield case("chunks of a byte", http("POST", REGIONS, None, chunked) + small)
    both = http("POST", REGIONS, None, [*chunked, ("Content-Length", "5")])
    yield case("a length and chunks", both + b"2\r\n{}\r\n0\r\n\r\n", 400)
    yield case(
        "chunks with a trailer", http("POST", REGIONS, None, chunked) + b"2\r\n{}\r\n0\r\nAuthorization: x\r\n\r\n", 400
    )
    yield case("a body for GET", http("GET", "/health", {"a": 1}), 200)
    yield case("gzip", http("POST", REGIONS, zlib.compress(whole), [("Content-Encoding", "gzip")]), 415)
