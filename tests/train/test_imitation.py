"""Stage "align" shown what stage "speak" imagined: what the distance is, and that the imagined tokens must be there."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import micro_stage

from groma.errors import InputError
from groma.model.selection import match_regions
from groma.train.language import AnswerTraining
from groma.train.region_tables import RegionTables, imitation_loss
from groma.train.run import World, build_objective, build_stream, run_stage


def imitating(weight: float):
    config = micro_stage("tiny-align")
    return replace(config, language=replace(config.language, imitation=weight))


def objective_and_batch(weight: float = 0.5):
    torch.manual_seed(0)
    config = imitating(weight)
    objective = build_objective(config)
    assert isinstance(objective, AnswerTraining)
    return objective.train(), build_stream(config, World()).next()


def test_the_distance_of_equal_tokens_is_nothing_and_of_none_is_one_each():
    wanted = torch.randn(5, 8)
    assert imitation_loss(wanted, wanted) == 0
    torch.testing.assert_close(imitation_loss(torch.zeros(5, 8), wanted), torch.tensor(5.0))
    assert imitation_loss(wanted[:0], wanted[:0]) == 0


def test_a_token_is_name_colour_and_place():
    tables = RegionTables(8, num_names=3, num_colours=2)
    names, colours, boxes = torch.tensor([0, tables.nothing]), torch.tensor([1, 0]), torch.rand(2, 4)
    made = tables(names, colours, boxes)
    expected = tables.names.weight[names] + tables.colours.weight[colours] + tables.places(boxes)
    torch.testing.assert_close(made, expected)


def test_the_distance_is_that_of_the_objects_own_regions():
    objective, batch = objective_and_batch()
    weight = objective.weight(batch)
    losses = objective(batch, total_weight=weight)
    image_tokens = objective.model.config.num_image_tokens
    found, wanted = [], []
    for picture, seen, names, colours in zip(
        batch.pictures, objective.tokenize(batch), batch.names, batch.colours, strict=True
    ):
        regions = match_regions(picture.boxes_cxcywh, seen.regions)
        found.append(seen.features[image_tokens + regions])
        wanted.append(objective.tables(names, colours, picture.boxes_cxcywh))
    distance = imitation_loss(torch.cat(found), torch.cat(wanted)) / sum(map(len, wanted))
    torch.testing.assert_close(losses.terms["imitation"], distance.detach())
    torch.testing.assert_close(losses.total.detach(), losses.terms["answer"] + 0.5 * losses.terms["imitation"])
    losses.total.backward()
    assert all(parameter.grad is None for parameter in objective.tables.parameters()), "what is imitated stays"


def test_nothing_is_imitated_that_was_not_learned(tmp_path: Path):
    with pytest.raises(InputError, match=r"language\.imitation needs .* stage \"speak\""):
        run_stage(imitating(1.0), out=tmp_path / "align")


def test_what_speak_imagined_is_handed_on(tmp_path: Path):
    speak = run_stage(micro_stage("tiny-speak"), out=tmp_path / "speak")
    align = run_stage(imitating(1.0), out=tmp_path / "align", init=[speak.checkpoint])
    assert align.finished and "imitation" in align.last["terms"]
