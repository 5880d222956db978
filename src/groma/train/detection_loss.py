"""Detection losses of stage 1: assign predictions to annotated boxes, then focal, L1 and GIoU losses.

B pictures, N predictions of one head, T annotated boxes of a picture (padded to the largest of the batch).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from groma.boxes import cxcywh_to_xyxy, paired_giou, pairwise_giou, pairwise_iou
from groma.errors import InputError
from groma.model.proposer import ProposerOutput
from groma.train.settings import DetectionLossConfig

LEAST_IOU = 0.05
"""task_aligned: a prediction that overlaps a box by no more than this cannot serve it."""


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What one prediction head says about a batch."""

    suffix: str
    """"" for the last decoder layer, "_0", "_1", ... for earlier ones, "_enc" for the encoder"""
    logits: Tensor
    """(B, N) objectness logits"""
    boxes_cxcywh: Tensor
    """(B, N, 4) normalized"""


def heads_of(output: ProposerOutput, source: str) -> list[HeadOutput]:
    """All supervised heads: decoder layers with the source's objectness head, and the encoder's shared one.

    Raises:
        InputError: the proposer has no objectness head for this source.
    """
    if source not in output.layer_logits:
        known = ", ".join(output.layer_logits)
        raise InputError(f"The proposer has no objectness head for the source {source!r}; its heads are {known}.")
    logits, boxes_cxcywh = output.layer_logits[source], output.layer_boxes_cxcywh
    last = len(logits) - 1
    heads = [
        HeadOutput("" if layer == last else f"_{layer}", logits[layer], boxes_cxcywh[layer])
        for layer in range(last + 1)
    ]
    return [*heads, HeadOutput("_enc", output.encoder_logits, output.encoder_box_logits.sigmoid())]


def detection_losses(
    output: ProposerOutput,
    targets_cxcywh: Sequence[Tensor],
    source: str,
    *,
    config: DetectionLossConfig,
    total_boxes: float,
) -> dict[str, Tensor]:
    """Every term, unweighted, as the published code names them.

    The boxes of all heads are supervised, but only one source's objectness (golden README, "Detection loss").

    Args:
        output: the proposer's output for B pictures.
        targets_cxcywh: B tensors (T_i, 4), the annotated boxes.
        source: whose objectness head is supervised; one source a batch.
        config: see DetectionLossConfig.
        total_boxes: divisor of all sums: boxes of the whole (accumulated, distributed) batch, at least 1.

    Returns:
        loss_ce, loss_bbox, loss_giou (scalars) for each head, with the head's suffix.

    Raises:
        InputError: the proposer has no objectness head for this source.
    """
    head_losses = ASSIGNMENTS[config.assignment]
    terms: dict[str, Tensor] = {}
    for head in heads_of(output, source):
        for name, value in head_losses(head, targets_cxcywh, config).items():
            terms[name + head.suffix] = value / total_boxes
    return terms


def weighted_total(terms: dict[str, Tensor], config: DetectionLossConfig) -> Tensor:
    """Sum of all terms with the configured weights, auxiliary and encoder heads included."""
    weights = {
        "loss_ce": config.class_weight,
        "loss_bbox": config.box_weight,
        "loss_giou": config.giou_weight,
    }
    return torch.stack([value * weights["_".join(name.split("_")[:2])] for name, value in terms.items()]).sum()


# --- one to one: as published -------------------------------------------------------------------------------


@torch.no_grad()
def match(head: HeadOutput, targets_cxcywh: Sequence[Tensor], config: DetectionLossConfig) -> list[Tensor]:
    """Hungarian matching of every picture -> B tensors (2, min(N, T_i)) int64: prediction index, target index.

    Cost: class (focal form) + L1 + (-GIoU), weighted (arXiv 2010.04159, appendix A.4).
    """
    matches = []
    for logits, predicted, targets in zip(head.logits, head.boxes_cxcywh, targets_cxcywh, strict=True):
        probability = logits.float().sigmoid()
        alpha, gamma = config.focal_alpha, config.focal_gamma
        positive = alpha * (1 - probability) ** gamma * -(probability + 1e-8).log()
        negative = (1 - alpha) * probability**gamma * -(1 - probability + 1e-8).log()
        giou = pairwise_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(targets))
        cost = (
            config.class_cost * (positive - negative)[:, None]
            + config.box_cost * torch.cdist(predicted, targets, p=1)
            - config.giou_cost * giou
        )
        # predictions that are not finite may be matched anyhow: their loss is not finite either, which ends the run
        rows, columns = linear_sum_assignment(cost.nan_to_num(nan=0.0).cpu().numpy())
        matches.append(torch.from_numpy(np.stack((rows, columns))).to(logits.device))
    return matches


def one_to_one_losses(
    head: HeadOutput, targets_cxcywh: Sequence[Tensor], config: DetectionLossConfig
) -> dict[str, Tensor]:
    """Sums of the focal, L1 and GIoU losses of one head after Hungarian matching."""
    matches = match(head, targets_cxcywh, config)
    is_object = torch.zeros_like(head.logits)
    predicted, wanted = [], []
    for picture, (rows, columns) in enumerate(matches):
        is_object[picture, rows] = 1.0
        predicted.append(head.boxes_cxcywh[picture, rows])
        wanted.append(targets_cxcywh[picture][columns])
    predicted, wanted = torch.cat(predicted), torch.cat(wanted)
    return {
        "loss_ce": focal_loss(head.logits, is_object, config).sum(),
        "loss_bbox": (predicted - wanted).abs().sum(),
        "loss_giou": _giou_loss(predicted, wanted).sum(),
    }


