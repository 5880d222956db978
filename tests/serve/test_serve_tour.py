"""The tour of docs/serving.md, as a reader runs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groma.image import load_image

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(280)
def test_the_tour(tmp_path):
    pytest.importorskip("playwright")
    names = (os.environ.get("GROMA_BROWSER"), "chromium", "chromium-browser", "google-chrome")
    if not any(name and shutil.which(name) for name in names) or not shutil.which("curl"):
        pytest.skip("no Chromium or Chrome, or no curl")
    run = subprocess.run(
        ["bash", "scripts/serve_tour.sh", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=270,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert '"phrase": "the burger"' in run.stdout
    assert "a bicycle: [" in run.stdout and "\na burger\n" in run.stdout
    for name in ("laptop", "dark", "phone"):
        assert load_image(tmp_path / f"{name}.jpg").width >= 780
