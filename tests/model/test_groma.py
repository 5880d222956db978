"""The whole model: configuration, the visual half, the loss."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Dinov2Config, LlamaConfig

from groma.errors import InputError
from groma.model.config import GromaConfig, ProposerConfig, RegionEncoderConfig
from groma.model.groma import GromaModel, PictureTokens
from groma.model.splice import pad, splice
from groma.prompt.tokens import IGNORE_INDEX, SpecialTokenIds
from small_models import MAX_REGIONS, enliven, small_config

SIDE = 84
BOXES = (torch.tensor([[0.3, 0.4, 0.2, 0.3]]), torch.tensor([[0.6, 0.5, 0.5, 0.4], [0.2, 0.8, 0.2, 0.2]]))


@pytest.fixture(scope="module")
def model():
    return enliven(GromaModel(small_config()), seed=5)


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


# --- configuration ---------------------------------------------------------------------------------------------------


def test_the_default_configuration_is_the_published_one():
    config = GromaConfig(encoder={"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16})
    assert (config.image_size, config.patch_size, config.grid_size, config.num_image_tokens) == (448, 14, 32, 256)
    assert config.num_new_tokens == 114
    assert isinstance(config.language, LlamaConfig) and config.language.vocab_size == 32000
    assert config.selection.source_weights == {"coco": 0.4, "sa1b": 0.6}


def test_parts_are_given_as_dictionaries_or_configurations():
    one = GromaConfig(encoder={"hidden_size": 64}, proposer={"d_model": 32}, language={"model_type": "mistral"})
    other = GromaConfig(encoder=Dinov2Config(hidden_size=64), proposer=ProposerConfig(d_model=32))
    assert one.encoder.hidden_size == other.encoder.hidden_size == 64
    assert one.proposer.d_model == other.proposer.d_model == 32
    assert one.language.model_type == "mistral"


def test_a_configuration_survives_its_file(tmp_path):
    config = small_config()
    config.save_pretrained(tmp_path)
    again = GromaConfig.from_pretrained(tmp_path)
    assert again.to_diff_dict() == config.to_diff_dict()
    assert isinstance(again.region_encoder, RegionEncoderConfig)
    assert again.region_encoder.upsample == (2, 2, 1)
    assert again.proposer.sources == ("coco", "sa1b")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"proposer": {"num_feature_levels": 5}}, "1 to 4"),
        ({"region_encoder": {"geometry": "new"}}, "geometry must be"),
    ],
)
def test_values_that_cannot_be(parts, message):
    with pytest.raises(ValueError, match=message):
        GromaConfig(**parts)


def test_patches_are_squares():
    with pytest.raises(ValueError, match="one number"):
        _ = GromaConfig(encoder={"patch_size": (14, 16)}).grid_size


# --- seeing ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_pictures_do_not_see_each_other(model, pixels):
    together = model.tokenize(model.read(model.perceive(pixels)))
    for number, seen in enumerate(together):
        (alone,) = model.tokenize(model.read(model.perceive(pixels[number : number + 1])))
        assert torch.equal(alone.regions.candidate, seen.regions.candidate)
        torch.testing.assert_close(alone.features, seen.features, atol=1e-4, rtol=1e-4)
        assert seen.features.shape == (model.config.num_image_tokens + len(seen.regions), 32)


@torch.no_grad()
def test_requests_about_one_picture_are_independent(model, pixels):
    pictures = model.read(model.perceive(pixels[:2]))
    requests = [(1, BOXES[0]), (0, BOXES[1]), (1, BOXES[0][:0])]
    found = model.tokenize(
        pictures, numbers=[n for n, _ in requests], user_boxes_cxcywh=[boxes for _, boxes in requests]
    )
    for (number, boxes), visual in zip(requests, found, strict=True):
        (alone,) = model.tokenize(pictures.take([number]), user_boxes_cxcywh=[boxes])
        torch.testing.assert_close(alone.features, visual.features, atol=1e-5, rtol=1e-4)
        assert int(visual.regions.from_user.sum()) == len(boxes)
        assert len(visual.regions) <= MAX_REGIONS


@torch.no_grad()
def test_pictures_apart_are_joined_again(model, pixels):
    pictures = model.read(model.perceive(pixels))
    joined = PictureTokens.join([pictures.take([2]), pictures.take([0, 1])])
    assert len(joined) == 3
    back = joined.take([1, 2, 0])
    assert torch.equal(back.image, pictures.image)
    assert torch.equal(back.proposals.boxes_cxcywh, pictures.proposals.boxes_cxcywh)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(back.levels, pictures.levels, strict=True))


def test_a_grid_that_cannot_be_merged():
    config = small_config()
    config.image_size = 70  # five patches a side
    with torch.no_grad(), pytest.raises(InputError, match="5 x 5 patches cannot be merged"):
        model = GromaModel(config)
        model.read(model.perceive(torch.zeros(1, 3, 70, 70)))


# --- the loss --------------------------------------------------------------------------------------------------------


def prompts(model, visual):
    """Two prompts with targets, one of which refers to a box and grounds one."""
    tokens = SpecialTokenIds.after(model.language.base_vocab_size, num_regions=MAX_REGIONS)
    head = [1, tokens.image, tokens.region_list, 50]
    rows = [
        ([*head, 60, 61, 62, 2], [IGNORE_INDEX] * 5 + [61, 62, 2], (), ()),
        (
            [*head, tokens.refer_box, tokens.refer_feat, tokens.roi_open, tokens.ground_box, tokens.roi_close, 2],
            [IGNORE_INDEX] * 6 + [tokens.roi_open, tokens.ground_box, tokens.roi_close, 2],
            (1,),
            (2,),
        ),
    ]
    samples = [
        splice(
            ids,
            labels,
            refer_regions=torch.tensor(refer, dtype=torch.long),
            ground_regions=torch.tensor(ground, dtype=torch.long),
            num_image_tokens=model.config.num_image_tokens,
            num_regions=len(seen.regions),
            tokens=tokens,
        )
        for (ids, labels, refer, ground), seen in zip(rows, visual, strict=True)
    ]
    return pad(samples, pad_id=tokens.pad, side="right")


def test_the_loss_is_next_token_cross_entropy_over_all_targets(model, pixels):
    with torch.no_grad():
        visual = model.tokenize(model.read(model.perceive(pixels[:2])))
        batch = prompts(model, visual)
        loss = model(batch, visual)
        hidden, _ = model.language(
            model.embed(batch, visual), attention_mask=batch.attention_mask, position_ids=batch.position_ids
        )
        logits = model.language.logits(hidden)
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(loss.total, expected)
    assert len(loss.per_token) == len(loss.targets) == len(loss.predicted) == 7
    torch.testing.assert_close(model(batch, visual, total_tokens=14.0).total.detach(), expected / 2)


def test_gradients_reach_what_is_trained_and_nothing_that_is_frozen(pixels):
    model = enliven(GromaModel(small_config()), seed=6)
    visual = model.tokenize(model.read(model.perceive(pixels[:2])))
    model(prompts(model, visual), visual).total.backward()
    touched = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched == {"language", "projector", "region_encoder"}
    for part in (model.projector, model.region_encoder, model.language.added_embeddings, model.language.added_head):
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


def test_the_answer_depends_on_the_picture(model, pixels):
    with torch.no_grad():
        visual = model.tokenize(model.read(model.perceive(pixels[:2])))
        batch = prompts(model, visual)
        changed = [type(seen)(regions=seen.regions, features=seen.features * 0.5) for seen in visual]
        assert (model(batch, visual).per_token - model(batch, changed).per_token).abs().max() > 1e-3
