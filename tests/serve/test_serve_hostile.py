"""What strangers send: each hostile request gets its error, and the server is as well afterwards as before."""

import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hostile_http import CHAT, DESCRIBE, FILE, KEY, LOCATE, REGIONS, case, form, http
from hostile_judging import (
    ANSWER_S,
    alike,
    attacked,
    check,
    good_answer,
    memory_bytes,
    open_connections,
    parsed,
    warmed_up,
)
from hostile_pictures import png
from hostile_requests import CATEGORIES, TYPED, again, assistant, entity, past
from hostile_server import (
    CONTEXT,
    GOOD_URL,
    Server,
    chat,
    data_url,
    file_of,
    good_png,
    read_to_end,
    running,
    user,
)
from PIL import Image

from groma.engine.engine import Engine
from groma.inference.generate import Decoding
from groma.inference.preparing import Request
from groma.inference.turns import Exchange, locating
from groma.serve import reading
from groma.serve.bodies import ChatBody
from groma.serve.errors import HttpError
from patience import cheaply, wait_for
from small_models import endless_groma, small_groma

pytestmark = [
    pytest.mark.filterwarnings("ignore::groma.inference.request.BoxClippedWarning"),
    pytest.mark.filterwarnings("ignore::groma.inference.request.BoxesMergedWarning"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with attacked() as server:
        yield server


@pytest.fixture(scope="module")
def before(server: Server) -> dict[str, Any]:
    return warmed_up(server)


def test_there_are_many():
    assert sum(len(list(cases())) for cases in CATEGORIES.values()) >= 500


@pytest.mark.parametrize("category", CATEGORIES)
def test_hostile_requests(server, before, category):
    check(server, list(CATEGORIES[category]()))
    assert server.idle()
    assert alike(good_answer(server), before["answer"])


# --- those that broke something ---------------------------------------------------------------------------------------

INFLATES = zlib.compress(bytes(20_000_000), 9)

# each of these was answered wrongly once, for the reason beside it
FOUND = {
    "host": [  # H1: urlsplit raises in Guards._checked; 500 in plain text
        case(f"host {host!r}", http("GET", "/metrics", None, [("Host", host)]), 400, 403)
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
    assert alike(good_answer(server), before["answer"])


# H7, was broken, and ended everybody's answer: float32 makes 0 of a tiny top_p and no token is left to draw
@pytest.mark.parametrize("options", [{"temperature": 1, "top_p": 5e-324}, {"temperature": 2e-6, "top_p": 1e-300}])
def test_a_question_that_cannot_be_drawn_does_not_end_the_others(options):
    long = http("POST", CHAT, chat(max_tokens=200, stream=True))
    groma = endless_groma(max_position_embeddings=CONTEXT)
    with running(make_engine=lambda metrics: Engine(groma, observer=metrics)) as server, server.connect() as sock:
        wait_for(lambda: server.ask("GET", "/health").status == 200)
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
    with cheaply(0.15), pytest.raises(HttpError):
        reading.check(values, ChatBody)


def slowest_health(server: Server, sent: bytes) -> tuple[float, float]:
    """Seconds that a request takes, and the longest that /health takes meanwhile: the best of three times.

    What the server is to blame for is there each time, what else keeps the machine busy is not.
    """
    seconds, health = zip(*(_slowest_health(server, sent) for _ in range(3)), strict=True)
    return min(seconds), min(health)


def _slowest_health(server: Server, sent: bytes) -> tuple[float, float]:
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
    assert alike(good_answer(server), before["answer"])
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
