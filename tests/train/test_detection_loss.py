"""Detection losses against brute force and hand computations, and what the two assignments promise."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groma.boxes import cxcywh_to_xyxy, pairwise_giou, pairwise_iou
from groma.errors import InputError
from groma.model.proposer import ProposerOutput
from groma.train.detection_loss import (
    ASSIGNMENTS,
    HeadOutput,
    align,
    detection_losses,
    focal_loss,
    heads_of,
    match,
    one_to_one_losses,
    pad_targets,
    task_aligned_losses,
    weighted_total,
)
from groma.train.settings import DetectionLossConfig

CONFIG = DetectionLossConfig()
ALIGNED = DetectionLossConfig(assignment="task_aligned", aligned_topk=3)
NO_BOX = torch.zeros(0, 4)


def some_boxes(*shape: int, generator: torch.Generator) -> Tensor:
    """(*shape, 4) boxes inside the picture, cxcywh."""
    sizes = 0.1 + 0.4 * torch.rand(*shape, 2, generator=generator)
    centres = sizes / 2 + (1 - sizes) * torch.rand(*shape, 2, generator=generator)
    return torch.cat((centres, sizes), dim=-1)


def some_head(pictures: int, predictions: int, seed: int) -> HeadOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(pictures, predictions, generator=generator)
    return HeadOutput("", logits, some_boxes(pictures, predictions, generator=generator))


def some_targets(counts: list[int], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 + seed)
    return [some_boxes(count, generator=generator) for count in counts]


def cost_by_hand(logit: Tensor, box: Tensor, target: Tensor, config: DetectionLossConfig) -> float:
    p = torch.sigmoid(logit).double().item()
    focal = 0.25 * (1 - p) ** 2 * -np.log(p) - 0.75 * p**2 * -np.log(1 - p)
    giou = pairwise_giou(cxcywh_to_xyxy(box[None]), cxcywh_to_xyxy(target[None])).item()
    distance = (box - target).abs().sum().item()
    return config.class_cost * focal + config.box_cost * distance - config.giou_cost * giou


# --- one to one -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("config", [CONFIG, DetectionLossConfig(class_cost=0.5, box_cost=0.0, giou_cost=3.0)])
def test_matching_is_the_cheapest_of_all(seed, config):
    head, targets = some_head(2, 5, seed), some_targets([3, 2], seed)
    for picture, (rows, columns) in enumerate(match(head, targets, config)):
        wanted = targets[picture]
        cost = [
            [cost_by_hand(head.logits[picture, n], head.boxes_cxcywh[picture, n], t, config) for t in wanted]
            for n in range(5)
        ]
        cheapest = min(permutations(range(5), len(wanted)), key=lambda c: sum(cost[n][t] for t, n in enumerate(c)))
        assert columns.sort().values.tolist() == list(range(len(wanted)))
        assert dict(zip(columns.tolist(), rows.tolist(), strict=True)) == dict(enumerate(cheapest))


def test_more_boxes_than_predictions_are_matched_as_far_as_they_go():
    ((rows, columns),) = match(some_head(1, 2, 0), some_targets([4], 0), CONFIG)
    assert sorted(rows.tolist()) == [0, 1]
    assert len(set(columns.tolist())) == 2


def test_focal_loss_by_hand():
    logits, is_object = torch.tensor([2.0, -1.0, 0.3]), torch.tensor([1.0, 0.0, 1.0])
    p = 1 / (1 + np.exp(-logits.numpy()))
    by_hand = [-0.25 * (1 - p[0]) ** 2 * np.log(p[0]), -0.75 * p[1] ** 2 * np.log(1 - p[1])]
    by_hand.append(-0.25 * (1 - p[2]) ** 2 * np.log(p[2]))
    np.testing.assert_allclose(focal_loss(logits, is_object, CONFIG).numpy(), by_hand, rtol=1e-5)


def test_losses_by_hand():
    """Two predictions, one box: the left one is matched, overlaps a third and is 0.1 off in x."""
    predicted = torch.tensor([[[0.3, 0.5, 0.2, 0.2], [0.8, 0.8, 0.1, 0.1]]])
    target = torch.tensor([[0.4, 0.5, 0.2, 0.2]])
    logits = torch.zeros(1, 2)
    terms = one_to_one_losses(HeadOutput("", logits, predicted), [target], CONFIG)
    assert terms["loss_bbox"].item() == pytest.approx(0.1, rel=1e-5)
    # boxes 0.2 x 0.2, shifted by half a width: intersection 0.02, union 0.06, hull 0.3 x 0.2 = union
    assert terms["loss_giou"].item() == pytest.approx(1 - 1 / 3, rel=1e-4)
    assert terms["loss_ce"].item() == pytest.approx((0.25 + 0.75) * 0.25 * np.log(2), rel=1e-5)


# --- task aligned ---------------------------------------------------------------------------------------------


def aligned(head: HeadOutput, targets: list[Tensor], config: DetectionLossConfig = ALIGNED):
    padded, present = pad_targets(targets)
    quality, chosen = align(head, padded, present, config)
    return quality, chosen, pairwise_iou(cxcywh_to_xyxy(head.boxes_cxcywh), cxcywh_to_xyxy(padded))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_alignment_keeps_its_promises(seed, counts):
    head, targets = some_head(len(counts), 30, seed), some_targets(counts, seed)
    quality, chosen, iou = aligned(head, targets)
    assert ((quality >= 0) & (quality <= 1)).all()
    for picture, count in enumerate(counts):
        served = chosen[picture][quality[picture] > 0]
        assert set(served.tolist()) <= set(range(count)), "a prediction serves a box that is padding"
        for target in range(count):
            mine = (quality[picture] > 0) & (chosen[picture] == target)
            assert mine.sum() <= ALIGNED.aligned_topk
            if mine.any():
                alignment = head.logits[picture].sigmoid().sqrt() * iou[picture, :, target] ** 4
                best = torch.where(mine, alignment, -1.0).argmax()
                assert quality[picture].where(mine, torch.tensor(0.0)).argmax() == best
                most = iou[picture, mine, target].max()
                torch.testing.assert_close(quality[picture, best], most)
                # the others in proportion to their alignment
                ratio = quality[picture, mine] / alignment[mine]
                torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=1e-6)


def test_a_lone_prediction_has_the_quality_of_its_overlap():
    head = HeadOutput("", torch.tensor([[-3.0, 4.0]]), torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]]))
    quality, chosen, iou = aligned(head, [torch.tensor([[0.5, 0.55, 0.2, 0.2]])])
    assert quality[0].tolist() == pytest.approx([iou[0, 0, 0].item(), 0.0])
    assert quality[0, 0].item() == pytest.approx(0.6, rel=1e-4)
    assert chosen[0, 0] == 0


def test_a_prediction_between_two_boxes_serves_the_nearer_one():
    boxes = torch.tensor([[[0.45, 0.5, 0.2, 0.2]]])
    quality, chosen, _ = aligned(
        HeadOutput("", torch.zeros(1, 1), boxes), [torch.tensor([[0.6, 0.5, 0.2, 0.2], [0.4, 0.5, 0.2, 0.2]])]
    )
    assert chosen.tolist() == [[1]]
    assert (quality > 0).all()


def test_twin_targets_share_no_prediction():
    """Boxes that coincide: the first is served, nothing counts twice and nothing breaks."""
    head, twin = some_head(1, 20, 3), some_targets([1], 3)[0]
    alone, twins = (task_aligned_losses(head, [boxes], ALIGNED) for boxes in (twin, torch.cat((twin, twin))))
    assert {k: v.item() for k, v in alone.items()} == pytest.approx({k: v.item() for k, v in twins.items()})


def test_gradient_pulls_scores_and_boxes_towards_the_target():
    boxes = torch.tensor([[[0.45, 0.5, 0.3, 0.3], *[[0.9, 0.9, 0.1, 0.1]] * 5]], requires_grad=True)
    logits = torch.zeros(1, 6, requires_grad=True)
    terms = task_aligned_losses(HeadOutput("", logits, boxes), [torch.tensor([[0.5, 0.5, 0.3, 0.3]])], ALIGNED)
    weighted_total(terms, ALIGNED).backward()
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1:].min(), "the aligned score rises, the others fall"
    assert boxes.grad[0, 0, 0] < 0, "its centre moves right"
    assert boxes.grad[0, 1:].abs().sum() == 0


# --- both -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("counts", [[0], [0, 0], [2, 0, 1], [0, 3]])
def test_pictures_without_boxes(assignment, counts):
    config = DetectionLossConfig(assignment=assignment)
    head = some_head(len(counts), 10, 0)
    logits, boxes = head.logits.requires_grad_(), head.boxes_cxcywh.requires_grad_()
    terms = ASSIGNMENTS[assignment](HeadOutput("", logits, boxes), some_targets(counts, 0), config)
    assert all(value.isfinite() for value in terms.values())
    weighted_total(terms, config).backward()
    assert logits.grad.isfinite().all()
    empty = [picture for picture, count in enumerate(counts) if count == 0]
    assert (logits.grad[empty] > 0).all(), "where there is nothing, every score falls"
    assert boxes.grad is None or (boxes.grad.isfinite().all() and boxes.grad[empty].abs().sum() == 0)
    if not sum(counts):
        assert terms["loss_bbox"] == 0 and terms["loss_giou"] == 0


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_losses_of_pictures_add_up(assignment):
    """A batch's sums are those of its pictures: padding to the longest list of boxes changes nothing."""
    config = DetectionLossConfig(assignment=assignment)
    head, targets = some_head(3, 12, 5), some_targets([1, 4, 2], 5)
    together = ASSIGNMENTS[assignment](head, targets, config)
    alone = [
        ASSIGNMENTS[assignment](HeadOutput("", head.logits[k : k + 1], head.boxes_cxcywh[k : k + 1]), [boxes], config)
        for k, boxes in enumerate(targets)
    ]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([terms[name] for terms in alone]).sum())


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_order_of_boxes_does_not_matter(assignment):
    config = DetectionLossConfig(assignment=assignment)
    head, (boxes,) = some_head(1, 12, 6), some_targets([4], 6)
    for name, value in ASSIGNMENTS[assignment](head, [boxes], config).items():
        torch.testing.assert_close(ASSIGNMENTS[assignment](head, [boxes.flip(0)], config)[name], value)


