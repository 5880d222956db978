"""Stage "speak": imagined regions are as many as can be named, and every slot names its own object."""

from dataclasses import replace

import pytest
import torch
from micro import micro_stage

from groma.data.scenes.scene import make_scene
from groma.errors import InputError
from groma.train.imagination import Imagination, ImaginationConfig
from groma.train.recipes import TOKENIZER
from groma.train.run import World, build_objective, build_stream, find_tokenizer
from groma.train.streams import scene_labels

REGIONS = find_tokenizer(TOKENIZER).special.num_regions


def some_stage(**changes):
    config = replace(micro_stage("tiny-speak"), imagination=ImaginationConfig(**changes))
    torch.manual_seed(0)
    objective = build_objective(config)
    assert isinstance(objective, Imagination)
    return objective.train(), build_stream(config, World())


def imagined(objective, index: int):
    scene = make_scene("train", index, 3, size_px=64)
    (names,), (colours,) = scene_labels([scene])
    boxes_cxcywh = torch.tensor(scene.boxes_cxcywh)
    return (
        names,
        colours,
        boxes_cxcywh,
        objective.imagine(boxes_cxcywh, names, colours, torch.Generator().manual_seed(index)),
    )


@pytest.mark.parametrize("distractors", [0, 8, 60])
def test_every_object_is_there_once_and_no_region_is_without_a_token(distractors):
    objective, _ = some_stage(distractors=distractors)
    counts = set()
    for index in range(150):
        names, _, boxes_cxcywh, seen = imagined(objective, index)
        regions = seen.regions
        assert len(regions) == len(seen.features) <= min(REGIONS, len(names) + distractors)
        assert regions.candidate.sort().values.tolist() == list(range(len(regions)))
        place = regions.candidate.argsort()[: len(names)]
        moved = (regions.boxes_cxcywh[place] - boxes_cxcywh).abs() / boxes_cxcywh[:, 2:].repeat(1, 2)
        assert (moved <= 2 * objective.config.box_jitter + 1e-6).all()
        counts.add(len(regions) - len(names))
    assert counts >= set(range(min(distractors, 8) + 1)), "any number of distractors occurs"


def test_slots_name_their_own_objects(monkeypatch):
    """What the language model reads at a slot is what was imagined of the object that the answer means."""
    objective, stream = some_stage(noise=0.0)
    seen = {}

    def spy(pictures, visual, matched, *, tokens, num_image_tokens):
        seen.update(pictures=pictures, visual=visual, matched=matched, image_tokens=num_image_tokens)
        return original(pictures, visual, matched, tokens=tokens, num_image_tokens=num_image_tokens)

    from groma.train import imagination

    original = imagination.pack_prompts
    monkeypatch.setattr(imagination, "pack_prompts", spy)
    for _ in range(20):
        batch = stream.next()
        objective(batch, total_weight=1.0)
        assert seen["image_tokens"] == 0
        for picture, visual, matched, names, colours in zip(
            batch.pictures, seen["visual"], seen["matched"], batch.names, batch.colours, strict=True
        ):
            assert len(matched) == len(picture.boxes_cxcywh) == len(names)
            boxes = visual.regions.boxes_cxcywh[matched]
            own = objective.tables(names, colours, boxes)
            torch.testing.assert_close(visual.features[matched], own)


def test_regions_come_in_any_order():
    objective, _ = some_stage()
    first = {int(imagined(objective, index)[3].regions.candidate[0]) for index in range(60)}
    assert len(first) > 5


def test_more_objects_than_region_tokens_are_refused():
    objective, _ = some_stage()
    many = torch.zeros(REGIONS + 1, dtype=torch.long)
    with pytest.raises(InputError, match=f"{REGIONS + 1} objects .* {REGIONS} region tokens"):
        objective.imagine(torch.full((REGIONS + 1, 4), 0.5), many, many, torch.Generator())


def test_the_same_batch_is_imagined_alike():
    objective, stream = some_stage()
    batch = stream.next()
    first, again, other = (objective(b, total_weight=1.0).total for b in (batch, batch, stream.next()))
    assert first == again != other


def test_the_loss_falls_on_one_batch_and_the_tables_learn():
    objective, stream = some_stage()
    batch = stream.next()
    weight = objective.weight(batch)
    groups = objective.parameter_groups()
    assert {name.split(".")[0] for group in groups for name, _ in group.parameters} == {"language", "tables"}
    optimizer = torch.optim.AdamW([p for group in groups for _, p in group.parameters], lr=1e-2)
    totals = []
    for _ in range(12):
        optimizer.zero_grad()
        losses = objective(batch, total_weight=weight)
        losses.total.backward()
        optimizer.step()
        totals.append(losses.total.item())
    assert totals[-1] < 0.6 * totals[0]
    assert objective.tables.names.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("wrong", [{"noise": -1.0}, {"box_jitter": 0.5}, {"distractors": -1}])
def test_impossible_imaginations_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ImaginationConfig(**wrong)
