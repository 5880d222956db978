"""A Groma of half a million random weights, and what a command did with it."""

from typing import NamedTuple

import torch

from groma.image import Preprocessing
from groma.inference.assistant import Groma
from groma.model.config import GromaConfig
from groma.model.groma import GromaModel
from groma.prompt.tokenizer import train_byte_bpe

MAX_REGIONS = 12
CONTEXT = 1024


class Ran(NamedTuple):
    """What one command did."""

    status: int
    out: str
    err: str


def random_groma() -> Groma:
    """The architecture, as small as it goes, with seeded random weights."""
    tokenizer = train_byte_bpe(["Locate the dog in the image."], 300, num_regions=MAX_REGIONS)
    config = GromaConfig(
        image_size=128,
        chat_format="compact",
        encoder={
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "patch_size": 16,
            "image_size": 128,
        },
        proposer={
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "num_queries": 30,
            "box_head_dim": 32,
        },
        selection={"max_regions": MAX_REGIONS, "score_threshold": 0.0},
        region_encoder={
            "roi_size": 4,
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
            "num_key_value_heads": 4,
            "intermediate_size": 64,
            "vocab_size": tokenizer.special.base_vocab_size,
            "max_position_embeddings": CONTEXT,
        },
        provenance={"stages": ["random weights"], "seed": 0},
    )
    torch.manual_seed(0)
    return Groma(GromaModel(config), tokenizer, Preprocessing(size_px=128))


def sentence(ran: Ran) -> str:
    """What a refused command said: status 2, nothing on standard output, one line on standard error."""
    assert ran.status == 2, ran
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("groma: error: ")
    assert "Traceback" not in line
    return line.removeprefix("groma: error: ")