def some_output(seed: int = 0) -> ProposerOutput:
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    boxes = some_boxes(2, 2, 8, generator=generator).requires_grad_()
    nothing = torch.zeros(0)
    return ProposerOutput(
        pyramid_shapes=((3, 3),),
        levels=nothing,
        memory=nothing,
        encoder_logits=leaf(2, 9),
        encoder_box_logits=leaf(2, 9, 4),
        top_positions=nothing,
        initial_boxes_cxcywh=nothing,
        hidden=nothing,
        layer_references_cxcywh=nothing,
        layer_boxes_cxcywh=boxes,
        layer_logits={"coco": leaf(2, 2, 8), "sa1b": leaf(2, 2, 8)},
    )


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("source", ["coco", "sa1b"])
def test_only_the_head_of_the_source_is_taught(assignment, source):
    output, config = some_output(), DetectionLossConfig(assignment=assignment)
    terms = detection_losses(output, some_targets([2, 1], 0), source, config=config, total_boxes=3)
    assert list(terms) == [f"loss_{kind}{head}" for head in ("_0", "", "_enc") for kind in ("ce", "bbox", "giou")]
    weighted_total(terms, config).backward()
    other = {"coco": "sa1b", "sa1b": "coco"}[source]
    assert output.layer_logits[other].grad is None
    assert (output.layer_logits[source].grad != 0).all(), "both decoder layers are taught"
    for taught in (output.encoder_logits, output.encoder_box_logits, output.layer_boxes_cxcywh):
        assert taught.grad.abs().sum() > 0


