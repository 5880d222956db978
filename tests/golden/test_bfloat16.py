"""bfloat16 on the CPU against float32, on every golden case and at every stop.

What "within 3e-2" means here. A model is loaded in bfloat16 the way `groma.load` does it and runs beside the float32
model on the same picture. For every array that the golden data names:

* the relative error, L2 norm of the difference over L2 norm of the float32 array, is at most 3e-2; infinities must be
  where they are in float32;
* boxes, which are normalized, also differ by at most 3e-2 in all but one in a thousand coordinates.

The norm is taken over whole arrays and the outliers of boxes are left out, since rounding the weights to bfloat16
alone, with all arithmetic in float32, moves single elements of these untrained models further.

Errors add up along the way: every stop gets what the stop before it made in bfloat16. Only discrete decisions (which
positions become proposals, which boxes are kept, which token was said) are taken from the float32 run, as arrays that
branched apart could not be compared; each of those decisions rests on an array that is compared. Hungarian matching is
left to each run.
"""

from functools import lru_cache

import pytest
import torch
from golden_data import build_model, cases, config_of, model_of, numbered, pixels_of, published_weights, special_ids

from groma.convert.build import build_model as build_from_files
from groma.convert.published import rename_published
from groma.model.groma import GromaModel, PictureTokens, VisualTokens
from groma.model.proposer import ProposerOutput
from groma.model.selection import match_regions, objectness, select_regions
from groma.model.splice import pad, splice
from groma.train.detection_loss import DetectionLossConfig, detection_losses, weighted_total

LIMIT = 3e-2


@lru_cache(maxsize=2)
def _half(configuration: str, seed: int, case) -> GromaModel:
    config = config_of(case.info)
    tensors = rename_published(config, published_weights(case.info))
    return build_from_files(config, tensors, dtype=torch.bfloat16).eval()


def half_of(case) -> GromaModel:
    """The case's model in bfloat16, loaded as `groma.load` does."""
    return _half(case.info["configuration"], case.info["weights_seed"], case)


def close(name: str, half: torch.Tensor, full: torch.Tensor) -> None:
    """Relative error in the L2 norm."""
    half, full = half.float(), full.float()
    finite = full.isfinite()
    assert torch.equal(half[~finite], full[~finite]), f"{name}: infinities differ"
    error = float((half - full)[finite].norm() / full[finite].norm())
    assert error <= LIMIT, f"{name}: relative error {error:.4f}"


def close_boxes(name: str, half: torch.Tensor, full: torch.Tensor) -> None:
    close(name, half, full)
    error = float((half.float() - full).abs().flatten().quantile(0.999))
    assert error <= LIMIT, f"{name}: off by {error:.4f}"


def propose(model: GromaModel, maps, top: torch.Tensor | None = None) -> ProposerOutput:
    """The proposer's stops one by one; `top` replaces its own choice of positions."""
    proposer = model.proposer
    pyramid = proposer.build_pyramid(maps)
    memory = proposer.encode(pyramid)
    logits, box_logits = proposer.score_positions(memory, pyramid.shapes)
    top = torch.topk(logits, proposer.config.num_queries, dim=1).indices if top is None else top
    initial = box_logits.gather(1, top[..., None].expand(-1, -1, 4)).sigmoid()
    hidden = proposer.decode(memory, initial, pyramid.shapes)
    references, boxes_cxcywh = proposer.read_boxes(hidden, initial)
    return ProposerOutput(
        pyramid_shapes=pyramid.shapes,
        levels=pyramid.features,
        memory=memory,
        encoder_logits=logits,
        encoder_box_logits=box_logits,
        top_positions=top,
        initial_boxes_cxcywh=initial,
        hidden=hidden,
        layer_references_cxcywh=references,
        layer_boxes_cxcywh=boxes_cxcywh,
        layer_logits={
            source: torch.stack([head(layer)[..., 0].float() for head, layer in zip(heads, hidden, strict=True)])
            for source, heads in proposer.object_heads.items()
        },
    )


