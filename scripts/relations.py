"""Which relations and places in a row a model understands: accuracy of "locate" by the words that decide.

python scripts/relations.py [MODEL] [--n 480] [--seed 31]
"""

import argparse
from collections import defaultdict

import numpy as np

import groma
from groma.data.scenes.questions import question_of
from groma.data.scenes.scene import make_scene
from groma.evaluate.scenes import BATCH, DECODING, _found
from groma.evaluate.statistics import Share

WORDS = ("left of", "right of", "above", "below", "leftmost", "rightmost", "topmost", "bottommost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="groma-tiny")
    parser.add_argument("--n", type=int, default=480, help="scenes of the test split")
    parser.add_argument("--seed", type=int, default=31)
    options = parser.parse_args()
    assistant = groma.load(options.model, device="cpu")
    shares: defaultdict[str, Share] = defaultdict(Share)
    for start in range(0, options.n, BATCH):
        cases = []
        for number in range(start, min(start + BATCH, options.n)):
            scene = make_scene("test", number, options.seed, size_px=assistant.preprocessing.size_px)
            rng, seen = np.random.default_rng(number), assistant.see(scene.image)
            questions = [question_of(kind, scene, rng) for kind in ("refer_relation", "refer_ordinal")]
            cases += [(scene, seen, question.targets[0]) for question in questions if question is not None]
        answers = assistant.locate([c[1] for c in cases], [c[2].phrase for c in cases], decoding=DECODING)
        for (scene, _, target), answer in zip(cases, answers, strict=True):
            boxes = [box for entity in answer.entities for box in entity.boxes_xyxy_px][:1]
            wanted = [scene.objects[target.objects[0]].box_xyxy_px]
            share = shares[next((word for word in WORDS if word in target.phrase), "other")]
            share.total += 1
            share.right += any(_found(boxes, wanted))
    for word in (*WORDS, "other"):
        share = shares[word]
        low, high = share.interval()
        print(f"{word:12} {share.value:.2f} [{low:.2f}, {high:.2f}] of {share.total}")


if __name__ == "__main__":
    main()