def focal_loss(logits: Tensor, is_object: Tensor, config: DetectionLossConfig) -> Tensor:
    """Sigmoid focal loss, elementwise (arXiv 1708.02002, equation 5); `is_object` holds 0 and 1."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, is_object, reduction="none")
    right = probability * is_object + (1 - probability) * (1 - is_object)
    alpha = config.focal_alpha * is_object + (1 - config.focal_alpha) * (1 - is_object)
    return alpha * cross_entropy * (1 - right) ** config.focal_gamma


def _giou_loss(a_cxcywh: Tensor, b_cxcywh: Tensor) -> Tensor:
    return 1 - paired_giou(cxcywh_to_xyxy(a_cxcywh), cxcywh_to_xyxy(b_cxcywh))


# --- task aligned: one to many ------------------------------------------------------------------------------


def task_aligned_losses(
    head: HeadOutput, targets_cxcywh: Sequence[Tensor], config: DetectionLossConfig
) -> dict[str, Tensor]:
    """Sums of the quality focal, L1 and GIoU losses of one head after the task-aligned assignment.

    How well a prediction is aligned with the box it serves is its target score and the weight of its box losses.
    """
    targets, present = pad_targets(targets_cxcywh)
    quality, chosen = align(head, targets, present, config)  # (B, N) each
    picture, row = quality.nonzero(as_tuple=True)
    predicted, wanted = head.boxes_cxcywh[picture, row], targets[picture, chosen[picture, row]]
    weight = quality[picture, row]
    probability = head.logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(head.logits, quality, reduction="none")
    return {
        # quality focal loss (arXiv 2006.04388, equation 4): far from the soft target counts more
        "loss_ce": (cross_entropy * (quality - probability).abs() ** config.focal_gamma).sum(),
        "loss_bbox": ((predicted - wanted).abs().sum(-1) * weight).sum(),
        "loss_giou": (_giou_loss(predicted, wanted) * weight).sum(),
    }


def pad_targets(targets_cxcywh: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """B tensors (T_i, 4) -> (B, T, 4) padded with zeros, and (B, T) bool: which rows are real; T at least 1."""
    longest = max(1, max(len(t) for t in targets_cxcywh))
    padded = torch.stack([F.pad(t, (0, 0, 0, longest - len(t))) for t in targets_cxcywh])
    counts = torch.tensor([len(t) for t in targets_cxcywh], device=padded.device)
    return padded, torch.arange(longest, device=padded.device)[None] < counts[:, None]


@torch.no_grad()
def align(
    head: HeadOutput, targets_cxcywh: Tensor, present: Tensor, config: DetectionLossConfig
) -> tuple[Tensor, Tensor]:
    """Which predictions serve which target, and how well.

    Alignment is score^0.5 * IoU^4 (arXiv 2108.07755 uses 1 and 6 on denser grids); a target's best predictions
    serve it, a prediction wanted by several serves the one it overlaps most (so of targets that coincide only the
    first is served). Quality is the alignment, rescaled so that the best aligned prediction of a target gets the
    largest IoU among those that serve it.

    Args:
        head: predictions of B pictures.
        targets_cxcywh: (B, T, 4) padded boxes.
        present: (B, T) which of them are real.
        config: how many predictions a target has at most.

    Returns:
        (B, N) quality in 0..1, 0 for background.
        (B, N) index of the target that each prediction serves; meaningless for background.
    """
    predicted = cxcywh_to_xyxy(head.boxes_cxcywh.float())
    iou = pairwise_iou(predicted, cxcywh_to_xyxy(targets_cxcywh))  # (B, N, T)
    iou = iou.nan_to_num(0.0) * present[:, None]
    alignment = head.logits.float().sigmoid()[..., None].sqrt() * iou**4
    best = alignment.topk(min(config.aligned_topk, alignment.shape[1]), dim=1).indices
    serves = torch.zeros_like(alignment, dtype=torch.bool).scatter_(1, best, True) & (iou > LEAST_IOU)
    target_numbers = torch.arange(iou.shape[-1], device=iou.device)
    serves &= torch.where(serves, iou, -1.0).argmax(-1, keepdim=True) == target_numbers
    alignment = alignment * serves
    peak = alignment.amax(1, keepdim=True).clamp(min=1e-12)
    quality = alignment / peak * (iou * serves).amax(1, keepdim=True)
    best_quality, chosen = quality.max(-1)
    return best_quality, chosen


ASSIGNMENTS: dict[str, Callable[[HeadOutput, Sequence[Tensor], DetectionLossConfig], dict[str, Tensor]]] = {
    "one_to_one": one_to_one_losses,
    "task_aligned": task_aligned_losses,
}
"""Name of an assignment -> a head's summed losses under it."""
