"""A checkpoint in the published layout -> a model in ours."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Config

from groma.convert.published_names import IGNORED, LAYER_RULES, RULES
from groma.errors import CheckpointError
from groma.model import projector, region_encoder
from groma.model.config import GromaConfig
from groma.model.groma import GromaModel

PUBLISHED_IMAGE_SIZE = 448
"""Side of the pictures that the published weights were trained on."""

DETECTOR_KEYS = (
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "num_feature_levels",
    "dropout",
)
"""Keys of the published ddetr_cfg that decide the proposer's shape; they are called the same here."""

DINOV2_RENAMED = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
)
"""Names of DINOv2's attention on disk (and in transformers 5.17) -> names in memory of later releases."""


def our_name(published: str) -> str | None:
    """Published parameter name -> name in this package (as on disk), or None if it is not known."""
    for prefix, part in (("region_encoder.", region_encoder), ("img_txt_bridge.", projector)):
        for theirs, ours in part.PUBLISHED_NAMES.items():
            if published.startswith(theirs):
                room = "projector." if prefix == "img_txt_bridge." else prefix
                return room + ours + published.removeprefix(theirs)
    for pattern, replacement in RULES:
        found = re.match(pattern, published)
        if found:
            name = found.expand(replacement) + published[found.end() :]
            if name.startswith(("proposer.encoder_layers.", "proposer.decoder_layers.")):
                for pattern_, replacement_ in LAYER_RULES:
                    name = re.sub(pattern_, replacement_, name)
            return name
    return None


@torch.no_grad()
def load_published_weights(model: GromaModel, tensors: Mapping[str, Tensor]) -> None:
    """Copy a published state dict into `model`, strictly.

    Every name must be known, every parameter of the model must be given, every shape must fit; tensors that the
    checkpoint lists under two names must agree.

    Raises:
        CheckpointError: lists all offenders.
    """
    parameters = dict(model.named_parameters())
    problems: list[str] = []
    sources: dict[str, str] = {}
    for published, tensor in tensors.items():
        if IGNORED.search(published):
            continue
        name = _in_memory(our_name(published), parameters)
        if name is None or name not in parameters:
            problems.append(f"{published}: unknown name")
        elif parameters[name].shape != tensor.shape:
            wanted, found = tuple(parameters[name].shape), tuple(tensor.shape)
            problems.append(f"{published}: shape {found}, the model has {wanted}")
        elif name in sources and not torch.equal(tensors[sources[name]], tensor):
            problems.append(f"{published} and {sources[name]} name one tensor, but differ")
        else:
            sources[name] = published
    problems += [f"{name}: missing from the checkpoint" for name in parameters.keys() - sources.keys()]
    if problems:
        raise CheckpointError(f"The weights do not fit ({len(problems)} problems): " + "; ".join(sorted(problems)))
    for name, published in sources.items():
        parameters[name].copy_(tensors[published])


def _in_memory(name: str | None, parameters: Mapping[str, Tensor]) -> str | None:
    """The name that the installed transformers release gives the parameter in memory."""
    if name is None or name in parameters or not name.startswith("encoder.backbone."):
        return name
    for on_disk, in_memory in DINOV2_RENAMED:
        if on_disk in name:
            return name.replace(on_disk, in_memory)
    return name


def published_config(values: Mapping[str, Any], *, image_size: int = PUBLISHED_IMAGE_SIZE) -> GromaConfig:
    """A published `config.json` (nested perceiver_cfg and llm_cfg) -> GromaConfig, geometry "released".

    Args:
        values: the parsed file.
        image_size: side of the resized picture; the published configuration does not say it, the preprocessor's does.

    Raises:
        CheckpointError: a section is missing.
    """
    missing = [key for key in ("perceiver_cfg", "llm_cfg") if key not in values]
    perceiver = values.get("perceiver_cfg") or {}
    missing += [f"perceiver_cfg.{key}" for key in ("vis_encoder_cfg", "ddetr_cfg") if key not in perceiver]
    if missing:
        raise CheckpointError(f"config.json is not a published Groma configuration: no {', '.join(missing)}.")
    detector = perceiver["ddetr_cfg"]
    num_queries = detector.get("two_stage_num_proposals", detector.get("num_queries", 300))
    known = {key: detector[key] for key in DETECTOR_KEYS if key in detector}
    language = dict(values["llm_cfg"])
    encoder = {k: v for k, v in perceiver["vis_encoder_cfg"].items() if k in Dinov2Config().to_dict()}
    return GromaConfig(
        encoder={k: v for k, v in encoder.items() if k != "model_type"},
        proposer=known | {"num_queries": num_queries},
        selection={
            "nms_iou": values.get("nms_thres", 0.6),
            "score_threshold": values.get("box_score_thres", 0.15),
            "max_regions": values.get("max_region_num", 100),
        },
        region_encoder={"geometry": "released"},
        language={"model_type": "llama"} | language,
        image_size=image_size,
        chat_format="vicuna",
    )
