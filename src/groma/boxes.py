"""The one place where box formats are converted, clipped and compared.

Formats, always part of a variable's name:

    boxes_xyxy_px   (..., 4) left, top, right, bottom in pixels of the original picture
    boxes_xyxy      (..., 4) the same, normalized to 0..1 by the picture's width and height
    boxes_cxcywh    (..., 4) centre x, centre y, width, height, normalized to 0..1
    boxes_xywh_px   (..., 4) left, top, width, height in pixels (COCO's annotation format)

Example: in a picture 200 wide and 100 high, xyxy_px (50, 20, 150, 80) = xyxy (.25, .2, .75, .8)
= cxcywh (.5, .5, .5, .6) = xywh_px (50, 20, 100, 60).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) centre and size, in the unit that came in."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=-1)


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """(..., 4) centre and size -> (..., 4) corners, in the unit that came in."""
    cx, cy, w, h = boxes_cxcywh.unbind(-1)
    return torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h), dim=-1)


def xywh_to_xyxy(boxes_xywh: Tensor) -> Tensor:
    """(..., 4) left, top, width, height -> (..., 4) corners, in the unit that came in."""
    return torch.cat((boxes_xywh[..., :2], boxes_xywh[..., :2] + boxes_xywh[..., 2:]), dim=-1)


def xyxy_to_xywh(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) left, top, width, height, in the unit that came in."""
    return torch.cat((boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]), dim=-1)


def to_tuples(boxes: Tensor) -> list[tuple[float, float, float, float]]:
    """(n, 4) or (4,) in any format -> n rows of plain numbers."""
    loose: Any = boxes.reshape(-1, 4)  # torch leaves open what tolist returns
    return [(a, b, c, d) for a, b, c, d in loose.tolist()]


def picture_scale(width_px: float, height_px: float, like: Tensor) -> Tensor:
    """(4,) factors that take normalized coordinates to pixels: width, height, width, height."""
    return like.new_tensor([width_px, height_px, width_px, height_px])


def xyxy_px_to_cxcywh(boxes_xyxy_px: Tensor, width_px: float, height_px: float) -> Tensor:
    """(..., 4) pixel corners of a picture -> (..., 4) normalized centre and size."""
    return xyxy_to_cxcywh(boxes_xyxy_px / picture_scale(width_px, height_px, boxes_xyxy_px))


def cxcywh_to_xyxy_px(boxes_cxcywh: Tensor, width_px: float, height_px: float) -> Tensor:
    """(..., 4) normalized centre and size -> (..., 4) pixel corners, clipped to the picture."""
    boxes_xyxy = cxcywh_to_xyxy(boxes_cxcywh).clamp(0.0, 1.0)
    return boxes_xyxy * picture_scale(width_px, height_px, boxes_cxcywh)


def area(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) corners -> (...) area; negative sizes are not clamped."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def pairwise_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """(..., n, 4), (..., m, 4) corners in one unit -> (..., n, m) intersection over union."""
    return _pairwise_iou_and_union(a_xyxy, b_xyxy)[0]


def pairwise_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """(..., n, 4), (..., m, 4) corners in one unit -> (..., n, m) GIoU (arXiv 1902.09630, equation 3)."""
    iou, union = _pairwise_iou_and_union(a_xyxy, b_xyxy)
    a, b = a_xyxy[..., :, None, :], b_xyxy[..., None, :, :]
    top_left = torch.minimum(a[..., :2], b[..., :2])
    bottom_right = torch.maximum(a[..., 2:], b[..., 2:])
    hull = (bottom_right - top_left).clamp(min=0).prod(-1)
    return iou - (hull - union) / hull


def paired_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """(n, 4), (n, 4) corners in one unit -> (n) generalized IoU of row i with row i."""
    intersection = _intersection(a_xyxy, b_xyxy)
    union = area(a_xyxy) + area(b_xyxy) - intersection
    hull_size = torch.maximum(a_xyxy[:, 2:], b_xyxy[:, 2:]) - torch.minimum(a_xyxy[:, :2], b_xyxy[:, :2])
    hull = hull_size.clamp(min=0).prod(-1)
    return intersection / union - (hull - union) / hull


def suppress_overlaps(boxes_xyxy: Tensor, nms_iou: float, max_kept: int) -> list[int]:
    """Greedy non-maximum suppression of (N, 4) corners that come best first.

    A box is dropped if its IoU with a kept one exceeds `nms_iou` (strictly); no pixel is added to widths.

    Returns:
        Rows of the first `max_kept` kept boxes, ascending.
    """
    # comparisons with every later box at once, then a pass over the rows of a numpy table: 10 times
    # faster than the same pass over a tensor
    overlaps = (pairwise_iou(boxes_xyxy, boxes_xyxy) > nms_iou).cpu().numpy()
    dropped = np.zeros(len(overlaps), dtype=bool)
    kept: list[int] = []
    for row in range(len(overlaps)):
        if dropped[row]:
            continue
        kept.append(row)
        if len(kept) == max_kept:
            break
        dropped |= overlaps[row]
    return kept


def _pairwise_iou_and_union(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    a, b = a_xyxy[..., :, None, :], b_xyxy[..., None, :, :]
    intersection = _intersection(a, b)
    union = area(a) + area(b) - intersection
    return intersection / union, union


def _intersection(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    top_left = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    bottom_right = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    return (bottom_right - top_left).clamp(min=0).prod(-1)
