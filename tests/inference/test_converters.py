"""Grounded answers in other tools' shapes."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from groma.errors import InputError, MissingExtraError
from groma.inference.converters import detections, to_coco, to_kosmos2, to_supervision, to_transformers_detection
from groma.inference.result import Entity, GroundedAnswer, Region

BOXES = ((10.0, 20.0, 60.0, 50.0), (0.0, 0.0, 100.0, 200.0), (30.5, 40.0, 31.0, 100.0))


def answer(text: str, *named: tuple[str, tuple[int, ...], tuple[float, ...]]) -> GroundedAnswer:
    entities = []
    for phrase, region_ids, scores in named:
        start = text.index(phrase)
        entities.append(
            Entity(
                phrase=phrase,
                start=start,
                end=start + len(phrase),
                region_ids=region_ids,
                score=min(scores),
                region_scores=scores,
            )
        )
    return GroundedAnswer(
        text=text,
        entities=tuple(entities),
        regions=tuple(Region(id=k, box_xyxy_px=box, objectness=0.5, source="proposal") for k, box in enumerate(BOXES)),
        finish_reason="stop",
        raw_text="",
        image_size_px=(100, 200),
    )


ANSWER = answer("A car, two dogs.", ("A car", (1,), (0.9,)), ("two dogs", (2, 0), (0.8, 0.6)))
BARE = answer("a car", ("", (2,), (0.5,)), ("a car", (0,), (0.25,)))
EMPTY = answer("Nothing.")


def test_detections_are_pairs_of_phrase_and_region():
    rows = [(row.label, row.region_id, row.score, row.box_xyxy_px) for row in detections(ANSWER)]
    assert rows == [("A car", 1, 0.9, BOXES[1]), ("two dogs", 2, 0.8, BOXES[2]), ("two dogs", 0, 0.6, BOXES[0])]
    assert [row.label for row in detections(BARE)] == ["object", "a car"]


def test_coco():
    coco = to_coco([ANSWER, BARE, EMPTY], [7, 9, 11])
    assert json.loads(json.dumps(coco)) == coco
    assert coco["images"] == [{"id": k, "width": 100, "height": 200} for k in (7, 9, 11)]
    assert coco["categories"] == [
        {"id": 1, "name": "A car"},
        {"id": 2, "name": "two dogs"},
        {"id": 3, "name": "object"},
    ]
    assert coco["annotations"][2] == {
        "id": 3,
        "image_id": 7,
        "category_id": 2,
        "bbox": [10.0, 20.0, 50.0, 30.0],
        "area": 1500.0,
        "iscrowd": 0,
        "score": 0.6,
    }
    assert [(a["id"], a["image_id"], a["category_id"]) for a in coco["annotations"]] == [
        (1, 7, 1),
        (2, 7, 2),
        (3, 7, 2),
        (4, 9, 3),
        (5, 9, 1),
    ]
    assert ANSWER.to_coco(7)["annotations"] == coco["annotations"][:3]
    assert EMPTY.to_coco()["annotations"] == EMPTY.to_coco()["categories"] == []


def test_coco_refuses_unequal_numbers_and_repeated_ids():
    with pytest.raises(InputError, match="2 answers and 1 image ids"):
        to_coco([ANSWER, BARE], [1])
    with pytest.raises(InputError, match="image id twice"):
        to_coco([ANSWER, BARE], [1, 1])


def test_kosmos2():
    text, entities = to_kosmos2(ANSWER)
    assert text == "A car, two dogs."
    assert entities == [
        ("A car", (0, 5), [(0.0, 0.0, 1.0, 1.0)]),
        ("two dogs", (7, 15), [(0.305, 0.2, 0.31, 0.5), (0.1, 0.1, 0.6, 0.25)]),
    ]
    assert ANSWER.to_kosmos2() == (text, entities)
    assert EMPTY.to_kosmos2() == ("Nothing.", [])


def test_transformers_detection():
    result = to_transformers_detection(ANSWER)
    assert set(result) == {"scores", "boxes", "labels", "text_labels"}
    torch.testing.assert_close(result["scores"], torch.tensor([0.9, 0.8, 0.6]))
    torch.testing.assert_close(result["boxes"], torch.tensor([BOXES[1], BOXES[2], BOXES[0]]))
    assert result["labels"] == result["text_labels"] == ["A car", "two dogs", "two dogs"]
    empty = EMPTY.to_transformers_detection()
    assert empty["boxes"].shape == (0, 4)
    assert empty["scores"].shape == (0,)


def test_supervision_gets_arrays_of_one_length(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    result = to_supervision(ANSWER)
    np.testing.assert_array_equal(result.xyxy, np.array([BOXES[1], BOXES[2], BOXES[0]], np.float32))
    assert result.xyxy.dtype == result.confidence.dtype == np.float32
    np.testing.assert_allclose(result.confidence, [0.9, 0.8, 0.6])
    assert result.class_id.tolist() == [0, 1, 1]
    assert result.data["class_name"].tolist() == ["A car", "two dogs", "two dogs"]
    assert result.data["region_id"].tolist() == [1, 2, 0]
    empty = EMPTY.to_supervision()
    assert empty.xyxy.shape == (0, 4)
    assert empty.confidence.shape == empty.class_id.shape == empty.data["class_name"].shape == (0,)


def test_supervision_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'groma\[supervision\]'"):
        ANSWER.to_supervision()
