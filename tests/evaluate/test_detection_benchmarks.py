"""LVIS-Ground and proposals against the field's own tools, and absent objects against hand-computed cases."""

import contextlib
import io
import json

import numpy as np
import pytest
from knowing import Knowing, numbered
from test_referring import outcome, refused

from groma.evaluate import open_benchmark
from groma.evaluate.benchmarks.absent import says_yes
from groma.evaluate.data_folder import Place
from groma.evaluate.questions import Record
from groma.inference import proposals as proposals_module
from groma.inference.result import Region

NAMES = ("dog", "cat_(animal)", "sports_ball", "tree")
SPOKEN = ("dog", "cat", "sports ball", "tree")
PICTURES = 12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def made_up(tmp_path):
    """Random boxes of all sizes and the answers to them: some exact, some near, some of other boxes, some missing."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for picture in range(1, PICTURES + 1):
        numbered(picture, (400, 400)).save(tmp_path / f"{picture}.png")
        images.append({"id": picture, "file_name": f"{picture}.png", "width": 400, "height": 400})
        for _ in range(int(rng.integers(1, 7))):
            width, height = (float(v) for v in rng.choice([12, 25, 60, 110, 190], size=2))
            x, y = (float(v) for v in rng.integers(0, 200, size=2))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture,
                    "category_id": int(rng.integers(1, len(NAMES) + 1)),
                    "bbox": [x, y, width, height],
                    "area": width * height * float(rng.uniform(0.5, 1)),  # of a mask
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(content))
    return content


def near(rng, bbox):
    x, y, width, height = bbox
    shift = rng.normal(0, rng.choice([0.0, 0.05, 0.2]), size=4) * (width, height, width, height)
    x1, y1 = x + shift[0], y + shift[1]
    return (float(x1), float(y1), float(x1 + max(2, width + shift[2])), float(y1 + max(2, height + shift[3])))


def answering(content):
    """(picture, name) -> boxes with scores."""
    rng = np.random.default_rng(1)
    answers: dict[tuple[int, str], list] = {}
    for entry in content["annotations"]:
        name = SPOKEN[entry["category_id"] - 1]
        own = answers.setdefault((entry["image_id"], name), [])
        for _ in range(int(rng.integers(0, 3))):
            own.append((near(rng, entry["bbox"]), float(np.round(rng.random(), 3))))
    return answers


def coco_figures(content, answers, *, first, sizes=(0, 1, 2, 3)):
    """What faster-coco-eval says of the same boxes."""
    from faster_coco_eval import COCO, COCOeval_faster

    found = []
    for (picture, name), own in answers.items():
        wanted = [e for e in content["annotations"] if e["image_id"] == picture]
        count = sum(SPOKEN[e["category_id"] - 1] == name for e in wanted)
        for place, (box, score) in enumerate(own[:count] if first else own):
            x1, y1, x2, y2 = (round(v, 2) for v in box)
            found.append(
                {
                    "image_id": picture,
                    "category_id": SPOKEN.index(name) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": 1.0 - place * 1e-6 if first else score,
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(content)
        evaluation = COCOeval_faster(truth, truth.loadRes(found), "bbox")
        evaluation.params.maxDets = [1, 10, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    recall = np.asarray(evaluation.eval["recall"])[:, :, :, -1]  # thresholds, classes, sizes
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]

    def mean(values):
        return values[values > -1].mean()

    return [mean(recall[:, :, size]) for size in sizes], mean(recall[0, :, 0]), mean(recall[5, :, 0]), mean(precision)


def test_lvis_ground_agrees_with_the_fields_own_tool(made_up, tmp_path):
    pytest.importorskip("faster_coco_eval")
    answers = answering(made_up)
    assistant = Knowing(lambda k, phrase, all_of_them: answers.get((k, phrase), []) if all_of_them else [])
    figures = outcome("lvis-ground", Place(data=tmp_path), assistant).metrics()
    sizes, at50, at75, _ = coco_figures(made_up, answers, first=True)
    ours = [figures[metric] for metric in ("ar", "ar_small", "ar_medium", "ar_large")]
    assert ours == pytest.approx(sizes, abs=1e-9) and len(set(ours)) == 4
    assert (figures["ar50"], figures["ar75"]) == pytest.approx((at50, at75), abs=1e-9)
    (all_of_them,), _, _, precision = coco_figures(made_up, answers, first=False, sizes=(0,))
    assert figures["ar_all"] == pytest.approx(all_of_them, abs=1e-9) and figures["ar_all"] > figures["ar"]
    assert figures["ap"] == pytest.approx(precision, abs=1e-9)


def test_lvis_pardons_more_boxes_of_classes_that_are_not_annotated_exhaustively(made_up, tmp_path):
    """Every box exact, with a wrong, surer one: a false alarm, but not where there may be more than annotated."""
    pytest.importorskip("faster_coco_eval")
    boxes: dict[tuple[int, str], list] = {}
    for entry in made_up["annotations"]:
        x, y, width, height = entry["bbox"]
        own = boxes.setdefault(
            (entry["image_id"], SPOKEN[entry["category_id"] - 1]), [((390.0, 390.0, 399.0, 399.0), 0.9)]
        )
        own.append(((x, y, x + width, y + height), 0.5))

    def ap(incomplete):
        for image in made_up["images"]:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": incomplete}
        (tmp_path / "val.json").write_text(json.dumps(made_up))
        return outcome(
            "lvis-ground", Place(data=tmp_path), Knowing(lambda k, phrase, _: boxes.get((k, phrase), []))
        ).metrics()["ap"]

    assert ap([1, 2, 3, 4]) == pytest.approx(1.0)
    assert 0.2 < ap([]) < 0.7 and ap([]) < ap([1, 2]) < 1


def test_lvis_ground_asks_each_class_of_each_picture_as_people_say_it(made_up, tmp_path):
    assistant = Knowing()
    outcome("lvis-ground", Place(data=tmp_path), assistant)
    pairs = {(e["image_id"], e["category_id"]) for e in made_up["annotations"]}
    assert len(assistant.asked) == len(pairs)
    assert {phrase for _, phrase in assistant.asked} <= {"dog", "cat", "sports ball", "tree"}


def test_proposals_agree_with_the_fields_own_tool(made_up, tmp_path, monkeypatch):
    pytest.importorskip("faster_coco_eval")
    from faster_coco_eval import COCO, COCOeval_faster

    rng = np.random.default_rng(2)
    found = {
        picture: [
            (near(rng, entry["bbox"]), 0.0) for entry in made_up["annotations"] * 3 if entry["image_id"] == picture
        ][: int(rng.integers(3, 30))]
        for picture in range(1, PICTURES + 1)
    }

    def all_proposals(assistant, seen):
        rows = [assistant.regions_of(one.image.getpixel((0, 0))[1]) for one in seen]
        return [
            [Region(id=k, box_xyxy_px=b, objectness=s, source="proposal") for k, (b, s) in enumerate(r)] for r in rows
        ]

    monkeypatch.setattr("groma.evaluate.questions.all_proposals", all_proposals)
    assistant = Knowing(regions_of=lambda k: found[k])
    figures = outcome("proposals", Place(data=tmp_path), assistant).metrics()
    rows = [
        {"image_id": k, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 1 - place * 1e-4}
        for k, own in found.items()
        for place, (box, _) in enumerate(own)
        for x1, y1, x2, y2 in [[round(v, 2) for v in box]]
    ]
    content = made_up | {"annotations": [e | {"category_id": 1} for e in made_up["annotations"]]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(content)
        evaluation = COCOeval_faster(truth, truth.loadRes(rows), "bbox")
        evaluation.params.maxDets = [10, 100, 300]
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
    recall = np.asarray(evaluation.eval["recall"])[:, 0]  # thresholds, sizes, budgets
    assert [figures[f"ar{budget}"] for budget in (10, 100, 300)] == pytest.approx(recall[:, 0, :].mean(0), abs=1e-9)
    sizes = [figures[f"ar_{size}"] for size in ("small", "medium", "large")]
    assert sizes == pytest.approx(recall[:, 1:, -1].mean(0), abs=1e-9)
    assert figures["selected_ar"] == pytest.approx(figures["ar300"]), "the same boxes here"
    assert proposals_module.all_proposals is not all_proposals


# --- absent objects ---------------------------------------------------------------------------------------------------


def test_yes_and_no_are_read_as_pope_reads_them():
    assert says_yes("Yes, there is a dog.") and says_yes("A dog is in the image. It is not a cat.")
    assert not says_yes("No, there isn't.") and not says_yes("There is not a dog.") and not says_yes("There isn't any.")
    assert not says_yes("")


def test_who_never_refuses_and_who_knows(made_up, tmp_path):
    """Half of the questions are about what is there: who always says yes is right in half of them."""
    place = Place(data=tmp_path)
    never = Knowing(lambda *_: [((0.0, 0.0, 9.0, 9.0), 1.0)], lambda *_: "Yes, there is.")
    figures = outcome("absent", place, never).metrics()
    assert set(figures) == {"random", "popular", "adversarial"}
    for own in figures.values():
        assert own["accuracy"] == 0.5 and own["yes"] == 1 == own["recall"] and own["precision"] == 0.5
        assert own["f1"] == pytest.approx(2 / 3)
        assert own["refused_absent"] == 0 == own["refused_present"]
    there = {
        (e["image_id"], NAMES[e["category_id"] - 1].split("_(")[0].replace("_", " ")) for e in made_up["annotations"]
    }

    def boxes(k, phrase, _all):
        return [((0.0, 0.0, 9.0, 9.0), 1.0)] if (k, phrase) in there else []

    def text(k, question, _boxes):
        return "Yes." if any(p == k and f" {name} in" in question for p, name in there) else "No, there is none."

    for own in outcome("absent", place, Knowing(boxes, text)).metrics().values():
        assert own["accuracy"] == own["f1"] == own["refused_absent"] == 1 and own["refused_present"] == 0


def test_absent_classes_are_chosen_as_told(made_up, tmp_path):
    benchmark = open_benchmark("absent", Place(data=tmp_path))
    frequency = {}
    for _, name in {(e["image_id"], NAMES[e["category_id"] - 1]) for e in made_up["annotations"]}:
        frequency[name] = frequency.get(name, 0) + 1
    for case in benchmark.cases:
        labels = set(case.detected.labels)
        assert case.present == (case.label in labels)
        if case.kind == "popular" and not case.present:
            asked = {c.label for c in benchmark.cases if c.detected is case.detected and c.kind == "popular"}
            left = set(NAMES) - labels - asked
            assert all(frequency[case.label] >= frequency.get(name, 0) for name in left)
    by_kind = [[c for c in benchmark.cases if c.kind == kind] for kind in ("random", "popular", "adversarial")]
    assert len({tuple((c.detected.picture, c.label) for c in own) for own in by_kind}) > 1
    again = open_benchmark("absent", Place(data=tmp_path))
    assert [(c.kind, c.label) for c in again.cases] == [(c.kind, c.label) for c in benchmark.cases]


def test_lvis_knows_what_is_absent(made_up, tmp_path):
    """Only what a picture is said to lack is asked for."""
    for image in made_up["images"]:
        image |= {"neg_category_ids": [4], "not_exhaustive_category_ids": []}
    (tmp_path / "val.json").write_text(json.dumps(made_up))
    benchmark = open_benchmark("absent", Place(data=tmp_path))
    assert {case.label for case in benchmark.cases if not case.present} == {"tree"}


def test_files_without_boxes_or_classes_are_refused(tmp_path):
    (tmp_path / "val.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    assert "has no boxes" in refused("lvis-ground", Place(data=tmp_path))
    assert "has no boxes" in refused("absent", Place(data=tmp_path))


def test_records_come_back_from_json():
    record = Record(text="a", regions_xyxy_px=((0.0, 1.0, 2.0, 3.0),), objectness=(0.5,))
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record
