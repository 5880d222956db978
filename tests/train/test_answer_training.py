"""Stages 2 and 3: packing questions changes no loss, slots find their regions, whatever the picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro import micro_stage

from groma.boxes import cxcywh_to_xyxy, pairwise_iou
from groma.data.dialogues import DialogueBatch, PicturePrompts
from groma.errors import InputError
from groma.model.selection import match_regions
from groma.model.splice import pad, splice
from groma.prompt.chat_format import COMPACT
from groma.prompt.dialogue import Dialogue, Phrase, Text, Turn
from groma.prompt.render import render
from groma.prompt.tokens import IGNORE_INDEX
from groma.train.language import AnswerTraining, LanguageConfig, answer_terms
from groma.train.objective import Losses
from groma.train.recipes import TOKENIZER
from groma.train.run import World, build_objective, build_stream, find_tokenizer


def some_stage(recipe: str = "tiny-align", *, seed: int = 0, **data):
    """A fresh stage and its stream."""
    config = micro_stage(recipe, **data)
    torch.manual_seed(seed)
    objective = build_objective(config)
    assert isinstance(objective, AnswerTraining)
    return objective.train(), build_stream(config, World())


def row_by_row(objective: AnswerTraining, batch: DialogueBatch) -> torch.Tensor:
    """The summed loss of every prompt in a row of its own."""
    total = torch.zeros(())
    for picture, seen in zip(batch.pictures, objective.tokenize(batch), strict=True):
        matched = match_regions(picture.boxes_cxcywh, seen.regions)
        rows = [
            splice(
                prompt.token_ids,
                prompt.labels,
                refer_regions=matched[list(prompt.refer_slots)],
                ground_regions=matched[list(prompt.ground_slots)],
                num_image_tokens=objective.model.config.num_image_tokens,
                num_regions=len(seen.regions),
                tokens=objective.tokens,
            )
            for prompt in picture.prompts
        ]
        batch_of_rows = pad(rows, pad_id=objective.tokens.pad, side="right")
        total = total + objective.model(batch_of_rows, [seen] * len(rows), total_tokens=1.0).total
    return total


@pytest.mark.parametrize("seed", range(3))
def test_packed_questions_cost_what_they_cost_alone(seed):
    objective, stream = some_stage(seed=seed, batch_size=3, questions=6)
    batch = stream.next()
    weight = objective.weight(batch)
    losses = objective(batch, total_weight=weight)
    torch.testing.assert_close(losses.total * weight, row_by_row(objective, batch), rtol=1e-4, atol=1e-3)
    assert losses.terms["answer"] == losses.total


def prompts_of(*dialogues: Dialogue) -> PicturePrompts:
    """Prompts about a picture with one box, which every phrase names."""
    tokenizer = find_tokenizer(TOKENIZER)
    rendered = tuple(render(dialogue, tokenizer, COMPACT) for dialogue in dialogues)
    return PicturePrompts(
        prompts=rendered,
        boxes_cxcywh=torch.tensor([[0.5, 0.5, 0.4, 0.4]]),
        user_boxes_cxcywh=torch.zeros(0, 4),
        kinds=("conversation",) * len(rendered),
    )


def test_conversations_that_begin_with_the_same_answer():
    """Their common turns are learned as often as they occur, and what follows them from the right place."""
    objective, stream = some_stage(batch_size=1)
    where = Turn(question=(Text("Where is the dog?"),), answer=(Phrase("the dog", boxes=(0,)),))
    colour = Turn(question=(Text("What colour is it?"),), answer=(Text("It is red."),))
    count = Turn(question=(Text("How many?"),), answer=(Text("One."),))
    box = ((0.5, 0.5, 0.4, 0.4),)
    dialogues = [Dialogue(turns, box) for turns in ((where, colour), (where,), (where, count), (where, colour, count))]
    batch = replace(stream.next(), pictures=(prompts_of(*dialogues),))
    weight = objective.weight(batch)
    assert weight == sum(prompts_of(d).num_targets for d in dialogues)
    losses = objective(batch, total_weight=weight)
    torch.testing.assert_close(losses.total * weight, row_by_row(objective, batch), rtol=1e-4, atol=1e-3)


def test_a_batch_is_the_sum_of_its_pictures():
    objective, stream = some_stage(batch_size=3)
    batch = stream.next()
    together = row_by_row(objective, batch)
    alone = [
        objective(
            replace(
                batch,
                pictures=batch.pictures[k : k + 1],
                seeds=batch.seeds[k : k + 1],
                images=batch.images[k : k + 1],
            ),
            total_weight=1.0,
        ).total
        for k in range(3)
    ]
    torch.testing.assert_close(torch.stack(alone).sum(), together, rtol=1e-4, atol=1e-3)


def test_regions_come_in_another_order_for_another_batch_but_always_the_same_for_one():
    objective, stream = some_stage(batch_size=1)
    batch = stream.next()
    once, again = (objective.tokenize(batch)[0].regions.candidate.tolist() for _ in range(2))
    later = objective.tokenize(replace(batch, seeds=(batch.seeds[0] + 1,)))[0].regions.candidate.tolist()
    assert once == again
    assert once != later and sorted(once) == sorted(later)


def test_every_object_has_a_region():
    """Annotated boxes are candidates: an untrained proposer does not keep the answers from naming what is there."""
    objective, stream = some_stage(batch_size=4)
    batch = stream.next()
    for picture, seen in zip(batch.pictures, objective.tokenize(batch), strict=True):
        overlap = pairwise_iou(
            cxcywh_to_xyxy(picture.boxes_cxcywh), cxcywh_to_xyxy(seen.regions.boxes_cxcywh[:, :4])
        ).amax(1)
        assert (overlap > 0.6).all()


def test_more_boxes_are_pointed_at_than_regions_are_kept():
    """Then slots take the kept region that comes nearest: nothing breaks and nothing is out of range."""
    objective, stream = some_stage(batch_size=6, questions=8, kinds={"describe": 1.0, "compare": 1.0})
    objective.model.config.selection.max_regions = 2
    batch = stream.next()
    assert max(len(picture.user_boxes_cxcywh) for picture in batch.pictures) > 2
    assert all(len(seen.regions) <= 2 for seen in objective.tokenize(batch))
    assert objective(batch, total_weight=objective.weight(batch)).total.isfinite()


@pytest.mark.parametrize(("recipe", "trains_language"), [("tiny-align", False), ("tiny-instruct", True)])
def test_gradients_reach_what_the_stage_trains_and_nothing_else(recipe, trains_language):
    objective, stream = some_stage(recipe)
    batch = stream.next()
    objective(batch, total_weight=objective.weight(batch)).total.backward()
    model = objective.model
    rooms = {
        "encoder": model.encoder,
        "proposer": model.proposer,
        "projector": model.projector,
        "region_encoder": model.region_encoder,
        "base": model.language.base,
        "added_embeddings": model.language.added_embeddings,
        "added_head": model.language.added_head,
    }
    touched = {name for name, room in rooms.items() if any(p.grad is not None for p in room.parameters())}
    trained = {"projector", "region_encoder", "added_embeddings", "added_head"}
    assert touched == trained | ({"base"} if trains_language else set())
    assert not model.encoder.training and not model.proposer.training and model.projector.training


def test_a_batch_without_pictures_is_refused():
    objective, stream = some_stage()
    with pytest.raises(InputError, match="has no pictures"):
        objective.read(replace(stream.next(), images=None))


def test_batches_move_to_a_device():
    batch = some_stage()[1].next()
    assert batch.to(torch.device("meta")).images.device.type == "meta"
    assert replace(batch, images=None).to(torch.device("meta")).images is None


def test_reported_shares():
    objective, _ = some_stage()
    first_region = objective.tokens.region_ids[0]
    targets = torch.tensor([5, 6, first_region, first_region + 3])
    predicted = torch.tensor([5, 7, first_region, first_region])

    class Loss:
        total = torch.tensor(2.0)

    Loss.targets, Loss.predicted = targets, predicted
    terms = answer_terms(Loss, objective.tokens, 8.0)  # half of the tokens of the step
    assert {name: value.item() for name, value in terms.items()} == {"answer": 2.0, "right": 0.25, "region_right": 0.25}
    none = type("Loss", (), {"total": Loss.total, "targets": targets[:2], "predicted": targets[:2]})
    assert answer_terms(none, objective.tokens, 2.0)["region_right"] == 0


def test_the_loss_falls_on_one_batch():
    objective, stream = some_stage("tiny-instruct", batch_size=2)
    batch = stream.next()
    weight = objective.weight(batch)
    optimizer = torch.optim.AdamW([p for g in objective.parameter_groups() for _, p in g.parameters], lr=1e-2)
    losses: list[Losses] = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(objective(batch, total_weight=weight))
        losses[-1].total.backward()
        optimizer.step()
    assert losses[-1].total < 0.5 * losses[0].total
    assert losses[-1].terms["right"] > losses[0].terms["right"]


def test_weight_counts_the_tokens_of_all_answers():
    objective, stream = some_stage()
    batch = stream.next()
    labels = [label for picture in batch.pictures for prompt in picture.prompts for label in prompt.labels]
    assert objective.weight(batch) == np.sum(np.array(labels) != IGNORE_INDEX) > 0


def test_language_config_is_checked():
    with pytest.raises(InputError, match="language_lr_scale"):
        LanguageConfig(language_lr_scale=-1.0)
