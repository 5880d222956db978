"""How questions name the reader's boxes, and what of it is sent."""

import re

import pytest

pytest.importorskip("playwright", reason="the page is tested with playwright: pip install playwright")
pytest.importorskip("fastapi", reason="the page is tested with a server: pip install fastapi uvicorn")

from playwright.sync_api import expect
from visiting import BICYCLE, KEY, TURTLE, near, text_of

from groma.inference.request import question_segments
from groma.prompt.dialogue import Referred


def test_a_chip_names_its_box_at_the_cursor(reader):
    reader.draw(BICYCLE)
    reader.draw(TURTLE)
    reader.question.fill("Is near?")
    reader.question.evaluate("field => field.setSelectionRange(3, 3)")
    reader.page.get_by_role("button", name="Put [2] into the question").click()
    expect(reader.question).to_have_value("Is [2] near?")
    reader.page.keyboard.press("End")
    reader.page.get_by_role("button", name="Put [1] into the question").click()
    expect(reader.question).to_have_value("Is [2] near? [1]")


def test_a_click_on_a_box_names_it_once(reader):
    reader.draw(BICYCLE)
    reader.page.keyboard.press("Escape")
    for _ in range(2):
        reader.page.mouse.click(*reader.point(100, 400))
        expect(reader.question).to_have_value("[1]")
    expect(reader.box(1)).to_have_attribute("aria-pressed", "true")


def test_only_named_boxes_are_sent_and_they_are_counted_anew(reader):
    for box in (BICYCLE, TURTLE, KEY):
        reader.page.keyboard.press("Escape")
        reader.draw(box)
    reader.question.fill("Is [3] left of [2], and [[2]] text, and [3] again?")
    expect(reader.page.locator("#hint")).to_have_text("Asks about [2] and [3].")
    reader.question.press("Enter")
    expect(reader.turns.first).to_have_attribute("data-status", "done")
    message = reader.asked()["messages"][0]
    assert text_of(message) == "Is [2] left of [1], and [[2]] text, and [2] again?"
    assert message["regions"] == [near(TURTLE), near(KEY)]
    expect(reader.turns.first.get_by_role("button", name="Box 3")).to_have_count(2)


def test_a_single_new_box_need_not_be_named(reader):
    reader.draw(BICYCLE)
    reader.ask("What is this?")
    message = reader.asked()["messages"][0]
    assert (text_of(message), message["regions"]) == ("What is this?", [near(BICYCLE)])
    expect(reader.turns.first.get_by_role("button", name="Box 1")).to_be_visible()
    reader.ask("Describe the image in detail.")
    assert "regions" not in reader.asked()["messages"][2]


def test_a_single_new_box_can_be_left_out(reader):
    reader.draw(BICYCLE)
    reader.question.fill("Describe the image in detail.")
    reader.page.get_by_role("button", name="Leave it out").click()
    expect(reader.page.locator("#hint")).to_have_text("Asks about the whole picture.")
    reader.question.press("Enter")
    expect(reader.turns.first).to_have_attribute("data-status", "done")
    assert "regions" not in reader.asked()["messages"][0]


def test_of_several_boxes_the_reader_is_asked_which(reader):
    reader.draw(BICYCLE)
    reader.draw(TURTLE)
    reader.send("Which is larger?")
    notice = reader.page.get_by_role("alert").filter(has_text="Which boxes do you mean?")
    expect(notice).to_be_visible()
    assert reader.posts == []
    notice.get_by_role("button", name="[2]").click()
    expect(reader.question).to_have_value("Which is larger? [2]")
    expect(notice).to_be_hidden()
    reader.send("Which is larger?")
    notice.get_by_role("button", name="The whole picture").click()
    expect(reader.turns.first).to_have_attribute("data-status", "done")
    assert "regions" not in reader.asked()["messages"][0]


def test_a_number_without_a_box_is_told_before_sending(reader):
    reader.draw(BICYCLE)
    reader.send("What is [4]?")
    expect(reader.page.get_by_role("alert").filter(has_text="There is no box [4] on the picture")).to_be_visible()
    assert reader.posts == []


def test_a_box_that_is_gone_is_told_as_well(reader):
    reader.draw(BICYCLE)
    reader.question.fill("What is [1]?")
    reader.page.get_by_role("button", name="Remove box 1").click()
    expect(reader.page.locator("#hint")).to_contain_text("There is no box [1]")
    reader.question.press("Enter")
    expect(reader.page.get_by_role("alert").filter(has_text="There is no box [1] on the picture")).to_be_visible()
    expect(reader.page.locator("#hint")).to_be_empty()
    assert reader.posts == []


def test_without_boxes_double_brackets_are_text(reader):
    reader.ask("What does [[1]] mean?")
    message = reader.asked()["messages"][0]
    assert text_of(message) == "What does [1] mean?"
    assert "regions" not in message


def test_many_numbers_are_not_all_listed(reader):
    for _ in range(9):
        reader.page.get_by_role("button", name="Add box").click()
    reader.question.fill("Which is largest?")
    expect(reader.page.locator("#hint")).to_have_text(
        "Name the boxes that you mean: [1], [2], [3], [4], [5], [6] and 3 more."
    )


QUESTIONS = [
    "What is this?",
    "What is [1]?",
    "Is [7] left of [2], or [7] of [1]?",
    "What does [[1]] mean on [2]?",
    "[[2]]",
    "[1][2][7][007] and [] and [a] and [[[1]]] and [1",
]


def test_what_is_sent_obeys_the_rules_of_questions(visit):
    """The page's rules against those of groma.inference.request, for no box, one and three."""
    sent = visit().page.evaluate(
        """async (questions) => {
            const { going, renumbered } = await import("/page/question.js");
            const box = (number) => ({ number, fresh: number === 2 });
            const sets = [[], [2], [1, 2, 7]].map((numbers) => numbers.map(box));
            return questions.flatMap((text) => sets.map((boxes) => {
                const plan = going(text, boxes);
                return plan.problem ? null : [renumbered(text, plan.boxes), plan.boxes.map((box) => box.number), text];
            }));
        }""",
        QUESTIONS,
    )
    questions = [question for question in sent if question is not None]
    assert len(questions) > 10
    for text, numbers, typed in questions:
        segments = question_segments(text, len(numbers))
        named = [numbers[segment.box] for segment in segments if isinstance(segment, Referred)]
        in_order = [int(number) for number in re.findall(r"(?<!\[)\[(\d+)\]", typed) if numbers]
        assert named == (in_order or numbers)
