"""A checkpoint in the published layout -> configuration and weights of a model of ours.

Its `config.json` is written by the reference's configuration classes, which leave out what equals their defaults; what
is missing here is therefore one of those defaults (transformers 4.32), not one of ours.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, Dinov2Config, PreTrainedConfig

from groma.convert.published_names import IGNORED, name_in_memory, our_name
from groma.errors import CheckpointError
from groma.model.config import GromaConfig
from groma.model.groma import GromaModel
from groma.prompt.tokens import NEW_TOKENS

PUBLISHED_IMAGE_SIZE = 448
"""Side of the square that the reference resizes every picture to."""

DETECTOR_DEFAULTS = {
    "d_model": 256,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 1024,
    "decoder_ffn_dim": 1024,
    "num_feature_levels": 4,
    "dropout": 0.1,
}
"""Keys of the published ddetr_cfg that decide the proposer's shape and are called the same here."""

DETECTOR_FIXED = {
    "two_stage": (True, False),
    "with_box_refine": (True, False),
    "activation_function": ("relu", "relu"),
    "position_embedding_type": ("sine", "sine"),
}
"""Keys of ddetr_cfg that the proposer knows one value of -> that value, and what a missing key means."""

GENERAL = frozenset(PreTrainedConfig().to_dict())
"""Keys that every configuration of transformers carries and that shape nothing."""

OLD_NAMES = frozenset({"rope_theta", "rope_scaling"})
"""Keys of language models that transformers still reads, but writes otherwise."""


def is_published(values: Mapping[str, Any]) -> bool:
    """Whether a parsed `config.json` is of the published layout; ours and theirs call themselves "groma" alike."""
    return "perceiver_cfg" in values or "llm_cfg" in values


def published_config(values: Mapping[str, Any], *, image_size: int = PUBLISHED_IMAGE_SIZE) -> GromaConfig:
    """A published `config.json` (nested perceiver_cfg and llm_cfg) -> GromaConfig, geometry "released".

    Args:
        values: the parsed file.
        image_size: side of the resized picture; the published configuration does not say it, the preprocessor's does.

    Raises:
        CheckpointError: a section is missing, or asks for something that the published method does not have.
    """
    perceiver = values.get("perceiver_cfg") or {}
    sections = {"perceiver_cfg": perceiver, "llm_cfg": values.get("llm_cfg")}
    sections |= {f"perceiver_cfg.{key}": perceiver.get(key) for key in ("vis_encoder_cfg", "ddetr_cfg")}
    missing = [name for name, section in sections.items() if not isinstance(section, Mapping) or not section]
    if missing:
        raise CheckpointError(f"config.json is not a published Groma configuration: no {', '.join(missing)}.")
    config = GromaConfig(
        encoder=_encoder(perceiver["vis_encoder_cfg"]),
        proposer=_proposer(perceiver["ddetr_cfg"]),
        selection={
            "nms_iou": values.get("nms_thres", 0.6),
            "score_threshold": values.get("box_score_thres", 0.15),
            "max_regions": values.get("max_region_num", 100),
        },
        region_encoder={"geometry": "released"},
        language=_language(values["llm_cfg"]),
        image_size=image_size,
        chat_format="vicuna",
    )
    _check_whole(values, config)
    return config


def _shaping(section: Mapping[str, Any], kind: PreTrainedConfig) -> dict[str, Any]:
    """What of a section shapes a model of this kind; old files carry settings of generation and the like as well."""
    known = (kind.to_dict().keys() | OLD_NAMES) - GENERAL
    return {"model_type": kind.model_type} | {key: section[key] for key in section.keys() & known}


def _encoder(section: Mapping[str, Any]) -> dict[str, Any]:
    kind = section.get("model_type", "dinov2")
    if kind != "dinov2":
        raise CheckpointError(f"config.json: the image encoder is {kind!r}; Groma's is dinov2.")
    return _shaping(section, Dinov2Config())


def _language(section: Mapping[str, Any]) -> dict[str, Any]:
    name = section.get("model_type", "llama")
    try:
        kind = AutoConfig.for_model(name)
    except ValueError as error:
        raise CheckpointError(f"config.json: transformers knows no language model of type {name!r}.") from error
    return _shaping(section, kind)


