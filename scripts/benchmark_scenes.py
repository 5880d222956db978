"""Measures how long it takes to compose a scene and to ask about it, on one core.

OMP_NUM_THREADS=1 python scripts/benchmark_scenes.py [--scenes 1000] [--size 224]
"""

import argparse
import time

import numpy as np

from groma.data.scenes.questions import questions_for
from groma.data.scenes.scene import make_scene


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how long a scene and a question take, on one core.")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224, help="side of the picture in px")
    options = parser.parse_args()
    for index in range(500):  # prepares nearly all sprites
        make_scene("train", index, 1, size_px=options.size)

    begin = time.process_time()
    scenes = [make_scene("train", index, 0, size_px=options.size) for index in range(options.scenes)]
    per_scene = (time.process_time() - begin) / len(scenes)
    rng = np.random.default_rng(0)
    begin = time.process_time()
    questions = [question for scene in scenes for question in questions_for(scene, rng, count=4)]
    per_question = (time.process_time() - begin) / len(questions)
    print(f"{per_scene * 1e3:.2f} ms a scene of {options.size} px, {per_question * 1e6:.0f} us a question")


if __name__ == "__main__":
    main()
