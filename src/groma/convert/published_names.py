"""Parameter names of the published checkpoint -> names in this package.

The published names are part of the weights' interface (golden data, manifest_*.json); ours follow the rooms of
`groma.model`. Rules are tried in order, the first whose pattern matches decides.
"""

import re

from groma.model import projector, region_encoder

RULES: tuple[tuple[str, str], ...] = (
    (r"perceiver\.vis_encoder\.", r"encoder.backbone."),
    (r"perceiver\.input_proj\.", r"proposer.input_proj."),
    (r"perceiver\.ddetr_transformer\.level_embed$", r"proposer.level_embed"),
    (r"perceiver\.ddetr_transformer\.encoder\.layers\.", r"proposer.encoder_layers."),
    (r"perceiver\.ddetr_transformer\.decoder\.layers\.", r"proposer.decoder_layers."),
    (r"perceiver\.ddetr_transformer\.(?:decoder\.)?bbox_embed\.", r"proposer.box_heads."),
    (r"perceiver\.ddetr_transformer\.(?:decoder\.)?class_embed_enc\.", r"proposer.proposal_head."),
    (r"perceiver\.ddetr_transformer\.(?:decoder\.)?class_embed_(\w+?)\.", r"proposer.object_heads.\1."),
    (r"perceiver\.ddetr_transformer\.query_position_embeddings\.", r"proposer.query_content."),
    (r"perceiver\.ddetr_transformer\.enc_output\.", r"proposer.proposal_proj."),
    (r"perceiver\.ddetr_transformer\.enc_output_norm\.", r"proposer.proposal_norm."),
    (r"perceiver\.ddetr_transformer\.pos_trans\.", r"proposer.position_proj."),
    (r"perceiver\.ddetr_transformer\.pos_trans_norm\.", r"proposer.position_norm."),
    (r"llm\.", r"language.base."),
    (r"extra_lm_head\.", r"language.added_head."),
    (r"new_input_embs\.", r"language.added_embeddings."),
)

LAYER_RULES: tuple[tuple[str, str], ...] = (
    (r"\.self_attn_layer_norm\.", r".self_attn_norm."),
    (r"\.encoder_attn_layer_norm\.", r".cross_attn_norm."),
    (r"\.encoder_attn\.", r".cross_attn."),
    (r"\.final_layer_norm\.", r".final_norm."),
    (r"\.(fc[12])\.", r".feed_forward.\1."),
)
"""Applied after RULES to the proposer's layers."""

IGNORED = re.compile(r"rotary_emb\.inv_freq$")
"""Buffers that older checkpoints carry and today's models compute."""

DINOV2_IN_MEMORY: tuple[tuple[str, str], ...] = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
)
"""Names of DINOv2's attention in files (and in memory in transformers 5.17) -> in memory in later releases."""


def our_name(published: str) -> str | None:
    """Published parameter name -> name in this package's files, or None if it is not known."""
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
                for layer_pattern, layer_replacement in LAYER_RULES:
                    name = re.sub(layer_pattern, layer_replacement, name)
            return name
    return None


def name_in_memory(name: str) -> str:
    """Name in files -> name that transformers releases after 5.17 give the parameter in memory."""
    if name.startswith("encoder.backbone."):
        for in_files, in_memory in DINOV2_IN_MEMORY:
            name = name.replace(in_files, in_memory)
    return name
