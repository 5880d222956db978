"""The reader's boxes: with the mouse, a finger and the keyboard."""

import re

import pytest

pytest.importorskip("playwright", reason="the page is tested with playwright: pip install playwright")
pytest.importorskip("fastapi", reason="the page is tested with a server: pip install fastapi uvicorn")

from playwright.sync_api import expect
from visiting import BICYCLE, KEY, TURTLE, near, text_of

LIT = re.compile(r"\blit\b")


def test_a_box_is_drawn_with_the_mouse(reader):
    reader.draw(BICYCLE)
    assert list(reader.box_px(1)) == near(BICYCLE)
    expect(reader.box(1)).to_be_focused()
    reader.ask("What is [1]?")
    message = reader.asked()["messages"][0]
    assert message["regions"] == [near(BICYCLE)]
    assert all(isinstance(value, int) for value in message["regions"][0])


def test_a_box_is_drawn_from_any_corner_and_beyond_the_picture(reader):
    reader.draw((240, 444, 44, 280))
    assert list(reader.box_px(1)) == near(BICYCLE)
    reader.page.keyboard.press("Escape")
    reader.draw((400, 400, 560, 470))
    assert list(reader.box_px(2)) == near((400, 400, 480, 470))


def test_a_box_is_moved_with_the_mouse(reader):
    reader.draw(TURTLE)
    reader.drag((340, 300), (240, 250))
    assert list(reader.box_px(1)) == near((190, 208, 288, 285))
    reader.drag((240, 250), (-300, -300))
    assert list(reader.box_px(1))[:2] == [0, 0]
    assert list(reader.box_px(1))[2:] == near((98, 77))
    expect(reader.boxes).to_have_count(1)


def test_a_box_that_is_not_selected_moves_by_its_edge_and_leaves_its_inside_for_drawing(reader):
    reader.draw(BICYCLE)
    reader.page.keyboard.press("Escape")
    reader.draw((100, 300, 160, 400))
    assert list(reader.box_px(1)) == near(BICYCLE)
    assert list(reader.box_px(2)) == near((100, 300, 160, 400))
    reader.page.keyboard.press("Escape")
    reader.drag((44, 350), (24, 350))
    assert list(reader.box_px(1)) == near((24, 280, 220, 444))


def test_shift_draws_inside_the_selected_box(reader):
    reader.draw(BICYCLE)
    reader.page.keyboard.down("Shift")
    reader.draw((100, 300, 160, 400))
    reader.page.keyboard.up("Shift")
    assert list(reader.box_px(1)) == near(BICYCLE)


@pytest.mark.parametrize(
    ("handle", "start", "end", "result"),
    [
        ("se", (388, 335), (420, 400), (290, 258, 420, 400)),
        ("n", (339, 258), (339, 200), (290, 200, 388, 335)),
        ("w", (290, 296), (450, 296), (388, 258, 450, 335)),
    ],
)
def test_a_box_is_resized_with_the_mouse(reader, handle, start, end, result):
    reader.draw(TURTLE)
    expect(reader.page.locator(f"[data-handle={handle}]")).to_have_count(1)
    reader.drag(start, end)
    assert list(reader.box_px(1)) == near(result)


def test_escape_gives_up_a_drag(reader):
    reader.draw(TURTLE)
    mouse = reader.page.mouse
    mouse.move(*reader.point(340, 300))
    mouse.down()
    mouse.move(*reader.point(100, 100))
    reader.page.keyboard.press("Escape")
    mouse.up()
    assert list(reader.box_px(1)) == near(TURTLE)


def test_boxes_by_keyboard_alone(reader):
    page = reader.page
    page.keyboard.press("b")
    expect(reader.box(1)).to_be_focused()
    assert reader.box_px(1) == (168, 168, 312, 312)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert reader.box_px(1) == (160, 160, 304, 304)
    page.keyboard.press("Alt+ArrowRight")
    assert reader.box_px(1) == (161, 160, 305, 304)
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    assert reader.box_px(1) == (161, 160, 313, 296)
    page.keyboard.press("Alt+Shift+ArrowDown")
    assert reader.box_px(1) == (161, 160, 313, 297)
    page.keyboard.press("Enter")
    expect(reader.question).to_be_focused()
    page.keyboard.type(" what is it?")
    page.keyboard.press("Enter")
    expect(reader.turns.first).to_have_attribute("data-status", "done")
    message = reader.asked()["messages"][0]
    assert message["regions"] == [[161, 160, 313, 297]]
    assert text_of(message) == "[1] what is it?"


