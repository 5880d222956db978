"""Mixtures as streams: no sample twice, none never, over ranks, workers and resumes; bad ones are not replaced."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from groma.data.augment import WHOLE, Augmentation
from groma.data.batches import MicroBatches, Share
from groma.data.catalogue import CATALOGUE
from groma.data.lessons import DetectionLessons, DialogueLessons
from groma.data.mixture import MixtureConfig, SetConfig, open_mixture
from groma.data.plan import MixturePlan
from groma.data.scenes.export import PICTURES, export_scenes
from groma.data.scenes.scene import make_scene
from groma.errors import InputError
from groma.image import Preprocessing
from groma.prompt.chat_format import COMPACT
from groma.prompt.tokenizer import train_byte_bpe
from groma.train.mixture_stream import MixtureStream

SIDE = 64
SIZES = {"coco": 11, "objects365": 5}


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_bpe(["Locate the red dog in the image."], 300, num_regions=40)


@pytest.fixture
def config(tmp_path, monkeypatch) -> MixtureConfig:
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))
    sets = []
    for name, count in SIZES.items():
        scenes = [make_scene("train", k, len(name), size_px=SIDE) for k in range(count)]
        file = export_scenes(scenes, CATALOGUE[name].format, tmp_path / name)
        sets.append(SetConfig(set=name, annotations=str(file), pictures=str(tmp_path / name / PICTURES)))
    return MixtureConfig(sets=tuple(sets))


def stream_of(config, *, augmentation=WHOLE, lessons=None, workers=0, **share) -> MixtureStream:
    sets = open_mixture(config)
    part = Share(**{"batch_size": 2} | share)
    plan = MixturePlan(
        [one.data for one in sets],
        [one.share for one in sets],
        samples_per_step=part.samples_per_step,
        seed=5,
    )
    lessons = lessons or DetectionLessons(preprocessing=Preprocessing(size_px=SIDE), augmentation=augmentation)
    return MixtureStream(MicroBatches(sets, plan, part, lessons), workers=workers)


def pictures(batch) -> list[bytes]:
    return [batch.set_name.encode() + image.numpy().tobytes() for image in batch.images] if len(batch) else []


def same(first, second) -> None:
    assert first.set_name == second.set_name and torch.equal(first.images, second.images)
    for ours, theirs in zip(first.boxes_cxcywh, second.boxes_cxcywh, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_an_epoch_without_repeats_or_gaps(config, world_size):
    streams = [stream_of(config, rank=r, world_size=world_size, batch_size=1) for r in range(world_size)]
    # so many steps that both sets were gone through a whole number of times
    seen = Counter()
    for _ in range(11 * 5 * 2):
        batches = [stream.next() for stream in streams]
        assert len({batch.set_name for batch in batches}) == 1  # a step sees one set
        seen.update(p for batch in batches for p in pictures(batch))
    by_set = {name: [n for p, n in seen.items() if p.startswith(name.encode())] for name in SIZES}
    for name, counts in by_set.items():
        assert len(counts) == SIZES[name] and max(counts) - min(counts) <= 1


def test_workers_give_the_same_batches_in_the_same_order(config):
    augmentation = Augmentation()
    ours, theirs = (stream_of(config, workers=workers, augmentation=augmentation) for workers in (0, 2))
    for _ in range(7):
        same(ours.next(), theirs.next())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_resumes_exactly(config, workers):
    stream = stream_of(config, workers=workers, augmentation=Augmentation())
    for _ in range(3):
        stream.next()
    state = stream.state_dict()
    expected = [stream.next() for _ in range(4)]
    again = stream_of(config, workers=workers, augmentation=Augmentation())
    again.load_state_dict(state)
    for batch in expected:
        same(batch, again.next())


def test_a_run_goes_on_with_another_number_of_processes(config):
    before = [stream_of(config, rank=r, world_size=2, batch_size=2, augmentation=Augmentation()) for r in range(2)]
    for _ in range(3):
        for stream in before:
            stream.next()
    state = before[0].state_dict()
    assert state == before[1].state_dict() == {"steps": 3, "micro": 0, "samples_per_step": 4}
    alone = stream_of(config, batch_size=1, accumulate=4, augmentation=Augmentation())
    alone.load_state_dict(state)
    two = [p for stream in before for p in pictures(stream.next())]
    assert [p for _ in range(4) for p in pictures(alone.next())] == two
    with pytest.raises(InputError, match="had 4 samples per step, now it has 6"):
        stream_of(config, batch_size=3, accumulate=2).load_state_dict(state)


def test_bad_samples_are_left_out_and_told(config):
    folder = Path(config.sets[0].pictures)
    for number in (1, 4):
        (folder / f"{number:06d}.png").unlink()
    stream = stream_of(config, batch_size=1)
    faults, blanks, used = Counter(), 0, set()
    for _ in range(16):
        batch = stream.next()
        faults.update(fault.kind for fault in batch.faults)
        blanks += batch.blank
        used.update(pictures(batch))
        assert batch.images.shape == (1, SIDE, SIDE, 3) and len(batch) == (not batch.blank)
    assert faults == {"missing_picture": 2} and blanks == 2
    assert len(used) == sum(SIZES.values()) - 2  # nothing took their place


def test_dialogues_come_as_batches_of_one_set(config, tokenizer):
    lessons = DialogueLessons(
        preprocessing=Preprocessing(size_px=SIDE), tokenizer=tokenizer, chat_format=COMPACT, max_tokens=2000
    )
    stream = stream_of(config, lessons=lessons, batch_size=3)
    for _ in range(5):
        batch = stream.next()
        assert len(batch) == len(batch.pictures) == len(batch.seeds) == 3 and batch.set_name in SIZES
        assert all(picture.num_targets for picture in batch.pictures)
    blank = lessons.collate([], open_mixture(config)[0], seeds=(), faults=())
    assert blank.blank and len(blank) == 0 and blank.pictures[0].num_targets == 0


def test_augmentation_does_not_depend_on_how_a_step_is_cut_up(config):
    whole = stream_of(config, batch_size=4, augmentation=Augmentation())
    parts = stream_of(config, batch_size=1, accumulate=4, augmentation=Augmentation())
    for _ in range(3):
        batch, pieces = whole.next(), [parts.next() for _ in range(4)]
        assert torch.equal(batch.images, torch.cat([piece.images for piece in pieces]))
        boxes = [boxes for piece in pieces for boxes in piece.boxes_cxcywh]
        assert all(np.array_equal(a, b) for a, b in zip(batch.boxes_cxcywh, boxes, strict=True))
