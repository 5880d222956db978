"""A language model and an image encoder from elsewhere -> a Groma whose other parts have still to learn.

Where training begins that is not finetuning: stage 1 teaches the proposer, stage 2 projector, region encoder and added
token rows, stage 3 the language model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from groma.convert.build import quiet_transformers
from groma.errors import CheckpointError, InputError
from groma.image import Preprocessing
from groma.model.config import ENCODERS, GromaConfig, RegionEncoderConfig
from groma.model.groma import GromaModel
from groma.prompt.chat_format import chat_format
from groma.prompt.tokenizer import FastPromptTokenizer, LlamaSentencePieceTokenizer, PromptTokenizer
from groma.prompt.tokenizer_fast import BACKEND_FILE
from groma.prompt.tokenizer_llama import MODEL_FILE

CONFIG = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """What `groma.pretrained.save_whole` writes."""

    model: GromaModel
    """With its parts' weights, as they are stored; the others are float32 and fresh."""
    tokenizer: PromptTokenizer
    """The language model's, with Groma's tokens behind its own."""
    preprocessing: Preprocessing
    """What pictures become for this encoder."""


def assemble(
    language: Path,
    encoder: Path,
    *,
    image_size: int = 448,
    max_regions: int = 100,
    chat: str | None = None,
    names: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Assembled:
    """Put a model together.

    Args:
        language: folder of a causal LM of transformers: configuration, weights, tokenizer.
        encoder: folder of a DINOv2, with or without registers.
        image_size: side in pixels that pictures are resized to.
        max_regions: most regions of a picture that have a token of their own.
        chat: name of a chat format; None: the tokenizer's own template, or Vicuna's where it has none.
        names: what the two are called, for `groma info`; None: by their folders.
        seed: draws the fresh weights.

    Raises:
        CheckpointError: a folder is of another kind, incomplete or damaged.
        InputError: the two do not fit together, or the language model computes in a way that cannot be extended.
    """
    language_config, encoder_config = _read_config(language), _read_config(encoder)
    _check_kinds(language, language_config, encoder, encoder_config)
    patch = encoder_config.patch_size
    if image_size < 1 or image_size % (2 * patch):
        raise InputError(f"image_size is {image_size}, expected a multiple of two patches ({2 * patch} px).")
    tokenizer = _tokenizer(language, language_config, max_regions)
    chat = chat or ("chat_template" if getattr(tokenizer, "chat_template", None) else "vicuna")
    chat_format(chat, tokenizer)  # refused now rather than at the first question
    groups = math.gcd(RegionEncoderConfig().group_norm_groups, encoder_config.hidden_size)
    config = GromaConfig(
        language=language_config,
        encoder=cast(Any, encoder_config),
        selection={"max_regions": max_regions},
        region_encoder={"group_norm_groups": groups},
        image_size=image_size,
        chat_format=chat,
        provenance={"assembled_from": dict(names or {"language": language.name, "encoder": encoder.name})},
    )
    base = _read_model(AutoModelForCausalLM, language)
    backbone = _read_model(AutoModel, encoder)
    torch.manual_seed(seed)
    model = GromaModel(config, base=base, backbone=backbone).eval()
    _check_extension(model)
    return Assembled(model=model, tokenizer=tokenizer, preprocessing=Preprocessing(size_px=image_size))


def _read_config(folder: Path) -> PreTrainedConfig:
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}: give the folder of a model of transformers.")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / CONFIG}: {_one_line(error)}") from error


def _check_kinds(
    language: Path, language_config: PreTrainedConfig, encoder: Path, encoder_config: PreTrainedConfig
) -> None:
    if language_config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or language_config.is_encoder_decoder:
        raise CheckpointError(f"{language} holds a {language_config.model_type}, which is no causal language model.")
    if language_config.get_text_config() is not language_config:
        raise CheckpointError(
            f"{language} holds a {language_config.model_type}, a language model within another model: give a folder of "
            "the language model alone."
        )
    if encoder_config.model_type not in ENCODERS:
        raise CheckpointError(f"{encoder} holds a {encoder_config.model_type}; known encoders: {', '.join(ENCODERS)}.")


def _tokenizer(folder: Path, config: PreTrainedConfig, max_regions: int) -> PromptTokenizer:
    """The language model's tokenizer; Groma's tokens come after the last row of the model's embedding."""
    rows = config.vocab_size
    if (folder / BACKEND_FILE).is_file():
        return FastPromptTokenizer.from_hub_folder(folder, base_vocab_size=rows, num_regions=max_regions)
    if (folder / MODEL_FILE).is_file():
        content = (folder / MODEL_FILE).read_bytes()
        tokenizer = LlamaSentencePieceTokenizer(content, legacy=True, num_regions=max_regions)
        if tokenizer.vocab_size != rows:
            raise CheckpointError(
                f"{folder}: {MODEL_FILE} has {tokenizer.vocab_size} tokens, the model {rows} rows; {BACKEND_FILE} may "
                "have fewer."
            )
        return tokenizer
    raise CheckpointError(f"{folder} holds no tokenizer: neither {BACKEND_FILE} nor {MODEL_FILE} is there.")


def _read_model(kind: Any, folder: Path) -> PreTrainedModel:
    """Weights in the type that they are stored in; strictly all of them."""
    try:
        with quiet_transformers():
            loaded = kind.from_pretrained(
                folder, dtype="auto", output_loading_info=True, local_files_only=True, ignore_mismatched_sizes=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the weights cannot be read: {_one_line(error)}") from error
    model, report = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    faults = [f"{name} is missing" for name in report["missing_keys"]]
    faults += [
        f"{name} has shape {tuple(came)}, expected {tuple(due)}" for name, came, due in report["mismatched_keys"]
    ]
    if faults:
        raise CheckpointError(f"{folder}: the weights do not fit: {'; '.join(sorted(faults)[:10])}.")
    return model


@torch.no_grad()
def _check_extension(model: GromaModel) -> None:
    """Make sure that the base, run as Groma runs it, says what it says by itself.

    Raises:
        InputError: it does not: the family scales embeddings or logits in a way that is not known here.
    """
    language = model.language
    ids = torch.arange(1, 9)[None] % language.base_vocab_size
    hidden, _ = language(language.embed(ids), use_cache=False)
    ours = language.logits(hidden)[..., : language.base_vocab_size]
    theirs = language.base(ids).logits.float()
    if not torch.allclose(ours, theirs, rtol=2e-2, atol=2e-2 * float(theirs.abs().max())):
        raise InputError(
            f"Language models of the family {language.base.config.model_type!r} cannot be extended: their logits are "
            "not those of their output head."
        )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
