"""Where the golden data lies: the folder that GROMA_GOLDEN names, else the committed copy."""

import os
from pathlib import Path

import pytest

GOLDEN = Path(os.environ.get("GROMA_GOLDEN") or Path(__file__).parent / "golden" / "data")
if not (GOLDEN / "seeded.py").is_file():
    pytest.exit(f"{GOLDEN} is no folder of golden data (it has no seeded.py): correct GROMA_GOLDEN", returncode=4)


def manifests() -> list:
    """The list of weights of every configuration, as pytest parameters."""
    return [pytest.param(path, id=path.stem) for path in sorted(GOLDEN.glob("manifest_*.json"))]
