"""Tasks with a model of random weights: equal to asking it picture by picture, whatever is labelled together."""

import json
import re
import warnings
from contextlib import redirect_stdout
from io import StringIO

import pyarrow.parquet
import pytest
from label_inputs import BOX, BOXES, HEIGHT, folder, job, jpeg, rows, tar
from pycocotools.coco import COCO

from groma.data.annotation import Annotation
from groma.errors import InputError
from groma.inference.converters import to_coco
from groma.inference.generate import Decoding
from groma.label.formats import check_formats, read_rows, to_answer
from groma.label.run import Workers, label
from groma.label.tasks import TASKS, Options, make_task
from groma.pretrained import load

COUNT = 5
HERE = Workers(count=0)
SHORT = Decoding(max_new_tokens=10)
REAL = sorted({*TASKS} - {"echo"})
QUICK = {"describe": {"max_boxes": 3}, "detect": {}, "grounded-caption": {}}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("photos"), COUNT)


@pytest.fixture(scope="module")
def assistant(model):
    return load(model)


def paths(photos):
    return [str(photos / row) for row in ("001.jpg", "002.jpg", "004.jpg", "below/000.jpg", "below/003.jpg")]


def labels_of(out, model, photos, task, **changes):
    label(job(photos, out, **{"task": task, "model": str(model), "workers": HERE, "options": QUICK[task]} | changes))
    return rows(out / "labels.jsonl")


def boxes_of(row) -> list:
    return [[round(value, 1) for value in box] for entity in row["entities"] for box in entity["boxes_xyxy_px"]]


def assert_alike(some, others):
    """Equal but for the last digits of numbers."""
    for one, other in zip(some, others, strict=True):
        assert (one["key"], one["text"], one["finish_reason"]) == (other["key"], other["text"], other["finish_reason"])
        for entity, twin in zip(one["entities"], other["entities"], strict=True):
            assert (entity["phrase"], entity["start"], entity["end"]) == (twin["phrase"], twin["start"], twin["end"])
            assert entity["scores"] == pytest.approx(twin["scores"], abs=1e-4)
            for box, same in zip(entity["boxes_xyxy_px"], twin["boxes_xyxy_px"], strict=True):
                assert box == pytest.approx(same, abs=0.02)


@pytest.mark.parametrize("task", REAL)
def test_labels_do_not_depend_on_what_is_labelled_together(task, photos, model, tmp_path):
    found = [
        labels_of(tmp_path / f"{size}-{name}", model, photos, task, batch_size=size)
        for size, name in ((1, "a"), (3, "a"), (8, "a"), (3, "b"))
    ]
    assert any(row["entities"] for row in found[0])
    for other in found[1:]:
        assert_alike(found[0], other)
    assert found[1] == found[3], "the same batches, the same digits"


@pytest.mark.parametrize("task", REAL)
def test_every_label_is_an_answer(task, photos, model, tmp_path):
    for row in labels_of(tmp_path / "out", model, photos, task):
        answer = to_answer(row)  # checks that each phrase is its span of the text
        assert answer.image_size_px == (row["width"], row["height"]) and row["height"] == HEIGHT
        for entity in row["entities"]:
            assert len(entity["boxes_xyxy_px"]) == len(entity["scores"]) > 0
        for x1, y1, x2, y2 in (box for entity in row["entities"] for box in entity["boxes_xyxy_px"]):
            assert 0 <= x1 < x2 <= row["width"] and 0 <= y1 < y2 <= row["height"]


def test_captions_are_answers(photos, model, assistant, tmp_path):
    options = {"question": "What is there?"}
    found = labels_of(tmp_path / "out", model, photos, "grounded-caption", options=options)
    answers = assistant.ask(paths(photos), "What is there?", decoding=SHORT)
    assert [row["text"] for row in found] == [answer.text for answer in answers]
    phrases = [[(entity["phrase"], entity["start"]) for entity in row["entities"]] for row in found]
    assert phrases == [[(entity.phrase, entity.start) for entity in answer.entities] for answer in answers]
    assert any(phrases)


