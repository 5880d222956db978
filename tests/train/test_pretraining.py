"""Stage "pretrain": what a box's name is read from, what the losses are made of, and that an encoder learns by them."""

from dataclasses import replace

import pytest
import torch
from micro import micro_config, micro_stage

from groma.errors import InputError
from groma.model.encoder import ImageEncoder
from groma.train.pretraining import (
    ROI_SIZE,
    EncoderPretraining,
    PretrainingConfig,
    _attention_weights,
    _pool,
    initialize_from_scratch,
)
from groma.train.run import World, build_objective, build_stream


def some_stage(**data):
    config = micro_stage("tiny-pretrain", **data)
    torch.manual_seed(0)
    objective = build_objective(config)
    assert isinstance(objective, EncoderPretraining)
    return objective, build_stream(config, World()).next()


def picture(batch, k: int):
    """Picture k of a batch alone."""
    names = ("images", "boxes_cxcywh", "names", "colours")
    return replace(batch, **{name: getattr(batch, name)[k : k + 1] for name in names})


def test_the_loss_falls_on_one_batch():
    objective, batch = some_stage(batch_size=4)
    weight = objective.weight(batch)
    assert weight == sum(map(len, batch.boxes_cxcywh))
    optimizer = torch.optim.AdamW([p for g in objective.parameter_groups() for _, p in g.parameters], lr=5e-3)
    terms = []
    for _ in range(20):
        optimizer.zero_grad()
        losses = objective(batch, total_weight=weight)
        losses.total.backward()
        optimizer.step()
        terms.append({name: value.item() for name, value in losses.terms.items()} | {"total": losses.total.item()})
    assert terms[-1]["total"] < 0.6 * terms[0]["total"]
    for name in ("name", "colour", "box"):
        assert terms[-1][name] < terms[0][name], name
    assert terms[-1]["name_right"] > 0.5 > terms[0]["name_right"]


def test_every_trained_parameter_of_the_encoder_learns():
    objective, batch = some_stage()
    objective(batch, total_weight=1.0).total.backward()
    without = {name for name, p in objective.encoder.named_parameters() if p.grad is None}
    # the final norm is never used (golden README, "Vision encoder"), the mask token belongs to another pretraining
    assert {name.removeprefix("backbone.").split(".")[0] for name in without} <= {"layernorm", "embeddings"}
    assert not any("patch" in name or "position" in name for name in without)


def test_losses_of_pictures_add_up():
    objective, batch = some_stage(batch_size=3)
    objective.eval()
    together = objective(batch, total_weight=5.0).terms
    alone = [objective(picture(batch, k), total_weight=5.0).terms for k in range(3)]
    for name, value in together.items():
        torch.testing.assert_close(value, sum(terms[name] for terms in alone), rtol=1e-4, atol=1e-5)


def test_the_total_is_weighted():
    objective, batch = some_stage()
    objective.eval()
    objective.config = PretrainingConfig(name_weight=2.0, colour_weight=0.0, box_weight=0.25)
    losses = objective(batch, total_weight=3.0)
    torch.testing.assert_close(losses.total, 2 * losses.terms["name"] + 0.25 * losses.terms["box"])


def test_a_name_is_read_from_inside_its_box():
    features = torch.zeros(1, 4, 4, 2)
    features[0, :2, 2:] = torch.tensor([1.0, 5.0])  # the upper right quarter
    boxes = torch.tensor([[0.75, 0.25, 0.3, 0.3], [0.25, 0.25, 0.3, 0.3], [0.5, 0.25, 0.9, 0.4]])
    pooled = _pool(features, [boxes])
    inside, outside, across = pooled.unflatten(1, (2, ROI_SIZE, ROI_SIZE))
    torch.testing.assert_close(inside, torch.tensor([1.0, 5.0])[:, None, None].expand_as(inside))
    assert outside.abs().max() == 0
    columns = across[0].mean(0)  # bins go from left to right
    assert columns[0] == 0 and columns[-1] > 0.9


def test_boxes_move_in_training_alone():
    objective, batch = some_stage()
    names = [
        {objective.train(training)(batch, total_weight=1.0).terms["name"].item() for _ in range(2)}
        for training in (True, False)
    ]
    assert [len(values) for values in names] == [2, 1]


def test_names_without_a_number_teach_nothing():
    objective, batch = some_stage(batch_size=1)
    objective.eval()
    hidden = batch.names[0].clone()
    hidden[0] = -100
    full, part = (objective(b, total_weight=1.0).terms for b in (batch, replace(batch, names=(hidden,))))
    assert part["name"] < full["name"]
    assert part["colour"] == full["colour"] and part["box"] == full["box"]
    nothing = objective(replace(batch, names=(torch.full_like(hidden, -100),)), total_weight=1.0).terms
    assert nothing["name"] == 0 and nothing["name_right"] == 0


def test_an_encoder_from_scratch_looks_at_similar_patches():
    torch.manual_seed(0)
    encoder = ImageEncoder(micro_config().encoder, 2)
    initialize_from_scratch(encoder)
    width, heads = 32, 2
    positions = encoder.backbone.embeddings.position_embeddings[0, 1:]
    assert len({tuple(row.tolist()) for row in positions}) == len(positions) == 16
    neighbour, opposite = ((positions[0] * positions[k]).sum() for k in (1, 15))
    assert neighbour > opposite
    for layer in encoder.backbone.encoder.layer:
        query, key, value, output = _attention_weights(layer)
        for q, k in zip(query.chunk(heads), key.chunk(heads), strict=True):
            assert (q.T @ k).trace() / width > 0.3, "a patch's score for itself"
        assert (output @ value).trace().item() / width == pytest.approx(-0.4, abs=0.2)


@pytest.mark.parametrize("wrong", [{"name_weight": -1.0}, {"label_smoothing": 1.0}, {"jitter": -0.1}])
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        PretrainingConfig(**wrong)
