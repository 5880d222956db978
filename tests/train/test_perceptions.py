"""What was perceived before is what would be perceived now, and only of the right scenes by the right weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro import SIDE_PX, micro_stage

from groma.data.scenes.scene import make_scene
from groma.errors import CheckpointError
from groma.image import Preprocessing
from groma.model.groma import GromaModel
from groma.train import run
from groma.train.parts import save_parts
from groma.train.perceptions import Perceptions, identity_of, perceive_scenes, perceive_series
from groma.train.run import World, build_objective, build_stream, find_model, run_stage, validation_terms

COUNT = 7


@pytest.fixture(scope="module")
def model(micro_architecture) -> GromaModel:
    torch.manual_seed(1)
    return GromaModel(find_model("micro"))


def pixels_of(numbers: range) -> torch.Tensor:
    images = np.stack([make_scene("train", number, 5, size_px=SIDE_PX).image for number in numbers])
    return Preprocessing(size_px=SIDE_PX).normalize(images)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recalled_is_what_is_perceived(model, tmp_path, precision):
    done = []
    perceptions = perceive_series(
        model,
        pixels_of,
        count=COUNT,
        folder=tmp_path,
        identity="x",
        batch_size=3,
        precision=precision,
        on_progress=done.append,
    )
    assert done == [3, 6, 7] and perceptions.count == COUNT
    levels = len(model.config.region_encoder.upsample)
    for indices in ([2, 0, 6], [6], [1, 1]):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            now = model.perceive(torch.cat([pixels_of(range(index, index + 1)) for index in indices]))
        then = perceptions.recall(indices)
        assert len(then.maps.last) == levels
        tolerance = {"rtol": 2**-10, "atol": 1e-3} if precision == "fp32" else {"rtol": 2**-7, "atol": 3e-2}
        for ours, theirs in zip(then.maps.last, now.maps.last[-levels:], strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs.float(), **tolerance)
        torch.testing.assert_close(then.proposals.boxes_cxcywh, now.proposals.boxes_cxcywh, rtol=1e-3, atol=5e-3)
        assert list(then.proposals.logits) == list(now.proposals.logits)
        for source, logits in then.proposals.logits.items():
            torch.testing.assert_close(logits, now.proposals.logits[source], rtol=1e-3, atol=5e-3)


def test_complete_folders_of_the_same_identity_are_used_again(model, tmp_path):
    calls = []

    def pixels(numbers: range) -> torch.Tensor:
        calls.append(numbers)
        return pixels_of(numbers)

    def perceive(**changes):
        return perceive_series(model, pixels, folder=tmp_path, **({"count": 3, "identity": "a"} | changes))

    perceive()
    assert len(calls) == 1
    perceive()
    assert len(calls) == 1, "used as it is"
    assert perceive(count=2).count == 2 and len(calls) == 2, "another count is another series"
    assert perceive(count=2, identity="b").identity == "b" and len(calls) == 3
    (tmp_path / "index.json").unlink()
    perceive(count=2, identity="b")
    assert len(calls) == 4, "a folder that was not finished is filled anew"


def test_an_interrupted_folder_cannot_be_opened(model, tmp_path):
    def fail(numbers: range) -> torch.Tensor:
        if numbers.start:
            raise KeyboardInterrupt
        return pixels_of(numbers)

    with pytest.raises(KeyboardInterrupt):
        perceive_series(model, fail, count=4, batch_size=2, folder=tmp_path, identity="a")
    with pytest.raises(CheckpointError, match=r"index\.json"):
        Perceptions(tmp_path)


def test_identity_depends_on_weights_and_scenes(model):
    identity = identity_of(model, seed=1, size_px=64)
    assert identity == identity_of(model, seed=1, size_px=64)
    assert len({identity, identity_of(model, seed=2, size_px=64), identity_of(model, seed=1, size_px=96)}) == 3
    weight = model.proposer.proposal_head.bias
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight += 1e-3
        assert identity_of(model, seed=1, size_px=64) != identity
    finally:
        with torch.no_grad():
            weight.copy_(before)
    with torch.no_grad():  # what comes later in the flow does not matter
        model.projector.output.bias += 1.0
    assert identity_of(model, seed=1, size_px=64) == identity


@pytest.fixture
def perceived(model, tmp_path):
    """A checkpoint of the model and perceptions of a series by it."""
    checkpoint = tmp_path / "earlier" / "step-00000001"
    (checkpoint / "model").mkdir(parents=True)
    save_parts(dict(model.named_children()), checkpoint / "model")
    folder = tmp_path / "perceptions"
    perceive_scenes(model, seed=5, size_px=SIDE_PX, count=COUNT, folder=folder)
    return checkpoint, micro_stage("tiny-align", seed=5, perceptions=str(folder))


def test_training_on_perceptions_equals_training_on_pictures(perceived, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "VALIDATION_BATCHES", 1)
    checkpoint, config = perceived
    result = run_stage(config, out=tmp_path / "out", init=[checkpoint])
    assert result.finished
    objective = build_objective(config)
    batch = build_stream(config, World()).next()
    assert batch.images is None and max(batch.indices) < COUNT
    run.load_parts(objective.parts(), checkpoint)
    images = np.stack([make_scene("train", index, 5, size_px=SIDE_PX).image for index in batch.indices])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        recalled = objective(batch, total_weight=1.0).total
        seen = objective(replace(batch, images=torch.from_numpy(images)), total_weight=1.0).total
    torch.testing.assert_close(recalled, seen, rtol=5e-3, atol=0.0)


def test_validation_looks_at_its_own_pictures(perceived, monkeypatch):
    """Perceptions are of training scenes: they must not stand for validation scenes of the same numbers."""
    monkeypatch.setattr(run, "VALIDATION_BATCHES", 1)
    checkpoint, config = perceived
    without = replace(config, data=replace(config.data, perceptions=""))
    figures = []
    for stage in (config, without):
        objective = build_objective(stage).eval()
        run.load_parts(objective.parts(), checkpoint)
        torch.manual_seed(0)
        figures.append(validation_terms(objective, stage))
    assert figures[0]["answer"] == pytest.approx(figures[1]["answer"], rel=1e-5)


def test_perceptions_of_other_weights_or_scenes_are_refused(perceived, tmp_path):
    checkpoint, config = perceived
    with pytest.raises(CheckpointError, match="perceived by other weights"):
        run_stage(config, out=tmp_path / "fresh")  # without init: another encoder
    other = replace(config, data=replace(config.data, seed=6))
    with pytest.raises(CheckpointError, match="perceived by other weights"):
        run_stage(other, out=tmp_path / "seed", init=[checkpoint])
