"""Referring expressions: figures against hand-computed cases, every published format, and what is wrong with files."""

import json
import math

import pytest
from knowing import Knowing, numbered

from groma.errors import InputError
from groma.evaluate import open_benchmark
from groma.evaluate.data_folder import Place
from groma.evaluate.report import measure
from groma.evaluate.runner import run_benchmark

BOX = (10.0, 10.0, 50.0, 50.0)
EXPRESSIONS = {1: "the man", 2: "the woman", 3: "the dog", 4: "nobody's"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))


def pictures(folder, count):
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        numbered(number).save(folder / "pictures" / f"{number}.png")


def pairs(folder, name, expressions=EXPRESSIONS):
    """RefCOCO's format: an entry of `images` for each pair of picture and expression."""
    images = [
        {"id": k, "file_name": f"{k}.png", "width": 100, "height": 100, "caption": text}
        for k, text in expressions.items()
    ]
    annotations = [{"id": k, "image_id": k, "bbox": [10, 10, 40, 40], "category_id": 1} for k in expressions]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))


def outcome(name, place, assistant):
    benchmark = open_benchmark(name, place)
    return measure(benchmark, run_benchmark(assistant, benchmark, batch_size=3), model="knowing")


def test_accuracy_counts_the_first_box(tmp_path):
    """1: right; 2: IoU exactly 0.5; 3: wrong first, right second; 4: no answer."""
    pictures(tmp_path, 4)
    pairs(tmp_path, "finetune_refcoco_val.json")
    answers = {
        1: [(BOX, 0.9)],
        2: [((10.0, 10.0, 50.0, 30.0), 0.8)],
        3: [((60.0, 60.0, 90.0, 90.0), 0.7), (BOX, 0.9)],
        4: [],
    }
    figures = outcome("refcoco", Place(data=tmp_path), Knowing(lambda k, *_: answers[k])).metrics()
    assert figures["accuracy50"] == 0.5 and figures["accuracy75"] == 0.25
    assert figures["mean_iou"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert figures["unanswered"] == 0.25
    # bins of one case each: |0.9 - 1|, |0.8 - 1|, |0.7 - 0| over the three that answered
    assert figures["ece"] == pytest.approx((0.1 + 0.2 + 0.7) / 3)


def test_expressions_are_asked_as_they_are_and_pictures_seen_once(tmp_path):
    pictures(tmp_path, 2)
    pairs(tmp_path, "refcoco+_testA.json", {1: " The man in RED ", 2: "x"})
    content = json.loads((tmp_path / "refcoco+_testA.json").read_text())
    content["images"].append(content["images"][0] | {"id": 3, "caption": "again"})
    content["annotations"].append(content["annotations"][0] | {"id": 3, "image_id": 3})
    (tmp_path / "refcoco+_testA.json").write_text(json.dumps(content))
    assistant = Knowing(lambda *_: [(BOX, 1.0)])
    assert outcome("refcoco+", Place(data=tmp_path), assistant).sections["testA"]["accuracy50"].cases == 3
    assert assistant.asked == [(1, "The man in RED"), (1, "again"), (2, "x")] and assistant.seen == [1, 2]


def test_rec_averages_the_eight_columns_of_the_paper(tmp_path):
    pictures(tmp_path, 4)
    splits = {"refcoco": ("val", "testA", "testB"), "refcoco+": ("val", "testA", "testB"), "refcocog": ("val", "test")}
    for name, own in splits.items():
        for split in own:
            count = 4 if split == "val" else 2
            pairs(tmp_path, f"finetune_{name}_{split}.json", dict(list(EXPRESSIONS.items())[:count]))
    right = Knowing(lambda k, *_: [(BOX, 1.0)] if k < 3 else [])
    found = outcome("rec", Place(data=tmp_path), right)
    assert len(found.sections) == 8 and found.sections["refcoco val"]["accuracy50"].value == 0.5
    assert found.average["accuracy50"] == pytest.approx((3 * 0.5 + 5 * 1.0) / 8)
    table = found.to_markdown()
    assert (
        "| accuracy50, Groma (published) | 0.895 | 0.921 | 0.863 | 0.839 | 0.889 | 0.780 | 0.864 | 0.870 | 0.865 |"
        in table
    )
    (tmp_path / "finetune_refcocog_test.json").unlink()
    assert outcome("rec", Place(data=tmp_path), right).average == {}  # never an average of other columns


def test_ref_l4(tmp_path):
    """Sizes as the benchmark has them; accuracy over thresholds of an IoU of 0.72 is 5 of 10."""
    pictures(tmp_path, 2)
    rows = [
        {"file_name": "1.png", "caption": "a", "bbox": [10, 10, 40, 40]},
        {"file_name": "2.png", "caption": "b", "bbox": [0, 0, 100, 100]},
    ]
    (tmp_path / "ref-l4-val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = {1: [((10.0, 10.0, 50.0, 38.8), 1.0)], 2: []}
    found = outcome("ref-l4", Place(data=tmp_path), Knowing(lambda k, *_: answers[k])).metrics()
    assert found["mean_accuracy"] == pytest.approx(0.25) and found["mean_accuracy_small"] == pytest.approx(0.25)
    assert math.isnan(found["mean_accuracy_large"]) and found["accuracy90"] == 0


def test_ref_l4_as_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    pictures(tmp_path, 1)
    rows = [{"file_name": "1.png", "caption": "a", "bbox": [10.0, 10.0, 40.0, 40.0]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "ref-l4-test.parquet")
    assert outcome("ref-l4", Place(data=tmp_path), Knowing(lambda *_: [(BOX, 1.0)])).metrics()["accuracy90"] == 1


def grefcoco(folder):
    pictures(folder, 4)
    other = [60.0, 60.0, 30.0, 30.0]
    instances = {
        "images": [{"id": k, "file_name": f"{k}.png"} for k in range(1, 5)],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [10, 10, 40, 40]}, {"id": 2, "image_id": 1, "bbox": other}],
    }
    wanted = {1: [1, 2], 2: [-1], 3: [-1], 4: [1]}
    refs = [
        {"ref_id": k, "image_id": k, "split": "val", "ann_id": own, "sentences": [{"sent": f"expression {k}"}]}
        for k, own in wanted.items()
    ]
    refs.append(refs[0] | {"split": "testA"})
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "grefs(unc).json").write_text(json.dumps(refs))


