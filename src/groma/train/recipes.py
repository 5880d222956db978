"""Complete configurations, each a function. A variant calls one and replaces what it changes."""

from dataclasses import replace

from groma.train.config import LoopConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from groma.train.settings import DetectionLossConfig, LanguageConfig, PretrainingConfig
from groma.train.stage import QUESTIONS, MixtureData, SceneData, Stage, StageConfig

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


def _finetune(stage: Stage, *, batch_size: int, epochs: float, lr: float) -> StageConfig:
    """On annotated pictures, from a model; for hundreds or thousands of them, and for models of any size."""
    return StageConfig(
        stage=stage,
        model="",
        mixture=MixtureData(batch_size=batch_size, epochs=epochs),
        training=TrainingConfig(
            loop=LoopConfig(steps=1000, precision="auto", log_every=5, save_every=100, evaluate_every=50),
            optimizer=OptimizerConfig(lr=lr, weight_decay=0.0, betas=(0.9, 0.98)),
            schedule=ScheduleConfig(warmup_fraction=0.05, final_fraction=0.02),
        ),
    )


def finetune_detect() -> StageConfig:
    """The proposer on your own boxes."""
    return _finetune("detect", batch_size=8, epochs=10, lr=2e-4)


def finetune_align() -> StageConfig:
    """Projector, region encoder and added token rows on your own data; the language model is frozen."""
    return _finetune("align", batch_size=4, epochs=5, lr=3e-4)


def finetune_instruct() -> StageConfig:
    """The language model as well. The learning rate suits small models; give 2e-5 for one of billions of parameters."""
    return _finetune("instruct", batch_size=4, epochs=5, lr=3e-4)


def _published(
    stage: Stage, mixture: MixtureData, *, accumulate: int, lr: float, weight_decay: float, warmup: float
) -> StageConfig:
    """The published schedules (paper, section 3.4, and the released scripts), for 8 processes."""
    return StageConfig(
        stage=stage,
        model="",
        mixture=mixture,
        training=TrainingConfig(
            loop=LoopConfig(steps=1, accumulate=accumulate, precision="bf16", save_every=1000, evaluate_every=1000),
            optimizer=OptimizerConfig(lr=lr, weight_decay=weight_decay),
            schedule=ScheduleConfig(warmup_fraction=warmup),
        ),
    )


def published_detect() -> StageConfig:
    """Stage 1: 12 epochs of 8 x 8 pictures; sampling offsets learn at a tenth (groma.train.groups)."""
    mixture = MixtureData(batch_size=8, epochs=12, workers=8)
    return _published("detect", mixture, accumulate=1, lr=2e-4, weight_decay=1e-4, warmup=0.0)


def published_align() -> StageConfig:
    """Stage 2: 2 epochs of 8 x 2 x 8 pictures, dialogues in the template without end tokens."""
    mixture = MixtureData(batch_size=2, epochs=2, workers=4, chat_format="vicuna_pretrain")
    return _published("align", mixture, accumulate=8, lr=1e-4, weight_decay=0.0, warmup=0.03)


def published_instruct() -> StageConfig:
    """Stage 3: 1 epoch of 8 x 16 pictures."""
    mixture = MixtureData(batch_size=16, epochs=1, workers=8)
    return _published("instruct", mixture, accumulate=1, lr=1e-5, weight_decay=0.0, warmup=0.03)


RECIPES = {
    "tiny-speak": tiny_speak,
    "tiny-pretrain-crops": tiny_pretrain_crops,
    "tiny-pretrain": tiny_pretrain,
    "tiny-pretrain-regions": tiny_pretrain_regions,
    "tiny-detect": tiny_detect,
    "tiny-align": tiny_align,
    "tiny-instruct": tiny_instruct,
    "finetune-detect": finetune_detect,
    "finetune-align": finetune_align,
    "finetune-instruct": finetune_instruct,
    "published-detect": published_detect,
    "published-align": published_align,
    "published-instruct": published_instruct,
}
"""Name of a recipe -> the function that makes it."""
