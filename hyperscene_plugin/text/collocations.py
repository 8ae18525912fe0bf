"""Word sequences → the pairs, triples… that stand together more often than chance, learned from the text itself.

Neighbouring words are joined when both the log-likelihood ratio (Dunning 1993) and the normalised pointwise mutual
information (Bouma 2009) of the pair are high; joined pairs count as one word in the next pass, so longer ones grow
(as in Mikolov et al. 2013, section 4).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["CollocationSpan", "find_collocations"]

_MIN_LLR = 10.83
"""The chi-squared value of p = 0.001 at one degree of freedom."""
_MIN_NPMI = 0.3
_MIN_NPMI_FUNCTION = 0.45
"""Asked of a pair with a function word in it."""


@dataclass(frozen=True, slots=True)
class CollocationSpan:
    """Words ``first`` to ``last`` (exclusive) of sequence ``sequence`` stand together; ``score`` is the NPMI."""

    sequence: int
    first: int
    last: int
    score: float


@dataclass(frozen=True, slots=True)
class _Item:
    key: str
    first: int
    last: int
    is_function: bool
    score: float = 0.0


def find_collocations(
    sequences: Sequence[Sequence[tuple[str, bool]]], *, min_count: int = 2, max_words: int = 6, passes: int = 3
) -> list[CollocationSpan]:
    """Return the collocations in ``sequences`` of (lemma, is function word); a sequence never spans punctuation.

    Args:
        sequences: the text, one sequence per stretch without punctuation.
        min_count: how often a pair must occur.
        max_words: the longest collocation.
        passes: how often pairs are joined.
    """
    items = [
        [_Item(key, place, place + 1, is_function) for place, (key, is_function) in enumerate(sequence)]
        for sequence in sequences
    ]
    for _ in range(passes):
        scores = _pair_scores(items, min_count, max_words)
        if not scores:
            break
        items = [_joined(sequence, scores, max_words) for sequence in items]
    return [
        CollocationSpan(place, item.first, item.last, item.score)
        for place, sequence in enumerate(items)
        for item in sequence
        if item.last - item.first > 1
    ]


def _pair_scores(items: list[list[_Item]], min_count: int, max_words: int) -> dict[tuple[str, str], float]:
    singles: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    function: set[str] = set()
    for sequence in items:
        singles.update(item.key for item in sequence)
        function.update(item.key for item in sequence if item.is_function)
        pairs.update((a.key, b.key) for a, b in pairwise(sequence) if b.last - a.first <= max_words)
    total = sum(singles.values())
    scores: dict[tuple[str, str], float] = {}
    for (a, b), count in pairs.items():
        if count < min_count or (a in function and b in function):
            continue
        npmi = math.log(count * total / (singles[a] * singles[b])) / -math.log(count / total)
        needed = _MIN_NPMI_FUNCTION if a in function or b in function else _MIN_NPMI
        if npmi >= needed and _log_likelihood(count, singles[a], singles[b], total) >= _MIN_LLR:
            scores[a, b] = npmi
    return scores


def _log_likelihood(both: int, first: int, second: int, total: int) -> float:
    """Dunning's log-likelihood ratio of a pair: 2·Σ observed·ln(observed ÷ expected) over the 2×2 table."""
    table = (
        (both, first * second),
        (first - both, first * (total - second)),
        (second - both, (total - first) * second),
        (total - first - second + both, (total - first) * (total - second)),
    )
    return 2 * sum(seen * math.log(seen * total / product) for seen, product in table if seen > 0 and product > 0)


def _joined(sequence: list[_Item], scores: dict[tuple[str, str], float], max_words: int) -> list[_Item]:
    """Join the best-scoring neighbours first, each item once."""
    candidates = sorted(
        (-scores[a.key, b.key], place)
        for place, (a, b) in enumerate(pairwise(sequence))
        if (a.key, b.key) in scores and b.last - a.first <= max_words
    )
    taken: set[int] = set()
    starts: dict[int, float] = {}
    for negative, place in candidates:
        if place not in taken and place + 1 not in taken:
            taken |= {place, place + 1}
            starts[place] = -negative
    result: list[_Item] = []
    place = 0
    while place < len(sequence):
        item = sequence[place]
        if place in starts:
            other = sequence[place + 1]
            key = f"{item.key} {other.key}"
            result.append(_Item(key, item.first, other.last, item.is_function and other.is_function, starts[place]))
            place += 2
        else:
            result.append(item)
            place += 1
    return result
