"""Every data set of the catalogue: from its published format to tokens, labels and boxes, and back."""

import dataclasses

import numpy as np
import pytest
import torch
from mixtures import exported_mixture, exported_set, some_scenes

from groma.data.augment import WHOLE
from groma.data.catalogue import CATALOGUE
from groma.data.cleaning import BadSampleError
from groma.data.lessons import DetectionLessons, DialogueLessons
from groma.data.mixture import MixtureConfig, SetConfig, open_mixture
from groma.data.sources import FORMATS
from groma.data.tasks import EVERYTHING, TASKS, dialogues_of
from groma.errors import InputError
from groma.image import Preprocessing
from groma.prompt.chat_format import COMPACT
from groma.prompt.dialogue import Grounding, Phrase, Referred
from groma.prompt.parse import parse, segments
from groma.prompt.render import render
from groma.prompt.tokenizer import train_byte_bpe
from groma.prompt.tokens import IGNORE_INDEX

SIDE = 96


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_bpe(["Locate the red dog in the image."], 300, num_regions=40)


@pytest.fixture(scope="module")
def scenes():
    return some_scenes(size_px=SIDE)


def test_entries_name_formats_and_tasks_that_exist():
    for entry in CATALOGUE.values():
        assert entry.format in FORMATS and entry.task in (*TASKS, EVERYTHING)
        assert entry.head in (None, "coco", "sa1b")


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_is_rendered_says_what_is_annotated(name, scenes, tokenizer, tmp_path):
    (one,) = open_mixture(exported_mixture([name], scenes, tmp_path))
    special, asked = tokenizer.special, 0
    for number in range(len(one.data)):
        sample = one.data.sample(number)
        assert sample.faults == ()
        corners = {tuple(np.round(box, 6)) for box in np.array(sample.annotation.boxes_xyxy_frame).reshape(-1, 4)}
        for dialogue in dialogues_of(one.task, sample.annotation, np.random.default_rng(number), one.options):
            prompt = render(dialogue, tokenizer, COMPACT)
            asked += len(dialogue.turns)
            # boxes: each of the dialogue's is one of the annotation's
            width, height = sample.annotation.frame
            for cx, cy, w, h in dialogue.boxes_cxcywh:
                box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * (width, height, width, height)
                assert tuple(np.round(box, 6)) in corners
            # labels: exactly the answers are learned, and parsing them gives the annotation's words and boxes back
            answers = trained_runs(prompt)
            assert len(answers) == len(dialogue.turns)
            slots = iter(prompt.ground_slots)
            for ids, turn in zip(answers, dialogue.turns, strict=True):
                numbered = [special.region(next(slots)) if i == special.ground_box else i for i in ids]
                assert segments(parse(numbered, tokenizer)) == tuple(map(as_regions, turn.answer))
            assert next(slots, None) is None
            said = [s for turn in dialogue.turns for s in turn.question if isinstance(s, Referred)]
            assert prompt.token_ids.count(special.refer_box) == len(said) == len(prompt.refer_slots)
    assert asked >= len(scenes)


def trained_runs(prompt) -> list[list[int]]:
    """The runs of tokens that are learned."""
    runs, before = [], False
    for token, label in zip(prompt.token_ids, prompt.labels, strict=True):
        assert label in (token, IGNORE_INDEX)
        if label != IGNORE_INDEX:
            if not before:
                runs.append([])
            runs[-1].append(token)
        before = label != IGNORE_INDEX
    return runs


def as_regions(segment):
    """Boxes by index as the regions of the same number."""
    if isinstance(segment, Phrase | Grounding):
        return dataclasses.replace(segment, boxes=(), regions=segment.boxes)
    return segment


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if entry.head])
def test_detection_sets_give_every_box(name, scenes, tmp_path):
    (one,) = open_mixture(exported_mixture([name], scenes, tmp_path))
    lessons = DetectionLessons(preprocessing=Preprocessing(size_px=SIDE), augmentation=WHOLE)
    made = [lessons(one.data.sample(k), one, np.random.default_rng(k)) for k in range(len(one.data))]
    for lesson, scene in zip(made, scenes, strict=True):
        np.testing.assert_array_equal(lesson.pixels, scene.image)
        torch.testing.assert_close(lesson.boxes_cxcywh, torch.tensor(scene.boxes_cxcywh, dtype=torch.float32))
    batch = lessons.collate(made, one, seeds=(), faults=())
    assert (batch.source, batch.set_name, len(batch)) == (CATALOGUE[name].head, name, len(scenes))


