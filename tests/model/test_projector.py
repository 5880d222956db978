"""The 2x2 merge and the projector."""

import json
import math
from pathlib import Path

import pytest
import torch

from golden_folder import manifests
from groma.errors import InputError
from groma.model.projector import PUBLISHED_NAMES, ImageProjector, merge_patches


def test_blocks_go_down_first_and_tokens_row_by_row() -> None:
    rows, columns = 4, 6
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1)
    merged = merge_patches(torch.stack((places, places + 100)))  # two pictures, C = 2: (row, column)
    assert merged.shape == (2, 6, 8)
    assert merged[0, 0].tolist() == [0, 0, 1, 0, 0, 1, 1, 1]
    assert merged[0, 1].tolist() == [0, 2, 1, 2, 0, 3, 1, 3]
    assert merged[0, 3].tolist() == [2, 0, 3, 0, 2, 1, 3, 1]
    assert torch.equal(merged[1], merged[0] + 100)


@pytest.mark.parametrize("grid", [(3, 4), (4, 5), (1, 1)])
def test_odd_grids_are_refused_by_name(grid: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{grid[0]} x {grid[1]}"):
        merge_patches(torch.zeros(1, *grid, 8))


def test_projector_is_linear_exact_gelu_linear() -> None:
    torch.manual_seed(0)
    projector = ImageProjector(feature_dim=3, output_dim=5).double()
    final = torch.randn(2, 2, 4, 3, dtype=torch.float64)
    hidden = merge_patches(final) @ projector.hidden.weight.T + projector.hidden.bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(projector(final), gelu @ projector.output.weight.T + projector.output.bias)


@pytest.mark.parametrize("file", manifests())
def test_published_names_cover_every_parameter(file: Path) -> None:
    manifest = json.loads(file.read_text())
    width, output = manifest["vision_encoder"]["hidden_size"], manifest["language_model"]["hidden_size"]
    published = {name: t["shape"] for name, t in manifest["tensors"].items() if name.startswith("img_txt_bridge.")}
    renamed = {}
    for name, shape in published.items():
        (prefix,) = [prefix for prefix in PUBLISHED_NAMES if name.startswith(prefix)]
        renamed[PUBLISHED_NAMES[prefix] + name.removeprefix(prefix)] = shape
    with torch.device("meta"):
        projector = ImageProjector(width, output)
    assert renamed == {name: list(t.shape) for name, t in projector.state_dict().items()}
