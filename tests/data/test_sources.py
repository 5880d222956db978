"""Published annotation formats -> annotations: hand-written records to the letter, exported scenes by the score."""

import json
import pickle
import sqlite3

import pytest

from groma.data.annotation import NORMALIZED, Annotation, Exchange, Passage, Span
from groma.data.record_index import index_records
from groma.data.scenes.export import EXPORTERS, caption_of, export_scenes, picture_name
from groma.data.scenes.scene import make_scene
from groma.data.sources import FORMATS, Source
from groma.data.sources.own import read_markup, write_markup
from groma.errors import InputError

IMAGE = {"id": 7, "file_name": "a/b.jpg", "width": 200, "height": 100}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def scenes():
    return [make_scene("train", index, 41, size_px=96) for index in range(6)]


def source_of(content, format_name: str, tmp_path, *, name: str = "annotations.json") -> Source:
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return Source(file, format_name)


def coco(*annotations: dict, categories=(), **image) -> dict:
    entries = [{"id": k, "image_id": 7, **entry} for k, entry in enumerate(annotations)]
    return {"images": [IMAGE | image], "annotations": entries, "categories": list(categories)}


def test_detection_leaves_crowds_out_and_keeps_what_is_known_of_absence(tmp_path):
    categories = [{"id": k, "name": name} for k, name in enumerate(["dog", "cat", "cow", "sheep"], start=1)]
    content = coco(
        {"bbox": [10, 20, 30, 40], "category_id": 2},
        {"bbox": [0, 0, 200, 100], "category_id": 3, "iscrowd": 1},
        {"bbox": [1.5, 2, 3, 4], "category_id": 1},
        categories=categories,
        neg_category_ids=[4],
        not_exhaustive_category_ids=[2],
    )
    assert source_of(content, "coco", tmp_path)[0] == Annotation(
        picture="a/b.jpg",
        frame=(200.0, 100.0),
        boxes_xyxy_frame=((10.0, 20.0, 40.0, 60.0), (1.5, 2.0, 4.5, 6.0)),
        labels=("cat", "dog"),
        absent=("sheep",),
        unsure=("cat", "cow"),
    )


def test_an_expression_belongs_to_the_one_box_of_its_entry(tmp_path):
    content = coco({"bbox": [1, 2, 3, 4]}, caption="the man in red")
    annotation = source_of(content, "coco_expressions", tmp_path)[0]
    assert (annotation.labels, annotation.boxes_xyxy_frame) == (("the man in red",), ((1.0, 2.0, 4.0, 6.0),))
    two = coco({"bbox": [1, 2, 3, 4]}, {"bbox": [1, 2, 3, 4]}, caption="the man in red")
    with pytest.raises(InputError, match=r"record 0: .*image entry 7 has 2 boxes, expected one"):
        source_of(two, "coco_expressions", tmp_path, name="two.json")[0]


def test_phrases_of_a_caption_gather_their_boxes(tmp_path):
    content = coco(
        {"bbox": [1, 2, 3, 4], "tokens_positive": [[0, 8]]},
        {"bbox": [5, 6, 7, 8], "tokens_positive": [[16, 22], [0, 8]]},
        caption="Two boys throw a ball.",
    )
    (passage,) = source_of(content, "coco_grounded_captions", tmp_path)[0].passages
    assert passage == Passage("Two boys throw a ball.", (Span(0, 8, (0, 1)), Span(16, 22, (1,))))