def _proposer(section: Mapping[str, Any]) -> dict[str, Any]:
    for key, (known, default) in DETECTOR_FIXED.items():
        if section.get(key, default) != known:
            raise CheckpointError(f"config.json: ddetr_cfg.{key} is {section.get(key, default)!r}, expected {known!r}.")
    points = {section.get(key, 4) for key in ("encoder_n_points", "decoder_n_points")}
    if len(points) != 1:
        raise CheckpointError("config.json: ddetr_cfg has other encoder_n_points than decoder_n_points.")
    queries = section.get("two_stage_num_proposals", section.get("num_queries", 300))
    return {key: section.get(key, default) for key, default in DETECTOR_DEFAULTS.items()} | {
        "num_queries": queries,
        "num_points": points.pop(),
    }


def _check_whole(values: Mapping[str, Any], config: GromaConfig) -> None:
    """Refuse what would load and then compute something else."""
    layer = values["perceiver_cfg"].get("vis_output_layer", -1)
    if layer != -1:
        raise CheckpointError(f"config.json: vis_output_layer is {layer}; image tokens are made of the last one, -1.")
    found = values.get("num_new_token", config.num_new_tokens)
    if found != config.num_new_tokens:
        raise CheckpointError(
            f"config.json: {found} new tokens, but {len(NEW_TOKENS)} named ones and {config.selection.max_regions} "
            f"region tokens (max_region_num) make {config.num_new_tokens}."
        )


def published_image_size(preprocessor: Mapping[str, Any]) -> int:
    """Side that pictures have when they reach the published encoder, from `preprocessor_config.json`.

    The reference resizes to 448 itself; its processor then changes the size only if it is set to another one.

    Raises:
        CheckpointError: the size is not one number.
    """
    for step, key in (("do_center_crop", "crop_size"), ("do_resize", "size")):
        size = preprocessor.get(key) if preprocessor.get(step, True) else None
        if size is not None:
            sides = set(size.values()) if isinstance(size, Mapping) else {size}
            if len(sides) != 1 or not all(isinstance(side, int) for side in sides):
                raise CheckpointError(f"preprocessor_config.json: {key} is {size!r}, expected one side in pixels.")
            return sides.pop()
    return PUBLISHED_IMAGE_SIZE


def match_published(model: GromaModel, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Which published tensor each parameter of a model takes, strictly.

    Every name must be known, every parameter of the model must be given, every shape must fit; tensors that the
    checkpoint lists under two names must agree.

    Args:
        model: may be on the meta device.
        tensors: a published state dict.

    Returns:
        Name of the parameter in memory -> published name.

    Raises:
        CheckpointError: lists all offenders.
    """
    parameters = dict(model.named_parameters())
    problems: list[str] = []
    sources: dict[str, str] = {}
    misfits: set[str] = set()
    for published, tensor in tensors.items():
        if IGNORED.search(published):
            continue
        ours = our_name(published)
        name = ours if ours is None or ours in parameters else name_in_memory(ours)
        if name is None or name not in parameters:
            problems.append(f"{published}: unknown name")
        elif parameters[name].shape != tensor.shape:
            wanted, found = tuple(parameters[name].shape), tuple(tensor.shape)
            problems.append(f"{published}: shape {found}, the model has {wanted}")
            misfits.add(name)
        elif name in sources and not torch.equal(tensors[sources[name]], tensor):
            problems.append(f"{published} and {sources[name]} name one tensor, but differ")
        else:
            sources[name] = published
    problems += [f"{name}: missing from the checkpoint" for name in parameters.keys() - sources.keys() - misfits]
    if problems:
        raise CheckpointError(f"The weights do not fit ({len(problems)} problems): " + "; ".join(sorted(problems)))
    return sources


def rename_published(config: GromaConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict, checked as by `match_published` -> the same tensors under our names in files."""
    with torch.device("meta"):
        model = GromaModel(config)
    return {str(our_name(name)): tensors[name] for name in match_published(model, tensors).values()}


@torch.no_grad()
def load_published_weights(model: GromaModel, tensors: Mapping[str, Tensor]) -> None:
    """Copy a published state dict into a model that is there already, strictly.

    Raises:
        CheckpointError: lists all offenders.
    """
    parameters = dict(model.named_parameters())
    for name, published in match_published(model, tensors).items():
        parameters[name].copy_(tensors[published])
