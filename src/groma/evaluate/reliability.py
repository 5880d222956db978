"""Are scores what they promise? Of all boxes said with confidence 0.8, four in five should be right."""

from collections.abc import Sequence

import numpy as np

from groma.evaluate.statistics import CALIBRATION_BINS, calibration_error, calibration_sums

SIDE, EDGE = 300, 44
"""Of the plot in pixels: its square, and the room around it."""

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333 }
.frame { fill: none; stroke: #888 } .ideal { stroke: #888; stroke-dasharray: 4 4 }
.right { fill: #0072b2 } .gap { fill: #d55e00; opacity: 0.45 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .right { fill: #56b4e9 } }
"""


def reliability_plot(scored: Sequence[tuple[float, bool]], title: str) -> str:
    """A reliability plot as SVG: accuracy of each tenth of confidence, and the gap to the mean confidence there.

    Args:
        scored: (confidence, whether it was right) of every box.
        title: stands above it.
    """
    values, hits = np.asarray(scored, dtype=float).reshape(-1, 2).T
    places = np.clip((values * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)
    error = calibration_error(calibration_sums(scored))
    width = SIDE / CALIBRATION_BINS
    bars: list[str] = []
    for place in range(CALIBRATION_BINS):
        own = places == place
        if own.any():
            accuracy, confidence = float(hits[own].mean()), float(values[own].mean())
            low, high = sorted((accuracy, confidence))
            told = f"confidence {confidence:.3f}, accuracy {accuracy:.3f}, {int(own.sum())} boxes"
            bars.append(f"<g><title>{told}</title>{_bar(place, 0, accuracy, width, 'right')}"
                        f"{_bar(place, low, high, width, 'gap')}</g>")  # fmt: skip
    size = SIDE + 2 * EDGE
    marks = "".join(
        f'<text x="{EDGE + x * SIDE:.0f}" y="{EDGE + SIDE + 16}" text-anchor="middle">{x:g}</text>'
        f'<text x="{EDGE - 6}" y="{EDGE + SIDE - x * SIDE + 4:.0f}" text-anchor="end">{x:g}</text>'
        for x in (0, 0.5, 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" '
        f'viewBox="0 0 {size} {size}" role="img">'
        f"<title>{title}: expected calibration error {error:.3f}</title><style>{STYLE}</style>"
        f'<text x="{EDGE}" y="16">{title}</text>'
        f'<text x="{EDGE}" y="34">{len(scored):,} boxes, expected calibration error {error:.3f}</text>'
        f"{''.join(bars)}"
        f'<rect class="frame" x="{EDGE}" y="{EDGE}" width="{SIDE}" height="{SIDE}"/>'
        f'<line class="ideal" x1="{EDGE}" y1="{EDGE + SIDE}" x2="{EDGE + SIDE}" y2="{EDGE}"/>{marks}'
        f'<text x="{EDGE + SIDE / 2}" y="{EDGE + SIDE + 34}" text-anchor="middle">confidence (blue: how many are right)'
        "</text></svg>\n"
    )


def _bar(place: int, low: float, high: float, width: float, kind: str) -> str:
    x, y, height = EDGE + place * width, EDGE + SIDE * (1 - high), SIDE * (high - low)
    return f'<rect class="{kind}" x="{x + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{height:.1f}"/>'