def test_detections_are_the_regions_that_are_sure(photos, model, assistant, tmp_path):
    proposed = assistant.regions(paths(photos))
    scores = sorted(region.objectness for regions in proposed for region in regions)
    lowest = sum(scores[len(scores) // 2 - 1 :][:2]) / 2  # between two, so that half of them are surer
    found = labels_of(tmp_path / "out", model, photos, "detect", options={"min_objectness": lowest})
    assert sum(len(boxes_of(row)) for row in found) == len(scores) // 2 > 0
    for row, regions in zip(found, proposed, strict=True):
        sure = [list(region.box_xyxy_px) for region in regions if region.objectness >= lowest]
        assert boxes_of(row) == [pytest.approx(box, abs=0.06) for box in sure] and row["text"] == ""
        assert len(row["entities"]) == bool(sure)


def test_phrases_are_located_all(photos, model, assistant, tmp_path):
    phrases = ("dog", "the red dogs")
    found = labels_of(tmp_path / "out", model, photos, "detect", options={"phrases": phrases})
    located = [assistant.locate(paths(photos), phrase, all=True, decoding=SHORT) for phrase in phrases]
    assert any(row["entities"] for row in found)
    for row, *answers in zip(found, *located, strict=True):
        there = [p for p, answer in zip(phrases, answers, strict=True) if any(e.region_ids for e in answer.entities)]
        assert [entity["phrase"] for entity in row["entities"]] == there and row["text"] == ", ".join(there)
        assert len(boxes_of(row)) == sum(len(e.region_ids) for answer in answers for e in answer.entities)


def test_given_boxes_are_described(model, assistant, tmp_path):
    given = {
        "two": BOXES,
        "none": [],
        "beyond": [[-20, 10, 60, 500], [10, 10, 40, 40]],
        "outside": [[500, 500, 600, 600]],
        "normalized": [[0.1, 0.1, 0.5, 0.5]],
        "inverted": [list(BOX), [50, 10, 10, 40]],
        "three numbers": [[1, 2, 3]],
        "text": "all",
        "nan": [[float("nan"), 1, 20, 30]],
    }
    listed = [{"image": "0.jpg", "id": name, "boxes": boxes} for name, boxes in given.items()]
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    listed.append({"image": "0.jpg", "id": "untold"})
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a clipped box is counted, not shouted about
        report = label(
            job(tmp_path / "list.jsonl", tmp_path / "out", task="describe", model=str(model), workers=HERE,
                options={"max_boxes": 2, "min_objectness": 0.1}, batch_size=16)
        )  # fmt: skip
    assert (report.labelled, report.failed, report.clipped_boxes) == (4, 6, 1)
    found = {row["key"]: row for row in rows(tmp_path / "out" / "labels.jsonl")}
    assert set(found) == {"two", "none", "beyond", "untold"}
    texts = [answer.text for answer in assistant.describe(jpeg(0), BOXES, decoding=SHORT)]
    assert found["two"]["text"] == "\n".join(texts) and boxes_of(found["two"]) == BOXES
    assert [entity["scores"] for entity in found["two"]["entities"]] == [[1.0], [1.0]]
    assert found["none"]["entities"] == [] and "clipped_boxes" not in found["two"]
    assert boxes_of(found["beyond"]) == [[0, 10, 60, HEIGHT], [10, 10, 40, 40]]
    assert found["beyond"]["clipped_boxes"] == 1 and len(found["untold"]["entities"]) == 2
    reasons = {row["key"]: row["reason"] for row in rows(tmp_path / "out" / "failures.jsonl")}
    told = {"outside": "outside", "normalized": "looks normalized", "inverted": "box 2 .* is inverted",
            "three numbers": "has 3 numbers", "text": "expected a list", "nan": "not a finite number"}  # fmt: skip
    assert set(reasons) == set(told)
    for key, part in told.items():
        assert re.search(part, reasons[key]), reasons[key]


def test_boxes_in_frames_of_packed_shards(model, tmp_path):
    boxes = ((0.1, 0.1, 0.5, 0.5), (0.2, 0.3, 0.9, 0.8))
    normalized = Annotation(picture="a.jpg", frame=(1.0, 1.0), boxes_xyxy_frame=boxes)
    members = [
        ("0.jpg", jpeg(0)),
        ("0.json", json.dumps(normalized.to_dict()).encode()),
        ("1.jpg", jpeg(1)),
        ("1.json", b"{"),
    ]
    tar(tmp_path / "s.tar", members)
    label(job(tmp_path / "s.tar", tmp_path / "out", task="describe", model=str(model), workers=HERE))
    (row,) = rows(tmp_path / "out" / "labels.jsonl")
    assert boxes_of(row) == [[10, 8, 50, 40], [20, 24, 90, 64]]
    assert "sample's .json cannot be read" in rows(tmp_path / "out" / "failures.jsonl")[0]["reason"]
    label(job(tmp_path / "s.tar", tmp_path / "other", task="detect", model=str(model), workers=HERE))
    assert len(rows(tmp_path / "other" / "labels.jsonl")) == 2, "who asks for no boxes does not read them"


@pytest.mark.parametrize("task", REAL)
def test_coco_is_that_of_all_answers(task, photos, model, tmp_path):
    out = tmp_path / "out"
    found = labels_of(out, model, photos, task, formats=("coco", "parquet"))
    coco = json.loads((out / "labels.coco.json").read_text())
    with redirect_stdout(StringIO()):
        read = COCO(str(out / "labels.coco.json"))
    assert len(read.getImgIds()) == COUNT and len(read.getAnnIds()) == sum(map(len, map(boxes_of, found)))
    if task == "describe":
        told = [entity["phrase"] for row in found for entity in row["entities"]]
        assert [annotation.pop("caption") for annotation in coco["annotations"]] == told
        for entity in (entity for row in found for entity in row["entities"]):
            entity.update(phrase="", start=0, end=0)
        found = [row | {"text": ""} for row in found]
    expected = to_coco([to_answer(row) for row in found], range(1, COUNT + 1))
    assert coco["annotations"] == expected["annotations"] and coco["categories"] == expected["categories"]
    sizes = [(image["id"], image["width"], image["height"]) for image in coco["images"]]
    assert sizes == [(image["id"], image["width"], image["height"]) for image in expected["images"]]
    table = pyarrow.parquet.read_table(out / "labels.parquet").to_pylist()
    assert table == list(read_rows(out / "labels.jsonl"))


def test_tasks_and_options_that_do_not_exist():
    for name, told in ("detec", "did you mean 'detect'"), ("x", "known are grounded-caption, detect, describe"):
        with pytest.raises(InputError, match=told):
            make_task(name, Options())
    for name, options, told in (
        ("detect", Options(question="x"), "--question is for --task grounded-caption or echo, not for detect"),
        ("grounded-caption", Options(min_objectness=0.0), "--min-objectness is for --task detect or describe"),
        ("detect", Options(phrases=("dog",), min_objectness=0.5), "leave one of them out"),
        ("detect", Options(phrases=("dog", "dog")), "'dog' is given twice"),
        ("detect", Options(phrases=(" ",)), "--phrase is empty"),
        ("grounded-caption", Options(question=""), "--question is empty"),
        ("detect", Options(min_objectness=float("nan")), "must be from 0 to 1"),
        ("describe", Options(max_boxes=0), "--max-boxes must be at least 1"),
        ("describe", Options(max_new_tokens=0), "--max-new-tokens must be at least 1"),
    ):
        with pytest.raises(InputError, match=told):
            make_task(name, options)
    with pytest.raises(InputError, match="did you mean 'coco'"):
        check_formats(["cocoo"])
