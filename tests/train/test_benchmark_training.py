"""The benchmark of a training step: it runs the real thing, and its figures fit together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_training.py"


@pytest.mark.parametrize("stage", ["detect", "instruct"])
def test_figures_of_the_small_model_on_a_cpu(stage):
    command = [sys.executable, SCRIPT, "--stage", stage, "--batch", "2", "--steps", "2", "--warmup", "1"]
    command += ["--precision", "fp32", "--device", "cpu", "--text-tokens", "32", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-2000:]
    figures = json.loads(ran.stdout)
    seconds = figures["seconds_per_step"]
    assert figures["pictures_per_second"] == pytest.approx(2 / seconds)
    assert figures["teraflop_per_second"] == pytest.approx(figures["model_teraflop_per_step"] / seconds)
    rate = figures["matrix_teraflop_per_second"]
    assert figures["utilization"] == pytest.approx(figures["teraflop_per_second"] / rate)
    assert 0 < figures["trained_parameters"] < figures["parameters"]
    if stage == "instruct":
        assert figures["tokens_per_step"] >= 2 * (49 + 2 * 10 + 32)  # image, regions, words
        # forward and backward of the language model alone: 6 FLOPs for each of its 3.3 million weights and tokens
        assert figures["model_teraflop_per_step"] * 1e12 > 6 * 3e6 * figures["tokens_per_step"]
