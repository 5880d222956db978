"""Measures how fast training data are made on one core, and what a large annotation file costs each worker.

python scripts/benchmark_data.py [--pictures 200] [--size 640] [--records 300000] [--json]

Pictures per second of the very batches that training gets (read, decode, augment, resize, clean, render questions),
from loose files and from shards, beside what Pillow alone needs to decode and resize the same pictures. And the memory
that belongs to each of some processes alone while they read a made-up annotation file of the COCO kind in random order.
"""

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from groma.data.augment import Augmentation
from groma.data.batches import MicroBatches, Share
from groma.data.catalogue import CATALOGUE
from groma.data.lessons import DetectionLessons, DialogueLessons
from groma.data.mixture import MixtureConfig, SetConfig, open_mixture
from groma.data.packed import pack
from groma.data.plan import MixturePlan
from groma.data.scenes.export import PICTURES, export_scenes
from groma.data.scenes.scene import make_scene
from groma.image import RESAMPLING, Preprocessing
from groma.pretrained import load_interface
from groma.prompt.chat_format import chat_format

SETS = {"coco": "detect", "refcoco": "instruct", "flickr30k": "instruct"}
"""Set of the catalogue -> stage that it is measured for."""

JPEG_QUALITY, BATCH, ROUNDS, SEED = 92, 8, 5, 0
PREPROCESSING = Preprocessing(size_px=448)
"""The published size."""


# --- pictures per second ----------------------------------------------------------------------------------------------


def export(name: str, folder: Path, options: argparse.Namespace) -> SetConfig:
    """Scenes as one of the published formats, their pictures as JPEG."""
    scenes = [make_scene("train", number, SEED, size_px=options.size) for number in range(options.pictures)]
    file = export_scenes(scenes, CATALOGUE[name].format, folder)
    for picture in sorted((folder / PICTURES).glob("*.png")):
        Image.open(picture).save(picture.with_suffix(".jpg"), quality=JPEG_QUALITY)
        picture.unlink()
    file.write_text(file.read_text(encoding="utf-8").replace(".png", ".jpg"), encoding="utf-8")
    return SetConfig(set=name, annotations=str(file), pictures=str(folder / PICTURES))


def batches(one: SetConfig) -> MicroBatches:
    """What training gets of the set."""
    sets = open_mixture(MixtureConfig(sets=(one,)))
    if SETS[one.set] == "detect":
        lessons: Any = DetectionLessons(preprocessing=PREPROCESSING, augmentation=Augmentation())
    else:
        interface = load_interface("groma-tiny")
        form = chat_format(interface.config.chat_format, interface.tokenizer)
        lessons = DialogueLessons(
            preprocessing=PREPROCESSING, tokenizer=interface.tokenizer, chat_format=form, max_tokens=2048
        )
    plan = MixturePlan([sets[0].data], [1.0], samples_per_step=BATCH, seed=SEED)
    return MicroBatches(sets, plan, Share(batch_size=BATCH), lessons)


def decode_and_resize(picture: Path) -> None:
    """The physical limit: what no reader of pictures can do without."""
    side = (PREPROCESSING.size_px, PREPROCESSING.size_px)
    with Image.open(picture) as image:
        np.asarray(image.convert("RGB").resize(side, RESAMPLING[PREPROCESSING.resample]))


def seconds(work: Callable[[], None]) -> float:
    """Time of this process on a core."""
    began = time.process_time()
    work()
    return time.process_time() - began


