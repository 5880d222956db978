"""Rendered questions about scenes: slots point at the right objects, boxes are drawn by hand but not wildly."""

import numpy as np
import pytest
import torch

from groma.boxes import cxcywh_to_xyxy, pairwise_iou
from groma.data.dialogues import PicturePrompts, prompts_about
from groma.data.scenes.questions import KINDS, questions_for
from groma.data.scenes.scene import Scene, make_scene
from groma.errors import InputError
from groma.prompt.chat_format import COMPACT
from groma.prompt.dialogue import Grounding, Phrase, Referred
from groma.prompt.tokenizer import train_byte_bpe
from groma.prompt.tokens import IGNORE_INDEX

EVEN = dict.fromkeys(KINDS, 1.0)


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_bpe(["Where is the red dog?", "There is no cat in the image."], 300, num_regions=20)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene("train", index, 31, size_px=96) for index in range(40)]


def ask(scene: Scene, tokenizer, *, seed: int = 0, **changes) -> PicturePrompts:
    options = {"jitter": 0.04, "count": 8, "kinds": EVEN} | changes
    return prompts_about(scene, np.random.default_rng(seed), tokenizer=tokenizer, chat_format=COMPACT, **options)


def said(question) -> tuple[list[int], list[int]]:
    """Objects that a question points at, and that its answers name, in the order of the text."""
    referred, grounded = [], []
    for turn in question.dialogue.turns:
        for segment in (*turn.question, *(turn.answer or ())):
            match segment:
                case Referred(box):
                    referred.append(question.box_objects[box])
                case Phrase(boxes=boxes) | Grounding(boxes=boxes):
                    grounded += [question.box_objects[box] for box in boxes]
    return referred, grounded


def test_slots_point_at_the_objects_that_are_meant(scenes, tokenizer):
    special, slots = tokenizer.special, 0
    for seed, scene in enumerate(scenes):
        picture = ask(scene, tokenizer, seed=seed)
        questions = questions_for(scene, np.random.default_rng(seed), kinds=EVEN, count=8)
        assert picture.kinds == tuple(question.kind for question in questions)
        torch.testing.assert_close(picture.boxes_cxcywh, torch.tensor(scene.boxes_cxcywh))
        pointed_at: set[int] = set()
        for question, prompt in zip(questions, picture.prompts, strict=True):
            referred, grounded = said(question)
            assert list(prompt.refer_slots) == referred and list(prompt.ground_slots) == grounded
            assert prompt.token_ids.count(special.refer_box) == prompt.token_ids.count(special.refer_feat)
            assert prompt.token_ids.count(special.refer_box) == len(referred)
            assert prompt.token_ids.count(special.ground_box) == len(grounded)
            pointed_at |= set(referred)
            slots += len(referred) + len(grounded)
        assert len(picture.user_boxes_cxcywh) == len(pointed_at)
    assert slots > 200


def test_boxes_are_drawn_a_little_beside(scenes, tokenizer):
    moved = []
    for seed, scene in enumerate(scenes):
        picture = ask(scene, tokenizer, seed=seed, kinds={"describe": 1.0, "compare": 1.0})
        objects = sorted({slot for prompt in picture.prompts for slot in prompt.refer_slots})
        true, drawn = cxcywh_to_xyxy(picture.boxes_cxcywh[objects]), cxcywh_to_xyxy(picture.user_boxes_cxcywh)
        assert (drawn >= 0).all() and (drawn <= 1).all(), "a user draws inside the picture"
        assert (drawn[:, 2:] > drawn[:, :2]).all()
        overlap = pairwise_iou(true, drawn).diagonal()
        assert (overlap > 0.7).all()
        moved += overlap.tolist()
    assert 0.85 < np.mean(moved) < 0.97


def test_without_jitter_the_boxes_are_exact(scenes, tokenizer):
    picture = ask(scenes[0], tokenizer, jitter=0.0, kinds={"describe": 1.0})
    objects = sorted({slot for prompt in picture.prompts for slot in prompt.refer_slots})
    torch.testing.assert_close(picture.user_boxes_cxcywh, picture.boxes_cxcywh[objects])


def test_targets_are_counted(scenes, tokenizer):
    picture = ask(scenes[1], tokenizer)
    labels = [label for prompt in picture.prompts for label in prompt.labels]
    assert picture.num_targets == len(labels) - labels.count(IGNORE_INDEX) > 0


def test_no_box_is_pointed_at_where_no_question_does(scenes, tokenizer):
    picture = ask(scenes[2], tokenizer, kinds={"absent": 1.0})
    assert picture.user_boxes_cxcywh.shape == (0, 4)
    assert all(prompt.ground_slots == () for prompt in picture.prompts)


def test_scenes_without_a_question_of_the_kind_are_refused(scenes, tokenizer):
    single = next(s for s in scenes if len({entry.name for entry in s.objects}) == len(s.objects))
    with pytest.raises(InputError, match="no question of the kinds refer_ordinal"):
        ask(single, tokenizer, kinds={"refer_ordinal": 1.0})
    with pytest.raises(InputError, match="no kind of question poem"):
        ask(single, tokenizer, kinds={"poem": 1.0})


def test_questions_stop_before_they_get_too_long(scenes, tokenizer):
    for seed, scene in enumerate(scenes):
        free, limited = ask(scene, tokenizer, seed=seed), ask(scene, tokenizer, seed=seed, max_tokens=150)
        count = len(limited.prompts)
        assert limited.prompts == free.prompts[:count] and limited.kinds == free.kinds[:count]
        lengths = [len(prompt.token_ids) for prompt in free.prompts]
        assert count == 1 or sum(lengths[:count]) <= 150
        assert count == len(lengths) or sum(lengths[: count + 1]) > 150
