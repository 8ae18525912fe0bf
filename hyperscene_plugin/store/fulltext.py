"""Texts → postings of hashed lemmas; a query's lemmas → exact BM25 scores.

A scene stores the 64-bit hashes and counts of its lemmas, so an index is loaded without analysing a text again and
no word list is left behind when scenes go. BM25: Robertson & Zaragoza 2009, with idf = ln(1 + (N - n + .5)/(n + .5)).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hyperscene_plugin.text.lemmas import lemmatize

__all__ = [
    "Postings",
    "best_positions",
    "bm25_idf",
    "held_terms",
    "pack_terms",
    "query_terms",
    "term_hash",
    "unpack_terms",
]

_K1, _B = 1.2, 0.75
_MAX_COUNT = np.iinfo(np.uint16).max


@lru_cache(maxsize=262_144)
def term_hash(term: str) -> int:
    """Return the 64-bit hash of a lemma."""
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little")


def pack_terms(text: str) -> bytes:
    """Return the text's lemmas as n sorted uint64 hashes followed by n uint16 counts (10·n bytes)."""
    counts = Counter(map(term_hash, lemmatize(text)))
    hashes = sorted(counts)
    numbers = [min(counts[h], _MAX_COUNT) for h in hashes]
    return np.array(hashes, dtype="<u8").tobytes() + np.array(numbers, dtype="<u2").tobytes()


def unpack_terms(packed: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``(hashes, docs, counts)`` of several packed texts: one entry per distinct lemma of each text."""
    sizes = np.array([len(data) // 10 for data in packed], dtype=np.int64)
    hashes = np.frombuffer(b"".join(data[: 8 * n] for data, n in zip(packed, sizes, strict=True)), dtype="<u8")
    counts = np.frombuffer(b"".join(data[8 * n :] for data, n in zip(packed, sizes, strict=True)), dtype="<u2")
    return hashes, np.repeat(np.arange(len(packed), dtype=np.int32), sizes), counts


def held_terms(packed: bytes) -> set[int]:
    """Return the hashes of one packed text."""
    return set(np.frombuffer(packed[: len(packed) // 10 * 8], dtype="<u8").tolist())


def query_terms(query: str) -> dict[int, str]:
    """Return the distinct lemmas of a query as hash → lemma."""
    return {term_hash(term): term for term in lemmatize(query)}


def bm25_idf(num_scenes: int, frequency: int) -> float:
    """Return the weight of a lemma that ``frequency`` of ``num_scenes`` scenes contain; always positive."""
    return float(np.log1p((num_scenes - frequency + 0.5) / (frequency + 0.5)))


@dataclass(frozen=True)
class Postings:
    """Which documents (0 … n-1) contain which lemma, sorted by lemma, then document.

    ``terms`` (m,) uint64 sorted; the entries of ``terms[i]`` are ``docs[starts[i]:starts[i + 1]]`` (int32) with
    ``counts`` (uint16) beside them; ``lengths`` (n,) float32 is each document's number of lemmas.
    """

    terms: np.ndarray
    starts: np.ndarray
    docs: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def build(cls, hashes: np.ndarray, docs: np.ndarray, counts: np.ndarray, num_docs: int) -> Postings:
        """Sort entries (any order of hashes, documents ascending) into postings."""
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.int64)
        lengths = np.bincount(docs, weights=counts, minlength=num_docs).astype(np.float32)
        return cls(ordered[first], np.r_[first, len(ordered)], docs[order], counts[order], lengths)

    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ``(hashes, docs, counts)`` as ``build`` takes them, sorted by hash."""
        return np.repeat(self.terms, np.diff(self.starts)), self.docs, self.counts

    def find(self, term: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the documents with the lemma (ascending), and how often each has it."""
        position = int(np.searchsorted(self.terms, np.uint64(term)))
        if position == len(self.terms) or int(self.terms[position]) != term:
            return self.docs[:0], self.counts[:0]
        part = slice(int(self.starts[position]), int(self.starts[position + 1]))
        return self.docs[part], self.counts[part]

    def best(
        self, weights: dict[int, float], mean_length: float, allowed: np.ndarray | None, top: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(docs, BM25 scores)`` of the ``top`` best allowed documents with a weighted lemma, best first.

        Exact: a frequent lemma is weighed only in documents that could still be among the best (max-score
        pruning: Turtle & Flood 1995). ``allowed`` (n,) bool, or ``None`` for all.
        """
        scores = np.zeros(len(self.lengths), dtype=np.float32)
        flat, slope = np.float32(_K1 * (1 - _B)), np.float32(_K1 * _B / max(mean_length, 1e-9))
        found = sorted(((term, *self.find(term)) for term in weights), key=lambda item: len(item[1]))
        left = sum(weights[term] * (_K1 + 1) for term, docs, _ in found if len(docs))
        candidates: np.ndarray | None = None
        for term, docs, counts in found:
            if not len(docs):
                continue
            if candidates is None and len(docs) > _FREQUENT:
                candidates = _still_possible(scores, allowed, left, top)
            if candidates is not None:
                place = np.searchsorted(docs, candidates)
                place[place == len(docs)] = 0
                hit = docs[place] == candidates
                docs, counts = candidates[hit], counts[place[hit]]
            times = counts.astype(np.float32)
            scores[docs] += (
                np.float32(weights[term] * (_K1 + 1)) * times / (times + (flat + slope * self.lengths[docs]))
            )
            left -= weights[term] * (_K1 + 1)
        places = _positive(scores, allowed) if candidates is None else candidates
        chosen = best_positions(scores[places], top)
        return places[chosen], scores[places[chosen]]


def best_positions(scores: np.ndarray, top: int) -> np.ndarray:
    """Return the positions of the ``top`` largest scores, largest first, equal ones in order of position."""
    if len(scores) > top:
        bar = np.partition(scores, len(scores) - top)[len(scores) - top]
        kept = np.flatnonzero(scores >= bar)
    else:
        kept = np.arange(len(scores))
    return kept[np.argsort(-scores[kept], kind="stable")][:top]


_FREQUENT = 2048
"""Postings longer than this are worth pruning for."""


def _positive(scores: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    positive = scores > 0
    return np.flatnonzero(positive if allowed is None else positive & allowed)


def _still_possible(scores: np.ndarray, allowed: np.ndarray | None, left: float, top: int) -> np.ndarray | None:
    """Documents that can be among the ``top`` best with ``left`` still to come; ``None``: that is not known yet."""
    left = left * 1.0001  # room for rounding
    above = scores > left
    reached = scores[above if allowed is None else above & allowed]
    if len(reached) < top:  # a document that has nothing so far could still get there
        return None
    bar = np.partition(reached, len(reached) - top)[len(reached) - top]
    possible = scores >= bar - left
    return np.flatnonzero(possible if allowed is None else possible & allowed).astype(np.int32)
