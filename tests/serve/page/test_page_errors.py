"""What the reader is told when the server refuses, is busy or is gone, and what they can do then."""

import pytest

pytest.importorskip("playwright", reason="the page is tested with playwright: pip install playwright")
pytest.importorskip("fastapi", reason="the page is tested with a server: pip install fastapi uvicorn")

from page_server import SCENE_TEXT, Refuse, scene_answer
from playwright.sync_api import expect

BOX = (100, 100, 200, 200)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Refuse(status=400, message="the conversation is too long"), "The conversation is too long."),
        (Refuse(status=413, message="the picture has 30 MB"), "The picture has 30 MB."),
        (Refuse(status=502, body="<html>Bad gateway</html>"), "The server behind this address does not answer."),
        (Refuse(status=504, body=""), "The answer took too long."),
        (Refuse(status=418, body=""), "The server failed (status 418)."),
        (scene_answer(fail="the engine stopped"), "The engine stopped."),
        (scene_answer(breaks_off=True), "The connection ended before the answer did."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_is_one_sentence_and_can_be_tried_again(reader, server, answer, sentence):
    reader.refusals_expected = True
    server.answers = [answer]
    reader.send("Describe the image in detail.")
    turn = reader.turns.first
    expect(turn.get_by_role("alert")).to_have_text(sentence)
    turn.get_by_role("button", name="Try again").click()
    expect(turn.locator(".text")).to_have_text(SCENE_TEXT)
    expect(turn.get_by_role("alert")).to_have_count(0)
    assert len(reader.asked()["messages"]) == 1


def test_a_server_that_is_gone_is_told(reader):
    reader.refusals_expected = True
    reader.page.context.set_offline(True)
    reader.send("Describe the image in detail.")
    expect(reader.turns.first.get_by_role("alert")).to_have_text("The server cannot be reached: is it still running?")
    reader.page.context.set_offline(False)
    reader.turns.first.get_by_role("button", name="Try again").click()
    expect(reader.turns.first).to_have_attribute("data-status", "done")


def test_a_failed_question_can_be_edited(reader, server):
    reader.refusals_expected = True
    server.answers = [Refuse(status=400)]
    reader.draw(BOX)
    reader.send("What is ths?")
    reader.turns.first.get_by_role("button", name="Edit question").click()
    expect(reader.turns).to_have_count(0)
    expect(reader.question).to_be_focused()
    expect(reader.question).to_have_value("What is ths?")
    reader.ask("What is this?")
    assert reader.asked()["messages"][0]["regions"] == [pytest.approx(BOX, abs=1)]


def test_a_busy_server_is_waited_for(reader, server):
    reader.refusals_expected = True
    server.answers = [Refuse(status=429, headers={"Retry-After": "1"})]
    reader.send("Describe the image in detail.")
    expect(reader.turns.first.get_by_text("The server is busy. Trying again in 1 s…")).to_be_visible()
    expect(reader.turns.first.locator(".text")).to_have_text(SCENE_TEXT)
    assert len(reader.posts) == 2


def test_waiting_for_a_busy_server_can_be_stopped_and_is_not_endless(reader, server):
    reader.refusals_expected = True
    server.answers = [
        Refuse(status=429, headers={"Retry-After": "20"}),
        Refuse(status=429, headers={"Retry-After": "90"}),
    ]
    reader.send("Describe the image in detail.")
    expect(reader.turns.first.get_by_text("Trying again in")).to_be_visible()
    reader.page.get_by_role("button", name="Stop").click()
    expect(reader.turns.first).to_have_attribute("data-status", "stopped")
    reader.turns.first.get_by_role("button", name="Try again").click()
    expect(reader.turns.first.get_by_role("alert")).to_have_text("No.")


def test_a_key_is_sent_and_kept_for_the_session(visit, server, scene):
    server.config["key_needed"] = True
    server.answers = [Refuse(status=401, message="no key"), Refuse(status=401, message="no key")]
    reader = visit()
    reader.refusals_expected = True
    reader.choose(scene)
    reader.send("What is there?")
    expect(reader.turns.first.get_by_role("alert")).to_have_text(
        "The server wants a key: put it in at the top of the page."
    )
    reader.page.get_by_label("Key").fill("secret-0")
    reader.turns.first.get_by_role("button", name="Try again").click()
    expect(reader.turns.first.get_by_role("alert")).to_have_text("The server does not know this key.")
    reader.page.get_by_label("Key").fill("secret-1")
    reader.turns.first.get_by_role("button", name="Try again").click()
    expect(reader.turns.first).to_have_attribute("data-status", "done")
    sent = [headers.get("authorization") for _, headers, _ in server.received]
    assert sent == [None, "Bearer secret-0", "Bearer secret-1"]
    reader.open()
    expect(reader.page.get_by_label("Key")).to_have_value("secret-1")
    assert reader.page.evaluate("localStorage.length") == 0
