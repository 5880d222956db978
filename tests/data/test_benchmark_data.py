"""The benchmark of training data runs, in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_data.py"


@pytest.mark.slow
def test_the_benchmark_measures(tmp_path):
    options = ["--pictures", "8", "--size", "96", "--records", "300", "--json"]
    ran = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-2000:]
    figures = json.loads(ran.stdout)
    for name in ("coco", "refcoco", "flickr30k"):
        assert figures[name]["pillow_per_s"] > 0 and figures[name]["packed_share_of_limit"] > 0
    assert figures["memory"]["mib_of_each_of_4"] < 100
