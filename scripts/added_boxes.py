"""Boxes that come in a later turn: named as well when they are added as when all regions are chosen anew?

python scripts/added_boxes.py --scenes 120

Each scene is described; then, in a second turn, the true box of each of its first objects is asked about, once added to
the conversation's regions (what groma does), once listed with all regions at the start (as published).
"""

from dataclasses import dataclass, replace

import torch
import tyro

import groma
from groma.data.scenes.scene import make_scene
from groma.inference.assistant import DESCRIBE
from groma.inference.preparing import Request

DECODING = groma.Decoding(max_new_tokens=48)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked."""

    scenes: int = 120
    """Test scenes."""
    seed: int = 7
    """Their series."""
    objects: int = 3
    """Objects of each, at most."""


def listed(request: Request) -> Request:
    """The same question with every box at the conversation's beginning."""
    exchange = request.exchange
    return replace(request, exchange=replace(exchange, listed=exchange.user_boxes))


def main() -> None:
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    model = groma.load("groma-tiny")
    right, total = {"added": 0, "listed": 0}, 0
    for number in range(options.scenes):
        scene = make_scene("test", number, options.seed, size_px=model.preprocessing.size_px)
        seen = model.see(scene.image)
        first = model.ask(seen, "Describe the image in detail.", decoding=DECODING)
        for entry in scene.objects[: options.objects]:
            box = [entry.box_xyxy_px]
            request = model.to_ask(seen, DESCRIBE, box, grounded=False, history=[first], decoding=DECODING)
            total += 1
            for name, asked in (("added", request), ("listed", listed(request))):
                right[name] += entry.name in model.ask_on(asked, model.decoder()).text
    print(f"{total} boxes, named right: " + ", ".join(f"{name} {count / total:.3f}" for name, count in right.items()))


main()
