"""METEOR 1.5 (Denkowski and Lavie 2014) by its own Java program, which the package pycocoevalcap brings.

candidates, references --PTB tokens--> java meteor-1.5.jar, over a pipe --> scores
"""

import importlib.util
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groma.errors import InputError, MissingExtraError
from groma.evaluate.captions.ptb import tokenize

JAR = "meteor-1.5.jar"
TIMEOUT_S = 600.0
"""Longest wait for the whole corpus to be scored: it takes about a minute for 50,000 captions."""


@dataclass(frozen=True, slots=True)
class MeteorScores:
    """Scores of n captions."""

    corpus: float
    """Of all together, from their summed statistics: not the mean of the others."""
    segments: NDArray[np.float64]
    """(n,) of each."""


def meteor_available() -> str:
    """Why METEOR cannot be computed here; empty if it can."""
    if _jar() is None:
        return "METEOR needs the package pycocoevalcap: pip install 'groma[evaluate]'"
    if shutil.which("java") is None:
        return "METEOR needs Java: install a Java runtime, such as Debian's default-jre-headless"
    return ""


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> MeteorScores:
    """Score captions.

    Args:
        candidates: n captions, at least one.
        references: for each of them one or more.

    Raises:
        MissingExtraError: pycocoevalcap is not installed.
        InputError: there is no Java, the numbers differ, or the program fails or hangs.
    """
    if reason := meteor_available():
        raise MissingExtraError(reason) if _jar() is None else InputError(reason)
    if not candidates or len(candidates) != len(references) or not all(references):
        raise InputError(f"METEOR needs references for each of {len(candidates)} captions, got {len(references)}.")
    jar = _jar()
    assert jar is not None
    command = ["java", "-jar", "-Xmx2G", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    with subprocess.Popen(
        command, cwd=jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        encoding="utf-8",
    ) as process:  # fmt: skip
        alarm = threading.Timer(TIMEOUT_S, process.kill)
        alarm.start()
        try:
            return _converse(process, candidates, references)
        except (OSError, ValueError) as error:
            raise InputError(
                f"METEOR's Java program failed: {error}; it ran {' '.join(command)} in {jar.parent}."
            ) from error
        finally:
            alarm.cancel()
            process.kill()


def _converse(
    process: "subprocess.Popen[str]", candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> MeteorScores:
    """Ask for statistics of every caption, then for the scores that they come to."""
    assert process.stdin is not None and process.stdout is not None
    statistics: list[str] = []
    for candidate, own in zip(candidates, references, strict=True):
        fields = ["SCORE", *map(_clean, own), _clean(candidate)]
        process.stdin.write(" ||| ".join(fields) + "\n")
        process.stdin.flush()
        statistics.append(_answer(process))
    process.stdin.write(" ||| ".join(["EVAL", *statistics]) + "\n")
    process.stdin.flush()
    segments = np.array([float(_answer(process)) for _ in candidates])
    return MeteorScores(float(_answer(process)), segments)


def _answer(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise OSError("it ended or did not answer in time")
    return line.strip()


def _clean(text: str) -> str:
    """Its tokens, as the evaluation hands them over; bars would end the field."""
    return " ".join(tokenize(text)).replace("|||", "").replace("  ", " ")


def _jar() -> Path | None:
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        jar = Path(folder) / "meteor" / JAR
        if jar.is_file():
            return jar
    return None
