"""Grounded answers: what they hold, refuse, print and store."""

import json

import pytest
from PIL import Image
from rich.console import Console

from groma.errors import InputError
from groma.inference.result import Entity, GroundedAnswer, Region

REGIONS = (
    Region(id=0, box_xyxy_px=(10.0, 10.0, 60.0, 50.0), objectness=0.9, source="proposal"),
    Region(id=4, box_xyxy_px=(70.5, 20.0, 120.25, 80.0), objectness=0.7, source="proposal"),
    Region(id=5, box_xyxy_px=(0.0, 0.0, 30.0, 30.0), objectness=1.0, source="user", numbers=(1, 2)),
)
TEXT = "A red car and [b]two dogs[/b]."


def entity(phrase: str, region_ids: tuple[int, ...], **changes: object) -> Entity:
    start = TEXT.index(phrase)
    values = {
        "phrase": phrase,
        "start": start,
        "end": start + len(phrase),
        "region_ids": region_ids,
        "score": 0.75,
        "region_scores": tuple(0.75 for _ in region_ids),
    }
    return Entity(**{**values, **changes})


def answer(*entities: Entity, **changes: object) -> GroundedAnswer:
    values = {
        "text": TEXT,
        "entities": entities,
        "regions": REGIONS,
        "finish_reason": "stop",
        "raw_text": "<p>A red car</p><roi><r0></roi> and ...",
        "image_size_px": (160, 100),
        "question": "What is there?",
    }
    return GroundedAnswer(**{**values, **changes})


def test_boxes_of_entities():
    full = answer(entity("A red car", (0,)), entity("two dogs", (4, 0)))
    car, dogs = full.entities
    assert full.boxes_of(dogs) == ((70.5, 20.0, 120.25, 80.0), (10.0, 10.0, 60.0, 50.0))
    assert dogs.boxes == dogs.boxes_xyxy_px == full.boxes_of(dogs)
    assert car.boxes == (REGIONS[0].box_xyxy_px,)
    assert full.regions_of(dogs) == (REGIONS[1], REGIONS[0])
    assert full.region(5).source == "user"
    with pytest.raises(InputError, match="has no region 3"):
        full.region(3)


def test_a_grounding_without_a_phrase():
    bare = answer(entity("", (4,)))
    assert bare.entities[0].boxes == (REGIONS[1].box_xyxy_px,)


def test_str_is_the_text():
    assert str(answer()) == TEXT


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (entity("two dogs", (0,), end=400), r"span 17\.\.400, but the text has 30 characters"),
        (entity("two dogs", (0,), start=-1), r"span -1\.\."),
        (entity("two dogs", (0,), start=16), r"'two dogs' has the span of '\]two dogs'"),
        (entity("two dogs", (0, 9, 3)), r"regions that do not exist: \[3, 9\]"),
        (entity("two dogs", (0, 4), region_scores=(0.5,)), "1 region scores for 2 regions"),
    ],
)
def test_contradictions_are_refused(changed: Entity, message: str):
    with pytest.raises(InputError, match=message):
        answer(changed)


def test_two_regions_of_one_id_are_refused():
    with pytest.raises(InputError, match="two regions of the same id"):
        answer(regions=(REGIONS[0], REGIONS[0]))


def test_dictionary_survives_json():
    full = answer(entity("A red car", (0,)), entity("two dogs", (4, 5)), finish_reason="length")
    stored = full.to_dict()
    text = json.dumps(stored)
    assert json.loads(text) == stored
    assert GroundedAnswer.from_dict(json.loads(text)) == full
    assert stored["entities"][1]["boxes_xyxy_px"] == [[70.5, 20.0, 120.25, 80.0], [0.0, 0.0, 30.0, 30.0]]
    assert stored["image_size_px"] == [160, 100]
    assert GroundedAnswer.from_dict(answer().to_dict()) == answer()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("regions"), "'regions' is missing"),
        (lambda d: d.pop("text"), "text"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d["regions"][0].update(box_xyxy_px=[1, 2, 3]), "not enough values"),
        (lambda d: d["entities"][0].pop("region_ids"), "'region_ids' is missing"),
        (lambda d: d["entities"][0].update(region_ids=[77]), "do not exist"),
        (lambda d: d.update(image_size_px=[3]), "not enough values"),
        (lambda d: d.update(finish_reason="tired"), "is 'tired', expected one of stop, length"),
    ],
)
def test_damaged_dictionaries_are_refused(damage, message: str):
    stored = answer(entity("A red car", (0,))).to_dict()
    damage(stored)
    with pytest.raises(InputError, match=message):
        GroundedAnswer.from_dict(stored)


def printed(full: GroundedAnswer, *, color: bool) -> str:
    console = Console(width=120, record=True, force_terminal=color, color_system="truecolor" if color else None)
    with console.capture() as capture:
        console.print(full)
    return capture.get()


def test_rich_prints_text_and_regions_and_reads_no_markup():
    shown = printed(answer(entity("A red car", (0,)), entity("two dogs", (4,))), color=False)
    assert TEXT in shown
    row = next(line for line in shown.splitlines() if "r4" in line)
    for part in ("two dogs", "0.75", "70", "20", "120", "80", "proposal", "0.70"):
        assert part in row
    assert any("r5 [1] [2]" in line and "user" in line for line in shown.splitlines())


def test_rich_colours_phrases_apart():
    shown = printed(answer(entity("A red car", (0,)), entity("two dogs", (4,))), color=True)
    assert "\x1b[38;2;0;0;0;48;2;230;159;0mA red car" in shown
    assert "\x1b[38;2;255;255;255;48;2;0;114;178mtwo dogs" in shown


def test_rich_without_regions_is_the_text_alone():
    assert printed(answer(regions=()), color=False).strip() == TEXT


def test_draw_is_a_method():
    full = answer(entity("A red car", (0,)))
    drawn = full.draw(Image.new("RGB", (160, 100)), width_px=320, caption=True)
    assert drawn.width == 320
    assert drawn.height > 200
