"""The published format: what is written is read back by the project's own reader, and becomes prompts."""

import json
from dataclasses import replace

import pytest

from groma.curate.instruct import to_record, write_records
from groma.data.annotation import NORMALIZED, Annotation, Exchange, Passage, Span
from groma.data.sources import Source
from groma.data.sources.lists import read_groma_instruct
from groma.errors import InputError

ANNOTATION = Annotation(
    picture="folder/a.jpg",
    frame=(640.0, 480.0),
    boxes_xyxy_frame=((10.25, 20.5, 110.25, 220.0), (0.0, 0.0, 640.0, 480.0), (300.0, 30.0, 333.33, 60.66)),
    exchanges=(
        Exchange(
            question=Passage("Who waits, and for whom?"),
            answer=Passage(
                "A dog & two \u00e9l\u00e8ves wait.", (Span(0, 5, (2,)), Span(8, 18, (0, 1))),
            ),
            grounded=True,
        ),
        Exchange(question=Passage("Why?"), answer=Passage("It cannot be told."), grounded=True),
        Exchange(question=Passage("Where?"), answer=Passage("At the door", (Span(3, 11, (0,)),)), grounded=True),
    ),
)  # fmt: skip

OVERLAPPING = Passage("a b", (Span(0, 2, (0,)), Span(1, 3, (0,))))


def test_the_published_form():
    record = to_record(ANNOTATION)
    assert record["file_name"] == "folder/a.jpg"
    assert (record["width"], record["height"]) == (640, 480)
    assert record["boxes"] == [[10.25, 20.5, 100.0, 199.5], [0.0, 0.0, 640.0, 480.0], [300.0, 30.0, 33.33, 30.66]]
    assert record["conversation"][0] == {"from": "human", "value": "Who waits, and for whom?", "box_inds": None}
    assert record["conversation"][1] == {
        "from": "gpt",
        "value": "<p>A dog</p><roi><ground_box></roi> & "
        "<p>two \u00e9l\u00e8ves</p><roi><ground_box><ground_box></roi> wait.",
        "box_inds": [2, 0, 1],
    }
    assert record["conversation"][3] == {"from": "gpt", "value": "It cannot be told.", "box_inds": []}
    answers = record["conversation"][1::2]
    assert all(answer["value"].count("<ground_box>") == len(answer["box_inds"]) for answer in answers)


def test_read_back_it_says_the_same():
    again = read_groma_instruct(json.loads(json.dumps(to_record(ANNOTATION))), {})
    assert replace(again, boxes_xyxy_frame=()) == replace(ANNOTATION, boxes_xyxy_frame=())
    for box, before in zip(again.boxes_xyxy_frame, ANNOTATION.boxes_xyxy_frame, strict=True):
        assert box == pytest.approx(before, abs=0.006)


def test_a_file_is_read_by_the_source_of_that_name(tmp_path):
    records = [to_record(replace(ANNOTATION, picture=f"{number}.jpg")) for number in range(3)]
    file = tmp_path / "instruct.json"
    assert write_records(file, iter(records)) == 3
    assert json.loads(file.read_text()) == records
    assert len(file.read_text().splitlines()) == 5  # a record a line: such files can be looked at
    source = Source(file, "groma_instruct")
    assert [source[number].picture for number in range(3)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert source[2].exchanges == ANNOTATION.exchanges
    assert write_records(file, iter(())) == 0
    assert json.loads(file.read_text()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"frame": None}, "measured in pixels"),
        ({"frame": NORMALIZED}, "measured in pixels"),
        ({"exchanges": ()}, "no conversation"),
        (
            {"exchanges": (Exchange(question=Passage("x", (Span(0, 1, (0,)),)), answer=Passage("y")),)},
            "no boxes in questions",
        ),
        ({"exchanges": (Exchange(question=Passage("x"), answer=Passage("a <roi> b")),)}, "a text spells <roi>"),
        ({"exchanges": (Exchange(question=Passage("<p>?"), answer=Passage("b")),)}, "a text spells <p>"),
        ({"exchanges": (Exchange(question=Passage("x"), answer=OVERLAPPING),)}, "phrases overlap"),
    ],
)  # fmt: skip
def test_what_has_no_form(changes, expected):
    with pytest.raises(InputError, match=expected):
        to_record(replace(ANNOTATION, **changes))
