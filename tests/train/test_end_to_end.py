"""All three stages on two real processes, from the fixtures of every set of the catalogue, by the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from micro import SIDE_PX, micro_config
from PIL import Image

import groma
from groma.data.catalogue import CATALOGUE
from groma.data.scenes.export import PICTURES, export_scenes
from groma.data.scenes.scene import make_scene
from groma.image import Preprocessing
from groma.model.groma import GromaModel
from groma.pretrained import save_whole
from groma.train.blueprint import find_tokenizer
from groma.train.mixtures import open_file
from groma.train.recipes import RECIPES, TOKENIZER
from groma.train.specimens import answer_specimens, find_specimens

PICTURES_OF_A_SET = 4
SHARDED = ("--training.loop.sharding", "full", "--training.loop.evaluate-every", 40)


def mixture(folder: Path, names: list[str]) -> Path:
    """Scenes in the published format of each set, and the mixture's YAML."""
    sets = []
    for seed, name in enumerate(names):
        scenes = [make_scene("train", k, seed, size_px=SIDE_PX) for k in range(PICTURES_OF_A_SET)]
        file = export_scenes(scenes, CATALOGUE[name].format, folder / name)
        sets.append({"set": name, "annotations": str(file.relative_to(folder)), "pictures": str(Path(name) / PICTURES)})
    path = folder / "mixture.yaml"
    path.write_text(json.dumps({"sets": sets}))
    return path


def run_on_two(folder: Path, stage: str, *arguments: object) -> list[dict]:
    """`groma train STAGE` under torchrun; returns the log's records."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "groma.cli", "train", stage, "--out", folder / stage, *arguments]
    command += ["--mixture.batch-size", 2, "--mixture.epochs", 1, "--mixture.workers", 0, "--mixture.specimens", 1]
    command += ["--training.loop.log-every", 1, "--training.loop.precision", "fp32", "--training.loop.threads", 1]
    environment = os.environ | {"GROMA_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stderr.count("looked at") >= 1 and ran.stdout.count("finished") == 1  # one process speaks
    return [json.loads(line) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]


def newest(folder: Path) -> Path:
    return max(folder.glob("step-*"))


def sums(records: list[dict]) -> dict[str, int]:
    total: dict[str, int] = {}
    for record in records:
        for name, count in record.get("counts", {}).items():
            total[name] = total.get(name, 0) + count
    return total


@pytest.mark.slow
def test_three_stages_on_two_processes_from_every_set_of_the_catalogue(tmp_path, monkeypatch):
    monkeypatch.setenv("GROMA_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    base = tmp_path / "base"
    save_whole(GromaModel(micro_config()), find_tokenizer(TOKENIZER), Preprocessing(size_px=SIDE_PX), base)
    boxes = mixture(tmp_path / "boxes", [name for name, entry in CATALOGUE.items() if entry.head])
    words = mixture(tmp_path / "words", list(CATALOGUE))

    detected = run_on_two(tmp_path, "detect", "--data", boxes, "--from", base)
    aligned = run_on_two(tmp_path, "align", "--data", words, "--from", base, "--from", newest(tmp_path / "detect"))
    instructed = run_on_two(tmp_path, "instruct", "--data", words, "--from", newest(tmp_path / "align"), *SHARDED)

    for records, names in ((detected, [n for n, e in CATALOGUE.items() if e.head]), (aligned, CATALOGUE)):
        counted = sums(records)
        assert set(counted) == {f"{name}/used" for name in names}  # nothing was left out
        assert all(record["loss"] > 0 for record in records if record["kind"] == "train")
    told = {term for record in instructed for term in record.get("terms", {}) if term.startswith("answer/")}
    assert told == {f"answer/{name}" for name in CATALOGUE}
    assert sums(instructed) == sums(aligned)

    model = groma.load(newest(tmp_path / "instruct") / "model", device="cpu")
    drawn = max((tmp_path / "instruct" / "specimens").glob("*.png"))  # by two processes, each with half of the weights
    specimens = find_specimens(open_file(str(words)).sets, 1, seed=RECIPES["finetune-instruct"]().mixture.seed)
    with Image.open(drawn) as sheet:
        assert sheet.convert("RGB").tobytes() == answer_specimens(model, specimens).convert("RGB").tobytes()
    answer = model.ask(tmp_path / "words" / "coco" / PICTURES / "000000.png", "What is it?")
    assert answer.finish_reason in ("stop", "length")
    assert [step["stage"] for step in model.model.config.provenance["trained_on"]] == ["align", "instruct"]
