"""The region encoder against a restatement in loops, and what its two geometries look at."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from golden_folder import manifests
from groma.errors import InputError
from groma.model.config import RegionEncoderConfig
from groma.model.region_encoder import PUBLISHED_NAMES, BoxFormat, RegionEncoder, Strides
from groma.model.types import FeatureMaps

CHANNELS, PATCH, GRID, OUTPUT = 8, 14, 3, 6
FORMATS: tuple[BoxFormat, ...] = ("cxcywh", "xyxy")
STRIDES: tuple[Strides, ...] = ("released", "true")

Array = NDArray[np.float64]


def build(
    geometry: str = "corrected",
    box_format: BoxFormat | None = None,
    strides: Strides | None = None,
    **changes: object,
) -> RegionEncoder:
    """A region encoder of toy size with seeded weights that differ in every place."""
    small = {
        "roi_size": 2,
        "roi_dim": 5,
        "position_hidden_dim": 4,
        "group_norm_groups": 4,
        "num_fuse_steps": 2,
    }
    torch.manual_seed(0)
    encoder = RegionEncoder(
        RegionEncoderConfig(geometry=geometry, **{**small, **changes}),
        feature_dim=CHANNELS,
        image_size=GRID * PATCH,
        patch_size=PATCH,
        output_dim=OUTPUT,
        box_format=box_format,
        strides=strides,
    )
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder


def toy_maps(pictures: int = 2, blocks: int = 4) -> FeatureMaps:
    generator = torch.Generator().manual_seed(1)
    return FeatureMaps(
        last=tuple(torch.randn(pictures, GRID, GRID, CHANNELS, generator=generator) for _ in range(blocks))
    )


def toy_boxes() -> list[Tensor]:
    return [
        torch.tensor([[0.3, 0.4, 0.5, 0.2], [0.8, 0.7, 0.3, 0.5], [0.1, 0.1, 0.2, 0.2]]),
        torch.tensor([[0.5, 0.5, 1.0, 1.0]]),
    ]


# --- the restatement: one picture, float64, a loop wherever there is an index -------------------------------


def slow_resize(level: Array, height: int, width: int) -> Array:
    """(C, h, w) -> (C, height, width), corners on corners."""
    out = np.zeros((level.shape[0], height, width))
    for row, column in itertools.product(range(height), range(width)):
        y = row * (level.shape[1] - 1) / (height - 1)
        x = column * (level.shape[2] - 1) / (width - 1)
        for i, j in itertools.product(range(level.shape[1]), range(level.shape[2])):
            out[:, row, column] += max(0.0, 1 - abs(y - i)) * max(0.0, 1 - abs(x - j)) * level[:, i, j]
    return out


def slow_conv(level: Array, weight: Array, bias: Array | None) -> Array:
    """(C, h, w) with (O, C, k, k), zeros around the map -> (O, h, w)."""
    _, height, width = level.shape
    reach = weight.shape[-1] // 2
    out = np.zeros((weight.shape[0], height, width)) + (0 if bias is None else bias[:, None, None])
    for row, column, i, j in itertools.product(
        range(height), range(width), range(-reach, reach + 1), range(-reach, reach + 1)
    ):
        if 0 <= row + i < height and 0 <= column + j < width:
            out[:, row, column] += weight[:, :, i + reach, j + reach] @ level[:, row + i, column + j]
    return out


def slow_group_norm(level: Array, groups: int, weight: Array, bias: Array) -> Array:
    out = np.zeros_like(level)
    size = len(level) // groups
    for group in range(groups):
        part = slice(group * size, (group + 1) * size)
        out[part] = (level[part] - level[part].mean()) / math.sqrt(level[part].var() + 1e-5)
    return out * weight[:, None, None] + bias[:, None, None]


def slow_layer_norm(vector: Array, weight: Array, bias: Array) -> Array:
    return (vector - vector.mean()) / math.sqrt(vector.var() + 1e-5) * weight + bias


def slow_sample(level: Array, y: float, x: float) -> Array:
    """(C,) bilinear value at a place in cells: constant up to a cell beyond the border, then 0."""
    _, height, width = level.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(level))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    value = np.zeros(len(level))
    for i, j in itertools.product(range(height), range(width)):
        value += max(0.0, 1 - abs(y - i)) * max(0.0, 1 - abs(x - j)) * level[:, i, j]
    return value


def slow_fuse(blocks: list[Array], p: dict[str, Array], steps: int, groups: int) -> list[Array]:
    """Three (C, H, W) blocks -> fused levels, finest first."""
    levels = []
    for index, (block, upsample) in enumerate(zip(blocks, (4, 2, 1), strict=True)):
        level = slow_resize(block, block.shape[1] * upsample, block.shape[2] * upsample)
        ramp = np.linspace(-1, 1, level.shape[1])  # the map is square
        x, y = (
            np.broadcast_to(ramp[None, :], level.shape[1:]),
            np.broadcast_to(ramp[:, None], level.shape[1:]),
        )
        level = np.concatenate((level, x[None], y[None]))
        name = f"fusion.input_convs.{index}"
        levels.append(slow_conv(level, p[f"{name}.weight"], p[f"{name}.bias"]))
    quarter = CHANNELS // 4
    for step in range(steps):
        mixed = []
        for index, level in enumerate(levels):
            coarser, finer = levels[min(index + 1, 2)], levels[max(index - 1, 0)]
            parts = (
                level[: 2 * quarter],
                slow_resize(coarser[3 * quarter :], *level.shape[1:]),
                slow_resize(finer[2 * quarter : 3 * quarter], *level.shape[1:]),
            )
            convolved = slow_conv(np.concatenate(parts), p[f"fusion.steps.{step}.conv.weight"], None)
            name = f"fusion.steps.{step}.gn"
            mixed.append(np.maximum(slow_group_norm(convolved, groups, p[f"{name}.weight"], p[f"{name}.bias"]), 0))
        levels = mixed
    return levels


def slow_token(
    levels: list[Array],
    box_cxcywh: list[float],
    p: dict[str, Array],
    bins: int,
    box_format: str,
    strides: str,
) -> Array:
    """Fused levels and one box -> (D,) token."""
    cx, cy, w, h = box_cxcywh
    corners = (cx, cy, w, h) if box_format == "cxcywh" else (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    total = np.zeros((CHANNELS, bins, bins))
    for index, level in enumerate(levels):
        stride = PATCH / (4, 2, 1)[index] / (2 if strides == "released" else 1)
        x1, y1, x2, y2 = (value * GRID * PATCH / stride - 0.5 for value in corners)
        pooled = np.zeros((CHANNELS, bins, bins))
        for row, column, i, j in itertools.product(range(bins), range(bins), (0.25, 0.75), (0.25, 0.75)):
            y, x = y1 + (y2 - y1) / bins * (row + i), x1 + (x2 - x1) / bins * (column + j)
            pooled[:, row, column] += slow_sample(level, y, x) / 4
        total += slow_conv(pooled, p[f"level_convs.{index}.weight"], p[f"level_convs.{index}.bias"])
    content = p["flatten_linear.weight"] @ np.maximum(total, 0).reshape(-1) + p["flatten_linear.bias"]
    position = np.array(box_cxcywh)
    for linear, norm in ((0, 2), (3, 5)):
        position = p[f"position_mlp.{linear}.weight"] @ position + p[f"position_mlp.{linear}.bias"]
        position = slow_layer_norm(
            np.maximum(position, 0), p[f"position_mlp.{norm}.weight"], p[f"position_mlp.{norm}.bias"]
        )
    return p["output_linear.weight"] @ (content + position) + p["output_linear.bias"]


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("box_format", FORMATS)
def test_equals_the_restatement_in_every_geometry(box_format: BoxFormat, strides: Strides) -> None:
    encoder = build(box_format=box_format, strides=strides)
    maps, boxes = toy_maps(), toy_boxes()
    parameters = {name: value.double().numpy() for name, value in encoder.state_dict().items()}
    with torch.no_grad():
        tokens = encoder(maps, boxes)
    for picture in range(2):
        blocks = [block[picture].permute(2, 0, 1).double().numpy() for block in maps.last[-3:]]
        levels = slow_fuse(blocks, parameters, steps=2, groups=4)
        for token, box in zip(tokens[picture], boxes[picture].double().tolist(), strict=True):
            expected = slow_token(levels, box, parameters, 2, box_format, strides)
            np.testing.assert_allclose(token.numpy(), expected, rtol=0, atol=2e-4)


# --- geometry -----------------------------------------------------------------------------------------------


def test_geometry_names_a_box_format_and_strides() -> None:
    released, corrected = build("released"), build("corrected")
    assert (released.box_format, released.strides) == ("cxcywh", "released")
    assert (corrected.box_format, corrected.strides) == ("xyxy", "true")
    assert released.strides_px == (14 / 8, 14 / 4, 14 / 2)
    assert corrected.strides_px == (14 / 4, 14 / 2, 14)
    assert (
        build("released", strides="true").box_format,
        build("released", strides="true").strides_px[0],
    ) == (
        "cxcywh",
        14 / 4,
    )


def place_of_bins(encoder: RegionEncoder, box_cxcywh: list[float]) -> list[Tensor]:
    """For each level (2, P, P): the mean x and y, in pixels, of what each bin reads."""
    levels = []
    for upsample in (4, 2, 1):
        centres = (torch.arange(GRID * upsample) + 0.5) * PATCH / upsample
        grid = (GRID * upsample, GRID * upsample)
        levels.append(torch.stack((centres.expand(grid), centres[:, None].expand(grid)))[None])
    return [pooled[0] for pooled in encoder.pool(levels, [torch.tensor([box_cxcywh])])]


def test_corrected_geometry_looks_at_the_box_on_every_level() -> None:
    side = GRID * PATCH
    # bins are quarters of the box: their middles lie a quarter of its size off its centre
    for places in place_of_bins(build("corrected"), [0.5, 0.45, 0.4, 0.2]):
        torch.testing.assert_close(places[0], torch.tensor([[0.4, 0.6], [0.4, 0.6]]) * side)
        torch.testing.assert_close(places[1], torch.tensor([[0.4, 0.4], [0.5, 0.5]]) * side)


def test_released_geometry_looks_from_twice_the_centre_to_twice_the_size() -> None:
    side = GRID * PATCH
    # centre (.3, .4) and size (.4, .2) are read as corners and doubled: x from .6 to .8, y back from .8 to .4
    for places in place_of_bins(build("released"), [0.3, 0.4, 0.4, 0.2]):
        torch.testing.assert_close(places[0], torch.tensor([[0.65, 0.75], [0.65, 0.75]]) * side)
        torch.testing.assert_close(places[1], torch.tensor([[0.7, 0.7], [0.5, 0.5]]) * side)


# --- behaviour ----------------------------------------------------------------------------------------------


def test_pictures_of_a_batch_are_apart_and_may_have_no_boxes() -> None:
    encoder, maps, boxes = build(), toy_maps(3), toy_boxes()
    boxes = [boxes[0], torch.empty(0, 4), boxes[1]]
    with torch.no_grad():
        tokens = encoder(maps, boxes)
        assert [token.shape for token in tokens] == [(3, OUTPUT), (0, OUTPUT), (1, OUTPUT)]
        for index in (0, 2):
            alone = FeatureMaps(last=tuple(block[index : index + 1] for block in maps.last))
            torch.testing.assert_close(tokens[index], encoder(alone, [boxes[index]])[0])


def test_position_scale_is_a_factor_on_the_coordinate_embedding() -> None:
    maps, boxes = toy_maps(), toy_boxes()
    half, full, none = (build(position_scale=scale) for scale in (0.5, 1.0, 0.0))
    with torch.no_grad():
        for with_half, with_full, without in zip(*(e(maps, boxes) for e in (half, full, none)), strict=True):
            torch.testing.assert_close(with_half, (with_full + without) / 2)
        embedded = full.embed_position(boxes[1]) @ full.output_linear.weight.T
        torch.testing.assert_close(full(maps, boxes)[1] - none(maps, boxes)[1], embedded)


def test_number_of_levels_and_their_sizes_follow_the_configuration() -> None:
    encoder = build(upsample=(2, 1))
    levels = encoder.fusion(toy_maps())
    assert [tuple(level.shape) for level in levels] == [(2, CHANNELS, 6, 6), (2, CHANNELS, 3, 3)]
    assert encoder.strides_px == (7.0, 14.0)
    assert encoder(toy_maps(), toy_boxes())[0].shape == (3, OUTPUT)


@pytest.mark.parametrize("autocast", [False, True])
def test_every_parameter_learns(autocast: bool) -> None:
    encoder = build()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        tokens = encoder(toy_maps(), toy_boxes())
    torch.cat(tokens).float().square().sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_bfloat16_stays_close() -> None:
    encoder, maps, boxes = build(), toy_maps(), toy_boxes()
    with torch.no_grad():
        exact = torch.cat(encoder(maps, boxes))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = torch.cat(encoder(maps, boxes)).float()
        halved = FeatureMaps(last=tuple(block.bfloat16() for block in maps.last))
        whole = torch.cat(encoder.bfloat16()(halved, boxes))
    assert whole.dtype == torch.bfloat16
    for rough in (mixed, whole.float()):
        assert (rough - exact).norm() < 3e-2 * exact.norm()


@pytest.mark.parametrize("groups", [3, 16])
def test_a_width_that_cannot_be_grouped_is_refused(groups: int) -> None:
    with pytest.raises(InputError, match=f"group_norm_groups \\({groups}\\), got {CHANNELS}"):
        build(group_norm_groups=groups)


@pytest.mark.parametrize("file", manifests())
def test_published_names_cover_every_parameter(file: Path) -> None:
    manifest = json.loads(file.read_text())
    vision = manifest["vision_encoder"]
    with torch.device("meta"):
        encoder = RegionEncoder(
            RegionEncoderConfig(),
            feature_dim=vision["hidden_size"],
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            output_dim=manifest["language_model"]["hidden_size"],
        )
    renamed = {}
    for name, tensor in manifest["tensors"].items():
        if name.startswith("region_encoder."):
            (prefix,) = [prefix for prefix in PUBLISHED_NAMES if name.startswith(prefix)]
            renamed[PUBLISHED_NAMES[prefix] + name.removeprefix(prefix)] = tensor["shape"]
    assert renamed == {name: list(tensor.shape) for name, tensor in encoder.state_dict().items()}