def test_unknown_source_is_named():
    with pytest.raises(InputError, match=r"'lvis'.*coco, sa1b"):
        heads_of(some_output(), "lvis")


def test_sums_are_divided_by_the_boxes_of_the_step():
    arguments = some_output(), some_targets([2, 1], 0), "coco"
    once, twice = (detection_losses(*arguments, config=CONFIG, total_boxes=n) for n in (3, 6))
    for name, value in once.items():
        torch.testing.assert_close(value, 2 * twice[name])


def test_weights():
    config = DetectionLossConfig(class_weight=2.0, box_weight=5.0, giou_weight=3.0)
    names = [f"loss_{kind}{head}" for head in ("", "_0", "_enc") for kind in ("ce", "bbox", "giou")]
    terms = {name: torch.tensor(10.0**place) for place, name in enumerate(names)}
    assert weighted_total(terms, config).item() == 352352352


@pytest.mark.parametrize(
    "wrong", [{"assignment": "greedy"}, {"aligned_topk": 0}, {"focal_alpha": 1.5}, {"box_weight": float("nan")}]
)
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        DetectionLossConfig(**wrong)


def test_padding_marks_what_is_real():
    padded, present = pad_targets([NO_BOX, torch.ones(2, 4)])
    assert padded.shape == (2, 2, 4)
    assert present.tolist() == [[False, False], [True, True]]
    assert pad_targets([NO_BOX])[0].shape == (1, 1, 4), "room for one, so that nothing downstream is empty"


def test_predictions_that_are_no_numbers_give_a_loss_that_is_none():
    """The training loop ends a run by its loss; the matching must not end it before with another error."""
    head = HeadOutput("", torch.full((1, 4), float("nan")), torch.full((1, 4, 4), float("nan")))
    losses = one_to_one_losses(head, [torch.tensor([[0.5, 0.5, 0.2, 0.2]])], CONFIG)
    assert losses["loss_bbox"].isnan()
