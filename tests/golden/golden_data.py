"""The golden data: every configuration folder and every case found is run; nothing is skipped silently.

GROMA_GOLDEN names the folder; by default the copy in tests/golden/data is used.
"""

import importlib.util
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from golden_folder import GOLDEN
from groma.convert.published import load_published_weights, published_config
from groma.image import Preprocessing
from groma.model.config import GromaConfig
from groma.model.groma import GromaModel
from groma.prompt.tokens import SpecialTokenIds

TOLERANCES = {
    "boxes": 1e-4,
    "features": 1e-3,
    "loss": 1e-4,  # relative
    "gradient": 1e-3,  # relative
}
"""What the golden README calls fair."""


def _seeded_module():
    spec = importlib.util.spec_from_file_location("seeded", GOLDEN / "seeded.py")
    assert spec and spec.loader, f"{GOLDEN} has no seeded.py"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


seeded = _seeded_module()


@dataclass(frozen=True)
class Case:
    """One golden file pair."""

    folder: str
    name: str

    @property
    def info(self) -> dict:
        return json.loads((GOLDEN / self.folder / f"{self.name}.json").read_text())

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / self.folder / f"{self.name}.npz") as file:
            return dict(file)

    @property
    def kind(self) -> str:
        """What it tests, a member of KINDS: its name, or what that begins with ("chat_2"); "" for none."""
        return next((kind for kind in KINDS if re.fullmatch(rf"{kind}(_.+)?", self.name)), "")

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"


KINDS = ("encode", "chat", "refer", "lm_loss", "det_loss", "geometry", "interpolate")


def all_cases() -> list[Case]:
    """Every .json that has an .npz beside it, one folder deep."""
    found = [Case(p.parent.name, p.stem) for p in sorted(GOLDEN.glob("*/*.npz"))]
    assert found, f"no golden cases in {GOLDEN}"
    return found


def cases(*kinds: str) -> list:
    """The cases of these kinds, as pytest parameters."""
    return [pytest.param(case, id=str(case)) for case in all_cases() if case.kind in kinds]


def smallest_manifest() -> Path:
    """The manifest of the configuration with the fewest parameters."""
    return min(GOLDEN.glob("manifest_*.json"), key=lambda path: json.loads(path.read_text())["parameters"])


def numbered(arrays: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The array of each picture of a batch: "boxes", "boxes__b1", "boxes__b2", ..."""
    found = [arrays[name]]
    while (following := f"{name}__b{len(found)}") in arrays:
        found.append(arrays[following])
    return found


@lru_cache(maxsize=2)
def _model(folder: str, name: str) -> GromaModel:
    info = Case(folder, name).info
    return build_model(info)


def config_of(info: dict) -> GromaConfig:
    """The configuration of a case or of a manifest, through the published layout."""
    return published_config(
        {
            "perceiver_cfg": {"vis_encoder_cfg": info["vision_encoder"], "ddetr_cfg": info["proposer"]},
            "llm_cfg": info["language_model"],
            "nms_thres": info.get("nms_iou_threshold", 0.6),
            "box_score_thres": info.get("box_score_threshold", 0.15),
            "max_region_num": info.get("max_regions", 100),
            "num_new_token": info["num_new_tokens"],
        }
    )


def published_weights(info: dict) -> dict[str, torch.Tensor]:
    """The seeded weights of a case under the published names."""
    manifest = json.loads((GOLDEN / f"manifest_{info['configuration']}.json").read_text())
    return {
        name: torch.from_numpy(seeded.value(name, entry["shape"], info["weights_seed"]))
        for name, entry in manifest["tensors"].items()
    }


def build_model(info: dict) -> GromaModel:
    """The model of a case with its seeded weights, in evaluation mode."""
    model = GromaModel(config_of(info)).eval()
    load_published_weights(model, published_weights(info))
    return model


def model_of(case: Case) -> GromaModel:
    """The model of the case; cases of a folder usually share one."""
    info = case.info
    for other in all_cases():
        if (
            other.folder == case.folder
            and other.kind == "encode"
            and other.info["weights_seed"] == info["weights_seed"]
        ):
            return _model(other.folder, other.name)
    return _model(case.folder, case.name)


def pixels_of(case: Case) -> torch.Tensor:
    """(B, 3, S, S) normalized pictures of a case, through the project's own preprocessing."""
    arrays = case.arrays
    if "image" not in arrays:
        arrays = next(o for o in all_cases() if (o.folder, o.kind) == (case.folder, "encode")).arrays
    pictures = numbered(arrays, "image")
    return Preprocessing(size_px=pictures[0].shape[0]).normalize(np.stack(pictures))


def special_ids(info: dict) -> SpecialTokenIds:
    """The token ids of a case; checks that ours are the published ones."""
    ids = info["special_token_ids"]
    tokens = SpecialTokenIds.after(info["language_model"]["vocab_size"], num_regions=info["max_regions"])
    assert tokens.vocab_size == info["language_model"]["vocab_size"] + info["num_new_tokens"]
    for name, number in ids.items():
        ours = {"<s>": tokens.bos, "</s>": tokens.eos, "<unk>": tokens.unk}.get(name)
        assert ours == number if ours is not None else tokens.name(number) == name
    return tokens


def check(info: dict, arrays: dict, name: str, value: torch.Tensor, atol: float) -> None:
    """Compare a full tensor with the stored (possibly sliced) array, and its fingerprints if there are any."""
    entry, stored = info["arrays"][name], arrays[name]
    full = value.detach().float().numpy() if value.is_floating_point() else value.numpy()
    if "full_shape" in entry:
        assert list(full.shape) == entry["full_shape"], f"{name}: {full.shape}, expected {entry['full_shape']}"
    part = full[_slice(entry["slice"])] if entry.get("slice") else full
    assert part.shape == stored.shape, f"{name}: {part.shape}, expected {stored.shape}"
    if np.issubdtype(stored.dtype, np.integer):
        assert np.array_equal(part, stored), f"{name}: {int((part != stored).sum())} of {stored.size} differ"
        return
    infinite = ~np.isfinite(stored)
    assert np.array_equal(part[infinite], stored[infinite]), f"{name}: infinities differ"
    error = np.abs(part[~infinite] - stored[~infinite]).max(initial=0)
    assert error <= atol, f"{name}: error {error:.2e}, allowed {atol:.0e}"
    mark = info.get("fingerprints_of_full_tensors", {}).get(name)
    if mark:
        finite = full[np.isfinite(full)]
        ours = {"mean": finite.mean(), "std": finite.std(), "abs_mean": np.abs(finite).mean()}
        ours |= {"min": finite.min(), "max": finite.max()}
        for key, figure in ours.items():
            if mark.get(key) is not None and np.isfinite(mark[key]):
                assert abs(figure - mark[key]) <= atol, f"{name}: {key} {figure}, expected {mark[key]}"


def _slice(text: str) -> tuple[slice, ...]:
    """'[:, ::8, :] of (4, 1025, hidden)' -> slices."""
    inside = text[text.index("[") + 1 : text.index("]")]
    parts = []
    for field in inside.split(","):
        numbers = [int(n) if n.strip() else None for n in field.strip().split(":")]
        parts.append(slice(*numbers))
    return tuple(parts)