def test_absent_things_are_refused_at_a_set_share(scenes, tmp_path):
    one = exported_set("coco", scenes, tmp_path, absent_share=0.3)
    (opened,) = open_mixture(MixtureConfig(sets=(one,)))
    answers = []
    for seed in range(40):
        for k in range(len(scenes)):
            annotation = opened.data.sample(k).annotation
            (dialogue,) = dialogues_of(opened.task, annotation, np.random.default_rng((seed, k)), opened.options)
            for turn in dialogue.turns:
                words = "".join(getattr(s, "text", "") for s in turn.answer)
                names = {name for name in opened.options.classes if f" {name} in" in words}
                if words.startswith(("There is no", "No, there is no")):
                    assert names and not names & set(annotation.labels)
                answers.append(words[:2])
    share = (answers.count("Th") + answers.count("No")) / len(answers)
    assert share == pytest.approx(0.3, abs=0.04)
    assert answers.count("Ye") > 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"set": "cocoa"}, "not in the catalogue"),
        ({"set": "coco", "annotations": "a"}, "give both annotations and pictures"),
        ({"set": "coco", "annotations": "a", "pictures": "b", "packed": "c"}, "or packed"),
        ({"set": "coco", "packed": "c", "share": 0}, "share must be above 0"),
        ({"set": "coco", "packed": "c", "task": "guess"}, "no task 'guess'"),
        ({"set": "coco", "packed": "c", "wordings": {"locate": ("Where?",)}}, r"must have \{phrase\}"),
        ({"set": "coco", "packed": "c", "wordings": {"find": ("Where?",)}}, "no wordings 'find'"),
        ({"set": "coco", "packed": "c", "absent_share": 1.0}, "below 1"),
    ],
)
def test_a_mixture_is_checked_early(changes, told):
    with pytest.raises(InputError, match=told):
        SetConfig(**changes)


def test_two_sets_of_one_name_are_refused(scenes, tmp_path):
    one = exported_set("coco", scenes, tmp_path)
    with pytest.raises(InputError, match="two sets called coco"):
        MixtureConfig(sets=(one, one))
    with pytest.raises(InputError, match="has no sets"):
        open_mixture(MixtureConfig())


def test_own_wordings_are_used(scenes, tmp_path):
    one = exported_set("refcoco", scenes, tmp_path, wordings={"locate": ("Show {phrase}!",)}, repeat_phrase=True)
    (opened,) = open_mixture(MixtureConfig(sets=(one,)))
    annotation = opened.data.sample(0).annotation
    (dialogue,) = dialogues_of(opened.task, annotation, np.random.default_rng(0), opened.options)
    question, answer = dialogue.turns[0].question, dialogue.turns[0].answer
    assert [getattr(s, "text", "") for s in question] == ["Show ", annotation.labels[0], "!"]
    assert answer == (Phrase(annotation.labels[0], boxes=(0,)),)


def test_dialogues_that_do_not_fit_are_shortened_and_told(scenes, tokenizer, tmp_path):
    (one,) = open_mixture(exported_mixture(["visual_genome_many"], scenes, tmp_path))
    number = max(range(len(scenes)), key=lambda k: len(scenes[k].objects))
    sample = one.data.sample(number)

    def lesson(max_tokens: int):
        lessons = DialogueLessons(
            preprocessing=Preprocessing(size_px=SIDE), tokenizer=tokenizer, chat_format=COMPACT, max_tokens=max_tokens
        )
        return lessons(sample, one, np.random.default_rng(3))

    whole = lesson(4000)
    length = len(whole.prompts.prompts[0].token_ids)
    short = lesson(length - 1)
    assert whole.faults == () and [fault.kind for fault in short.faults] == ["shortened"]
    rendered = short.prompts.prompts[0].token_ids
    assert rendered == whole.prompts.prompts[0].token_ids[: len(rendered)]
    with pytest.raises(BadSampleError, match="no turn fits into 5 tokens"):
        lesson(5)