@pytest.mark.parametrize("case", cases("encode"))
@torch.no_grad()
def test_perception(case):
    full, half, pixels = model_of(case), half_of(case), pixels_of(case)
    maps, half_maps = full.encoder(pixels), half.encoder(pixels.to(torch.bfloat16))
    for number, (ours, theirs) in enumerate(zip(half_maps.last, maps.last, strict=True)):
        assert ours.dtype == torch.bfloat16
        close(f"block {number}", ours, theirs)
    out = propose(full, maps)
    half_out = propose(half, half_maps, out.top_positions)
    close("levels", half_out.levels, out.levels)
    close("memory", half_out.memory, out.memory)
    close("encoder logits", half_out.encoder_logits, out.encoder_logits)
    close("encoder box logits", half_out.encoder_box_logits, out.encoder_box_logits)
    close_boxes("initial boxes", half_out.initial_boxes_cxcywh, out.initial_boxes_cxcywh)
    close("decoder", half_out.hidden, out.hidden)
    close_boxes("references", half_out.layer_references_cxcywh, out.layer_references_cxcywh)
    close_boxes("boxes", half_out.layer_boxes_cxcywh, out.layer_boxes_cxcywh)
    for source, logits in out.layer_logits.items():
        close(f"logits {source}", half_out.layer_logits[source], logits)
    weights = full.config.selection.source_weights
    close("scores", objectness(half_out.proposals, weights), objectness(out.proposals, weights))
    boxes = [r.boxes_cxcywh for r in select_regions(out.proposals, config=full.config.selection)]
    levels, half_levels = full.region_encoder.fusion(maps), half.region_encoder.fusion(half_maps)
    for number, (ours, theirs) in enumerate(zip(half_levels, levels, strict=True)):
        close(f"fused level {number}", ours, theirs)
    regions, half_regions = full.region_encoder.encode(levels, boxes), half.region_encoder.encode(half_levels, boxes)
    assert half_regions[0].dtype == torch.bfloat16
    close("regions", half_regions[0], regions[0])
    close("image tokens", half.projector(half_maps.final), full.projector(maps.final))


def tokenized(model: GromaModel, pixels: torch.Tensor, like: list[VisualTokens] | None, user, annotated):
    """The pictures' tokens, with the regions that the float32 run kept."""
    pictures: PictureTokens = model.read(model.perceive(pixels))
    if like is None:
        return model.tokenize(pictures, user_boxes_cxcywh=user, annotated_boxes_cxcywh=annotated)
    tokens = model.region_encoder.encode(pictures.levels, [seen.regions.boxes_cxcywh for seen in like])
    return [
        VisualTokens(regions=seen.regions, features=torch.cat((image, own)))
        for seen, image, own in zip(like, pictures.image, tokens, strict=True)
    ]


@pytest.mark.parametrize("case", cases("chat", "refer"))
@torch.no_grad()
def test_answer(case):
    info, arrays, tokens = case.info, case.arrays, special_ids(case.info)
    full, half, pixels = model_of(case), half_of(case), pixels_of(case)[:1]
    user = torch.from_numpy(arrays["refer_boxes"]) if "refer_boxes" in arrays else torch.zeros(0, 4)
    seen = tokenized(full, pixels, None, [user], None)
    half_seen = tokenized(half, pixels.to(torch.bfloat16), seen, None, None)
    close("picture", half_seen[0].features, seen[0].features)
    spliced = splice(
        [*arrays["input_ids"].tolist(), *arrays["new_tokens"].tolist()[:-1]],  # what the reference said, told again
        None,
        refer_regions=match_regions(user, seen[0].regions),
        ground_regions=torch.zeros(0, dtype=torch.long),
        num_image_tokens=full.config.num_image_tokens,
        num_regions=len(seen[0].regions),
        tokens=tokens,
    )
    batch = pad([spliced], pad_id=tokens.pad, side="left")
    logits = []
    for model, visual in ((half, half_seen), (full, seen)):
        hidden, _ = model.language(
            model.embed(batch, visual), attention_mask=batch.attention_mask, position_ids=batch.position_ids
        )
        logits.append(model.language.logits(hidden[0]))
    close("prompt logits", *logits)
    steps = len(arrays["new_tokens"])
    close("step logits", logits[0][-steps:], torch.from_numpy(arrays["step_logits"]))
    assert info["arrays"]["step_logits"]["shape"][0] == steps


