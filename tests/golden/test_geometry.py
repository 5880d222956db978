"""Region features for the four combinations of box format and strides; interpolated position embeddings."""

import re

import pytest
import torch
from golden_data import GOLDEN, TOLERANCES, all_cases, cases, check, model_of, pixels_of, seeded

from groma.model.encoder import interpolate_positions
from groma.model.region_encoder import RegionEncoder

FORMATS = {"released_format": "cxcywh", "corners": "xyxy"}
STRIDES = {"released_strides": "released", "true_strides": "true"}


@pytest.mark.parametrize("case", cases("geometry"))
@torch.no_grad()
def test_geometry(case):
    info, arrays, model = case.info, case.arrays, model_of(case)
    maps = model.encoder(pixels_of(case)[:1])
    boxes_cxcywh = torch.from_numpy(arrays["selected_boxes"])
    published = model.region_encoder
    names = [name for name in info["arrays"] if name.startswith("region_features__")]
    assert len(names) == 4
    for name in names:
        _, box_format, strides = name.split("__")
        encoder = RegionEncoder(
            published.config,
            feature_dim=model.config.encoder.hidden_size,
            image_size=model.config.image_size,
            patch_size=model.config.encoder.patch_size,
            output_dim=model.language.hidden_size,
            box_format=FORMATS[box_format],
            strides=STRIDES[strides],
        )
        encoder.load_state_dict(published.state_dict())
        check(info, arrays, name, encoder(maps, [boxes_cxcywh])[0], TOLERANCES["features"])


@pytest.mark.parametrize("case", cases("interpolate"))
def test_position_embedding(case):
    info, arrays = case.info, case.arrays
    name, shape, seed = re.search(r'"([\w.]+)", \(([\d, ]+)\), (\d+)', info["input"]).groups()
    positions = torch.from_numpy(seeded.value(name, tuple(map(int, shape.split(","))), int(seed)))
    side = round((info["arrays"]["interpolated"]["full_shape"][0] - 1) ** 0.5)
    check(info, arrays, "interpolated", interpolate_positions(positions, (side, side))[0], TOLERANCES["features"])


def test_every_file_is_known():
    """A golden set with a case of another kind, or without its counterpart, must not pass unnoticed."""
    assert [str(case) for case in all_cases() if not case.kind] == []
    described = {p.relative_to(GOLDEN).with_suffix("") for p in GOLDEN.glob("*/*.json")}
    stored = {p.relative_to(GOLDEN).with_suffix("") for p in GOLDEN.glob("*/*.npz")}
    others = {"float64_check", "added_tokens", "tokenizer_config", "special_tokens_map"}
    assert {str(p) for p in described - stored if p.name not in others} == set()
