"""Tell how a model was trained, from what its runs left: a table, curves, and the runs' metrics thinned out.

    python scripts/training_report.py RUN ... --out docs/tiny [--append]

Every RUN is the folder of one stage, in the order they were trained. Writes table.md, curves.svg and metrics.jsonl.
With --append the runs go behind those that the three files tell of already; their folders need not exist any more.
"""

import argparse
import json
from pathlib import Path
from typing import Any

CURVES = {
    "name_right": "names right",
    "loss_giou": "GIoU loss",
    "region_right": "regions right",
    "right": "tokens right",
}
"""Metric -> its label; of every run the ones that it has are drawn."""
SHOWN = {
    **CURVES,
    "loss_bbox": "L1 loss",
    "answer": "answer loss",
    "colour": "colour loss",
}
"""Metric -> its label in the table's last column."""
WIDTH, HEIGHT, MARGIN = 260, 150, 46
COLOURS = ("#1d4ed8", "#c2410c")
MAX_RECORDS = 120


def newest_config(run: Path) -> dict[str, Any]:
    """The configuration beside the last checkpoint."""
    checkpoints = sorted(run.glob("step-*/config.json"))
    if not checkpoints:
        raise SystemExit(f"{run} has no checkpoint with a config.json.")
    return json.loads(checkpoints[-1].read_text())


def training_records(run: Path) -> list[dict[str, Any]]:
    """What was logged of training steps."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["kind"] == "train"]


def row(run: Path) -> str:
    """One line of the table."""
    config, records = newest_config(run), training_records(run)
    recipe, last = config["recipe"], records[-1]
    data, optimizer = recipe["data"], config["optimizer"]
    scenes = config["step"] * data["batch_size"] * config["world_size"] * config["loop"]["accumulate"]
    start = ", ".join(recipe["init"]).strip("/") or "nothing"
    tail = records[-min(len(records), 5) :]
    ends = [
        f"{label} {sum(r['terms'][name] for r in tail) / len(tail):.3f}"
        for name, label in SHOWN.items()
        if name in last["terms"]
    ]
    size = f", close-ups of {data['crop_px']} px" if data["crop_px"] else ""
    return (
        f"| {run.name} | {recipe['stage']}{size} | {start} | {config['step']} | {scenes:,} | "
        f"{last['wall_s'] / 60:.0f} min | {optimizer['lr']:g}, {optimizer['muon_lr']:g} | {', '.join(ends)} |"
    )


HEAD = (
    "| run | stage | starts from | steps | scenes | time | learning rates (AdamW, Muon) | at the end |",
    "|---|---|---|---|---|---|---|---|",
)
"""Of the table: a row a run; losses and shares are means over the last five records."""


def panel(run: str, records: list[dict[str, Any]], left: float, top: float) -> list[str]:
    """Curves of one run."""
    names = [name for name in CURVES if name in records[-1]["terms"]][:2]
    right, bottom = left + WIDTH, top + HEIGHT
    steps = max(records[-1]["step"], 1)
    highest = 1.0 if all("right" in name for name in names) else max(r["terms"][n] for n in names for r in records)
    parts = [
        f'<text x="{left}" y="{top - 10}" font-weight="bold">{run}</text>',
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#888"/>',
        f'<text x="{left - 6}" y="{top + 5}" text-anchor="end">{highest:.2g}</text>',
        f'<text x="{left - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{right}" y="{bottom + 16}" text-anchor="end">{steps} steps</text>',
    ]
    for number, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        points = " ".join(
            f"{left + WIDTH * r['step'] / steps:.1f},{bottom - HEIGHT * min(r['terms'][name] / highest, 1):.1f}"
            for r in records
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        x = right - 110 * (len(names) - 1 - number)
        parts.append(f'<text x="{x}" y="{top - 10}" text-anchor="end" fill="{colour}">{CURVES[name]}</text>')
    return parts


def curves(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Panels of all runs, two a line."""
    width, line = 2 * (WIDTH + 2 * MARGIN), HEIGHT + 2 * MARGIN
    height = line * ((len(runs) + 1) // 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (run, records) in enumerate(runs.items()):
        parts += panel(run, records, MARGIN + (number % 2) * width / 2, MARGIN + (number // 2) * line)
    return "\n".join([*parts, "</svg>"]) + "\n"


def thinned(run: Path) -> list[dict[str, Any]]:
    """The run's name in each record, no more than MAX_RECORDS of them, the last one always."""
    records = training_records(run)
    stride = -(-len(records) // MAX_RECORDS)
    return [{"run": run.name} | record for record in records[::-1][::stride][::-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of the stages, in order")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--append", action="store_true", help="keep the runs that the folder tells of")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table, metrics = options.out / "table.md", options.out / "metrics.jsonl"
    rows = table.read_text().splitlines() if options.append else list(HEAD)
    records = [json.loads(line) for line in metrics.read_text().splitlines()] if options.append else []
    rows += map(row, options.runs)
    records += [record for run in options.runs for record in thinned(run)]
    by_run: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_run.setdefault(record["run"], []).append(record)
    table.write_text("\n".join(rows) + "\n")
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    (options.out / "curves.svg").write_text(curves(by_run))
    print("\n".join(rows))


if __name__ == "__main__":
    main()
