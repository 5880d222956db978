"""The benchmark: perfect for who knows the scenes, and lower for every way of not knowing them."""

import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from oracle import SIDE_PX, Credulous, Oracle, Repeating, Shifted, Shrunk, Silent, Stammering, Unsure

from groma.data.scenes.referring import groups
from groma.data.scenes.scene import Scene, make_scene
from groma.data.scenes.wording import COLOURS, HELD_OUT_NAMES, NAMES, thing_of
from groma.data.wording import with_article
from groma.errors import InputError
from groma.evaluate import open_benchmark, scenes
from groma.evaluate.benchmarks.scenes import SPLITS
from groma.evaluate.data_folder import Place
from groma.evaluate.matching import found_once, overlaps
from groma.evaluate.report import Outcome, measure
from groma.evaluate.runner import run_benchmark
from groma.evaluate.scenes import KEYS, _a_kind, _locate_questions, _phrase, _split_thing, evaluate_scenes
from groma.image import Preprocessing
from groma.inference.assistant import Groma
from groma.model.groma import GromaModel
from small_models import IMAGE_SIZE, byte_bpe, enliven, small_config

N, SEED = 40, 7

ISSUE_KEYS = {
    "recall50",
    "recall75",
    "refer_name",
    "refer_attribute",
    "refer_relation",
    "name_region",
    "locate_all_f1",
    "refused_absent",
    "refused_present",
    "caption_grounding",
    "ece",
}
PERFECT = dict.fromkeys(ISSUE_KEYS, 1.0) | {"refused_present": 0.0, "ece": 0.0}


def metrics_of(assistant_kind: type[Oracle], **options) -> dict[str, float]:
    return evaluate_scenes(assistant_kind(n=N, seed=SEED), n=N, seed=SEED, **options).metrics()


def outcome_of(assistant, *, n: int, seed: int, splits=()) -> Outcome:
    benchmark = open_benchmark("scenes", Place(n=n, seed=seed, splits=splits))
    return measure(benchmark, run_benchmark(assistant, benchmark, batch_size=7), model="oracle")


def changed(assistant_kind: type[Oracle]) -> dict[str, float]:
    """The metrics that are not perfect."""
    return {key: value for key, value in metrics_of(assistant_kind).items() if value != PERFECT[key]}


def test_who_knows_the_scenes_is_perfect():
    assert metrics_of(Oracle) == PERFECT


def test_the_keys_are_those_of_the_issue():
    figures = outcome_of(Oracle(n=3, seed=1), n=3, seed=1).metrics()
    assert list(figures) == list(KEYS) and set(figures) == ISSUE_KEYS and len(KEYS) == 11
    assert all(type(value) is float for value in figures.values())
    json.dumps(figures)


def test_silence():
    figures = metrics_of(Silent)
    assert figures.pop("refused_absent") == 1.0 == figures.pop("refused_present")
    assert math.isnan(figures.pop("ece")), "nothing was named, nothing is calibrated"
    assert set(figures.values()) == {0.0}


def test_boxes_beside_the_objects():
    figures = metrics_of(Shifted)
    assert figures.pop("name_region") == 1.0 == figures.pop("refused_absent")
    assert figures.pop("refused_present") == 0.0
    assert figures.pop("ece") > 0.9
    assert all(value < 0.1 for value in figures.values()), figures


def test_boxes_that_are_too_small_fail_the_strict_recall_alone():
    assert changed(Shrunk) == {"recall75": 0.0}


def test_who_finds_what_is_not_there():
    figures = changed(Credulous)
    assert figures.pop("refused_absent") == 0.0
    assert 0.05 < figures.pop("ece") < 0.4, "sure of what is not there: badly calibrated"
    assert not figures


def test_naming_an_object_twice_does_not_pay():
    figures = changed(Stammering)
    assert 0.7 < figures.pop("locate_all_f1") < 1
    assert 0 < figures.pop("ece") < 0.5
    assert not figures


def test_a_caption_that_says_the_same_again_does_not_pay():
    figures = changed(Repeating)
    assert figures.pop("caption_grounding") == pytest.approx(1 / 9)
    assert not figures


def test_who_is_right_but_unsure_is_badly_calibrated():
    assert changed(Unsure) == {"ece": pytest.approx(0.3)}


def test_results_do_not_depend_on_the_batch(monkeypatch):
    whole = metrics_of(Credulous)
    for size in (1, 7, 1000):
        monkeypatch.setattr(scenes, "BATCH", size)
        assert metrics_of(Credulous) == whole


def test_batches_are_as_large_as_they_say(monkeypatch):
    monkeypatch.setattr(scenes, "BATCH", 4)
    oracle = Oracle(n=10, seed=0)
    evaluate_scenes(oracle, n=10, seed=0)
    assert [count for call, count in oracle.calls if call == "see"] == [4, 4, 2]


def test_held_out_objects_are_only_found():
    oracle = Oracle(n=5, seed=SEED, splits=("test_objects",))
    figures = evaluate_scenes(oracle, n=5, seed=SEED, split="test_objects").metrics()
    assert figures["recall50"] == figures["recall75"] == 1.0
    assert all(math.isnan(value) for key, value in figures.items() if not key.startswith("recall"))
    with pytest.raises(InputError, match="no split 'tset'"):
        evaluate_scenes(oracle, n=5, seed=SEED, split="tset")


