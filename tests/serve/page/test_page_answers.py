"""Answers: streamed, in colour, their phrases tied to regions of the picture both ways."""

import re

import pytest

pytest.importorskip("playwright", reason="the page is tested with playwright: pip install playwright")
pytest.importorskip("fastapi", reason="the page is tested with a server: pip install fastapi uvicorn")

from page_server import SCENE_BOXES, SCENE_TEXT, Refuse, Say, entity, scene_answer, scene_entities
from playwright.sync_api import expect

from groma.inference.draw import PALETTE, phrase_colors
from groma.inference.lettering import text_color_on
from groma.inference.result import Entity

LIT = re.compile(r"\blit\b")
BOX = (100, 100, 200, 200)


def rgb(color) -> str:
    return "rgb({}, {}, {})".format(*color)


def color_of(locator) -> str:
    return locator.evaluate("node => node.style.getPropertyValue('--c')")


def test_an_answer_comes_as_it_is_written(reader, server):
    answer = scene_answer(hold_at=60)
    server.answers = [answer]
    reader.send("Describe the image in detail.")
    turn = reader.turns.first
    expect(turn).to_have_attribute("data-status", "streaming")
    expect(turn.locator(".text")).to_have_text(SCENE_TEXT[:60])
    expect(turn.locator(".text .phrase")).to_have_text(["a gray balloon", "a bicycle", "a burger"])
    expect(reader.region("a bicycle")).to_be_visible()
    expect(reader.page.get_by_role("button", name="Stop")).to_be_visible()
    balloon = reader.phrase("a gray balloon")
    balloon.focus()
    answer.go.set()
    expect(turn.locator(".text")).to_have_text(SCENE_TEXT)
    expect(turn).to_have_attribute("data-status", "done")
    expect(balloon).to_be_focused()  # the phrases that were there are the same still
    expect(reader.page.get_by_role("button", name="Send")).to_be_visible()


def test_colors_are_those_of_drawings(reader, server):
    phrases = ["a dog", "A  dog", "a cat", "", "Straße", "STRASSE", *(f"thing {k}" for k in range(12))]
    entities = [
        Entity(phrase=phrase, start=0, end=len(phrase), region_ids=(), score=1.0, region_scores=())
        for phrase in phrases
    ]
    found = reader.page.evaluate(
        """async (entities) => {
            const colors = await import("/page/colors.js");
            const given = colors.phraseNumbers(entities).map(colors.colorOf);
            return [colors.PALETTE, given, colors.PALETTE.map(colors.textOn)];
        }""",
        [{"phrase": phrase} for phrase in phrases],
    )
    palette, given, text = ([tuple(color) for color in colors] for colors in found)
    assert tuple(palette) == PALETTE
    assert tuple(given) == phrase_colors(entities)
    assert text == [text_color_on(color) for color in PALETTE]


def test_phrases_and_regions_have_the_same_color(reader, server):
    reader.ask("Describe the image in detail.")
    reader.settle()
    for number, phrase in enumerate(SCENE_BOXES):
        assert color_of(reader.phrase(phrase)) == color_of(reader.region(phrase)) == rgb(PALETTE[number])


def test_pointing_at_a_phrase_lights_its_region(reader, server):
    reader.ask("Describe the image in detail.")
    reader.phrase("a cyan turtle").hover()
    expect(reader.region("a cyan turtle")).to_have_class(LIT)
    expect(reader.region("a banana")).not_to_have_class(LIT)
    assert reader.page.locator("#ruler-across rect").get_attribute("fill") == rgb(PALETTE[5])
    reader.question.hover()
    expect(reader.region("a cyan turtle")).not_to_have_class(LIT)


def test_pointing_at_a_region_lights_its_phrase(reader, server):
    reader.ask("Describe the image in detail.")
    reader.page.mouse.move(*reader.point(340, 300))
    expect(reader.phrase("a cyan turtle")).to_have_class(LIT)
    reader.page.mouse.move(*reader.point(270, 140))  # key and banana overlap here: the smaller one counts
    expect(reader.phrase("a red key")).to_have_class(LIT)
    expect(reader.phrase("a banana")).not_to_have_class(LIT)
    reader.page.mouse.move(*reader.point(20, 200))
    expect(reader.phrase("a red key")).not_to_have_class(LIT)


def test_the_keyboard_lights_both_ways(reader, server):
    reader.ask("Describe the image in detail.")
    phrase, region = reader.phrase("a burger"), reader.region("a burger")
    phrase.focus()
    expect(region).to_have_class(LIT)
    describedby = phrase.get_attribute("aria-describedby")
    assert reader.page.locator(f"#{describedby}").text_content() == "Region at pixels 134, 188 to 204, 262; 93% sure"
    reader.page.keyboard.press("Tab")
    expect(reader.region("a red key")).to_have_class(LIT)
    region.focus()
    expect(phrase).to_have_class(LIT)
    assert region.get_attribute("aria-label") == "a burger: pixels 134, 188 to 204, 262, 93% sure"


def test_a_tap_keeps_a_phrase_lit_until_the_next(visit, server, scene):
    reader = visit(width=390, height=844, has_touch=True, is_mobile=True)
    reader.choose(scene)
    reader.ask("Describe the image in detail.")
    reader.phrase("a bicycle").tap()
    expect(reader.region("a bicycle")).to_have_class(LIT)
    reader.page.touchscreen.tap(*reader.point(340, 300))
    expect(reader.phrase("a cyan turtle")).to_have_class(LIT)
    expect(reader.region("a bicycle")).not_to_have_class(LIT)
    reader.page.touchscreen.tap(*reader.point(20, 200))
    expect(reader.phrase("a cyan turtle")).not_to_have_class(LIT)


