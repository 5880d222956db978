"""Parameter names of the published checkpoint -> names in this package.

The published names are part of the weights' interface (golden data, manifest_*.json); ours follow the rooms of
`groma.model`. Rules are tried in order, the first whose pattern matches decides.
"""

import re

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
