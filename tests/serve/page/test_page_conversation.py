"""Conversations: sent whole, stopped, cleared; answers copied and drawn; proposals."""

import io
import re
import threading

import pytest

pytest.importorskip("playwright", reason="the page is tested with playwright: pip install playwright")
pytest.importorskip("fastapi", reason="the page is tested with a server: pip install fastapi uvicorn")

from page_server import SCENE_TEXT, Refuse, Say, entity, proposals, scene_answer, scene_entities
from PIL import Image
from playwright.sync_api import expect
from visiting import text_of

from groma.inference.draw import PALETTE
from patience import wait_for

LIT = re.compile(r"\blit\b")
BOX = (100, 100, 200, 200)


def test_the_next_question_brings_what_was_said(reader, server):
    reader.draw(BOX)
    first = reader.ask("What is [1]?")
    reader.page.get_by_role("switch", name="Tie phrases to boxes").uncheck()
    server.answers = [Say(text="It is gray.")]
    reader.ask("What color is it?")
    sent = reader.asked()
    question, answer, again = sent["messages"]
    assert sent["model"] == "groma-tiny" and sent["stream"] is True
    assert (question["role"], question["grounded"], question["regions"]) == ("user", True, [pytest.approx(BOX, abs=1)])
    assert (answer["role"], answer["content"]) == ("assistant", SCENE_TEXT)
    assert answer["grounding"]["entities"] == scene_entities()
    assert answer["grounding"]["images"][0]["width_px"] == 480
    assert again == {"role": "user", "content": "What color is it?", "grounded": False}
    expect(first.get_by_role("button", name="Show on picture")).to_be_visible()


def test_grounding_can_be_switched_off(reader):
    grounding = reader.page.get_by_role("switch", name="Tie phrases to boxes")
    expect(grounding).to_be_checked()
    reader.ask("What is there?")
    grounding.focus()
    reader.page.keyboard.press("Space")
    reader.ask("And what else?")
    assert [message["grounded"] for message in reader.asked()["messages"] if message["role"] == "user"] == [True, False]


def test_an_answer_can_be_stopped(reader, server):
    server.answers = [scene_answer(hold_at=30), Say(text="Yes.")]
    reader.send("Describe the image in detail.")
    expect(reader.phrase("a gray balloon")).to_be_visible()
    expect(reader.phrase("a bicycle")).to_have_count(0)
    reader.page.get_by_role("button", name="Stop").click()
    turn = reader.turns.first
    expect(turn).to_have_attribute("data-status", "stopped")
    expect(turn.locator(".state")).to_have_text("Stopped.")
    wait_for(lambda: server.hung_up == 1)
    reader.ask("Are you sure?")
    kept = reader.asked()["messages"][1]
    assert kept["role"] == "assistant" and SCENE_TEXT.startswith(kept["content"])


def test_a_stopped_answer_can_be_asked_for_again(reader, server):
    server.answers = [scene_answer(hold_at=0)]
    reader.send("Describe the image in detail.")
    reader.page.get_by_role("button", name="Stop").click()
    reader.turns.first.get_by_role("button", name="Try again").click()
    expect(reader.turns.first.locator(".text")).to_have_text(SCENE_TEXT)
    expect(reader.turns).to_have_count(1)


def test_an_earlier_answer_can_be_put_on_the_picture_again(reader, server):
    text = "It is a dog."
    server.answers = [scene_answer(), Say(text=text, entities=[entity(text, "a dog", [BOX], [0])])]
    first, second = reader.ask("Describe the image in detail."), reader.ask("What else?")
    expect(reader.region("a dog")).to_be_visible()
    expect(reader.region("a banana")).to_have_count(0)
    reader.phrase("a banana").hover()  # a look at it,
    expect(reader.region("a banana")).to_have_class(LIT)
    reader.question.hover()  # and back
    expect(reader.region("a dog")).to_be_visible()
    first.locator(".text").click(position={"x": 4, "y": 4})
    expect(reader.region("a banana")).to_be_visible()
    expect(first.get_by_role("button", name="On the picture")).to_have_attribute("aria-pressed", "true")
    second.get_by_role("button", name="Show on picture").click()
    expect(reader.region("a dog")).to_be_visible()


