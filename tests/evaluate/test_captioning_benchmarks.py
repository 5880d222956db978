"""Captions of regions and of pictures: what is asked, which references count, and hand-computed grounding figures."""

import json

import pytest
from knowing import Knowing, numbered
from test_referring import BOX, outcome, pairs, pictures, refused

from groma.evaluate import open_benchmark
from groma.evaluate.captions.cider import cider_d
from groma.evaluate.captions.meteor import meteor, meteor_available
from groma.evaluate.data_folder import Place

OTHER = (60.0, 60.0, 90.0, 90.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def without_meteor(monkeypatch):
    """It takes seven seconds to start; one test here and one of its own run it."""
    monkeypatch.setattr("groma.evaluate.benchmarks.captioning.meteor_available", lambda: "left out")


def test_regions_are_asked_one_by_one_with_all_captions_of_a_box(tmp_path):
    pictures(tmp_path, 2)
    boxes = [[10, 10, 40, 40], [10, 10, 40, 40], [60, 60, 30, 30], [10, 10, 40, 40]]
    captions = ["a red dog", "one red dog", "a blue cat", "a green tree"]
    annotations = [
        {"id": k, "image_id": 1 if k < 3 else 2, "bbox": box, "caption": text, "category_id": 1}
        for k, (box, text) in enumerate(zip(boxes, captions, strict=True))
    ]
    images = [{"id": k, "file_name": f"{k}.png", "width": 100, "height": 100} for k in (1, 2)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    (tmp_path / "vg_test.json").write_text(json.dumps(content))
    said = {(1, BOX): "A red dog.", (1, OTHER): "A cat.", (2, BOX): "Something else."}
    assistant = Knowing(text_of=lambda k, _question, given: said[k, given[0]])
    figures = outcome("visual-genome", Place(data=tmp_path), assistant).metrics()
    references = [["a red dog", "one red dog"], ["a blue cat"], ["a green tree"]]
    expected = cider_d(list(said.values()), references)
    assert figures["cider"] == pytest.approx(expected.mean()) and expected[0] > expected[1] > expected[2]
    if not meteor_available():
        assert figures["meteor"] == pytest.approx(meteor(list(said.values()), references).corpus)


@pytest.mark.usefixtures("without_meteor")
def test_refcocog_takes_its_expressions_as_captions(tmp_path):
    pictures(tmp_path, 4)
    pairs(tmp_path, "finetune_refcocog_val.json")
    assistant = Knowing(text_of=lambda *_: "the man")
    figures = outcome("refcocog-captions", Place(data=tmp_path), assistant).metrics()
    assert figures["cider"] > 0


def test_without_java_the_report_says_that_meteor_is_missing(tmp_path, monkeypatch):
    pictures(tmp_path, 4)
    pairs(tmp_path, "finetune_refcocog_val.json")
    monkeypatch.setattr("groma.evaluate.benchmarks.captioning.meteor_available", lambda: "no Java here")
    found = outcome("refcocog-captions", Place(data=tmp_path), Knowing(text_of=lambda *_: "the man"))
    assert "meteor" not in found.metrics() and "without METEOR: no Java here" in found.to_markdown()


def flickr(folder):
    """One picture with two captions: a man (BOX) and a red dog (OTHER)."""
    numbered(1).save(folder / "1.png")
    image = {"file_name": "1.png", "width": 100, "height": 100}
    captions = ["A man with a red dog.", "The dog is small."]
    images = [image | {"id": k, "caption": text} for k, text in enumerate(captions)]
    spans = [(0, BOX, 0, 5), (0, OTHER, 11, 20), (1, OTHER, 0, 7)]
    annotations = [
        {
            "id": k,
            "image_id": image_id,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "category_id": 1,
            "tokens_positive": [[start, end]],
        }
        for k, (image_id, box, start, end) in enumerate(spans)
    ]
    content = {"images": images, "annotations": annotations, "categories": []}
    (folder / "final_flickr_separateGT_test.json").write_text(json.dumps(content))


@pytest.mark.usefixtures("without_meteor")
def test_phrases_must_fit_word_and_box(tmp_path):
    """Right word and box; right box, wrong word; right word, wrong box."""
    flickr(tmp_path)
    answer = "There is [an old man|10,10,50,50] and [a cat|60,60,90,90] near [the dog|0,0,9,9]."
    assistant = Knowing(text_of=lambda *_: answer)
    figures = outcome("flickr30k", Place(data=tmp_path), assistant).metrics()
    assert len(assistant.seen) == 1, "two captions of a picture are one case"
    assert figures["phrase_precision"] == pytest.approx(1 / 3) and figures["phrase_recall"] == pytest.approx(1 / 3)
    assert figures["phrase_box_f1"] == pytest.approx(1 / 3)
    assert figures["box_precision"] == pytest.approx(2 / 3) and figures["box_recall"] == 1
    assert figures["phrases"] == 3


@pytest.mark.usefixtures("without_meteor")
def test_a_perfect_and_a_silent_caption(tmp_path):
    flickr(tmp_path)
    perfect = Knowing(text_of=lambda *_: "[A man|10,10,50,50] with [a red dog|60,60,90,90].")
    figures = outcome("flickr30k", Place(data=tmp_path), perfect).metrics()
    assert figures["phrase_box_f1"] == 1 == figures["phrase_recall"] == figures["phrase_precision"]
    silent = outcome("flickr30k", Place(data=tmp_path), Knowing()).metrics()
    assert silent["phrase_box_f1"] == 0 and silent["phrases"] == 0


def test_files_of_another_format_are_refused(tmp_path):
    pictures(tmp_path, 4)
    pairs(tmp_path, "vg_test.json")
    assert "vg_test.json, record 0: 'caption' is missing" in refused("visual-genome", Place(data=tmp_path))
    pairs(tmp_path, "flickr30k_test.json")
    assert "tokens_positive" in refused("flickr30k", Place(data=tmp_path))


def test_quality_ranks_answers(tmp_path):
    pictures(tmp_path, 4)
    pairs(tmp_path, "finetune_refcocog_val.json")
    benchmark = open_benchmark("refcocog-captions", Place(data=tmp_path))
    best, worst = ({"answers": [{"text": text, "named": [], "regions_xyxy_px": [], "objectness": []}]}
                   for text in ("the man", "a tree"))  # fmt: skip
    assert benchmark.quality(0, best) == 1 and benchmark.quality(0, worst) == 0
