"""What fits and what scrolls: phones and low windows, long pictures, long conversations."""

import re
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the page is tested with playwright: pip install playwright")
pytest.importorskip("fastapi", reason="the page is tested with a server: pip install fastapi uvicorn")

from page_server import Say, entity, scene_answer
from PIL import Image
from playwright.sync_api import expect

LIT = re.compile(r"\blit\b")
TO_END = "log => log.scrollHeight - log.scrollTop - log.clientHeight"


def save(folder: Path, size: tuple[int, int]) -> Path:
    Image.new("RGB", size, "gray").save(folder / "long.png")
    return folder / "long.png"


def rect(reader, selector: str) -> dict[str, float]:
    return reader.page.locator(selector).evaluate("node => node.getBoundingClientRect().toJSON()")


def phone(visit, width: int = 390, height: int = 844):
    return visit(width=width, height=height, has_touch=True, is_mobile=True)


def test_on_a_phone_the_picture_stays_while_the_answers_scroll(visit, server, scene):
    reader = phone(visit)
    reader.choose(scene)
    server.answers = [Say(text="word " * 400)]
    reader.ask("Tell me a story.")
    reader.page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    assert reader.page.evaluate("scrollY") > 500
    expect(reader.page.locator("#canvas")).to_be_in_viewport(ratio=0.95)
    expect(reader.question).to_be_in_viewport(ratio=0.95)


@pytest.mark.parametrize(("width", "height"), [(390, 844), (360, 640)], ids=str)
def test_on_a_phone_a_tall_picture_leaves_room(visit, server, tmp_path, width, height):
    reader = phone(visit, width, height)
    reader.choose(save(tmp_path, (200, 3000)))
    reader.ask("What is there?")
    reader.settle()
    room = rect(reader, "#composer")["top"] - rect(reader, "#plate")["bottom"]
    assert room > 0.25 * height
    assert reader.page.locator("#stage").evaluate("node => node.scrollHeight - node.clientHeight") > 500


def test_on_a_phone_the_page_does_not_jump_to_what_is_focused(visit, server, scene):
    reader = phone(visit)
    reader.choose(scene)
    server.answers = [scene_answer(text="word " * 300 + scene_answer().text)]
    reader.ask("Tell me a story.")
    reader.page.evaluate("scrollTo(0, 300)")
    for control in ("#add-box", "#proposals", "#grounded", "#question", "#send"):
        reader.page.locator(control).focus()
        reader.settle()
        assert reader.page.evaluate("scrollY") == 300, control


def test_on_a_phone_what_is_focused_is_not_hidden(visit, server, scene):
    reader = phone(visit)
    reader.choose(scene)
    text = "word " * 300 + "a key " + "word " * 300
    server.answers = [Say(text=text, entities=[entity(text, "a key", [(10, 10, 60, 60)], [0])])]
    reader.ask("Tell me a story.")
    for start in (0, 10_000):
        reader.page.evaluate(f"scrollTo(0, {start})")
        reader.phrase("a key").focus()
        reader.settle()
        box = reader.phrase("a key").bounding_box()
        assert rect(reader, "#plate")["bottom"] <= box["y"]
        assert box["y"] + box["height"] <= rect(reader, "#composer")["top"]
        reader.question.focus()


@pytest.mark.parametrize(("width", "height"), [(640, 400), (844, 390), (1280, 500), (1024, 768)], ids=str)
def test_what_is_needed_fits_into_a_low_window(visit, server, scene, width, height):
    reader = visit(width=width, height=height)
    reader.choose(scene)
    reader.ask("Describe the image in detail.")
    for part in ("#canvas", "#question", "#grounded"):
        expect(reader.page.locator(part)).to_be_in_viewport(ratio=0.95)
    assert rect(reader, "#log")["height"] > 0.3 * height
    assert reader.page.evaluate("document.documentElement.scrollHeight") <= height
    if width > 860:
        assert rect(reader, "#plate")["width"] > rect(reader, ".talk")["width"]


def test_a_long_answer_is_followed_unless_the_reader_scrolled_away(reader, server):
    answer = Say(text="word " * 800, hold_at=2000)
    server.answers = [Say(text="word " * 800), answer]
    reader.ask("Tell me a story.")
    assert reader.log.evaluate(TO_END) < 5
    reader.send("And another.")
    expect(reader.turns.last).to_have_attribute("data-status", "streaming")
    reader.log.evaluate("log => log.scrollTo(0, 100)")
    reader.settle()
    answer.go.set()
    expect(reader.turns.last).to_have_attribute("data-status", "done")
    assert reader.log.evaluate("log => log.scrollTop") == 100


def test_a_new_question_is_always_shown(reader, server):
    server.answers = [Say(text="word " * 800)]
    reader.ask("Tell me a story.")
    reader.log.evaluate("log => log.scrollTo(0, 0)")
    reader.settle()
    turn = reader.ask("What is there?")
    expect(turn.locator(".asked")).to_be_in_viewport()
    assert reader.log.evaluate(TO_END) < 5


def test_boxes_for_the_question_do_not_hide_the_end_of_the_log(reader, server):
    server.answers = [Say(text="word " * 800)]
    reader.ask("Tell me a story.")
    reader.draw((100, 100, 200, 200))
    expect(reader.page.locator("#chips")).to_be_visible()
    reader.settle()
    assert reader.log.evaluate(TO_END) < 5


def test_a_long_picture_scrolls_to_what_a_phrase_means(visit, server, tmp_path):
    text = "A cat and a dog."
    left, right = (20, 40, 120, 160), (2800, 40, 2950, 160)
    server.answers = [
        Say(text=text, entities=[entity(text, "A cat", [left], [0]), entity(text, "a dog", [right], [1])])
    ]
    reader = visit()
    reader.choose(save(tmp_path, (3000, 200)))
    reader.ask("What is there?")
    dog, cat = reader.region("a dog"), reader.region("A cat")
    expect(dog).not_to_be_in_viewport()
    reader.phrase("a dog").hover()
    expect(dog).to_have_class(LIT)
    expect(dog).not_to_be_in_viewport()  # a passing pointer moves nothing
    reader.phrase("a dog").click()
    expect(dog).to_be_in_viewport(ratio=0.9)
    reader.phrase("A cat").focus()
    expect(cat).to_be_in_viewport(ratio=0.9)


def test_arrows_keep_a_box_of_a_long_picture_in_view(visit, tmp_path):
    reader = visit()
    reader.choose(save(tmp_path, (3000, 200)))
    reader.page.keyboard.press("b")
    expect(reader.box(1)).to_be_focused()
    for _ in range(40):
        reader.page.keyboard.press("ArrowRight")
    expect(reader.box(1)).to_be_in_viewport(ratio=0.9)