def test_grit_llava_and_groma_instruct_records(tmp_path):
    grit = [{"filename": "1.jpg", "caption": "a dog runs", "ref_exps": [[0, 5, 0.1, 0.2, 0.3, 0.4, 0.99]]}]
    assert source_of(grit, "grit", tmp_path)[0] == Annotation(
        picture="1.jpg",
        frame=NORMALIZED,
        boxes_xyxy_frame=((0.1, 0.2, 0.3, 0.4),),
        passages=(Passage("a dog runs", (Span(0, 5, (0,)),)),),
    )
    turns = [{"from": "human", "value": "<image>\nWhat is\nit?"}, {"from": "gpt", "value": "A dog."}]
    llava = [{"id": "1", "image": "coco/1.jpg", "conversations": turns}]
    (exchange,) = source_of(llava, "llava", tmp_path, name="llava.json")[0].exchanges
    assert exchange == Exchange(question=Passage("What isit?"), answer=Passage("A dog."))
    conversation = [
        {"from": "human", "value": "Who plays?", "box_inds": []},
        {
            "from": "gpt",
            "value": "<p>Two boys</p> <roi><ground_box><ground_box></roi> with <p>a ball</p><roi><ground_box></roi>.",
            "box_inds": [2, 0, 1],
        },
    ]
    sample = {
        "file_name": "1.jpg",
        "width": 20,
        "height": 10,
        "boxes": [[1, 2, 3, 4]] * 3,
        "conversation": conversation,
    }
    (exchange,) = source_of([sample], "groma_instruct", tmp_path, name="instruct.json")[0].exchanges
    answer = Passage("Two boys with a ball.", (Span(0, 8, (2, 0)), Span(14, 20, (1,))))
    assert exchange == Exchange(question=Passage("Who plays?"), answer=answer, grounded=True)


@pytest.mark.parametrize(
    ("format_name", "record", "told"),
    [
        ("grit", {"filename": "1.jpg", "caption": "x"}, "'ref_exps' is missing"),
        ("llava", {"image": "1", "conversations": [{"from": "gpt", "value": ""}]}, "turn 0 is from 'gpt'"),
        ("llava", {"image": "1", "conversations": [{"from": "human", "value": ""}]}, "does not end with an answer"),
        ("own", {"picture": "1.jpg"}, "unknown fields picture"),
        ("own", {"image": "1.jpg", "boxes": [[1, 2, 3]]}, "not four numbers"),
        ("own", {"image": "1.jpg", "boxes": [[1, 2, 3, 4]], "labels": ["a", "b"]}, "2 labels for 1 boxes"),
    ],
)
def test_a_record_that_is_not_of_its_format_is_named(tmp_path, format_name, record, told):
    source = source_of([record], format_name, tmp_path)
    with pytest.raises(InputError, match=rf"annotations\.json, record 0: .*{told}"):
        source[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "holds an empty file, expected a JSON object"),
        ("[]", "holds a JSON list, expected a JSON object"),
        ('{"images": []}', "annotations missing"),
        ('{"images": [], "annotations": [', "not valid JSON"),
        ('{"images": [{"id": 1}, {"id": 1}], "annotations": [], "categories": []}', "two pictures have the id 1"),
        ('{"images": [{"file_name": "x"}], "annotations": []}', "has no 'id'"),
    ],
)
def test_a_file_that_is_not_coco_style_is_named_and_leaves_no_index(tmp_path, content, told):
    with pytest.raises(InputError, match=told):
        source_of(content, "coco", tmp_path)
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else True


@pytest.mark.parametrize("format_name", FORMATS)
def test_exported_scenes_come_back(scenes, tmp_path, format_name):
    source = Source(export_scenes(scenes, format_name, tmp_path), format_name)
    numbers = {picture_name(k): k for k in range(len(scenes))}
    annotations = [source[k] for k in range(len(source))]
    assert {numbers[a.picture] for a in annotations} == set(range(len(scenes)))
    for annotation in annotations:
        scene = scenes[numbers[annotation.picture]]
        boxes = {entry.box_xyxy_px for entry in scene.objects}
        for box in annotation.boxes_xyxy_frame:
            scaled = [value * (scene.size_px if annotation.is_normalized else 1) for value in box]
            assert tuple(round(value) for value in scaled) in boxes
        caption = caption_of(scene, numbers[annotation.picture])
        assert all(p.text == caption.text for p in annotation.passages)
        phrases = {p.text[s.start : s.end] for p in annotation.passages for s in p.spans}
        assert phrases <= {caption.text[s.start : s.end] for s in caption.spans}


def test_every_format_can_be_exported():
    assert EXPORTERS.keys() == FORMATS.keys()
    with pytest.raises(InputError, match="no annotation format 'voc'; known are coco,"):
        Source(None, "voc")  # type: ignore[arg-type]


