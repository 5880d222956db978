"""Compare the two geometries of the region encoder: both trained with equal seeds, budgets and starting weights.

    python scripts/geometry_study.py --eyes MODEL --from SPEAK [--seeds 0 1 2] [--steps 600] [--out runs/geometry]

Of MODEL (groma-tiny, a folder) encoder and proposer are taken, of the checkpoint SPEAK the language model and the
imagined region tokens; all runs start with these, and each with a region encoder and a projector of its own from
nothing. A run trains stage 3 in one process on one core; `--jobs` runs go on side by side.
A run that has its result is not made again. Results, table and figure go to --out: results.json, table.md, figure.svg.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev

METRICS = {
    "name_region": "region naming",
    "refer_name": "referring: name",
    "refer_attribute": "referring: attribute",
    "refer_relation": "referring: relation",
    "answer_recall": "region recall of the answer",
    "answer_precision": "region precision of the answer",
    "caption_grounding": "caption grounding",
}
"""What is compared -> in words. The answer's recall and precision are those of "locate all"."""
GEOMETRIES = ("released", "corrected")
COLOURS = {"released": "#c2410c", "corrected": "#1d4ed8"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training and its evaluation."""

    geometry: str
    seed: int
    steps: int
    scenes: int
    init: tuple[Path, ...]
    out: Path

    @property
    def folder(self) -> Path:
        """Checkpoint, metrics and result."""
        return self.out / f"{self.geometry}-{self.seed}"

    @property
    def result(self) -> Path:
        """File that a finished run leaves."""
        return self.folder / "result.json"


def carry_out(run: Run) -> dict[str, float]:
    """Train and evaluate one run; in a process of its own."""
    import torch

    import groma
    from groma.evaluate.scenes import evaluate_scenes
    from groma.train.models import MODELS
    from groma.train.recipes import tiny_instruct
    from groma.train.run import run_stage

    torch.set_num_threads(1)
    MODELS["tiny-of-the-study"] = lambda: of_geometry(run.geometry)
    stage = tiny_instruct()
    loop = replace(stage.training.loop, steps=run.steps, seed=run.seed, save_every=0, evaluate_every=0)
    stage = replace(
        stage,
        model="tiny-of-the-study",
        data=replace(stage.data, seed=1000 + run.seed),
        training=replace(stage.training, loop=loop),
    )
    trained = run_stage(stage, out=run.folder, init=run.init)
    model = groma.load(trained.checkpoint / "model", device="cpu")
    measured = evaluate_scenes(model, n=run.scenes, seed=run.seed, split="validation")
    right, named, wanted = measured.located()
    values = measured.metrics() | {"answer_recall": right / wanted, "answer_precision": right / max(named, 1)}
    run.result.write_text(json.dumps(values))
    return values


def of_geometry(geometry: str):
    """The small architecture with a region encoder of that geometry."""
    from groma.train.models import tiny_config

    config = tiny_config()
    config.region_encoder.geometry = geometry
    return config


def save_eyes(model: str, out: Path) -> Path:
    """A checkpoint with nothing of the model but its encoder and proposer."""
    import groma
    from groma.train.parts import save_parts

    folder = out / "eyes"
    if not folder.exists():
        loaded = groma.load(model, device="cpu").model
        (folder / "model").mkdir(parents=True)
        save_parts({"encoder": loaded.encoder, "proposer": loaded.proposer}, folder / "model")
    return folder


def coverage(scenes: int = 150, samples: int = 28) -> dict[str, dict[str, float]]:
    """Where each geometry looks for the objects of scenes: shares of RoIAlign's samples, means over all objects.

    "on_object": samples on the object's box. "misses": objects of which no sample is on their box. "sees_nothing":
    objects of which no sample is on the picture.
    """
    import numpy as np

    from groma.data.scenes.scene import make_scene

    boxes = [box for number in range(scenes) for box in make_scene("validation", number, 0, size_px=64).boxes_cxcywh]
    cx, cy, w, h = np.array(boxes).T[..., None]
    steps = (np.arange(samples) + 0.5) / samples
    read = {
        "released": ((2 * cx, 2 * w), (2 * cy, 2 * h)),
        "corrected": ((cx - w / 2, cx + w / 2), (cy - h / 2, cy + h / 2)),
    }
    found = {}
    for geometry, axes in read.items():
        at = [low + (high - low) * steps for low, high in axes]
        on_picture = [(a > 0) & (a < 1) for a in at]
        on_box = [p & (abs(a - c) < s / 2) for p, a, c, s in zip(on_picture, at, (cx, cy), (w, h), strict=True)]
        shown, hit = (rows[0].mean(1) * rows[1].mean(1) for rows in (on_picture, on_box))
        shares = {"on_object": hit.mean(), "misses": (hit == 0).mean(), "sees_nothing": (shown == 0).mean()}
        found[geometry] = {name: round(float(value), 4) for name, value in shares.items()}
    return found


def table(results: dict[str, dict[int, dict[str, float]]]) -> str:
    """A row a metric: mean and standard deviation over seeds, and the difference of equal seeds."""
    lines = ["| metric | released | corrected | corrected - released, by seed |", "|---|---|---|---|"]
    for metric, words in METRICS.items():
        columns = {g: [values[metric] for values in results[g].values()] for g in GEOMETRIES}
        cells = [f"{mean(column):.3f} ± {stdev(column):.3f}" for column in columns.values()]
        gains = [b - a for a, b in zip(columns["released"], columns["corrected"], strict=True)]
        lines.append(f"| {words} | {' | '.join(cells)} | {', '.join(f'{gain:+.3f}' for gain in gains)} |")
    return "\n".join(lines) + "\n"


def figure(results: dict[str, dict[int, dict[str, float]]]) -> str:
    """A dot for every run, a bar for the mean; metrics from top to bottom, 0 to 1 from left to right."""
    left, width, row = 230, 480, 46
    height = row * len(METRICS) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 30} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{left + width + 30}" height="{height}" fill="white"/>',
    ]
    for tick in range(0, 11, 2):
        x = left + width * tick / 10
        parts.append(f'<line x1="{x}" x2="{x}" y1="30" y2="{height - 30}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{height - 12}" text-anchor="middle" fill="#555">{tick / 10:.1f}</text>')
    for number, geometry in enumerate(GEOMETRIES):
        x = left + 130 * number
        parts.append(f'<circle cx="{x + 6}" cy="15" r="5" fill="{COLOURS[geometry]}"/>')
        parts.append(f'<text x="{x + 17}" y="20" fill="#222">{geometry}</text>')
    for place, (metric, words) in enumerate(METRICS.items()):
        y = 30 + row * (place + 0.5)
        parts.append(f'<text x="{left - 12}" y="{y + 5}" text-anchor="end" fill="#222">{words}</text>')
        for offset, geometry in zip((-8, 8), GEOMETRIES, strict=True):
            values = [result[metric] for result in results[geometry].values()]
            colour, middle = COLOURS[geometry], left + width * mean(values)
            parts.append(
                f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y + offset - 8}" y2="{y + offset + 8}" '
                f'stroke="{colour}" stroke-width="3"/>'
            )
            parts += [
                f'<circle cx="{left + width * v:.1f}" cy="{y + offset}" r="4" fill="{colour}" fill-opacity="0.55"/>'
                for v in values
            ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eyes", required=True, help="model whose encoder and proposer see")
    parser.add_argument("--from", dest="init", action="append", type=Path, required=True, help="checkpoint; repeatable")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps of a run")
    parser.add_argument("--scenes", type=int, default=500, help="scenes of the evaluation")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--out", type=Path, default=Path("runs/geometry"))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    eyes = save_eyes(options.eyes, options.out)
    runs = [
        Run(
            geometry=geometry,
            seed=seed,
            steps=options.steps,
            scenes=options.scenes,
            init=(eyes, *options.init),
            out=options.out,
        )
        for seed in options.seeds
        for geometry in GEOMETRIES
    ]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        list(pool.map(carry_out, [run for run in runs if not run.result.exists()]))
    results = {g: {r.seed: json.loads(r.result.read_text()) for r in runs if r.geometry == g} for g in GEOMETRIES}
    settings = {"steps": options.steps, "scenes": options.scenes, "eyes": options.eyes, "coverage": coverage()}
    (options.out / "results.json").write_text(json.dumps(settings | {"results": results}, indent=1))
    (options.out / "table.md").write_text(table(results))
    (options.out / "figure.svg").write_text(figure(results))
    print(table(results), settings["coverage"])


if __name__ == "__main__":
    main()