def test_a_phrase_of_several_regions_and_a_region_of_several_phrases(reader, server):
    text = "Two dogs, one of them the brown dog, and the brown dog again."
    left, right = (10.0, 10.0, 100.0, 100.0), (200.0, 10.0, 300.0, 100.0)
    again = entity(text, "the brown dog again", [right], [1])
    again |= {"phrase": "the brown dog", "end": again["end"] - len(" again")}
    server.answers = [
        Say(
            text=text,
            entities=[
                entity(text, "Two dogs", [left, right], [0, 1]),
                entity(text, "the brown dog", [right], [1]),
                again,
            ],
        )
    ]
    reader.ask("What is there?")
    expect(reader.region("Two dogs")).to_have_count(2)
    expect(reader.region("the brown dog")).to_have_count(1)
    first, second = (reader.phrase("the brown dog").nth(k) for k in (0, 1))
    assert color_of(first) == color_of(second) != color_of(reader.phrase("Two dogs"))
    reader.page.mouse.move(*reader.point(250, 50))
    for phrase in (first, second, reader.phrase("Two dogs")):
        expect(phrase).to_have_class(LIT)
    first.hover()
    expect(reader.region("the brown dog")).to_have_class(LIT)
    expect(second).not_to_have_class(LIT)


def test_spans_count_characters_not_utf16_units(reader, server):
    uni = "\U0001d518\U0001d52b\U0001d526"  # letters beyond the first 65536
    text = f"😀 e\u0301 {uni} the 🐕‍🦺 dog and 日本 end"
    phrases = [uni, "the 🐕‍🦺 dog", "日本"]
    server.answers = [Say(text=text, step=1, entities=[entity(text, p, [BOX], [k]) for k, p in enumerate(phrases)])]
    turn = reader.ask("What is there?")
    expect(turn.locator(".phrase")).to_have_text(phrases)
    assert turn.locator(".text").text_content() == text


def test_strange_spans_do_no_harm(reader, server):
    text = "one two three"
    over = entity(text, "two three", [BOX], [1])
    nameless = entity(text, "one", [BOX], [2]) | {"phrase": "", "start": 13, "end": 13}
    beyond = entity(text, "three", [BOX], [3]) | {"start": 40, "end": 50, "phrase": "lost"}
    server.answers = [Say(text=text, entities=[entity(text, "one two", [BOX], [0]), over, nameless, beyond])]
    turn = reader.ask("What is there?")
    expect(turn.locator(".phrase")).to_have_text(["one two", " three", "r2"])
    expect(reader.region("r2")).to_have_count(1)


def test_markup_stays_text(reader, server):
    evil = "<img src=x onerror=\"document.title='bad'\"><script>document.title='bad'</script> & <b>bold</b>"
    server.answers = [
        Say(text=evil, entities=[entity(evil, "<b>bold</b>", [BOX], [0])]),
        Refuse(status=400, message=evil),
    ]
    turn = reader.ask(evil)
    assert turn.locator(".text").text_content() == evil
    expect(turn.locator(".words")).to_have_text(evil)
    expect(reader.phrase("<b>bold</b>")).to_have_count(1)
    reader.refusals_expected = True
    reader.send("Again.")
    expect(reader.turns.nth(1).locator(".error")).to_have_text(f"{evil}.")
    made = "document.querySelectorAll('.log :is(img, script, b), .toasts :is(img, script, b)').length"
    assert reader.page.evaluate(made) == 0
    assert reader.page.title() == "Groma"


def test_events_are_read_however_the_bytes_are_cut(visit):
    stream = (
        ': hello\r\n\r\ndata: {"a":\r\ndata: 1}\r\n\r\nevent: x\ndata:\U0001f600 é\n\ndata: last\n\ndata: never ended'
    )
    found = visit().page.evaluate(
        """async (text) => {
            const { events } = await import("/page/sse.js");
            const bytes = new TextEncoder().encode(text);
            const found = [];
            for (const size of [1, 2, 3, 7, 1000]) {
                const parts = [];
                for (let at = 0; at < bytes.length; at += size) parts.push(bytes.slice(at, at + size));
                const pull = (to) => (parts.length ? to.enqueue(parts.shift()) : to.close());
                const stream = new ReadableStream({ pull });
                const data = [];
                for await (const event of events(stream)) data.push(event);
                found.push(data);
            }
            return found;
        }""",
        stream,
    )
    assert found == [['{"a":\n1}', "\U0001f600 é", "last"]] * 5


def test_on_a_phone_a_region_leads_to_its_phrase(visit, server, scene):
    reader = visit(width=390, height=844, has_touch=True, is_mobile=True)
    reader.choose(scene)
    text = f"{SCENE_TEXT} {'word ' * 300}"
    server.answers = [Say(text=text, entities=scene_entities())]
    reader.ask("Describe the image in detail.")
    reader.page.touchscreen.tap(*reader.point(340, 300))
    phrase = reader.phrase("a cyan turtle")
    expect(phrase).to_have_class(LIT)
    top = reader.page.locator("#plate").bounding_box()
    assert phrase.bounding_box()["y"] >= top["y"] + top["height"]
    assert phrase.bounding_box()["y"] < reader.page.locator("#composer").bounding_box()["y"]
