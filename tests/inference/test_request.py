"""What a user may ask: boxes, regions as text, and questions that name regions."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groma.errors import InputError
from groma.inference.request import (
    BoxClippedWarning,
    check_boxes_xyxy_px,
    check_phrase,
    check_question,
    check_switch,
    parse_region_text,
    question_segments,
)
from groma.prompt.dialogue import Referred, Text

BOX = [10.0, 20.0, 60.0, 90.0]


def check(boxes: object, *, width_px: int = 200, height_px: int = 100, limit: int = 5) -> torch.Tensor:
    return check_boxes_xyxy_px(boxes, width_px, height_px, limit=limit)  # pyright: ignore[reportArgumentType]


# --- boxes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "boxes",
    [
        [BOX, [0, 0, 200, 100]],
        (tuple(BOX), (0, 0, 200, 100)),
        np.array([BOX, [0, 0, 200, 100]]),
        [np.array(BOX), torch.tensor([0, 0, 200, 100])],
        torch.tensor([BOX, [0, 0, 200, 100]], dtype=torch.float16),
    ],
)
def test_kinds_of_boxes(boxes: object):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked = check(boxes)
    assert checked.dtype == torch.float32
    assert checked.tolist() == [BOX, [0.0, 0.0, 200.0, 100.0]]


@pytest.mark.parametrize("boxes", [BOX, tuple(BOX), np.array(BOX), torch.tensor(BOX), [BOX]])
def test_one_box(boxes: object):
    assert check(boxes).tolist() == [BOX]


@pytest.mark.parametrize("boxes", [None, [], (), np.zeros((0, 4)), torch.zeros(0, 4)])
def test_no_boxes(boxes: object):
    assert check(boxes).shape == (0, 4)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([1, 2, 3], "box 1 has 3 numbers, expected four"),
        ([BOX, [1, 2, 3]], "box 2 has 3 numbers"),
        ([BOX, [1, 2, 3, 4, 5]], "box 2 has 5 numbers"),
        ([BOX, []], "box 2 has 0 numbers"),
        (np.zeros((2, 5)), "box 1 has 5 numbers"),
        (np.zeros((1, 2, 4)), r"shape \(1, 2, 4\), expected \(n, 4\)"),
        ([[1, 2, "x", 4]], "box 1 is .*expected four numbers"),
        ([[1, 2, None, 4]], "box 1 is .*expected four numbers"),
        ([[1, 2, True, 4]], "box 1 is .*expected four numbers"),
        ([BOX, 5], "box 2 is 5, expected four numbers"),
        ([BOX, "1,2,3,4"], "box 2 is '1,2,3,4', expected four numbers"),
        ("1,2,3,4", "boxes must be a list"),
        (7, "boxes must be a list, array or tensor"),
        ([BOX, [1, 2, math.nan, 4]], r"box 2 \(1, 2, nan, 4\) has a coordinate that is not a finite number"),
        ([1, 2, math.inf, 4], "not a finite number"),
        ([60, 20, 10, 90], r"box 1 \(60, 20, 10, 90\) is inverted \(x2 < x1\): the order is x1, y1, x2, y2"),
        ([10, 90, 60, 20], r"inverted \(y2 < y1\)"),
        ([60, 90, 10, 20], r"inverted \(x2 < x1 and y2 < y1\)"),
        ([10, 20, 10, 90], "is empty, 0 wide and 70 high"),
        ([10, 20, 60, 20.001], "is empty"),
        ([300, 20, 400, 90], r"box 1 \(300, 20, 400, 90\) lies outside the 200x100 picture"),
        ([-50, -50, -10, -10], "lies outside"),
        ([200, 0, 300, 100], "lies outside"),
        ([0.1, 0.2, 0.6, 0.9], "looks normalized: boxes are in pixels, multiply x by 200 and y by 100"),
        ([0, 0, 1, 1], "looks normalized"),
    ],
)
def test_refused_boxes(boxes: object, message: str):
    with pytest.raises(InputError, match=message):
        check(boxes)


def test_more_boxes_than_fit():
    assert check([BOX] * 5).shape == (5, 4)
    with pytest.raises(InputError, match="6 regions are given, but at most 5 fit"):
        check([BOX] * 6)


def test_partly_outside_is_clipped_with_a_warning():
    expected = r"box 2 \(-5, 20, 250, 90\) reaches beyond the 200x100 picture and is clipped to \(0, 20, 200, 90\)"
    with pytest.warns(BoxClippedWarning, match=expected) as caught:
        checked = check([BOX, [-5, 20, 250, 90]])
    assert len(caught) == 1
    assert checked.tolist() == [BOX, [0.0, 20.0, 200.0, 90.0]]


def test_rounding_beyond_the_border_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check([-1e-4, 0, 200.0001, 100]).tolist() == [[0.0, 0.0, 200.0, 100.0]]


def test_a_picture_of_one_pixel():
    assert check([0, 0, 1, 1], width_px=1, height_px=1).tolist() == [[0.0, 0.0, 1.0, 1.0]]


@given(st.lists(st.lists(st.floats() | st.integers() | st.none(), max_size=5), max_size=7))
def test_any_boxes_are_refused_or_lie_within_the_picture(boxes: list):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BoxClippedWarning)
        try:
            checked = check(boxes)
        except InputError:
            return
    assert checked.shape == (len(boxes), 4)
    assert torch.isfinite(checked).all()
    assert (checked >= 0).all()
    assert (checked[:, 0::2] <= 200).all()
    assert (checked[:, 1::2] <= 100).all()
    assert (checked[:, 2:] > checked[:, :2]).all()


@pytest.mark.parametrize("text", ["10,20,30,40", " 10, 20 ,30,4e1 ", "(10,20,30,40)", "[10, 20, 30.0, 40]"])
def test_region_text(text: str):
    assert parse_region_text(text) == (10.0, 20.0, 30.0, 40.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' has 0 numbers instead of 4, expected x1,y1,x2,y2"),
        ("()", "has 0 numbers"),
        ("1,2,3", "'1,2,3' has 3 numbers instead of 4"),
        ("1,2,3,4,5", "has 5 numbers"),
        ("1 2 3 4", "has 1 numbers"),
        ("1,2,3,", "is not made of numbers"),
        ("a,b,c,d", "is not made of numbers"),
        ("1,2,nan,4", "not finite"),
        ("1,2,inf,4", "not finite"),
    ],
)
def test_refused_region_text(text: str, message: str):
    with pytest.raises(InputError, match=message):
        parse_region_text(text)


# --- questions ---------------------------------------------------------------------------------------------


def test_question_is_stripped():
    assert check_question("  What is this?\n") == "What is this?"


@pytest.mark.parametrize("question", ["", "   ", "\n\t", "\u00a0"])
def test_empty_question(question: str):
    with pytest.raises(InputError, match="the question is empty"):
        check_question(question)
    with pytest.raises(InputError, match="the question is empty"):
        question_segments(question, 1)


def test_an_empty_phrase_is_called_a_phrase():
    with pytest.raises(InputError, match="the phrase is empty: say what to look for"):
        check_phrase(" ")


@pytest.mark.parametrize("value", ["no", 1, None])
def test_a_switch_is_on_or_off(value):
    with pytest.raises(InputError, match="grounded must be True or False"):
        check_switch(value, "grounded")


def test_unusable_questions():
    with pytest.raises(InputError, match="must be text, not NoneType"):
        check_question(None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="not valid Unicode at position 5"):
        check_question("What \udcff is this?")


@pytest.mark.parametrize(
    ("question", "num_regions", "segments"),
    [
        ("What is this?", 0, (Text("What is this?"),)),
        ("See [1] and [[2]].", 0, (Text("See [1] and [[2]]."),)),
        ("What is this?", 1, (Text("What is this? "), Referred(0))),
        ("What is [1]?", 1, (Text("What is "), Referred(0), Text("?"))),
        ("[1]", 1, (Referred(0),)),
        (
            "Which is larger, [1] or [2]?",
            2,
            (Text("Which is larger, "), Referred(0), Text(" or "), Referred(1), Text("?")),
        ),
        ("[2][1]", 2, (Referred(1), Referred(0))),
        ("Is [1] like [1]?", 1, (Text("Is "), Referred(0), Text(" like "), Referred(0), Text("?"))),
        ("What does [[1]] mean on [1]?", 1, (Text("What does [1] mean on "), Referred(0), Text("?"))),
        ("What does [[7]] mean?", 1, (Text("What does [7] mean? "), Referred(0))),
        ("A [x], a [] and a [-1]?", 1, (Text("A [x], a [] and a [-1]? "), Referred(0))),
        ("<r5> [grounding] <roi>", 1, (Text("<r5> [grounding] <roi> "), Referred(0))),
    ],
)
def test_question_segments(question: str, num_regions: int, segments: tuple):
    assert question_segments(question, num_regions) == segments


def test_boxes_of_earlier_turns_come_first():
    assert question_segments("[2] or [1]", 2, first_box=3) == (Referred(4), Text(" or "), Referred(3))
    assert question_segments("What?", 1, first_box=3) == (Text("What? "), Referred(3))


@pytest.mark.parametrize(
    ("question", "num_regions", "message"),
    [
        ("What is [2]?", 1, r"names region \[2\], but only region \[1\] is given: .* \[\[2\]\]"),
        ("What is [0]?", 2, r"names region \[0\], but only regions \[1\] to \[2\] are given"),
        ("In [2024], [1]?", 1, r"names region \[2024\]"),
        ("[" + "9" * 5000 + "]", 1, "names region"),
        ("What is [1]?", 2, r"2 regions are given, but the question does not name \[2\]"),
        ("What are these?", 3, r"3 regions are given, but the question does not name \[1\], \[2\], \[3\]"),
    ],
)
def test_refused_questions(question: str, num_regions: int, message: str):
    with pytest.raises(InputError, match=message):
        question_segments(question, num_regions)


@given(st.text(alphabet="a []12?", max_size=20), st.integers(0, 3))
def test_nothing_of_a_question_is_lost(question: str, num_regions: int):
    try:
        segments = question_segments(question, num_regions)
    except InputError:
        return
    assert all(segment.text for segment in segments if isinstance(segment, Text))
    written = "".join(s.text if isinstance(s, Text) else f"[{s.box + 1}]" for s in segments)
    kept = question.strip()
    assert written in (kept, f"{kept} [1]") or "[[" in question  # what escapes become is tested above
