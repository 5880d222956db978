"""Benchmarks: each asks a loaded model through the calls that users have, and measures the answers.

BENCHMARKS: name -> what opens it. A benchmark shares its source of annotations with the training set of that format
(groma.data.sources) and its prompts and decoding with everybody else (groma.inference).
"""

from collections.abc import Callable
from difflib import get_close_matches

from groma.errors import InputError
from groma.evaluate.benchmark import Benchmark
from groma.evaluate.benchmarks.absent import Absent
from groma.evaluate.benchmarks.captioning import GroundedCaptions, open_refcocog_captions, open_visual_genome
from groma.evaluate.benchmarks.detection import LvisGround, ProposerRecall
from groma.evaluate.benchmarks.llava_bench import LlavaBench
from groma.evaluate.benchmarks.referring import (
    REFCOCO,
    open_grefcoco,
    open_humanref,
    open_ref_l4,
    open_refcoco,
)
from groma.evaluate.benchmarks.scenes import ScenesBenchmark
from groma.evaluate.data_folder import Place

BENCHMARKS: dict[str, Callable[[Place], Benchmark]] = {
    "scenes": ScenesBenchmark,
    "rec": lambda place: open_refcoco(place, *REFCOCO),
    "refcoco": lambda place: open_refcoco(place, "refcoco"),
    "refcoco+": lambda place: open_refcoco(place, "refcoco+"),
    "refcocog": lambda place: open_refcoco(place, "refcocog"),
    "ref-l4": open_ref_l4,
    "grefcoco": open_grefcoco,
    "humanref": open_humanref,
    "lvis-ground": LvisGround,
    "proposals": ProposerRecall,
    "visual-genome": open_visual_genome,
    "refcocog-captions": open_refcocog_captions,
    "flickr30k": GroundedCaptions,
    "absent": Absent,
    "llava-bench": LlavaBench,
}
"""Name of a benchmark -> what opens it."""


def open_benchmark(name: str, place: Place) -> Benchmark:
    """Open a benchmark and check its data.

    Raises:
        InputError: there is no such benchmark, or its data cannot be used.
        MissingExtraError: reading them needs a package that is not installed.
    """
    if name not in BENCHMARKS:
        close = get_close_matches(name, BENCHMARKS, n=1)
        raise InputError(
            f"there is no benchmark {name!r}; "
            + (f"did you mean {close[0]!r}?" if close else f"known are {', '.join(BENCHMARKS)}.")
        )
    return BENCHMARKS[name](place)