def test_outcome_of_all_splits():
    outcome = outcome_of(Oracle(n=12, seed=SEED, splits=tuple(SPLITS)), n=12, seed=SEED, splits=tuple(SPLITS))
    assert set(outcome.sections) == {"test", "test_style", "test_objects"}
    assert set(outcome.sections["test"]) == set(outcome.sections["test_style"]) == ISSUE_KEYS
    assert set(outcome.sections["test_objects"]) == {"recall50", "recall75"}
    assert outcome.metrics()["test"] == PERFECT and list(outcome.metrics()["test"]) == list(KEYS)
    objects = sum(len(make_scene("test", k, SEED, size_px=SIDE_PX).objects) for k in range(12))
    recall = outcome.sections["test"]["recall50"]
    assert recall.cases == objects and recall.value == recall.high == 1.0
    assert recall.low == pytest.approx(objects / (objects + 1.96**2), abs=1e-3)
    json.dumps(outcome.to_dict())
    table = outcome.to_markdown()
    assert f"| `recall50` | 1.000 [{recall.low:.3f}, 1.000] |" in table
    assert re.search(r"\| `ece` \| 0\.000 \[0\.000, 0\.000\] \| .* \| - \|", table)
    assert all(f"`{key}`" in table for key in KEYS)


def test_the_runner_measures_the_same():
    oracle = Credulous(n=N, seed=SEED, splits=tuple(SPLITS))
    assert outcome_of(oracle, n=N, seed=SEED).metrics() == metrics_of(Credulous)


# --- fairness of the questions --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, dict]]:
    rows = []
    for split in ("test", "test_style"):
        for index in range(150):
            scene = make_scene(split, index, 3, size_px=SIDE_PX)
            rows.append((scene, dict(_locate_questions(scene, np.random.default_rng((3, index))))))
    return rows


def test_what_is_asked_for_as_absent_is_absent(asked):
    colours = 0
    for scene, questions in asked:
        words = _phrase(questions["refused_absent"]).removeprefix("the ")
        name, colour = _split_thing(words)
        assert name == "object" or name in NAMES + HELD_OUT_NAMES, words
        for entry in scene.objects:
            may_be = name in ("object", entry.name) and (colour is None or colour in entry.may_be_called)
            assert not may_be, f"{words} may be {entry}"
        colours += name in groups(scene)
    assert colours > len(asked) / 10, "also things that are there in another colour"


def test_names_alone_do_not_decide_attributes_and_relations(asked):
    metrics = Counter(metric for _, questions in asked for metric in questions)
    assert metrics["refused_absent"] == len(asked)
    assert min(metrics[key] for key in ("refer_name", "refer_attribute", "refer_relation")) > 30
    for scene, questions in asked:
        for metric, question in questions.items():
            if metric == "refused_absent":
                continue
            (target,) = question.targets[0].objects
            alike = sum(entry.name == scene.objects[target].name for entry in scene.objects)
            assert (alike == 1) == (metric == "refer_name"), (metric, _phrase(question))


def test_all_of_a_kind_means_several_where_there_are_several():
    for index in range(100):
        scene = make_scene("test", index, 3, size_px=SIDE_PX)
        name, members = _a_kind(scene, np.random.default_rng(index))
        assert set(members) == {k for k, entry in enumerate(scene.objects) if entry.name == name}
        most = max(Counter(entry.name for entry in scene.objects).values())
        assert (len(members) > 1) == (most > 1)


def test_a_real_model_runs_through():
    """Random weights know nothing, but answer in the form that the benchmark reads."""
    config = small_config(max_position_embeddings=1024)
    assistant = Groma(enliven(GromaModel(config), seed=0), byte_bpe(), Preprocessing(size_px=IMAGE_SIZE))
    figures = outcome_of(assistant, n=1, seed=0).metrics()
    assert list(figures) == list(KEYS)
    assert all(math.isnan(value) or 0 <= value <= 1 for value in figures.values())
    assert figures["name_region"] == 0 and figures["recall75"] < 0.5
    assert not math.isnan(figures["caption_grounding"])


# --- small parts ----------------------------------------------------------------------------------------------


def test_every_description_is_taken_apart():
    for name in NAMES + HELD_OUT_NAMES:
        for colour in (None, *COLOURS):
            for text in (
                with_article(thing_of(name, colour)),
                f"The {thing_of(name, colour)}.",
                thing_of(name, colour),
            ):
                assert _split_thing(text) == (name, colour)
                assert _split_thing(text.capitalize() + " ") == (name, colour)
    assert _split_thing("") == ("", None) and _split_thing("a red") == ("", "red")


def test_each_object_is_found_once_by_the_box_that_fits_best():
    objects = [(0, 0, 10, 10), (20, 0, 30, 10)]

    def found(boxes, wanted):
        return found_once(overlaps(boxes, wanted), 0.5)

    assert found([(0, 0, 10, 7), (0, 0, 10, 9), (20, 0, 30, 10)], objects) == [False, True, True]
    assert found([(0, 0, 10, 4)], objects) == [False]
    assert found([(0, 0, 10, 5)], objects) == [True], "an IoU of exactly one half counts"
    assert found([], objects) == [] and found([(0, 0, 1, 1)], []) == [False]


def test_a_phrase_must_fit_name_and_colour():
    oracle = Oracle(n=30, seed=2)
    scene = next(s for s in oracle._scenes.values() if len({o.name for o in s.objects}) == len(s.objects))
    tinted = next(k for k, o in enumerate(scene.objects) if o.colour)
    other = (tinted + 1) % len(scene.objects)
    entry = scene.objects[tinted]
    wrong_colour = next(c for c in COLOURS if c not in entry.may_be_called)

    def fits(phrase: str, member: int) -> bool:
        entity = oracle._answer(scene, phrase, [(phrase, [member])]).entities[0]
        return scenes._fitting(entity, scene.objects) is not None

    assert fits(f"a {entry.colour} {entry.name}", tinted) and fits(f"a {entry.name}", tinted)
    assert not fits(f"a {wrong_colour} {entry.name}", tinted)
    assert not fits(f"a {entry.name}", other)
    assert not fits("a thing", tinted)
