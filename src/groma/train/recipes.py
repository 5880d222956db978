"""Complete configurations, each a function. A variant calls one and replaces what it changes."""

from dataclasses import replace

from groma.train.config import LoopConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from groma.train.settings import DetectionLossConfig, LanguageConfig, PretrainingConfig
from groma.train.stage import QUESTIONS, SceneData, StageConfig

TOKENIZER = "groma-tiny"
"""The small model's tokenizer, which comes with the package; made by scripts/make_tiny_tokenizer.py."""


def _tiny_training(steps: int, *, lr: float, muon_lr: float, seed: int = 0) -> TrainingConfig:
    return TrainingConfig(
        loop=LoopConfig(steps=steps, precision="bf16", seed=seed, threads=1, save_every=200, evaluate_every=200),
        optimizer=OptimizerConfig(name="muon", lr=lr, muon_lr=muon_lr, weight_decay=0.05, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(warmup_steps=30, final_fraction=0.02),
    )


def tiny_speak() -> StageConfig:
    """The language model on imagined regions: words, the grammar of answers, finding the region that fits."""
    return StageConfig(
        stage="speak",
        data=SceneData(batch_size=12, size_px=64, seed=4, questions=16, question_tokens=220),
        training=_tiny_training(900, lr=1e-3, muon_lr=2e-3),
        tokenizer=TOKENIZER,
    )


def tiny_pretrain_crops() -> StageConfig:
    """Dense encoder pretraining on close-ups, one for each object: a grid of 5 x 5 patches, easy to begin with."""
    return StageConfig(
        stage="pretrain",
        data=SceneData(batch_size=24, size_px=224, crop_px=80, seed=1),
        training=_tiny_training(640, lr=2e-3, muon_lr=4e-3),
    )


def tiny_pretrain() -> StageConfig:
    """Dense encoder pretraining at the model's own size."""
    return StageConfig(
        stage="pretrain",
        data=SceneData(batch_size=32, size_px=224, seed=2),
        training=_tiny_training(1700, lr=1.5e-3, muon_lr=3e-3),
    )


def tiny_pretrain_regions() -> StageConfig:
    """The encoder goes on learning, and the region encoder with it: tokens that stage "speak" made are imitated."""
    return StageConfig(
        stage="pretrain",
        data=SceneData(batch_size=24, size_px=224, seed=11),
        training=_tiny_training(1000, lr=1.2e-3, muon_lr=2.4e-3),
        pretraining=PretrainingConfig(imitation=1.0),
    )


def tiny_detect() -> StageConfig:
    """Stage 1: the proposer, with a one-to-many assignment (docs/deviations.md), on both objectness heads."""
    return StageConfig(
        stage="detect",
        data=SceneData(batch_size=32, size_px=224, seed=3),
        training=_tiny_training(950, lr=2e-3, muon_lr=3e-3),
        detection=DetectionLossConfig(assignment="task_aligned"),
        first_guess=0.2,
    )


def tiny_align() -> StageConfig:
    """Stage 2: projector, region encoder and added token rows; the language model is frozen."""
    return StageConfig(
        stage="align",
        data=SceneData(
            batch_size=12,
            size_px=224,
            seed=5,
            questions=16,
            question_tokens=220,
            kinds=dict(QUESTIONS) | {"describe": 8.0, "colour": 2.0},  # what a region shows, before all else
        ),
        training=_tiny_training(200, lr=1e-3, muon_lr=2e-3),
        language=LanguageConfig(imitation=1.0),
        tokenizer=TOKENIZER,
    )


def tiny_instruct() -> StageConfig:
    """Stage 3: the language model as well."""
    return replace(
        tiny_align(),
        stage="instruct",
        data=SceneData(batch_size=12, size_px=224, seed=6, questions=16, question_tokens=300),
        training=_tiny_training(2000, lr=1e-3, muon_lr=2e-3),
    )


RECIPES = {
    "tiny-speak": tiny_speak,
    "tiny-pretrain-crops": tiny_pretrain_crops,
    "tiny-pretrain": tiny_pretrain,
    "tiny-pretrain-regions": tiny_pretrain_regions,
    "tiny-detect": tiny_detect,
    "tiny-align": tiny_align,
    "tiny-instruct": tiny_instruct,
}
"""Name of a recipe -> the function that makes it."""
