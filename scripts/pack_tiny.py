"""Pack a trained small model as the embedded one: float16 weights, provenance, model card.

Usage: python scripts/pack_tiny.py CHECKPOINT/model src/groma/assets/groma-tiny
"""

import json
import shutil
import sys
from pathlib import Path

import torch

import groma
from groma.pretrained import save

LIMIT_BYTES = 32 * 2**20
CARD = Path(__file__).parent / "groma_tiny_card.md"


def provenance(checkpoint: Path) -> dict:
    """What the run's own configuration says about it."""
    run = json.loads((checkpoint.parent / "config.json").read_text())
    return {
        "recipe": run["recipe"]["stage"],
        "architecture": run["recipe"]["model"],
        "step": run["step"],
        "init": run["recipe"]["init"],
        "data": "procedural scenes (groma.data.scenes), no photographs",
        "training": {key: run[key] for key in ("loop", "optimizer", "schedule")},
        "licence": "Apache-2.0; sprites: see src/groma/assets/scenes/ATTRIBUTION.md",
    }


def main(checkpoint: Path, out: Path) -> None:
    model = groma.load(checkpoint, device="cpu", dtype="stored")
    model.model.config.provenance = provenance(checkpoint)
    temporary = out.with_name(out.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    save(model, temporary, dtype=torch.float16, card=CARD.read_text())
    size = (temporary / "model.safetensors").stat().st_size
    assert size <= LIMIT_BYTES, f"{size} bytes of weights; the package takes {LIMIT_BYTES}"
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)
    print(f"{size / 2**20:.1f} MiB in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
