"""Complete configurations, each a function. A variant calls one and replaces what it changes."""

from groma.model.config import GromaConfig
from groma.train.config import LoopConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from groma.train.detection_loss import DetectionLossConfig
from groma.train.stage import SceneData, StageConfig


def tiny_config() -> GromaConfig:
    """The architecture in small: about 10 million parameters, for pictures of 224 px."""
    return GromaConfig(
        image_size=224,
        chat_format="compact",
        encoder={
            "hidden_size": 192,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "patch_size": 16,
            "image_size": 224,
            "layerscale_value": 1.0,
        },
        proposer={
            "d_model": 128,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_ffn_dim": 512,
            "decoder_ffn_dim": 512,
            "num_queries": 100,
            "box_head_dim": 128,
            "dropout": 0.0,
        },
        selection={"max_regions": 40},
        region_encoder={
            "roi_size": 6,
            "roi_dim": 256,
            "position_hidden_dim": 64,
            "position_scale": 0.5,
            "num_fuse_steps": 2,
            "group_norm_groups": 16,
            "upsample": (2, 2, 1),
        },
        language={
            "model_type": "llama",
            "hidden_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "intermediate_size": 768,
            "vocab_size": 1024,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
        },
    )


MODELS = {"tiny": tiny_config}


def _tiny_training(steps: int, *, lr: float, muon_lr: float, seed: int = 0) -> TrainingConfig:
    return TrainingConfig(
        loop=LoopConfig(steps=steps, precision="bf16", seed=seed, threads=1, save_every=500, evaluate_every=500),
        optimizer=OptimizerConfig(name="muon", lr=lr, muon_lr=muon_lr, weight_decay=0.05, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(warmup_steps=100, final_fraction=0.02),
    )


def tiny_pretrain_small() -> StageConfig:
    """Dense encoder pretraining on small pictures: objects of 16 to 80 px, a grid of 10 x 10 patches."""
    return StageConfig(
        stage="pretrain",
        data=SceneData(batch_size=32, size_px=160, seed=1),
        training=_tiny_training(4000, lr=1e-3, muon_lr=2e-3),
    )


def tiny_pretrain() -> StageConfig:
    """Dense encoder pretraining at the model's own size."""
    return StageConfig(
        stage="pretrain",
        data=SceneData(batch_size=32, size_px=224, seed=2),
        training=_tiny_training(4000, lr=7e-4, muon_lr=1.4e-3),
    )


def tiny_detect() -> StageConfig:
    """Stage 1: the proposer, with a one-to-many assignment (docs/deviations.md), on both objectness heads."""
    return StageConfig(
        stage="detect",
        data=SceneData(batch_size=32, size_px=224, seed=3),
        training=_tiny_training(3000, lr=1e-3, muon_lr=2e-3),
        detection=DetectionLossConfig(assignment="task_aligned"),
    )


RECIPES = {
    "tiny-pretrain-small": tiny_pretrain_small,
    "tiny-pretrain": tiny_pretrain,
    "tiny-detect": tiny_detect,
}
"""Name of a recipe -> the function that makes it."""