def test_text_and_json_are_copied(reader, server):
    reader.draw(BOX)
    turn = reader.ask("What is [1]?")
    turn.get_by_role("button", name="Copy text").click()
    expect(reader.page.get_by_text("Text copied.").first).to_be_visible()
    assert reader.clipboard() == SCENE_TEXT
    turn.get_by_role("button", name="Copy JSON").click()
    expect(reader.page.get_by_text("JSON copied.").first).to_be_visible()
    copied = reader.copied_json()
    assert (copied["model"], copied["picture"], copied["question"]) == ("groma-tiny", "scene.png", "What is [1]?")
    assert copied["regions"] == [{"number": 1, "box_xyxy_px": pytest.approx(BOX, abs=1)}]
    assert copied["message"]["content"] == SCENE_TEXT
    assert copied["message"]["grounding"]["entities"] == scene_entities()


def saved(reader) -> Image.Image:
    with reader.page.expect_download() as download:
        reader.page.get_by_role("button", name="Download the picture with its boxes").click()
    assert download.value.suggested_filename == "picture-groma.png"
    return Image.open(io.BytesIO(download.value.path().read_bytes())).convert("RGB")


@pytest.mark.parametrize(("size", "drawn"), [((900, 500), (900, 500)), ((20, 20), (640, 640)), ((50, 100), (320, 640))])
def test_the_annotated_picture_is_saved(visit, server, tmp_path, size, drawn):
    """At the picture's size, or magnified if no label could be read in it."""
    width, height = size
    Image.new("RGB", size, (10, 60, 10)).save(tmp_path / "picture.png")
    box = (width * 0.25, height * 0.5, width * 0.75, height * 0.9)
    server.answers = [Say(text="A dog.", entities=[entity("A dog.", "A dog", [box], [0])])]
    reader = visit()
    reader.choose(tmp_path / "picture.png")
    reader.ask("What is it?")
    reader.draw((0, 0, round(width * 0.2), round(height * 0.2)))
    picture = saved(reader)
    assert picture.size == drawn
    left, top, right, bottom = (round(value * drawn[0] / width) for value in box)
    middle = ((left + right) // 2, (top + bottom) // 2)
    for place in ((left + 1, middle[1]), (right - 2, middle[1]), (middle[0], bottom - 2)):
        assert picture.getpixel(place) == PALETTE[0]
    assert picture.getpixel(middle) == (10, 60, 10)
    own = [picture.getpixel((x, 1)) for x in range(drawn[0] // 10)]
    assert (0, 0, 0) in own and (255, 255, 255) in own  # the reader's box: black dashes on white


def test_proposals_are_fetched_once_and_filtered_here(reader, server):
    shown = reader.page.locator("#proposal-boxes > *")
    switch = reader.page.get_by_role("switch", name="Proposals")
    slider = reader.page.get_by_role("slider", name="Objectness at least")
    expect(shown).to_have_count(0)
    expect(slider).to_be_hidden()
    switch.check()
    expect(shown).to_have_count(sum(region["objectness"] >= 0.3 for region in proposals()))
    for value in (0.0, 0.6, 1.0):
        slider.fill(str(value))
        expect(shown).to_have_count(sum(region["objectness"] >= value for region in proposals()))
    switch.uncheck()
    expect(shown).to_have_count(0)
    switch.check()
    assert [path for path, _ in reader.posts] == ["/regions"]


def test_a_proposal_becomes_a_box(reader, server):
    reader.page.get_by_role("switch", name="Proposals").check()
    expect(reader.page.locator("#proposal-boxes > *").first).to_be_attached()
    reader.page.mouse.click(*reader.point(340, 300))
    expect(reader.boxes).to_have_count(1)
    assert reader.box_px(1) == (291, 258, 388, 335)


def test_proposals_that_cannot_be_had(reader, server):
    reader.refusals_expected = True
    server.regions = Refuse(status=503, message="the server is starting")
    switch = reader.page.get_by_role("switch", name="Proposals")
    switch.click()
    expect(reader.page.get_by_text("The server is starting.")).to_be_visible()
    expect(switch).not_to_be_checked()


def test_a_conversation_is_cleared_and_can_be_had_back(reader, server):
    reader.draw(BOX)
    reader.ask("What is [1]?")
    reader.page.get_by_role("button", name="New conversation").click()
    expect(reader.turns).to_have_count(0)
    expect(reader.region("a banana")).to_have_count(0)
    expect(reader.boxes).to_have_count(1)
    reader.page.get_by_role("button", name="Undo").click()
    expect(reader.turns).to_have_count(1)
    expect(reader.region("a banana")).to_have_count(1)


def test_clearing_while_an_answer_comes(reader, server):
    server.answers = [scene_answer(hold_at=30)]
    reader.send("Describe the image in detail.")
    expect(reader.turns.first).to_have_attribute("data-status", "streaming")
    reader.page.get_by_role("button", name="New conversation").click()
    expect(reader.turns).to_have_count(0)
    reader.ask("What is there?")
    assert len(reader.asked()["messages"]) == 1
    expect(reader.turns).to_have_count(1)


def test_suggestions_ask_at_once(reader, server):
    reader.draw((44, 280, 240, 444))
    reader.draw((290, 258, 388, 335))
    reader.page.get_by_role("button", name="Which is larger, [1] or [2]?").click()
    expect(reader.turns.first).to_have_attribute("data-status", "done")
    message = reader.asked()["messages"][0]
    assert text_of(message) == "Which is larger, [1] or [2]?"
    assert message["grounded"] is False and len(message["regions"]) == 2


def test_suggestions_about_the_whole_picture_leave_boxes_out(reader, server):
    reader.draw(BOX)
    reader.page.get_by_role("button", name="Describe the image in detail.").click()
    expect(reader.turns.first).to_have_attribute("data-status", "done")
    assert "regions" not in reader.asked()["messages"][0]


def test_an_answer_that_was_cut_says_so(reader, server):
    server.answers = [Say(text="A long", finish="length")]
    turn = reader.ask("What is there?")
    expect(turn.get_by_text("the answer reached its longest length")).to_be_visible()


def test_questions_wait_for_the_answer_before(reader, server):
    answer = scene_answer(hold_at=30, go=threading.Event())
    server.answers = [answer]
    reader.send("One?")
    reader.question.fill("Two?")
    reader.question.press("Enter")
    expect(reader.question).to_have_value("Two?")
    expect(reader.page.locator("#hint")).to_have_text("An answer is being written. Escape stops it.")
    answer.go.set()
    expect(reader.turns.first).to_have_attribute("data-status", "done")
    expect(reader.page.locator("#hint")).to_be_empty()
    reader.question.press("Enter")
    expect(reader.turns).to_have_count(2)


def test_escape_in_the_question_stops_the_answer(reader, server):
    server.answers = [scene_answer(hold_at=30)]
    reader.send("One?")
    expect(reader.turns.first).to_have_attribute("data-status", "streaming")
    reader.question.press("Escape")
    expect(reader.turns.first).to_have_attribute("data-status", "stopped")


def test_who_leaves_a_conversation_is_asked(reader, server):
    asked = []
    reader.page.on("dialog", lambda dialog: asked.append(dialog.type))
    reader.open()
    assert asked == []
    reader.example()
    reader.ask("What is there?")
    reader.open()
    assert asked == ["beforeunload"]
