"""Prompt splicing and greedy generation against the reference."""

import pytest
import torch
from golden_data import TOLERANCES, cases, check, model_of, pixels_of, special_ids

from groma.inference.decoder import Decoder, Prompt, decode
from groma.inference.generate import Decoding
from groma.model.selection import match_regions, objectness
from groma.model.splice import pad, splice

BOXES, FEATURES = TOLERANCES["boxes"], TOLERANCES["features"]


@pytest.mark.parametrize("case", cases("chat", "refer"))
@torch.no_grad()
def test_answer(case):
    info, arrays, model, tokens = case.info, case.arrays, model_of(case), special_ids(case.info)
    user = torch.from_numpy(arrays["refer_boxes"]) if "refer_boxes" in arrays else torch.zeros(0, 4)
    perception = model.perceive(pixels_of(case)[:1])
    visual = model.tokenize(model.read(perception), user_boxes_cxcywh=[user])
    regions = visual[0].regions
    matched = match_regions(user, regions)
    prompt = arrays["input_ids"].tolist()
    spliced = splice(
        prompt,
        None,
        refer_regions=matched,
        ground_regions=torch.zeros(0, dtype=torch.long),
        num_image_tokens=model.config.num_image_tokens,
        num_regions=len(regions),
        tokens=tokens,
    )
    numbers = iter(matched.tolist())
    filled = [tokens.region(next(numbers)) if i == tokens.refer_box else i for i in prompt]
    batch = pad([spliced], pad_id=tokens.pad, side="left")
    steps = len(arrays["new_tokens"])
    decoding = Decoding(max_new_tokens=steps, constrained=False)
    opening = Prompt(
        embeddings=model.embed(batch, visual)[0],
        token_ids=spliced.ids,
        feature_index=spliced.feature_index,
        num_regions=len(regions),
        decoding=decoding,
    )
    said = [step[0] for step in decode(Decoder(model, tokens=tokens), [opening])]
    scores = torch.cat(
        (objectness(perception.proposals, model.config.selection.source_weights)[0], torch.ones(len(user)))
    )
    stops = {
        "candidate_scores": (scores, BOXES),
        "nms_indices": (regions.candidate, 0),
        "selected_boxes": (regions.boxes_cxcywh, BOXES),
        "region_features": (visual[0].features[model.config.num_image_tokens :], FEATURES),
        "expanded_ids": (spliced.ids, 0),
        "step_logits": (torch.stack([step.logits for step in said]), FEATURES),
        "new_tokens": (torch.tensor([step.token_id for step in said]), 0),
        "returned_prompt_ids": (torch.tensor(filled), 0),
    }
    for name in set(info["arrays"]) - {"input_ids", "refer_boxes", "image"}:
        check(info, arrays, name, *stops[name])
