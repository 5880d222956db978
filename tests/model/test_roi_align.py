"""RoIAlign against a loop over samples that follows the classic kernel line by line."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from groma.model.roi_align import roi_align


def bilinear(plane: Tensor, y: float, x: float) -> float:
    """Value of one (H, W) channel at a point given in cells; 0 beyond the map."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    y_low, x_low = int(y), int(x)
    if y_low >= height - 1:
        y_low = y_high = height - 1
        y = float(y_low)
    else:
        y_high = y_low + 1
    if x_low >= width - 1:
        x_low = x_high = width - 1
        x = float(x_low)
    else:
        x_high = x_low + 1
    down, right = y - y_low, x - x_low
    return (
        (1 - down) * (1 - right) * plane[y_low, x_low].item()
        + (1 - down) * right * plane[y_low, x_high].item()
        + down * (1 - right) * plane[y_high, x_low].item()
        + down * right * plane[y_high, x_high].item()
    )


def slow_roi_align(picture: Tensor, box: Tensor, bins: int, stride: float, samples: int, aligned: bool) -> Tensor:
    """One (C, H, W) map and one box -> (C, bins, bins)."""
    x1, y1, x2, y2 = (value / stride - (0.5 if aligned else 0.0) for value in box.tolist())
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    out = torch.zeros(picture.shape[0], bins, bins, dtype=picture.dtype)
    for channel, row, column in itertools.product(range(picture.shape[0]), range(bins), range(bins)):
        total = 0.0
        for i, j in itertools.product(range(samples), range(samples)):
            y = y1 + height / bins * (row + (i + 0.5) / samples)
            x = x1 + width / bins * (column + (j + 0.5) / samples)
            total += bilinear(picture[channel], y, x)
        out[channel, row, column] = total / samples**2
    return out


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("samples", "bins", "size"), [(2, 3, (7, 9)), (1, 4, (5, 5)), (3, 2, (1, 6)), (2, 1, (2, 1))])
def test_equals_a_loop_over_samples(samples: int, bins: int, size: tuple[int, int], aligned: bool) -> None:
    generator = torch.Generator().manual_seed(samples)
    features = torch.randn(3, 2, *size, generator=generator, dtype=torch.float64)
    stride = 3.5
    # corners in no order (so sizes may be negative) from well before the map to well beyond it
    span = stride * max(size)
    boxes = [torch.rand(n, 4, generator=generator, dtype=torch.float64) * 3 * span - span for n in (9, 0, 12)]
    boxes[0][0] = torch.tensor([0.0, 0.0, size[1] * stride, size[0] * stride])  # the whole map
    boxes[0][1] = boxes[0][1, 0]  # no size at all

    pooled = roi_align(features, boxes, bins, stride=stride, sampling_ratio=samples, aligned=aligned)

    assert pooled.shape == (21, 2, bins, bins)
    pictures = [0] * 9 + [2] * 12
    for row, (picture, box) in enumerate(zip(pictures, torch.cat(boxes), strict=True)):
        expected = slow_roi_align(features[picture], box, bins, stride, samples, aligned)
        torch.testing.assert_close(pooled[row], expected, rtol=0, atol=1e-12)


def ramp(width: int, stride: float) -> Tensor:
    """(1, 2, width, width) map whose channels are the x and the y of each cell's centre, in pixels."""
    centres = (torch.arange(width) + 0.5) * stride
    return torch.stack((centres.expand(width, width), centres[:, None].expand(width, width)))[None]


def test_bins_of_a_box_inside_the_map_average_their_own_places() -> None:
    box = torch.tensor([[20.0, 40.0, 60.0, 48.0]])
    pooled = roi_align(ramp(16, 8.0), [box], 4, stride=8.0)[0]
    torch.testing.assert_close(pooled[0, 0], torch.tensor([25.0, 35.0, 45.0, 55.0]))
    torch.testing.assert_close(pooled[1, :, 0], torch.tensor([41.0, 43.0, 45.0, 47.0]))


def test_inverted_corners_run_the_bins_backwards() -> None:
    features = torch.randn(1, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[8.0, 12.0, 30.0, 36.0]])
    forwards = roi_align(features, [box], 5, stride=4.0)
    backwards = roi_align(features, [box[:, [2, 1, 0, 3]]], 5, stride=4.0)
    torch.testing.assert_close(backwards, forwards.flip(-1))


def test_samples_beyond_the_map_count_as_zero_in_the_mean() -> None:
    ones = torch.ones(1, 1, 4, 4)
    # in cells less a half: x from 2.5 to 6.5 in two bins, samples at 3, 4 | 5, 6; only 3 and 4 are on the map
    box = torch.tensor([[3.0, 0.0, 7.0, 2.0]])
    torch.testing.assert_close(roi_align(ones, [box], 2, stride=1.0)[0, 0], torch.tensor([[1.0, 0.0]] * 2))
    # one cell further: samples at 4, 5 | 6, 7; the sample at exactly 4 = the map's size still counts
    box = torch.tensor([[4.0, 0.0, 8.0, 2.0]])
    torch.testing.assert_close(roi_align(ones, [box], 2, stride=1.0)[0, 0], torch.tensor([[0.5, 0.0]] * 2))


def test_gradient_is_that_of_the_arithmetic() -> None:
    features = torch.randn(2, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    boxes = [
        torch.tensor([[1.0, 2.0, 9.0, 7.0], [12.0, 3.0, -4.0, 20.0]]),
        torch.tensor([[0.0, 0.0, 3.0, 8.0]]),
    ]
    torch.autograd.gradcheck(
        lambda maps: roi_align(maps, boxes, 3, stride=2.0), (features.requires_grad_(),), fast_mode=False
    )


def test_half_precision_is_computed_in_float32() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(1, 4, 16, 16, generator=generator).bfloat16()
    boxes = [torch.rand(8, 4, generator=generator) * 64]
    exact = roi_align(features.float(), boxes, 3, stride=4.0)
    assert torch.equal(roi_align(features, boxes, 3, stride=4.0), exact.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_align(features.float(), boxes, 3, stride=4.0), exact)


def test_channels_last_features_give_the_same() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 4, 6, 7, generator=generator)
    boxes = [torch.rand(3, 4, generator=generator) * 24, torch.rand(2, 4, generator=generator) * 24]
    plain = roi_align(features, boxes, 2, stride=4.0)
    assert torch.equal(roi_align(features.to(memory_format=torch.channels_last), boxes, 2, stride=4.0), plain)


def test_no_boxes_and_boxes_that_are_no_numbers() -> None:
    features = torch.randn(1, 3, 4, 4, requires_grad=True)
    empty = roi_align(features, [torch.empty(0, 4)], 2, stride=1.0)
    assert empty.shape == (0, 3, 2, 2)
    empty.sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() == 0
    wild = torch.tensor([[math.nan, 0.0, 2.0, 2.0], [0.0, -math.inf, 2.0, math.inf], [0.0, 0.0, 1e30, 1e30]])
    assert roi_align(features, [wild], 2, stride=1.0).abs().sum() == 0
