"""Which predicted boxes are right: overlaps, and the COCO evaluation's way to pair boxes."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from groma.boxes import pairwise_iou
from groma.inference.result import Box

IOU_THRESHOLDS = np.round(np.arange(0.5, 1.0, 0.05), 2)
"""(10,) 0.5, 0.55, ... 0.95."""

AREAS_PX = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Size -> least and largest area in square pixels of the original picture (COCO); both ends included."""


def overlaps(a_xyxy_px: Sequence[Box], b_xyxy_px: Sequence[Box]) -> NDArray[np.float64]:
    """(n, m) IoU; 0 for boxes without area."""
    a, b = (torch.tensor(list(boxes), dtype=torch.float64).reshape(-1, 4) for boxes in (a_xyxy_px, b_xyxy_px))
    return pairwise_iou(a, b).nan_to_num(nan=0.0).numpy()


def overlap(a_xyxy_px: Box, b_xyxy_px: Box) -> float:
    """IoU of two boxes."""
    return float(overlaps([a_xyxy_px], [b_xyxy_px])[0, 0])


def found_once(iou: NDArray[np.float64], threshold: float) -> list[bool]:
    """(n, m) overlaps -> which of n boxes find one of m: the best pairs first, each of both sides once."""
    left, found = iou.copy(), [False] * len(iou)
    while left.size and left.max() >= threshold:
        row, column = divmod(int(left.argmax()), left.shape[1])
        left[row], left[:, column] = -1.0, -1.0
        found[row] = True
    return found


def recalled(iou: NDArray[np.float64], counts: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many annotated boxes are found at each threshold, as pycocotools pairs them.

    Predictions take turns, best first; each takes the free annotated box that it overlaps most, a box that counts
    before one that does not.

    Args:
        iou: (n, m) predictions, best first, by annotated boxes.
        counts: (m,) which annotated boxes count; the others are of another size.

    Returns:
        (10,) found ones that count.
    """
    found = np.zeros(len(IOU_THRESHOLDS), dtype=np.int64)
    if not iou.size or not counts.any():
        return found
    order = np.argsort(~counts, kind="stable")  # those that count come first
    for place, threshold in enumerate(IOU_THRESHOLDS):
        free = np.ones(len(order), dtype=bool)
        for row in iou:
            best, at = min(threshold, 1 - 1e-10), -1
            for column in order:
                if not free[column]:
                    continue
                if at >= 0 and counts[at] and not counts[column]:
                    break
                if row[column] >= best:  # of equals the last, as there
                    best, at = row[column], int(column)
            if at >= 0:
                free[at] = False
                found[place] += counts[at]
    return found
