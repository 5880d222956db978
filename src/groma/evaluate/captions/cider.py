"""CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726): agreement in n-grams that are rare in the corpus.

As the COCO caption evaluation computes it: n-grams of 1 to 4 words weighted by how few cases' references have them,
counts of a candidate clipped to the reference's, a penalty for other lengths, times ten.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groma.errors import InputError
from groma.evaluate.captions.ptb import tokenize

LONGEST = 4
"""Words of the longest n-grams."""
SIGMA = 6.0
"""How fast other lengths cost."""

Ngram = tuple[str, ...]


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Score of each case, 0..10; the corpus' score is their mean.

    Args:
        candidates: n captions.
        references: for each of them one or more.

    Raises:
        InputError: the numbers differ, or a case has no reference.
    """
    if len(candidates) != len(references) or not all(references):
        raise InputError(f"CIDEr-D needs references for each of {len(candidates)} captions, got {len(references)}.")
    known = [[_ngrams(reference) for reference in own] for own in references]
    documents = Counter(ngram for own in known for ngram in set().union(*own))
    total = math.log(max(1, len(candidates)))
    return np.array(
        [_case(candidate, own, documents, total) for candidate, own in zip(candidates, known, strict=True)],
        dtype=np.float64,
    )


def _case(candidate: str, known: Sequence[Counter[Ngram]], documents: Mapping[Ngram, int], total: float) -> float:
    ours = _weigh(_ngrams(candidate), documents, total)
    return 10.0 * sum(_similarity(ours, _weigh(one, documents, total)) for one in known) / len(known)


@dataclass(frozen=True, slots=True)
class _Weighted:
    """A caption's n-grams by length, weighted."""

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int
    """Number of its bigrams, by which the evaluation compares lengths."""


def _ngrams(text: str) -> Counter[Ngram]:
    words = tokenize(text)
    return Counter(
        tuple(words[start : start + size]) for size in range(1, LONGEST + 1) for start in range(len(words) - size + 1)
    )


def _weigh(counts: Mapping[Ngram, int], documents: Mapping[Ngram, int], total: float) -> _Weighted:
    weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(LONGEST))
    for ngram, count in counts.items():
        weights[len(ngram) - 1][ngram] = count * (total - math.log(max(1, documents.get(ngram, 0))))
    norms = tuple(math.sqrt(sum(weight * weight for weight in own.values())) for own in weights)
    return _Weighted(weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2))


def _similarity(candidate: _Weighted, reference: _Weighted) -> float:
    """Mean over lengths of n-grams of the clipped cosine."""
    penalty = math.exp(-((candidate.length - reference.length) ** 2) / (2 * SIGMA**2))
    values: list[float] = []
    for size in range(LONGEST):
        ours, theirs = candidate.weights[size], reference.weights[size]
        value = sum(min(weight, theirs.get(ngram, 0.0)) * theirs.get(ngram, 0.0) for ngram, weight in ours.items())
        norm = candidate.norms[size] * reference.norms[size]
        values.append((value / norm if norm else value) * penalty)
    return sum(values) / LONGEST
