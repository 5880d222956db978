"""Parameter groups: every trained parameter once, embeddings and norms without decay, offsets slowly."""

import pytest
import torch
from micro import SCENE_RECIPES, micro_config, micro_stage

from groma.model.groma import GromaModel
from groma.train.groups import freeze, parameter_groups
from groma.train.optimizer import check_groups
from groma.train.run import build_objective


@pytest.fixture(scope="module")
def model() -> GromaModel:
    return GromaModel(micro_config(language={"hidden_size": 64, "intermediate_size": 96}))


@pytest.mark.parametrize("recipe", SCENE_RECIPES)
def test_every_trained_parameter_of_a_stage_is_in_one_group(recipe):
    objective = build_objective(micro_stage(recipe))
    check_groups(objective, objective.parameter_groups())


def test_who_belongs_where(model):
    groups = {group.name: group for part, module in model.named_children() for group in parameter_groups(part, module)}
    bucket = {name: group for group, content in groups.items() for name, _ in content.parameters}
    assert set(bucket) == {name for name, _ in model.named_parameters()}
    for name, expected in {
        "proposer.encoder_layers.0.self_attn.sampling_offsets.weight": "proposer/slow",
        "proposer.decoder_layers.1.cross_attn.sampling_offsets.bias": "proposer/slow",
        "proposer.decoder_layers.0.self_attn.q_proj.weight": "proposer/matrices",
        "proposer.query_content.weight": "proposer/plain",
        "proposer.level_embed": "proposer/plain",
        "proposer.proposal_head.weight": "proposer",
        "language.base.model.embed_tokens.weight": "language/plain",
        "language.base.lm_head.weight": "language/plain",
        "language.added_embeddings.weight": "language/plain",
        "language.added_head.weight": "language/plain",
        "language.base.model.layers.0.mlp.up_proj.weight": "language/matrices",
        "language.base.model.norm.weight": "language/plain",
        "region_encoder.level_convs.0.weight": "region_encoder",
        "encoder.backbone.embeddings.position_embeddings": "encoder/plain",
        "encoder.backbone.embeddings.cls_token": "encoder/plain",
    }.items():
        assert bucket[name] == expected, name
    for name, group in groups.items():
        assert group.lr_scale == (0.1 if name.endswith("/slow") else 1.0)
        assert group.weight_decay == (0.0 if name.endswith("/plain") else None)
        assert group.muon == name.endswith("/matrices")
        if group.muon:
            assert all(p.ndim == 2 and min(p.shape) >= 32 for _, p in group.parameters)


def test_tables_are_no_matrices_whatever_they_are_called():
    part = torch.nn.ModuleDict({"names": torch.nn.Embedding(64, 48), "linear": torch.nn.Linear(64, 48)})
    names = {group.name: [name for name, _ in group.parameters] for group in parameter_groups("x", part)}
    assert names == {"x/matrices": ["x.linear.weight"], "x/plain": ["x.names.weight", "x.linear.bias"]}


def test_scales_multiply():
    layer = torch.nn.ModuleDict({"sampling_offsets": torch.nn.Linear(4, 4), "other": torch.nn.Linear(4, 4)})
    scales = {group.name: group.lr_scale for group in parameter_groups("x", layer, lr_scale=0.5, slow_scale=0.2)}
    assert scales == {"x": 0.5, "x/slow": 0.1, "x/plain": 0.5}


def test_frozen_parameters_are_left_out():
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    freeze([layer[0]])
    assert [name for group in parameter_groups("x", layer) for name, _ in group.parameters] == [
        "x.1.bias",
        "x.1.weight",
    ]
    freeze([layer])
    assert parameter_groups("x", layer) == []
