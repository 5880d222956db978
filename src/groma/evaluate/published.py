"""Figures of the paper (arXiv 2404.13013, tables 2 to 5), 7B models, in the units of this package: shares, not percent.

benchmark -> model -> section -> metric -> value. A run's table shows them beside its own where the metric is the same.
"""

Table = dict[str, dict[str, dict[str, float]]]
"""Model -> section -> metric -> value."""


def _rec(rows: dict[str, tuple[float, ...]], sections: tuple[str, ...], first: int = 0) -> Table:
    return {
        model: {section: {"accuracy50": values[first + place] / 100} for place, section in enumerate(sections)}
        for model, values in rows.items()
    }


REC_SECTIONS = (
    "refcoco val",
    "refcoco testA",
    "refcoco testB",
    "refcoco+ val",
    "refcoco+ testA",
    "refcoco+ testB",
    "refcocog val",
    "refcocog test",
)
"""The eight columns of table 2; the paper's average is their plain mean."""

_REC = {
    "Shikra": (87.01, 90.61, 80.24, 81.60, 87.36, 72.12, 82.27, 82.19),
    "Ferret": (87.49, 91.35, 82.45, 80.78, 87.38, 73.14, 83.93, 84.76),
    "MiniGPT-v2": (88.69, 91.65, 85.33, 79.97, 85.12, 74.45, 84.44, 84.66),
    "Qwen-VL": (89.36, 92.26, 85.34, 83.12, 88.25, 77.21, 85.58, 85.48),
    "Groma": (89.53, 92.09, 86.26, 83.90, 88.91, 78.05, 86.37, 87.01),
}

_LVIS_METRICS = ("ar", "ar50", "ar75", "ar_small", "ar_medium", "ar_large")
_LVIS = {
    "Shikra": (4.9, 14.2, 2.0, 0.1, 3.1, 18.5),
    "MiniGPT-v2": (11.4, 19.8, 11.2, 0.3, 8.0, 41.1),
    "Ferret": (16.8, 29.6, 16.3, 1.6, 16.7, 51.1),
    "Groma": (28.8, 37.9, 30.3, 8.7, 35.6, 64.3),
}

PUBLISHED: dict[str, Table] = {
    "rec": _rec(_REC, REC_SECTIONS),
    "refcoco": _rec(_REC, ("val", "testA", "testB")),
    "refcoco+": _rec(_REC, ("val", "testA", "testB"), first=3),
    "refcocog": _rec(_REC, ("val", "test"), first=6),
    "lvis-ground": {
        model: {"val": {metric: value / 100 for metric, value in zip(_LVIS_METRICS, values, strict=True)}}
        for model, values in _LVIS.items()
    },
    "visual-genome": {
        "GLaMM": {"val": {"meteor": 0.190, "cider": 1.639}},
        "Groma": {"val": {"meteor": 0.190, "cider": 1.584}},
    },
    "refcocog-captions": {
        "GLaMM": {"val": {"meteor": 0.161, "cider": 1.019}},
        "Groma": {"val": {"meteor": 0.168, "cider": 1.073}},
    },
    "llava-bench": {
        "LLaVA": {"all": {"conversation": 0.854, "detail": 0.683, "reasoning": 0.921, "all": 0.819}},
        "Ferret": {"all": {"conversation": 0.844, "detail": 0.794, "reasoning": 0.963, "all": 0.867}},
        "Groma": {"all": {"conversation": 0.826, "detail": 0.840, "reasoning": 0.888, "all": 0.852}},
    },
}
