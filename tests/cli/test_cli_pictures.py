"""ask, locate, describe, regions: what they print, write and hand on."""

import json

import numpy as np
import pytest
from commands import sentence
from PIL import Image

from groma.inference.result import GroundedAnswer
from small_models import MAX_REGIONS

SHORT = ("--max-new-tokens", 24, "--model", "{model}")


def test_ask_prints_an_answer_for_people(groma, picture):
    ran = groma("ask", picture, "What is [1]?", "--region", "10,10,60,60", *SHORT)
    assert ran.status == 0
    assert "r0 [1]" in ran.out  # the user's box is in the table
    assert "Traceback" not in ran.err


def test_ask_json_is_the_answer_and_nothing_else(groma, picture):
    ran = groma("ask", picture, "What is [1]?", "--region", "10,10,60,60", "--json", *SHORT)
    answer = GroundedAnswer.from_dict(json.loads(ran.out))
    assert answer.question == "What is [1]?"
    assert answer.grounded
    assert answer.region(0).box_xyxy_px == pytest.approx((10, 10, 60, 60), abs=1e-3)
    assert answer.image_size_px == (120, 90)


def test_ask_is_deterministic_and_sampling_follows_its_seed(groma, picture):
    def text(*options):
        return json.loads(groma("ask", picture, "Hello?", "--json", *SHORT, *options).out)["raw_text"]

    assert text() == text()
    warm = ("--temperature", 1.5, "--seed")
    assert text(*warm, 3) == text(*warm, 3)
    assert len({text(*warm, seed) for seed in range(3)}) > 1


def test_no_grounded(groma, picture):
    values = json.loads(groma("ask", picture, "Hello?", "--no-grounded", "--json", *SHORT).out)
    assert values["grounded"] is False


def test_a_streamed_answer_is_the_same_answer(groma, picture):
    whole = json.loads(groma("ask", picture, "Hello?", "--json", *SHORT).out)["text"]
    streamed = groma("ask", picture, "Hello?", "--stream", *SHORT)
    assert streamed.status == 0
    assert streamed.out.startswith(whole)


def test_stream_and_json_exclude_each_other(groma, picture):
    assert "--stream" in sentence(groma("ask", picture, "Hello?", "--stream", "--json", *SHORT))


def test_an_answer_that_was_cut_says_so(groma, picture):
    ran = groma("ask", picture, "Hello?", "--max-new-tokens", 1, "--model", "{model}")
    assert ran.status == 0
    assert ran.err == "groma: warning: the answer was cut at its largest number of tokens (--max-new-tokens)\n"


@pytest.mark.parametrize(
    "regions",
    [
        ("--region", "10,10,60,60", "--region", "30,20,110,80"),
        ("--region", "10,10,60,60", "30,20,110,80"),
        ("--region=10,10,60,60", "30,20,110,80"),
        ("--region=10,10,60,60", "--region=30,20,110,80"),
    ],
)
def test_several_regions_however_they_are_given(groma, picture, regions):
    ran = groma("ask", picture, "Is [1] larger than [2]?", *regions, "--json", *SHORT)
    named = [region["box_xyxy_px"] for region in json.loads(ran.out)["regions"] if region["numbers"]]
    np.testing.assert_allclose(named, [[10, 10, 60, 60], [30, 20, 110, 80]], atol=1e-3)


def test_options_may_stand_anywhere(groma, picture):
    ran = groma("ask", "--region", "10,10,60,60", picture, "What is [1]?", "--json", *SHORT)
    assert json.loads(ran.out)["question"] == "What is [1]?"


def test_a_region_may_begin_with_a_minus_and_is_clipped_with_one_line(groma, picture):
    ran = groma("ask", picture, "What?", "--region", "-5,-5.5,60,60", "--json", *SHORT)
    assert json.loads(ran.out)["regions"][0]["box_xyxy_px"][:2] == pytest.approx([0, 0], abs=1e-3)
    clipped = [line for line in ran.err.splitlines() if "clipped" in line]
    assert clipped == [
        "groma: warning: box 1 (-5, -5.5, 60, 60) reaches beyond the 120x90 picture and is clipped to (0, 0, 60, 60)"
    ]
    assert ".py" not in ran.err


@pytest.mark.parametrize("extension", ["png", "jpg", "jpeg", "webp", "PNG"])
def test_the_drawn_picture(groma, picture, tmp_path, extension):
    out = tmp_path / f"answer.{extension}"
    ran = groma("ask", picture, "What?", "--region", "10,10,60,60", "--out", out, *SHORT)
    assert ran.status == 0
    assert f"drawn: {out}" in ran.out
    with Image.open(out) as drawn:
        assert max(drawn.size) >= 640  # small pictures are magnified
        assert drawn.size[0] * 90 == pytest.approx(drawn.size[1] * 120, rel=0.01)
    assert sorted(tmp_path.iterdir()) == sorted([picture, out])  # nothing left of the atomic write


def test_json_stays_json_when_a_picture_is_drawn(groma, picture, tmp_path):
    ran = groma("locate", picture, "dog", "--out", tmp_path / "x.png", "--json", *SHORT)
    json.loads(ran.out)
    assert (tmp_path / "x.png").is_file()


def test_locate(groma, picture):
    one = json.loads(groma("locate", picture, "the dog", "--json", *SHORT).out)
    every = json.loads(groma("locate", picture, "dog", "--all", "--json", *SHORT).out)
    assert one["question"] == "Locate the dog in the image."
    assert every["question"] == "Locate all dog in this image."
    assert all(len(entity["region_ids"]) == 1 for entity in one["entities"])


def test_describe_answers_for_every_box(groma, picture, tmp_path):
    boxes = ("--region", "10,10,60,60", "30,20,110,80", "0,0,20,20")
    answers = json.loads(groma("describe", picture, *boxes, "--json", *SHORT).out)
    assert len(answers) == 3
    ran = groma("describe", picture, *boxes, "--out", tmp_path / "described.png", *SHORT)
    assert ran.status == 0
    assert [line[:4] for line in ran.out.splitlines() if line.startswith("[")] == ["[1] ", "[2] ", "[3] "]
    assert (tmp_path / "described.png").is_file()


def test_describe_wants_a_region(groma, picture):
    assert "--region" in sentence(groma("describe", picture, *SHORT))


def test_regions_for_people_and_machines(groma, picture, tmp_path):
    found = json.loads(groma("regions", picture, "--json", "--model", "{model}").out)
    assert found["image_size_px"] == [120, 90]
    scores = [region["objectness"] for region in found["regions"]]
    assert 1 <= len(scores) <= MAX_REGIONS
    assert scores == sorted(scores, reverse=True)
    ran = groma("regions", picture, "--out", tmp_path / "regions.png", "--model", "{model}")
    assert ran.out.count(" r") >= len(scores)
    assert (tmp_path / "regions.png").is_file()


def test_min_objectness(groma, picture):
    def scores(least):
        ran = groma("regions", picture, "--json", "--min-objectness", least, "--model", "{model}")
        return [region["objectness"] for region in json.loads(ran.out)["regions"]]

    everything = scores(0)
    middle = sorted(everything)[len(everything) // 2]
    assert scores(middle) == [score for score in everything if score >= middle]
    assert scores(1) == []
    assert "0 to 1" in sentence(groma("regions", picture, "--min-objectness", 1.5, "--model", "{model}"))
