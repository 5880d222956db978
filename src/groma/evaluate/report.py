"""What a run comes to: figures with 95% intervals, the paper's beside them, and pictures of answers.

    benchmark, records --measure--> Outcome --write_report--> metrics.json, report.md, report.html, reliability.svg,
                                                              worst.png, best.png, random.png
The same answers give the same files, byte for byte.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groma.evaluate.benchmark import Benchmark, Drawing
from groma.evaluate.published import PUBLISHED, REC_SECTIONS
from groma.evaluate.reliability import reliability_plot
from groma.evaluate.statistics import Figure
from groma.inference.contact_sheet import LETTER_PX, TILE_PX, contact_sheet, stacked
from groma.inference.draw import draw_regions
from groma.inference.lettering import Lettering, caption_strip
from groma.inference.result import Region
from groma.storage import atomic_file, write_json, write_text

METRICS, MARKDOWN, HTML, PLOT = "metrics.json", "report.md", "report.html", "reliability.svg"
SHEETS = {"worst": "the worst answers", "best": "the best answers", "random": "answers at random"}
TILES = 12
"""Cases on a sheet."""

AVERAGES = {"rec": REC_SECTIONS}
"""Benchmark -> sections whose plain mean is reported as well, if all are there."""

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Figures of a model on a benchmark."""

    benchmark: str
    told: str
    """What it measures."""
    model: str
    """What the model is called."""
    sections: dict[str, dict[str, Figure]]
    """Section -> metric -> figure."""
    average: dict[str, float]
    """Metric -> plain mean over the sections that the paper averages; empty where it does not."""

    def metrics(self) -> dict[str, Any]:
        """Values alone: metric -> value for a benchmark of one section, else section -> metric -> value."""
        values = {section: {k: f.value for k, f in own.items()} for section, own in self.sections.items()}
        if len(values) == 1:
            return next(iter(values.values()))
        return values | ({"average": self.average} if self.average else {})

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON values; None where nothing could be measured."""
        sections = {
            section: {
                metric: {"value": _finite(f.value), "low": _finite(f.low), "high": _finite(f.high), "cases": f.cases}
                for metric, f in own.items()
            }
            for section, own in self.sections.items()
        }
        return {
            "benchmark": self.benchmark,
            "told": self.told,
            "model": self.model,
            "sections": sections,
            "average": {metric: _finite(value) for metric, value in self.average.items()},
        }

    def rows(self, *, published: bool = True) -> list[list[str]]:
        """The table: a row a metric, a column a section, the paper's figures below unless they are of other data."""
        names = [*self.sections, *(["average"] if self.average else [])]
        metrics = list(dict.fromkeys(metric for own in self.sections.values() for metric in own))
        rows = [["", *names]]
        for metric in metrics:
            cells = [_cell(own.get(metric)) for own in self.sections.values()]
            rows.append([metric, *cells, *([_number(self.average.get(metric))] if self.average else [])])
        for model, sections in PUBLISHED.get(self.benchmark, {}).items() if published else ():
            rows += self._published(model, sections, names, metrics)
        return rows

    def _published(
        self, model: str, sections: Mapping[str, Mapping[str, float]], names: Sequence[str], metrics: Sequence[str]
    ) -> list[list[str]]:
        """Rows of a published model: for each metric that it has."""
        only = next(iter(sections.values())) if len(sections) == 1 and len(self.sections) == 1 else None
        rows: list[list[str]] = []
        for metric in metrics:
            cells = [_number((only or sections.get(name, {})).get(metric)) for name in names]
            if self.average and all(metric in sections.get(name, {}) for name in AVERAGES[self.benchmark]):
                cells[-1] = _number(float(np.mean([sections[name][metric] for name in AVERAGES[self.benchmark]])))
            if any(cell != "-" for cell in cells):
                rows.append([f"{metric}, {model} (published)", *cells])
        return rows

    def to_markdown(self, *, published: bool = True) -> str:
        """One table; see `rows`."""
        head, *body = self.rows(published=published)
        lines = [
            f"# {self.benchmark}: {self.model}",
            "",
            f"{self.told}. Shares, not percent; 95% intervals over pictures in brackets.",
            "",
            f"| {' | '.join(head)} |",
            f"|---{'|---' * (len(head) - 1)}|",
            *(f"| {' | '.join([f'`{name}`' if '(' not in name else name, *cells])} |" for name, *cells in body),
        ]
        return "\n".join(lines) + "\n"