def throughput(name: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Pictures per second on one core, the best of some interleaved rounds each."""
    loose = export(name, folder / "loose", options)
    (opened,) = open_mixture(MixtureConfig(sets=(loose,)))
    pack(opened.data, folder / "packed", shard_bytes=1 << 26)
    packed = SetConfig(set=name, packed=str(folder / "packed"))
    pictures = sorted((folder / "loose" / PICTURES).iterdir())
    steps = options.pictures // BATCH
    made = {kind: batches(one) for kind, one in (("loose", loose), ("packed", packed))}
    best = {"pillow": float("inf")} | dict.fromkeys(made, float("inf"))
    for _ in range(ROUNDS):
        limit = seconds(lambda: [decode_and_resize(picture) for picture in pictures[: steps * BATCH]][:0])
        best["pillow"] = min(best["pillow"], limit)
        for kind, source in made.items():
            took = seconds(lambda source=source: [source[number] for number in range(steps)][:0])
            best[kind] = min(best[kind], took)
    count = steps * BATCH
    return {f"{kind}_per_s": count / took for kind, took in best.items()} | {
        f"{kind}_share_of_limit": best["pillow"] / best[kind] for kind in made
    }


# --- memory of a large annotation file --------------------------------------------------------------------------------


def write_large(file: Path, records: int) -> None:
    """A COCO file of that many pictures, seven boxes each."""
    rng = np.random.default_rng(SEED)
    with file.open("w", encoding="utf-8") as stream:
        stream.write('{"categories": [{"id": 1, "name": "thing"}], "images": [')
        rows = (f'{{"id": {k}, "file_name": "{k:012d}.jpg", "width": 640, "height": 480}}' for k in range(records))
        _write_rows(stream, rows)
        stream.write('], "annotations": [')
        corners = rng.uniform(0, 300, (records, 7, 4)).round(2)
        rows = (
            f'{{"id": {7 * k + j}, "image_id": {k}, "category_id": 1, "iscrowd": 0, "area": 100.0, '
            f'"bbox": {corners[k, j].tolist()}}}'
            for k in range(records)
            for j in range(7)
        )
        _write_rows(stream, rows)
        stream.write("]}")


def _write_rows(stream: Any, rows: Any) -> None:
    for number, row in enumerate(rows):
        stream.write((", " if number else "") + row)


def memory(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """MiB that belong to each process alone, with the file open and without."""
    file = folder / "large.json"
    write_large(file, options.records)
    one = SetConfig(set="coco", annotations=str(file), pictures=str(folder))
    began = time.perf_counter()
    open_mixture(MixtureConfig(sets=(one,)))
    indexing = time.perf_counter() - began
    context = multiprocessing.get_context("spawn")
    figures: dict[str, Any] = {"file_mib": file.stat().st_size / 2**20, "indexing_s": indexing}
    for workers in (1, 2, 4):
        with context.Pool(workers) as pool:
            results = pool.map(_read_randomly, [(one, worker) for worker in range(workers)], chunksize=1)
        figures[f"mib_of_each_of_{workers}"] = max(own - before for before, own, _ in results)
        figures[f"records_per_s_of_each_of_{workers}"] = min(rate for _, _, rate in results)
    return figures


def _read_randomly(work: tuple[SetConfig, int]) -> tuple[float, float, float]:
    """(MiB before the set is opened, MiB after 5000 records of it, records per second)."""
    one, seed = work
    process = psutil.Process()
    before = process.memory_full_info().uss / 2**20
    (opened,) = open_mixture(MixtureConfig(sets=(one,)))
    numbers = np.random.default_rng(seed).integers(len(opened.data), size=5000).tolist()
    began = time.perf_counter()
    for number in numbers:
        opened.data.annotation(number)
    rate = len(numbers) / (time.perf_counter() - began)
    return before, process.memory_full_info().uss / 2**20, rate


# --- all of it --------------------------------------------------------------------------------------------------------


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["GROMA_CACHE"] = str(folder / "cache")
        figures: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count(), "size_px": options.size}
        for name in SETS:
            figures[name] = throughput(name, folder / name, options)
        if options.records:
            figures["memory"] = memory(folder, options)
    return figures


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures how fast training data are made, and what they cost.")
    parser.add_argument("--pictures", type=int, default=200, help="pictures of a set, at least 8")
    parser.add_argument("--size", type=int, default=640, help="their side in px")
    parser.add_argument("--records", type=int, default=300_000, help="pictures of the large annotation file; 0: none")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure and print."""
    options = parse()
    figures = report(options)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, figure in parts:
            shown = f"{figure:.4g}" if isinstance(figure, float) else figure
            print(f"{(name + '.' + part).strip('.'):40} {shown}")


if __name__ == "__main__":
    main()
