"""Streams of scenes: the same again for the same arguments, nothing twice, and resumable at every batch."""

from dataclasses import replace

import pytest
import torch
from micro import micro_stage

from groma.data.scenes.atlas import atlas
from groma.data.scenes.scene import make_scene
from groma.errors import InputError
from groma.prompt.chat_format import COMPACT
from groma.prompt.tokens import IGNORE_INDEX
from groma.train.recipes import TOKENIZER
from groma.train.run import World, build_stream, find_tokenizer
from groma.train.stage import QUESTIONS
from groma.train.streams import COLOUR_NUMBERS, NAME_NUMBERS, DialogueStream, SceneStream, scene_labels, vision_batch


def scene_stream(**changes) -> SceneStream:
    return SceneStream(**({"batch_size": 3, "size_px": 64, "seed": 1, "sources": ("coco", "sa1b")} | changes))


def dialogue_stream(**changes) -> DialogueStream:
    defaults = {
        "tokenizer": find_tokenizer(TOKENIZER),
        "chat_format": COMPACT,
        "batch_size": 3,
        "size_px": 64,
        "seed": 1,
        "kinds": QUESTIONS,
        "questions": 4,
    }
    return DialogueStream(**(defaults | changes))


STREAMS = {
    "scenes": scene_stream,
    "close-ups": lambda **changes: scene_stream(crop_px=32, **changes),
    "dialogues": dialogue_stream,
    "dialogues without pictures": lambda **changes: dialogue_stream(with_images=False, **changes),
}
every_stream = pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)


def content(batch) -> list:
    """All that a batch holds, comparable."""
    images = None if batch.images is None else batch.images.tolist()
    pictures = getattr(batch, "pictures", ())
    boxes = getattr(batch, "boxes_cxcywh", None) or tuple(p.boxes_cxcywh for p in pictures)
    prompts = [(p.prompts, p.kinds, p.user_boxes_cxcywh.tolist()) for p in pictures]
    labels = [row.tolist() for row in (*boxes, *batch.names, *batch.colours)]
    return [batch.source, images, labels, prompts, getattr(batch, "seeds", None)]


@every_stream
def test_a_stream_resumes_where_it_stood(make):
    stream = make()
    batches = [stream.next() for _ in range(2)]
    state = stream.state_dict()
    following = [stream.next() for _ in range(2)]
    resumed = make()
    resumed.load_state_dict(state)
    assert [content(b) for b in following] == [content(resumed.next()) for _ in range(2)]
    assert content(batches[0]) != content(batches[1]) != content(following[0])
    assert content(make().next()) == content(batches[0]), "from the start for a new one"


@every_stream
def test_another_seed_or_split_shows_something_else(make):
    first = content(make().next())
    assert content(make(seed=2).next()) != first
    assert content(make(split="validation").next()) != first


@every_stream
def test_a_batch_holds_what_it_says(make):
    batch = make().next()
    boxes = getattr(batch, "boxes_cxcywh", None) or tuple(p.boxes_cxcywh for p in batch.pictures)
    assert len(batch) == len(boxes) == len(batch.names) == len(batch.colours)
    for rows, names, colours in zip(boxes, batch.names, batch.colours, strict=True):
        assert rows.shape == (len(names), 4) and len(colours) == len(names) >= 1
        assert names.dtype == colours.dtype == torch.int64
    if batch.images is not None:
        assert batch.images.dtype == torch.uint8 and batch.images.shape == (len(batch), *batch.images.shape[1:3], 3)


def shown(stream, batches: int, of_scene: dict) -> list:
    """Numbers of the scenes that a stream shows, by their pictures."""
    return [of_scene[image.numpy().tobytes()] for _ in range(batches) for image in stream.next().images]


@pytest.mark.parametrize("make", [scene_stream, dialogue_stream])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_scenes_without_a_repeat(make, processes):
    of_scene = {make_scene("train", index, 1, size_px=64).image.tobytes(): index for index in range(36)}
    streams = [make(rank=rank, world_size=processes) for rank in range(processes)]
    numbers = [number for stream in streams for number in shown(stream, 12 // processes, of_scene)]
    assert sorted(numbers) == list(range(36))


def test_sources_take_turns_alike_in_all_processes():
    for rank in (0, 1):
        stream = scene_stream(rank=rank, world_size=2)
        assert [stream.next().source for _ in range(4)] == ["coco", "sa1b", "coco", "sa1b"]


def test_the_batches_of_one_step_are_of_one_source():
    config = micro_stage("tiny-detect")
    loop = replace(config.training.loop, accumulate=3)
    config = replace(config, training=replace(config.training, loop=loop))
    stream = build_stream(config, World())
    assert [stream.next().source for _ in range(7)] == ["coco"] * 3 + ["sa1b"] * 3 + ["coco"]


def test_close_ups_are_one_for_each_object():
    batch, scenes = scene_stream(crop_px=32).next(), scene_stream().next()
    assert len(batch) == sum(map(len, scenes.boxes_cxcywh))
    assert batch.images.shape[1:] == (32, 32, 3)


def test_kinds_that_never_apply_are_named():
    stream = dialogue_stream(kinds={"refer_relation": 1.0}, batch_size=20)
    with pytest.raises(InputError, match=r"no question of the kinds refer_relation: add .* describe"):
        stream.next()


def test_labels_name_what_is_there():
    scenes = [make_scene(split, 0, 0, size_px=64) for split in ("train", "test_style", "test_objects")]
    names, colours = scene_labels(scenes)
    words = list(atlas().names)
    for scene, numbers, tints in zip(scenes[:2], names, colours, strict=False):
        assert [words[k] for k in numbers] == [entry.name for entry in scene.objects]
        assert [list(COLOUR_NUMBERS)[k] for k in tints] == [entry.colour for entry in scene.objects]
    assert set(names[2].tolist()) == {IGNORE_INDEX}, "names that training never shows have no number"
    assert len(NAME_NUMBERS) == len(words) and set(NAME_NUMBERS.values()) == set(range(len(words)))
    assert vision_batch(scenes, "coco").source == "coco"
