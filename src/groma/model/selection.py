"""Stop 3 of 6: Proposals (+ boxes of the user, of the annotation) -> Regions, the boxes that get a name.

B pictures, Q proposals a picture, N candidates of one picture, R kept regions of one picture.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from groma.boxes import cxcywh_to_xyxy, pairwise_iou, suppress_overlaps
from groma.errors import InputError
from groma.model.config import SelectionConfig
from groma.model.types import Proposals, Regions


def objectness(proposals: Proposals, source_weights: Mapping[str, float]) -> Tensor:
    """(B, Q) float32 scores in 0..1: the weighted geometric mean of the sources' probabilities.

    Paper, section 3.1; golden README, "Region selection". A head without a weight has no say.

    Raises:
        InputError: a weight names a source for which the proposer has no head.
    """
    missing = sorted(set(source_weights) - set(proposals.logits))
    if missing or not source_weights:
        raise InputError(
            f"selection.source_weights names {missing or 'no source'}, but the proposer's objectness heads "
            f"are {sorted(proposals.logits)}; give weights for those."
        )
    factors = [proposals.logits[name].float().sigmoid() ** weight for name, weight in source_weights.items()]
    return torch.stack(factors).prod(dim=0)


SAME_BOX_IOU = 0.99
"""Boxes of the user that overlap more are one box given twice, rounding apart."""


@torch.no_grad()
def select_regions(
    proposals: Proposals,
    *,
    config: SelectionConfig,
    user_boxes_cxcywh: Sequence[Tensor] | None = None,
    annotated_boxes_cxcywh: Sequence[Tensor] | None = None,
    shuffle: Sequence[torch.Generator] | None = None,
) -> list[Regions]:
    """Choose the regions of each picture (paper, section 3.1; golden README, "Region selection").

    Candidates are the proposals, then the user's boxes, then the annotated boxes. Those that score more than
    the threshold go through greedy non-maximum suppression, best first, equal scores in candidate order, and
    the first `max_regions` survivors are kept; if no candidate passes, the single best one is. As published,
    a user's box is dropped like any other when an earlier box of the user overlaps it by more than
    `nms_iou`: `match_regions` then leads both to the kept one.

    Args:
        proposals: boxes and logits of B pictures.
        config: thresholds, scores and limits.
        user_boxes_cxcywh: for each picture (U_i, 4) boxes that the user points at, or None for none at all.
        annotated_boxes_cxcywh: for each picture (A_i, 4) annotated boxes, for training, or None.
        shuffle: for each picture what draws the order of its regions, so that their numbers carry no rank
            (training); None keeps them best first.

    Returns:
        B Regions, detached, on the proposals' device, at least one region each.
    """
    pictures, num_proposals, _ = proposals.boxes_cxcywh.shape
    device = proposals.boxes_cxcywh.device
    user = _boxes_of(user_boxes_cxcywh, pictures)
    annotated = _boxes_of(annotated_boxes_cxcywh, pictures)
    # one transfer for the batch: what follows is many small steps, which a GPU would do no faster
    boxes_cxcywh = proposals.boxes_cxcywh.float().cpu()
    scores = objectness(proposals, config.source_weights or {}).cpu()

    regions = []
    for index in range(pictures):
        candidates = torch.cat((boxes_cxcywh[index], user[index], annotated[index]))
        candidate_scores = torch.cat(
            (
                scores[index],
                torch.full((len(user[index]),), config.user_score),
                torch.full((len(annotated[index]),), config.annotated_score),
            )
        )
        keep = _keep(candidates, candidate_scores, config)
        if shuffle is not None:
            keep = keep[torch.randperm(len(keep), generator=shuffle[index])]
        regions.append(
            Regions(
                boxes_cxcywh=candidates[keep].to(device),
                scores=candidate_scores[keep].to(device),
                candidate=keep.to(device),
                num_proposals=num_proposals,
                num_user=len(user[index]),
            )
        )
    return regions


def add_regions(regions: Regions, boxes_cxcywh: Tensor, config: SelectionConfig) -> Regions:
    """Give boxes of a later turn the next numbers; the regions that are there keep theirs.

    Nothing is suppressed: a box that was drawn again a little smaller is the one that is asked about. Only a box that
    the user gave before adds none.

    Args:
        regions: of one picture, without annotated boxes.
        boxes_cxcywh: (n, 4) what the user points at.
        config: the score of a user's box.

    Returns:
        R + n regions at most, which may be more than `max_regions`.
    """
    kept = regions.boxes_cxcywh[regions.from_user]
    new: list[Tensor] = []
    for box_cxcywh in boxes_cxcywh.to(kept).unbind():
        others = torch.cat((kept, *(b[None] for b in new)))
        overlaps = pairwise_iou(cxcywh_to_xyxy(box_cxcywh[None]), cxcywh_to_xyxy(others)).nan_to_num(nan=0.0)
        if not (overlaps > SAME_BOX_IOU).any():
            new.append(box_cxcywh)
    if not new:
        return regions
    added, first = torch.stack(new), regions.num_proposals + regions.num_user
    numbers = torch.arange(first, first + len(added), device=regions.candidate.device)
    return Regions(
        boxes_cxcywh=torch.cat((regions.boxes_cxcywh, added)),
        scores=torch.cat((regions.scores, regions.scores.new_full((len(added),), config.user_score))),
        candidate=torch.cat((regions.candidate, numbers)),
        num_proposals=regions.num_proposals,
        num_user=regions.num_user + len(added),
        num_added=regions.num_added + len(added),
    )


def match_regions(boxes_cxcywh: Tensor, regions: Regions) -> Tensor:
    """(n, 4) boxes -> (n,) int64, for each the kept region with the largest IoU, the first of equals.

    Boxes without area overlap nothing, not even themselves.
    """
    kept_xyxy = cxcywh_to_xyxy(regions.boxes_cxcywh)
    boxes_xyxy = cxcywh_to_xyxy(boxes_cxcywh.to(kept_xyxy))
    return pairwise_iou(boxes_xyxy, kept_xyxy).nan_to_num(nan=0.0).argmax(dim=1)


def _keep(candidates_cxcywh: Tensor, scores: Tensor, config: SelectionConfig) -> Tensor:
    """(N, 4) and (N,) candidates of one picture -> (R,) int64 rows to keep, best first."""
    order = scores.argsort(descending=True, stable=True)
    passing = order[scores[order] > config.score_threshold]
    if len(passing) == 0:
        return order[:1]
    kept = suppress_overlaps(cxcywh_to_xyxy(candidates_cxcywh[passing]), config.nms_iou, config.max_regions)
    return passing[kept]


def _boxes_of(boxes_cxcywh: Sequence[Tensor] | None, pictures: int) -> list[Tensor]:
    """One (n, 4) float32 tensor a picture, empty where there are no boxes."""
    if boxes_cxcywh is None:
        return [torch.empty(0, 4)] * pictures
    if len(boxes_cxcywh) != pictures:
        raise InputError(f"boxes were given for {len(boxes_cxcywh)} pictures, but there are {pictures}.")
    return [boxes.detach().float().cpu().reshape(-1, 4) for boxes in boxes_cxcywh]
