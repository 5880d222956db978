"""All benchmarks that procedural scenes can express, for groma-tiny: docs/tiny/benchmarks.md and calibration.svg.

    python scripts/tiny_table.py --scenes 100 --out runs/tiny-table --docs docs/tiny

Held-out scenes are written in the published formats and each benchmark is run on its file, as `groma evaluate` does it;
a run that was stopped goes on.
"""

import platform
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console

import groma
from groma.data.scenes.atlas import atlas
from groma.data.scenes.export import PICTURES, export_scenes, picture_name
from groma.data.scenes.scene import Scene, make_scene
from groma.evaluate import open_benchmark
from groma.evaluate.data_folder import Place
from groma.evaluate.report import PLOT, Outcome, measure, write_report
from groma.evaluate.runner import run_benchmark
from groma.storage import write_json, write_text


@dataclass(frozen=True)
class Run:
    """Export, ask, write."""

    scenes: int = 100
    """Held-out scenes that are written in the published formats."""
    held_out: int = 300
    """Scenes of each split for the benchmark `scenes`."""
    seed: int = 7
    """Which scenes."""
    model: str = "groma-tiny"
    """Which model."""
    out: Path = Path("runs/tiny-table")
    """Data and answers."""
    docs: Path = Path("docs/tiny")
    """Where table and plot go."""


FORMATS = {
    "coco": ("lvis-ground", "proposals", "absent"),
    "coco_expressions": ("refcoco",),
    "coco_region_captions": ("visual-genome",),
    "coco_grounded_captions": ("flickr30k",),
}
"""Published format -> benchmarks that read it."""

MOST = {"refcoco": 500, "visual-genome": 500, "grefcoco": 500, "absent": 50}
"""Questions of a benchmark (of absent: pictures), where the file gives rise to more."""


def main(run: Run) -> None:
    model = groma.load(run.model, device="cpu")
    side = model.preprocessing.size_px
    scenes = [make_scene("test", number, run.seed, size_px=side) for number in range(run.scenes)]
    outcomes = [
        evaluate(
            model, run, "scenes", Place(n=run.held_out, seed=run.seed, splits=("test", "test_style", "test_objects"))
        )
    ]
    for format_name, names in FORMATS.items():
        folder = run.out / "data" / format_name
        file = export_scenes(scenes, format_name, folder)
        for name in names:
            place = Place(
                annotations=file, pictures=folder / PICTURES, splits=("val",), n=MOST.get(name), seed=run.seed
            )
            outcomes.append(evaluate(model, run, name, place))
    refs = export_several(scenes, run.out / "data" / "grefcoco")
    place = Place(annotations=refs, pictures=run.out / "data" / "coco" / PICTURES, splits=("val",), n=MOST["grefcoco"])
    outcomes.append(evaluate(model, run, "grefcoco", place))
    told = (
        f"Made by `python scripts/tiny_table.py --scenes {run.scenes} --held-out {run.held_out} --seed {run.seed}` "
        f"(torch {torch.__version__}, {platform.machine()}, CPU): {run.scenes} held-out scenes written in the "
        f"published formats; the benchmark `scenes` itself on {run.held_out} a split.\n"
    )
    text = "\n".join(
        ["# Benchmarks of groma-tiny\n", told, *(outcome.to_markdown(published=False) for outcome in outcomes)]
    )
    write_text(run.docs / "benchmarks.md", text.replace("\n# ", "\n## "))
    write_text(run.docs / "calibration.svg", (run.out / "scenes" / PLOT).read_text(encoding="utf-8"))


def evaluate(model: groma.Groma, run: Run, name: str, place: Place) -> Outcome:
    benchmark, out = open_benchmark(name, place), run.out / name
    records = run_benchmark(model, benchmark, out=out, console=Console(stderr=True))
    assert records is not None, "there is one process"
    outcome = measure(benchmark, records, model=run.model)
    write_report(outcome, benchmark, records, out)
    return outcome


def export_several(scenes: list[Scene], folder: Path) -> Path:
    """Files of gRefCOCO: the plain name of each kind, for all of that kind, and for each scene a name it lacks."""
    images = [
        {"id": k, "file_name": picture_name(k), "width": scene.size_px, "height": scene.size_px}
        for k, scene in enumerate(scenes)
    ]
    annotations, refs = [], []
    for k, scene in enumerate(scenes):
        members: dict[str, list[int]] = {}
        for entry in scene.objects:
            x1, y1, x2, y2 = entry.box_xyxy_px
            members.setdefault(entry.name, []).append(len(annotations))
            annotations.append({"id": len(annotations), "image_id": k, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        absent = next(name for name in atlas().names[k % 50 :] if name not in members)
        for name, numbers in [*members.items(), (absent, [-1])]:
            refs.append(
                {
                    "ref_id": len(refs),
                    "image_id": k,
                    "split": "val",
                    "ann_id": numbers,
                    "no_target": numbers == [-1],
                    "sentences": [{"sent": name}],
                }
            )
    write_json(folder / "instances.json", {"images": images, "annotations": annotations, "categories": []})
    write_json(folder / "grefs(unc).json", refs)
    return folder / "grefs(unc).json"


if __name__ == "__main__":
    main(tyro.cli(Run))
