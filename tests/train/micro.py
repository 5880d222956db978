"""The architecture so small that a step takes milliseconds, and a recipe's stage for it."""

from dataclasses import replace

from groma.model.config import GromaConfig
from groma.train.recipes import RECIPES, TOKENIZER
from groma.train.run import find_tokenizer
from groma.train.stage import StageConfig

SIDE_PX = 64

SCENE_RECIPES = tuple(name for name, recipe in RECIPES.items() if recipe().model)
"""Recipes that train on scenes; the others train on annotated pictures, from a whole model."""


def micro_config(**changes) -> GromaConfig:
    """4 x 4 patches, 12 proposals, two layers of everything; the tokenizer is the small model's."""
    special = find_tokenizer(TOKENIZER).special
    parts = {
        "encoder": {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "patch_size": 16,
            "image_size": SIDE_PX,
            "layerscale_value": 1.0,
        },
        "proposer": {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_queries": 12,
            "box_head_dim": 32,
            "dropout": 0.0,
            "num_encoder_blocks": 2,
        },
        "selection": {"max_regions": special.num_regions},
        "region_encoder": {
            "roi_size": 2,
            "roi_dim": 32,
            "position_hidden_dim": 16,
            "num_fuse_steps": 1,
            "group_norm_groups": 4,
            "upsample": (2, 1),
        },
        "language": {
            "model_type": "llama",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "vocab_size": special.base_vocab_size,
            "max_position_embeddings": 1024,
        },
    }
    parts = {name: values | changes.pop(name, {}) for name, values in parts.items()}
    return GromaConfig(image_size=SIDE_PX, chat_format="compact", **parts, **changes)


def micro_stage(recipe: str, *, steps: int = 3, imitates: bool = False, **data) -> StageConfig:
    """A recipe's stage for the architecture "micro", which a test adds to MODELS; `data` changes its pictures.

    It imitates nothing unless asked to, so that it can start from nothing.
    """
    config = RECIPES[recipe]()
    loop = replace(config.training.loop, steps=steps, save_every=2, evaluate_every=steps, log_every=1)
    small = {"batch_size": 2, "size_px": SIDE_PX, "questions": 3} | data
    if config.data.crop_px:
        small |= {"crop_px": 32}
    if not imitates:
        config = replace(
            config,
            pretraining=replace(config.pretraining, imitation=0.0),
            language=replace(config.language, imitation=0.0),
        )
    return replace(
        config,
        model="micro",
        data=replace(config.data, **small),
        training=replace(config.training, loop=loop),
    )
