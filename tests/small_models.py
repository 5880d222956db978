"""Models of some hundred thousand random weights whose answers are lively: peaked logits, many tags, many regions.

And how to compare what they say: where weights lie in memory changes the rounding, and nothing else may.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from groma.image import Preprocessing
from groma.inference.assistant import Groma
from groma.inference.result import GroundedAnswer, Region
from groma.model.config import GromaConfig
from groma.model.groma import GromaModel
from groma.prompt.tokenizer import FastPromptTokenizer, train_byte_bpe
from groma.prompt.tokens import SpecialTokenIds

MAX_REGIONS = 12
IMAGE_SIZE = 84
CONTEXT = 512


@cache
def byte_bpe() -> FastPromptTokenizer:
    corpus = ["Locate the red dog in the image.", "Please briefly describe the two dogs.", "USER: ASSISTANT:"] * 3
    return train_byte_bpe(corpus, 300, num_regions=MAX_REGIONS)


def small_config(*, chat_format: str = "compact", vocab_size: int | None = None, **language) -> GromaConfig:
    return GromaConfig(
        image_size=IMAGE_SIZE,
        chat_format=chat_format,
        encoder={
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "patch_size": 14,
            "image_size": IMAGE_SIZE,
        },
        proposer={
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "num_queries": 30,
            "box_head_dim": 32,
        },
        selection={"max_regions": MAX_REGIONS},
        region_encoder={
            "roi_size": 3,
            "roi_dim": 32,
            "position_hidden_dim": 16,
            "num_fuse_steps": 1,
            "group_norm_groups": 8,
            "upsample": (2, 2, 1),
        },
        language={
            "model_type": "llama",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "vocab_size": vocab_size or byte_bpe().vocab_size,
            "max_position_embeddings": CONTEXT,
        }
        | language,
        provenance={"stages": ["random weights"]},
    )


@torch.no_grad()
def enliven(model: GromaModel, *, seed: int) -> GromaModel:
    """Random weights that matter: every matrix keeps the size of what passes through it, tags are likely."""
    generator = torch.Generator().manual_seed(seed)

    def fill(weight: torch.Tensor, scale: float) -> None:
        weight.copy_(torch.randn(weight.shape, generator=generator) * scale)

    for name, weight in model.named_parameters():
        if weight.ndim >= 2 and "sampling_offsets" not in name:
            fill(weight, 1.0 if "embed" in name else 1.3 / math.sqrt(weight[0].numel()))
    for name, heads in model.proposer.object_heads.items():
        for head in heads:
            head.bias.fill_(0.4 if name == "coco" else 0.0)
    for head in model.proposer.box_heads:
        fill(head.layers[-1].bias, 0.2)
    fill(model.language.base.get_output_embeddings().weight, 0.8)
    head = model.language.added_head.weight
    fill(head, 1.0)
    tokens = SpecialTokenIds.after(model.language.base_vocab_size, num_regions=model.config.selection.max_regions)
    tags = (tokens.phrase_open, tokens.phrase_close, tokens.roi_open, tokens.roi_close)
    head[[tag - tokens.base_vocab_size for tag in tags]] *= 2.0
    model.language.base.get_output_embeddings().weight[tokens.eos] *= 1.2
    return model.eval()


def small_groma(*, seed: int = 0, chat_format: str = "compact", **language) -> Groma:
    model = enliven(GromaModel(small_config(chat_format=chat_format, **language)), seed=seed)
    return Groma(model, byte_bpe(), Preprocessing(size_px=IMAGE_SIZE))


@torch.no_grad()
def endless_groma(*, seed: int = 0, **language) -> Groma:
    """One whose answers go on until they are cut; how soon another's end is a matter of a machine's rounding."""
    groma = small_groma(seed=seed, **language)
    language_model = groma.model.language
    tokens = SpecialTokenIds.after(language_model.base_vocab_size, num_regions=MAX_REGIONS)
    language_model.base.get_output_embeddings().weight[tokens.eos] = 0  # far below the likeliest of the others
    return groma


def picture(seed: int = 0, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Blocks of random colours: every part looks different."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)


def assert_same(one: GroundedAnswer, other: GroundedAnswer, tolerance: float = 1e-4) -> None:
    """Equal but for rounding: text, tags and regions named are equal, numbers nearly so."""
    assert (one.raw_text, one.text, one.finish_reason) == (other.raw_text, other.text, other.finish_reason)
    assert [(e.phrase, e.start, e.region_ids) for e in one.entities] == [
        (e.phrase, e.start, e.region_ids) for e in other.entities
    ]
    for entity, twin in zip(one.entities, other.entities, strict=True):
        assert entity.region_scores == pytest.approx(twin.region_scores, abs=tolerance)
    assert_same_regions(one.regions, other.regions, tolerance)


def assert_same_regions(some: Sequence[Region], others: Sequence[Region], tolerance: float = 1e-4) -> None:
    for region, twin in zip(some, others, strict=True):
        assert region.box_xyxy_px == pytest.approx(twin.box_xyxy_px, abs=tolerance * 100)
        assert region.objectness == pytest.approx(twin.objectness, abs=tolerance)
        assert (region.source, region.numbers) == (twin.source, twin.numbers)