def test_keys_stop_at_the_edge_of_the_picture(reader):
    reader.page.keyboard.press("b")
    expect(reader.box(1)).to_be_focused()
    for _ in range(60):
        reader.page.keyboard.press("ArrowRight")
    assert reader.box_px(1) == (336, 168, 480, 312)
    for _ in range(60):
        reader.page.keyboard.press("Shift+ArrowLeft")
    assert reader.box_px(1) == (336, 168, 338, 312)


def test_delete_removes_a_box_and_the_focus_goes_on(reader):
    for _ in range(3):
        reader.page.get_by_role("button", name="Add box").click()
    expect(reader.box(3)).to_be_focused()
    reader.box(2).focus()
    reader.page.keyboard.press("Delete")
    expect(reader.boxes).to_have_count(2)
    expect(reader.box(3)).to_be_focused()
    reader.page.keyboard.press("Backspace")
    expect(reader.box(1)).to_be_focused()
    reader.page.keyboard.press("Delete")
    expect(reader.page.get_by_role("button", name="Add box")).to_be_focused()
    expect(reader.boxes).to_have_count(0)


def test_a_box_is_removed_by_its_chip_and_its_number_is_free_again(reader):
    for box in (BICYCLE, TURTLE):
        reader.draw(box)
    reader.page.get_by_role("button", name="Remove box 1").click()
    expect(reader.boxes).to_have_count(1)
    assert list(reader.box_px(2)) == near(TURTLE)
    reader.draw(KEY)
    assert list(reader.box_px(1)) == near(KEY)


def test_b_is_a_letter_in_the_question(reader):
    reader.question.click()
    reader.page.keyboard.type("a bb")
    expect(reader.question).to_have_value("a bb")
    reader.log.focus()
    reader.page.keyboard.press("b")
    expect(reader.boxes).to_have_count(0)
    reader.page.get_by_role("switch", name="Proposals").focus()
    reader.page.keyboard.press("B")
    expect(reader.boxes).to_have_count(1)


def test_a_finger_draws_and_moves_boxes(visit, scene):
    reader = visit(width=390, height=844, has_touch=True, is_mobile=True)
    reader.choose(scene)
    touch = reader.page.context.new_cdp_session(reader.page)

    def swipe(start, end):
        steps = [start, tuple((a + b) / 2 for a, b in zip(start, end, strict=True)), end]
        for kind, place in zip(("touchStart", "touchMove", "touchMove"), steps, strict=True):
            x, y = reader.point(*place)
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    swipe((200, 200), (320, 380))
    expect(reader.boxes).to_have_count(1)
    assert list(reader.box_px(1)) == pytest.approx([200, 200, 320, 380], abs=2)
    chip = reader.page.get_by_role("button", name="Put [1] into the question")
    expect(chip).to_have_text("[1]")
    expect(chip).to_be_visible()
    swipe((260, 290), (160, 190))
    assert list(reader.box_px(1)) == pytest.approx([100, 100, 220, 280], abs=2)
    assert reader.page.evaluate("scrollY") == 0


def test_there_are_not_more_boxes_than_the_model_takes(visit, server, scene):
    server.config["max_regions"] = 2
    reader = visit()
    reader.choose(scene)
    for _ in range(3):
        reader.page.get_by_role("button", name="Add box").click()
    expect(reader.page.get_by_text("At most 2 boxes fit")).to_be_visible()
    expect(reader.boxes).to_have_count(2)


def test_an_old_question_keeps_its_box_where_it_was(reader):
    reader.draw(TURTLE)
    reader.ask("What is [1]?")
    reader.box(1).focus()
    reader.page.keyboard.press("ArrowLeft")
    ghost = reader.page.locator("#asked-boxes > *")
    expect(ghost).to_have_count(1)
    reader.turns.first.get_by_role("button", name="Box 1").hover()
    expect(ghost).to_have_class(LIT)
    expect(reader.box(1)).not_to_have_class(LIT)
    expect(reader.page.locator("#tags > .lit")).to_have_count(1)
    reader.ask("Go on.")
    assert reader.asked()["messages"][0]["regions"] == [near(TURTLE)]


def test_rulers_show_where_the_selected_box_is(reader):
    reader.draw(BICYCLE)
    reader.settle()
    bar = reader.page.locator("#ruler-across rect")
    width = reader.page.locator("#canvas").bounding_box()["width"]
    assert float(bar.get_attribute("x")) == pytest.approx(44 / 480 * width, abs=2)
    assert float(bar.get_attribute("width")) == pytest.approx(196 / 480 * width, abs=3)