@pytest.mark.parametrize("case", cases("lm_loss"))
@torch.no_grad()
def test_language_loss(case):
    info, arrays, tokens = case.info, case.arrays, special_ids(case.info)
    full, half, pixels = model_of(case), half_of(case), pixels_of(case)
    count = len(arrays["input_ids"])

    def boxes(name):
        keys = [name, *(f"{name}__b{i}" for i in range(1, count))]
        return [torch.from_numpy(arrays[key]) if key in arrays else torch.zeros(0, 4) for key in keys]

    user, annotated = boxes("refer_boxes"), boxes("ground_boxes")
    seen = tokenized(full, pixels, None, user, annotated)
    half_seen = tokenized(half, pixels.to(torch.bfloat16), seen, None, None)
    samples = []
    for index, visual in enumerate(seen):
        real = arrays["input_ids"][index] != tokens.pad
        samples.append(
            splice(
                arrays["input_ids"][index][real].tolist(),
                arrays["labels"][index][real].tolist(),
                refer_regions=match_regions(user[index], visual.regions),
                ground_regions=match_regions(annotated[index], visual.regions),
                num_image_tokens=full.config.num_image_tokens,
                num_regions=len(visual.regions),
                tokens=tokens,
            )
        )
    loss = half(pad(samples, pad_id=tokens.pad, side="right"), half_seen)
    assert loss.total.item() == pytest.approx(info["loss_stage2"], rel=LIMIT)
    close("token losses", loss.per_token, torch.from_numpy(arrays["token_nll"]))


@pytest.mark.parametrize("case", cases("det_loss"))
@torch.no_grad()
def test_detection_loss(case):
    info, arrays = case.info, case.arrays
    full, half, pixels = model_of(case), half_of(case), pixels_of(case)
    targets = [torch.from_numpy(boxes) for boxes in numbered(arrays, "boxes")]
    top = propose(full, full.encoder(pixels)).top_positions
    output = propose(half, half.encoder(pixels.to(torch.bfloat16)), top)
    config = DetectionLossConfig()
    sources = [name.removeprefix("loss_dict_") for name in info if name.startswith("loss_dict_")]
    assert sources
    for source in sources:
        terms = detection_losses(output, targets, source, config=config, total_boxes=max(1, sum(map(len, targets))))
        assert weighted_total(terms, config).item() == pytest.approx(info[f"loss_{source}"], rel=LIMIT)


@pytest.mark.parametrize("case", cases("chat"))
@torch.no_grad()
def test_a_model_cast_after_loading(case):
    """`model.to(torch.bfloat16)` casts the proposer as well, and positions stay exact all the same."""
    cast, half = build_model(case.info).to(torch.bfloat16), half_of(case)
    assert {p.dtype for p in cast.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.proposer.parameters()} == {torch.float32}
    frequencies = [dict(m.named_buffers())["language.base.model.rotary_emb.inv_freq"] for m in (cast, half)]
    assert frequencies[0].dtype == torch.float32
    assert torch.equal(*frequencies)
    pixels = pixels_of(case)[:1].to(torch.bfloat16)
    seen = cast.tokenize(cast.read(cast.perceive(pixels)))
    assert seen[0].features.dtype == torch.bfloat16
    assert seen[0].features.isfinite().all()
