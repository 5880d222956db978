"""Caption scores against what the COCO caption evaluation's own programs said (scripts/make_caption_fixture.py)."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from groma.errors import InputError, MissingExtraError
from groma.evaluate.captions import meteor as meteor_module
from groma.evaluate.captions.cider import cider_d
from groma.evaluate.captions.meteor import meteor, meteor_available
from groma.evaluate.captions.ptb import tokenize

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "captions.json").read_text(encoding="utf-8"))
CANDIDATES = [case["candidate"] for case in FIXTURE["cases"]]
REFERENCES = [case["references"] for case in FIXTURE["cases"]]
needs_meteor = pytest.mark.skipif(bool(meteor_available()), reason=meteor_available())


def test_tokens_are_those_of_the_java_program():
    assert len(FIXTURE["tokens"]) > 200
    for row in FIXTURE["tokens"]:
        assert tokenize(row["text"]) == [token for token in row["tokens"] if token], row["text"]


def test_cider_is_the_evaluations_own():
    scores = cider_d(CANDIDATES, REFERENCES)
    np.testing.assert_allclose(scores, FIXTURE["cider"]["each"], atol=1e-8)
    assert scores.mean() == pytest.approx(FIXTURE["cider"]["corpus"], abs=1e-8)
    assert 0.5 < scores.mean() < 9 and scores.min() == 0


def test_cider_by_hand():
    """Two cases: idf is log 2 for what one has, 0 for what both have."""
    same = cider_d(["red dog", "blue cat"], [["red dog"], ["blue cat"]])
    assert same == pytest.approx([5.0, 5.0])  # cosines of 1 for words and pairs, nothing longer
    half = cider_d(["red dog", "blue cat"], [["red dog"], ["blue dog"]])
    # of "blue", "cat" and the pair, "blue" alone agrees: 1/|candidate| * 1/|reference| with "dog" weighing nothing
    assert half[1] == pytest.approx(10 / 4 * (math.log(2) ** 2 / (math.log(2) * math.hypot(math.log(2), math.log(2)))))
    assert (cider_d(["a dog"], [["a dog"]]) == 0).all()  # one case alone: nothing is rare


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(InputError, match="needs references for each of 2"):
        cider_d(["a", "b"], [["a"]])
    with pytest.raises(InputError, match="needs references"):
        cider_d(["a"], [[]])


@needs_meteor
def test_meteor_is_the_evaluations_own():
    scores = meteor(CANDIDATES, REFERENCES)
    np.testing.assert_allclose(scores.segments, FIXTURE["meteor"]["each"], atol=1e-6)
    assert scores.corpus == pytest.approx(FIXTURE["meteor"]["corpus"], abs=1e-6)


@needs_meteor
def test_meteor_that_hangs_ends_in_an_error(monkeypatch):
    monkeypatch.setattr(meteor_module, "TIMEOUT_S", 0.05)
    with pytest.raises(InputError, match="Java program failed: it ended or did not answer in time"):
        meteor(["a dog"], [["a dog"]])


def test_what_meteor_lacks_is_named(monkeypatch):
    monkeypatch.setattr(meteor_module, "_jar", lambda: None)
    with pytest.raises(MissingExtraError, match=r"groma\[evaluate\]"):
        meteor(["a dog"], [["a dog"]])
    monkeypatch.setattr(meteor_module, "_jar", lambda: Path("meteor.jar"))
    monkeypatch.setattr(meteor_module.shutil, "which", lambda _name: None)
    with pytest.raises(InputError, match="needs Java"):
        meteor(["a dog"], [["a dog"]])
