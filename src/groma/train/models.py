"""Architectures to train from nothing, by name."""

from groma.model.config import GromaConfig


def tiny_config() -> GromaConfig:
    """The architecture in small: about 11 million parameters, for pictures of 224 px."""
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
            "num_fuse_steps": 1,
            "group_norm_groups": 16,
            "upsample": (2, 1, 1),
        },
        language={
            "model_type": "llama",
            "hidden_size": 192,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "intermediate_size": 576,
            "vocab_size": 1024,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
        },
    )


MODELS = {"tiny": tiny_config}
"""Name of an architecture -> its configuration."""
