"""Stage "align" shown what stage "speak" imagined: what the distance is, and that the imagined tokens must be there."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import micro_stage

from groma.errors import InputError
from groma.model.selection import match_regions
from groma.train.language import AnswerTraining
from groma.train.pretraining import EncoderPretraining
from groma.train.region_tables import RegionTables, imitation_losses
from groma.train.run import World, build_objective, build_stream, run_stage


def imitating(weight: float):
    config = micro_stage("tiny-align")
    return replace(config, language=replace(config.language, imitation=weight))


def pretraining_with(weight: float):
    config = micro_stage("tiny-pretrain", batch_size=4)
    return replace(config, pretraining=replace(config.pretraining, imitation=weight))


def some_tables(width: int = 8) -> tuple[RegionTables, tuple[torch.Tensor, ...]]:
    """Tables, and names, colours and boxes of two regions."""
    torch.manual_seed(0)
    tables = RegionTables(width, num_names=3, num_colours=2)
    return tables, (torch.tensor([0, 2]), torch.tensor([1, 0]), torch.rand(2, 4))


def objective_and_batch(weight: float = 0.5):
    torch.manual_seed(0)
    config = imitating(weight)
    objective = build_objective(config)
    assert isinstance(objective, AnswerTraining)
    return objective.train(), build_stream(config, World()).next()


def test_the_distance_of_equal_tokens_is_nothing_and_of_none_is_one_each():
    tables, labels = some_tables()
    wanted = tables(*labels)
    assert imitation_losses(tables, wanted, *labels)["imitation"] == 0
    nothing = imitation_losses(tables, torch.zeros_like(wanted), *labels)
    torch.testing.assert_close(nothing["imitation"], torch.tensor(2.0))


def test_no_regions_have_no_distance():
    tables, labels = some_tables()
    losses = imitation_losses(tables, torch.zeros(0, 8), *(column[:0] for column in labels))
    assert all(value == 0 for value in losses.values())


def test_a_name_is_read_from_what_a_token_is_nearest_to():
    tables, (names, colours, boxes) = some_tables()
    wanted = tables(names, colours, boxes)
    right = imitation_losses(tables, wanted, names, colours, boxes)
    assert right["named_right"] == 2 and right["naming"] < 0.1
    other = imitation_losses(tables, wanted, 2 - names, colours, boxes)  # the same tokens with each other's name
    assert other["named_right"] == 0 and other["naming"] > 2 * 5
    discoloured = imitation_losses(tables, wanted, names, 1 - colours, boxes)
    assert discoloured["named_right"] == 2 and discoloured["naming"] > 2 * 5


def test_a_token_is_name_colour_and_place():
    tables, (_, colours, boxes) = some_tables()
    names = torch.tensor([0, tables.nothing])
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
    found, wanted = torch.cat(found), torch.cat(wanted)
    distance = (found - wanted).pow(2).mean() / wanted.pow(2).mean()
    torch.testing.assert_close(losses.terms["imitation"], distance.detach())
    terms = losses.terms
    torch.testing.assert_close(losses.total.detach(), terms["answer"] + 0.5 * (terms["imitation"] + terms["naming"]))
    losses.total.backward()
    assert all(parameter.grad is None for parameter in objective.tables.parameters()), "what is imitated stays"


def test_a_region_encoder_learns_with_the_encoder():
    torch.manual_seed(0)
    config = pretraining_with(1.0)
    objective = build_objective(config)
    assert isinstance(objective, EncoderPretraining) and set(objective.parts()) >= {"region_encoder", "tables"}
    batch = build_stream(config, World()).next()
    groups = objective.parameter_groups()
    assert {name.split(".")[0] for g in groups for name, _ in g.parameters} == {"encoder", "heads", "region_encoder"}
    optimizer = torch.optim.AdamW([p for g in groups for _, p in g.parameters], lr=5e-3)
    terms = []
    for _ in range(20):
        optimizer.zero_grad()
        losses = objective(batch, total_weight=objective.weight(batch))
        losses.total.backward()
        optimizer.step()
        terms.append(losses.terms)
    assert terms[-1]["imitation"] < 0.9 * terms[0]["imitation"]
    assert terms[-1]["named_right"] > 0.4 > terms[0]["named_right"]
    assert all(parameter.grad is None for parameter in objective.tables.parameters())


@pytest.mark.parametrize("config", [imitating(1.0), pretraining_with(1.0)], ids=lambda config: config.stage)
def test_nothing_is_imitated_that_was_not_learned(config, tmp_path: Path):
    with pytest.raises(InputError, match=r"Imitation needs .* stage \"speak\""):
        run_stage(config, out=tmp_path / "out")


def test_what_speak_imagined_is_handed_on(tmp_path: Path):
    speak = run_stage(micro_stage("tiny-speak"), out=tmp_path / "speak")
    align = run_stage(imitating(1.0), out=tmp_path / "align", init=[speak.checkpoint])
    assert align.finished and "imitation" in align.last["terms"]
