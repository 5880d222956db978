"""Encoder, proposer, selection, region encoder and projector against the reference, array by array."""

import pytest
import torch
from golden_data import TOLERANCES, cases, check, model_of, pixels_of

from groma.model.projector import merge_patches
from groma.model.selection import objectness, select_regions

BOXES, FEATURES = TOLERANCES["boxes"], TOLERANCES["features"]


@pytest.mark.parametrize("case", cases("encode"))
@torch.no_grad()
def test_encode(case):
    info, arrays, model, pixels = case.info, case.arrays, model_of(case), pixels_of(case)
    stops = {"pixel_values": (pixels[0], 1e-5)}
    maps = model.encoder(pixels)
    proposer = model.proposer(maps)
    regions = select_regions(proposer.proposals, config=model.config.selection)
    stops |= _proposer_stops(model, pixels, maps, proposer)
    scores = objectness(proposer.proposals, model.config.selection.source_weights)
    stops |= {
        "candidate_scores": (scores[0], BOXES),
        "nms_indices": (regions[0].candidate, 0),
        "selected_boxes": (regions[0].boxes_cxcywh, BOXES),
    }
    stops |= _region_stops(model, maps, [r.boxes_cxcywh for r in regions])
    checked = {"image"}
    for name in info["arrays"]:
        if name == "hidden_states_last4":
            _check_hidden(info, arrays, model, pixels)
        elif name not in checked:
            check(info, arrays, name, *stops[name])
        checked.add(name)
    assert checked == set(info["arrays"])


def _check_hidden(info, arrays, model, pixels):
    """The class token (row 0) is not in our maps: take it from the blocks themselves."""
    hidden, states = model.encoder.embed(pixels), []
    for layer in model.encoder.backbone.encoder.layer:
        hidden = layer(hidden)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        states.append(hidden[0])
    check(info, arrays, "hidden_states_last4", torch.stack(states[-4:]), FEATURES)


def _proposer_stops(model, pixels, maps, out):
    top = out.top_positions[0]
    stops = {
        "patch_embeddings": (model.encoder.embed(pixels)[0], FEATURES),
        "proposer_input": (torch.stack(maps.last[-4:]).mean(0)[0].permute(2, 0, 1), FEATURES),
        "proposer_memory": (out.memory[0], FEATURES),
        "enc_logits": (out.encoder_logits[0], FEATURES),
        "enc_coord_logits": (out.encoder_box_logits[0], FEATURES),
        "topk_proposals": (top, 0),
        "topk_logits": (out.encoder_logits[0][top], FEATURES),
        "init_reference": (out.initial_boxes_cxcywh[0], BOXES),
        "decoder_hidden": (out.hidden[:, 0], FEATURES),
        "decoder_references": (out.layer_references_cxcywh[:, 0], BOXES),
        "layer_boxes": (out.layer_boxes_cxcywh[:, 0], BOXES),
        "pred_boxes": (out.proposals.boxes_cxcywh[0], BOXES),
        "logits_coco": (out.proposals.logits["coco"][0], FEATURES),
        "logits_sa1b": (out.proposals.logits["sa1b"][0], FEATURES),
    }
    flat = out.levels[0].split([h * w for h, w in out.pyramid_shapes])
    for level, (values, shape) in enumerate(zip(flat, out.pyramid_shapes, strict=True)):
        stops[f"proposer_level{level}"] = (values.T.unflatten(1, shape), FEATURES)
    return stops


def _region_stops(model, maps, boxes_cxcywh):
    encoder = model.region_encoder
    levels = encoder.fusion(maps)
    pooled = encoder.pool(levels, boxes_cxcywh)
    stops = {
        "region_features": (encoder(maps, boxes_cxcywh)[0], FEATURES),
        "merged_features": (merge_patches(maps.final)[0], FEATURES),
        "image_tokens": (model.projector(maps.final)[0], FEATURES),
        "roi_flat": (encoder.embed_content(pooled), FEATURES),
        "roi_pos": (encoder.embed_position(torch.cat(boxes_cxcywh)), FEATURES),
    }
    for level, (fused, roi) in enumerate(zip(levels, pooled, strict=True)):
        stops[f"fused_level{level}"] = (fused[0], FEATURES)
        stops[f"roi_level{level}"] = (roi, FEATURES)
    return stops