def measure(benchmark: Benchmark, records: Records, *, model: str) -> Outcome:
    """Figures of all answers."""
    sections = {
        section: {metric: one.figure() for metric, one in benchmark.figures(section, own).items()}
        for section, own in by_section(benchmark, records).items()
    }
    averaged = AVERAGES.get(benchmark.name, ())
    average: dict[str, float] = {}
    if averaged and all(section in sections for section in averaged):
        metrics = sections[averaged[0]]
        average = {k: float(np.mean([sections[section][k].value for section in averaged])) for k in metrics}
    return Outcome(benchmark=benchmark.name, told=benchmark.told, model=model, sections=sections, average=average)


def by_section(benchmark: Benchmark, records: Records) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Section -> number of a case -> its record; sections without cases are left out."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {section: {} for section in benchmark.sections}
    for number, record in enumerate(records):
        found[benchmark.section_of(number)][number] = record
    return {section: own for section, own in found.items() if own}


def write_report(outcome: Outcome, benchmark: Benchmark, records: Records, folder: Path) -> None:
    """Write all files into the run's folder."""
    write_json(folder / METRICS, outcome.to_dict())
    write_text(folder / MARKDOWN, outcome.to_markdown())
    scored = [
        case
        for section, own in by_section(benchmark, records).items()
        for cases in benchmark.reliability(section, own)
        for case in cases
    ]
    plot = reliability_plot(scored, f"{outcome.benchmark}: {outcome.model}") if scored else ""
    if plot:
        write_text(folder / PLOT, plot)
    for name, numbers in _chosen(benchmark, records).items():
        sheet = contact_sheet([_tile(benchmark.drawing(number, records[number]), number) for number in numbers])
        with atomic_file(folder / f"{name}.png") as temporary:
            sheet.save(temporary, format="PNG")
    write_text(folder / HTML, _page(outcome, plot))


def _chosen(benchmark: Benchmark, records: Records) -> dict[str, list[int]]:
    """Sheet -> numbers of cases; of equals those with the lowest numbers."""
    rated = [(quality, number) for number, record in enumerate(records)
             if (quality := benchmark.quality(number, record)) is not None]  # fmt: skip
    count = len(records)
    at_random = np.random.default_rng(0).permutation(count)[:TILES].tolist()
    return {
        "worst": [number for _, number in sorted(rated)[:TILES]],
        "best": [number for _, number in sorted(rated, key=lambda pair: (-pair[0], pair[1]))[:TILES]],
        "random": sorted(at_random),
    }


def _tile(drawing: Drawing, number: int) -> Image.Image:
    """The picture with what was answered (labelled) and what should have been (as a user's boxes are drawn)."""
    wanted = [
        Region(id=k, box_xyxy_px=box, objectness=1.0, source="user") for k, box in enumerate(drawing.wanted_xyxy_px)
    ]
    answered = [
        Region(id=len(wanted) + k, box_xyxy_px=box, objectness=1.0, source="proposal")
        for k, box in enumerate(drawing.boxes_xyxy_px)
    ]
    picture = draw_regions(drawing.picture, [*answered, *wanted], width_px=TILE_PX)
    scores = f" ({', '.join(drawing.labels)})" if drawing.labels else ""
    strip = caption_strip(drawing.text + scores, (), TILE_PX, Lettering(LETTER_PX), heading=f"case {number}")
    return stacked([picture, strip])


def _page(outcome: Outcome, plot: str) -> str:
    head, *body = outcome.rows()
    table = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in body
    )
    sheets = "".join(
        f'<h2>{told}</h2><p>Dashed: annotated.</p><img src="{name}.png" alt="{told}">' for name, told in SHEETS.items()
    )
    title = html.escape(f"{outcome.benchmark}: {outcome.model}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;"
        "padding:0 1rem}table{border-collapse:collapse;display:block;overflow-x:auto}"
        "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #8886}img{max-width:100%}</style>"
        f"<h1>{title}</h1><p>{html.escape(outcome.told)}. Shares, not percent; 95% intervals in brackets.</p>"
        f"<table><tr>{table}</tr>{rows}</table>{plot}{sheets}</html>\n"
    )


def _cell(figure: Figure | None) -> str:
    if figure is None or math.isnan(figure.value):
        return "-"
    value = f"{figure.value:.3f}"
    return value if math.isnan(figure.low) else f"{value} [{figure.low:.3f}, {figure.high:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
