"""Scenes that went through a published format and came back train to the same losses as those that never left."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import SIDE_PX, micro_config
from PIL import Image

from groma.data.annotated_set import AnnotatedSet
from groma.data.annotation import Annotation
from groma.data.augment import WHOLE
from groma.data.batches import MicroBatches, Share
from groma.data.catalogue import CATALOGUE
from groma.data.lessons import DetectionLessons, DialogueLessons
from groma.data.mixture import MixtureConfig, MixtureSet, SetConfig, open_mixture
from groma.data.plan import MixturePlan
from groma.data.scenes.export import PICTURES, caption_of, export_scenes, picture_name
from groma.data.scenes.scene import Scene, make_scene
from groma.image import Preprocessing
from groma.prompt.chat_format import COMPACT
from groma.train.blueprint import find_tokenizer
from groma.train.config import LoopConfig, OptimizerConfig, TrainingConfig
from groma.train.loop import train
from groma.train.mixture_stream import MixtureStream
from groma.train.models import MODELS
from groma.train.recipes import RECIPES, TOKENIZER
from groma.train.run import build_objective
from groma.train.settings import LanguageConfig

DETECTION = [name for name, entry in CATALOGUE.items() if entry.head]
PREPROCESSING = Preprocessing(size_px=SIDE_PX)


class DirectSet(AnnotatedSet):
    """Scenes as they are made: no file, no format."""

    def __init__(self, scenes: list[Scene]) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def annotation(self, number: int) -> Annotation:
        scene = self.scenes[number]
        return Annotation(
            picture=picture_name(number),
            frame=(scene.size_px, scene.size_px),
            boxes_xyxy_frame=tuple(tuple(map(float, entry.box_xyxy_px)) for entry in scene.objects),
            passages=(caption_of(scene, number),),
        )

    def picture_bytes(self, number: int, annotation: Annotation) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(self.scenes[number].image).save(stream, format="PNG")
        return stream.getvalue()


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(MODELS, "micro", micro_config)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene("train", index, 47, size_px=SIDE_PX) for index in range(6)]


def read_back(name: str, scenes: list[Scene], folder: Path) -> MixtureSet:
    file = export_scenes(scenes, CATALOGUE[name].format, folder)
    one = SetConfig(set=name, annotations=str(file), pictures=str(folder / PICTURES))
    return open_mixture(MixtureConfig(sets=(one,)))[0]


def losses(one: MixtureSet, lessons, stage: str, out: Path) -> list[dict]:
    """Three steps of the small architecture."""
    config = RECIPES[f"tiny-{stage}"]()
    loop = LoopConfig(steps=3, log_every=1, save_every=0)
    training = TrainingConfig(loop=loop, optimizer=OptimizerConfig(lr=1e-3))
    config = replace(config, model="micro", training=training, language=LanguageConfig())
    config = replace(config, data=replace(config.data, size_px=SIDE_PX))
    plan = MixturePlan([one.data], [1.0], samples_per_step=2, seed=1)
    torch.manual_seed(0)
    objective = build_objective(config)
    train(objective, MixtureStream(MicroBatches((one,), plan, Share(batch_size=2), lessons)), training, out=out)
    records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{"loss": r["loss"], "grad_norm": r["grad_norm"]} | r["terms"] for r in records if r["kind"] == "train"]


@pytest.mark.parametrize("name", DETECTION)
def test_detection(name, scenes, tmp_path):
    lessons = DetectionLessons(preprocessing=PREPROCESSING, augmentation=WHOLE)
    found = read_back(name, scenes, tmp_path / "data")
    direct = replace(found, data=DirectSet(scenes))
    assert losses(found, lessons, "detect", tmp_path / "a") == losses(direct, lessons, "detect", tmp_path / "b")


def test_grounded_captions(scenes, tmp_path):
    lessons = DialogueLessons(
        preprocessing=PREPROCESSING, tokenizer=find_tokenizer(TOKENIZER), chat_format=COMPACT, max_tokens=900
    )
    found = read_back("flickr30k", scenes, tmp_path / "data")
    direct = replace(found, data=DirectSet(scenes))
    assert losses(found, lessons, "instruct", tmp_path / "a") == losses(direct, lessons, "instruct", tmp_path / "b")