def test_grefcoco(tmp_path):
    """1: both found, one of them twice over: not exact; 2: refused; 3: not refused; 4: exact."""
    grefcoco(tmp_path)
    answers = {
        1: [(BOX, 1.0), ((60.0, 60.0, 90.0, 90.0), 1.0), ((11.0, 10.0, 50.0, 50.0), 1.0)],
        2: [],
        3: [(BOX, 1.0)],
        4: [(BOX, 1.0)],
    }
    found = outcome("grefcoco", Place(data=tmp_path), Knowing(lambda k, *_: answers[k])).metrics()
    figures = found["val"]
    assert figures["precision_f1"] == 0.5
    assert figures["no_target_accuracy"] == 0.5 and figures["target_accuracy"] == 1.0
    assert figures["recall"] == 1.0 and figures["precision"] == pytest.approx((2 / 3 + 1) / 2)
    assert set(found) == {"val", "testA"}, "testB has no expressions"


def test_humanref_rejection(tmp_path):
    pictures(tmp_path, 2)
    rows = [
        {"image_name": "1.png", "referring": "a", "answer_boxes": [list(BOX)], "domain": "attribute"},
        {"image_name": "2.png", "referring": "b", "answer_boxes": [], "domain": "rejection"},
    ]
    (tmp_path / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    never_refuses = outcome("humanref", Place(data=tmp_path), Knowing(lambda *_: [(BOX, 1.0)])).metrics()
    assert never_refuses["precision_f1_rejection"] == 0 and never_refuses["precision_f1_attribute"] == 1
    assert never_refuses["no_target_accuracy"] == 0


def test_a_few_cases_evenly_spaced(tmp_path):
    pictures(tmp_path, 4)
    pairs(tmp_path, "refcocog_val.json")
    assistant = Knowing(lambda *_: [])
    outcome("refcocog", Place(data=tmp_path, n=2), assistant)
    assert [number for number, _ in assistant.asked] == [1, 3]


# --- what is wrong is told before anything is asked -------------------------------------------------------------------


def refused(name, place):
    with pytest.raises(InputError) as caught:
        open_benchmark(name, place)
    return str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    assert "needs its data: give --data FOLDER" in refused("refcoco", Place())
    assert "there is no folder" in refused("refcoco", Place(data=tmp_path / "nowhere"))
    told = refused("refcoco", Place(data=tmp_path))
    assert "finetune_refcoco_val.json" in told and "testB" in told
    pairs(tmp_path, "refcoco_val.json")
    assert "give --pictures" in refused("refcoco", Place(data=tmp_path))
    pictures(tmp_path, 3)
    told = refused("refcoco", Place(data=tmp_path))
    assert "1 of 4 pictures are missing, the first is" in told and "4.png" in told
    assert "no split 'testZ'; it has val, testA, testB" in refused("refcoco", Place(data=tmp_path, splits=("testZ",)))
    assert "lacks annotation files of refcoco: testA" in refused("refcoco", Place(data=tmp_path, splits=("testA",)))
    assert "there is no annotation file" in refused("refcoco", Place(annotations=tmp_path / "x.json"))


def test_pictures_under_another_name(tmp_path):
    pictures(tmp_path, 4)
    pairs(tmp_path, "refcoco_val.json")
    content = (tmp_path / "refcoco_val.json").read_text()
    (tmp_path / "refcoco_val.json").write_text(content.replace('"file_name": "', '"file_name": "COCO_train2014_'))
    place = Place(data=tmp_path, renamed=(("COCO_train2014_", ""),))
    assert len(open_benchmark("refcoco", place)) == 4


def test_files_of_other_benchmarks_are_refused(tmp_path):
    pictures(tmp_path, 4)
    pairs(tmp_path, "refcoco_val.json")
    file = tmp_path / "refcoco_val.json"
    assert "expected gRefCOCO's list" in refused("grefcoco", Place(data=tmp_path, annotations=file, splits=("val",)))
    assert "row 0: file_name, caption missing" in refused("ref-l4", Place(data=tmp_path, annotations=file))
    (tmp_path / "list.json").write_text("[]")
    assert "list.json" in refused("refcoco", Place(data=tmp_path, annotations=tmp_path / "list.json"))


def test_a_corrupt_picture_is_named(tmp_path):
    pictures(tmp_path, 4)
    pairs(tmp_path, "refcoco_val.json")
    (tmp_path / "pictures" / "2.png").write_bytes(b"nothing")
    benchmark = open_benchmark("refcoco", Place(data=tmp_path))
    with pytest.raises(InputError, match=r"2\.png: "):
        run_benchmark(Knowing(lambda *_: []), benchmark)
