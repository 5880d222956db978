"""Start stage "speak" from a model that is already trained: imagined region tokens that look like its real ones.

    python scripts/fit_tables.py MODEL OUT [--scenes 2000] [--epochs 30]

Reads the region tokens of annotated objects in training scenes, fits name + colour + place to them by least squares
(groma.train.region_tables), and writes language model and tables to OUT, which `groma train speak --from OUT` takes.
Prints which share of the tokens' variance the tables explain, and the standard deviation of what is left.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from groma.distributed import World
from groma.model.selection import match_regions
from groma.train.language import AnswerTraining
from groma.train.parts import load_parts, save_parts
from groma.train.recipes import tiny_instruct
from groma.train.region_tables import RegionTables
from groma.train.run import build_objective, build_stream

SEED = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    objective = build_objective(tiny_instruct())
    assert isinstance(objective, AnswerTraining) and objective.tables is not None
    load_parts({name: part for name, part in objective.parts().items() if name != "tables"}, options.model)
    samples = read_tokens(objective, options.scenes)
    fit(objective.tables, samples, options.epochs)
    options.out.joinpath("model").mkdir(parents=True)
    save_parts({"language": objective.model.language, "tables": objective.tables}, options.out / "model")


@torch.no_grad()
def read_tokens(objective: AnswerTraining, scenes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(R, D) tokens of the annotated objects, (R,) names, (R,) colours, (R, 4) boxes."""
    stream = build_stream(tiny_instruct(), World())
    image_tokens = objective.model.config.num_image_tokens
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    while scenes > 0:
        batch = stream.next()
        scenes -= len(batch.pictures)
        for picture, visual, names, colours in zip(
            batch.pictures, objective.tokenize(batch), batch.names, batch.colours, strict=True
        ):
            matched = match_regions(picture.boxes_cxcywh, visual.regions)
            rows.append((visual.features[image_tokens + matched], names, colours, picture.boxes_cxcywh))
    features, names, colours, boxes_cxcywh = (torch.cat(column) for column in zip(*rows, strict=True))
    return features, names, colours, boxes_cxcywh


def fit(tables: RegionTables, samples: tuple[Tensor, Tensor, Tensor, Tensor], epochs: int) -> None:
    """Least squares by Adam; the last tenth of the samples is held out for what is printed."""
    tables.requires_grad_(True)
    held_out = len(samples[0]) // 10
    train, test = [s[:-held_out] for s in samples], [s[-held_out:] for s in samples]
    optimizer = torch.optim.Adam(tables.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(train[0])).split(256):
            features, *shown = (column[rows] for column in train)
            loss = (tables(*shown) - features).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        features, *shown = test
        left = tables(*shown) - features
        explained = 1 - float(left.pow(2).sum() / (features - features.mean(0)).pow(2).sum())
    print(f"{len(samples[0])} objects, explained {explained:.3f}, left {float(left.std()):.3f}")


if __name__ == "__main__":
    main()
