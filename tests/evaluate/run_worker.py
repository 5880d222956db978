"""A program: `[torchrun ...] run_worker.py DATA OUT LOG SECONDS` runs refcoco without a model, slowly.

Every question that is asked is a line of LOG.
"""

import sys
import time
from pathlib import Path

from knowing import Knowing

from groma.distributed import process_group
from groma.evaluate import open_benchmark
from groma.evaluate.data_folder import Place
from groma.evaluate.report import measure, write_report
from groma.evaluate.runner import run_benchmark


def main(data: Path, out: Path, log: Path, seconds: float) -> None:
    """Right for even pictures."""

    def boxes(picture, phrase, _all):
        with log.open("a") as file:
            file.write(f"{phrase}\n")
        time.sleep(seconds)
        return [((10.0, 10.0, 50.0, 50.0), 0.25 + picture / 100)] if picture % 2 == 0 else []

    with process_group() as world:
        benchmark = open_benchmark("refcoco", Place(data=data))
        records = run_benchmark(Knowing(boxes), benchmark, out=out, batch_size=3, world=world)
        if records is not None:
            write_report(measure(benchmark, records, model="knowing"), benchmark, records, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