def test_annotations_survive_json(scenes, tmp_path):
    for format_name in FORMATS:
        source = Source(export_scenes(scenes, format_name, tmp_path / format_name), format_name)
        for k in range(len(source)):
            assert Annotation.from_dict(json.loads(json.dumps(source[k].to_dict()))) == source[k]


def test_an_index_is_made_once_and_anew_when_the_file_changes(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("[1, 2]")
    first = index_records(file, iter([1, 2]), kind="k")
    assert index_records(file, _never(), kind="k").file == first.file
    file.write_text("[1, 2, 3]")
    assert list(index_records(file, iter([1, 2, 3]), kind="k")) == [1, 2, 3]
    assert list(pickle.loads(pickle.dumps(first))) == [1, 2]


def _never():
    raise AssertionError("the index is there already")
    yield


def test_annotations_of_no_picture_are_counted(tmp_path):
    content = coco({"bbox": [1, 2, 3, 4], "category_id": 1}, {"bbox": [1, 2, 3, 4], "category_id": 1, "image_id": 8})
    source = source_of(content, "coco", tmp_path)
    assert source.index.num_orphans == 1 and len(source[0].boxes_xyxy_frame) == 1
    with sqlite3.connect(source.index.file) as connection:
        assert connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name LIKE 'member%'").fetchone() == (0,)


@pytest.mark.parametrize(
    "text", ["[A car](0) and [trees](1,2).", r"\[1\] [a \[b\]](3)", "no [marks] here (0)", "x\\\\y"]
)
def test_markup_goes_both_ways(text):
    passage = read_markup(text)
    assert read_markup(write_markup(passage)) == passage


def test_markup_ties_phrases():
    assert read_markup(r"[A car](0) by [two trees](1, 2) \[sic\]") == Passage(
        "A car by two trees [sic]", (Span(0, 5, (0,)), Span(9, 18, (1, 2)))
    )


def test_own_questions_point_by_number(tmp_path):
    turn = {"question": "Is [1] left of [2]?", "answer": "Yes, [it](1) is.", "boxes": [1, 0]}
    record = {"image": "a.jpg", "boxes": [[0, 0, 5, 5], [6, 6, 9, 9]], "conversation": [turn]}
    (exchange,) = source_of([record], "own", tmp_path)[0].exchanges
    assert exchange.question == Passage("Is [1] left of [2]?", (Span(3, 6, (1,)), Span(15, 18, (0,))))
    assert exchange.grounded and exchange.answer.spans == (Span(5, 7, (1,)),)
    lonely = record | {"conversation": [turn | {"question": "Is [1] left?"}]}
    with pytest.raises(InputError, match="must point at each of its boxes"):
        source_of([lonely], "own", tmp_path, name="lonely.json")[0]


def test_sa1b_comes_as_a_folder_of_one_file_a_picture(tmp_path):
    folder = tmp_path / "sa1b"
    for number in (2, 1):
        content = {
            "image": {"image_id": number, "file_name": f"sa_{number}.jpg", "width": 200, "height": 100},
            "annotations": [{"bbox": [10, 20, 30, 40], "segmentation": {"counts": "x" * 99}, "predicted_iou": 0.9}],
        }
        (folder / f"sa_00000{number}").mkdir(parents=True)
        (folder / f"sa_00000{number}" / f"sa_{number}.json").write_text(json.dumps(content))
    source = Source(folder, "coco")
    assert [source[k].picture for k in range(len(source))] == ["sa_1.jpg", "sa_2.jpg"]
    assert source[0].boxes_xyxy_frame == ((10, 20, 40, 60),) and source[0].labels == ("object",)
    assert "segmentation" not in str(source.index[0])
    (folder / "sa_000001" / "sa_1.json").unlink()  # the folder changed: another index
    assert len(Source(folder, "coco")) == 1


@pytest.mark.parametrize(
    ("content", "told"), [(None, "no .json file"), ({"images": []}, r"expected .*image.*annotations")]
)
def test_a_folder_of_another_kind_is_named(tmp_path, content, told):
    folder = tmp_path / "folder"
    folder.mkdir()
    if content is not None:
        (folder / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=told):
        Source(folder, "coco")
