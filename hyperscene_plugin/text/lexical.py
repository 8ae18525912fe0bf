"""Texts → a sparse term matrix; query terms → BM25 scores (Robertson & Zaragoza 2009) for every text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from hyperscene_plugin.text.lemmas import lemmatize

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TermMatrix"]

_K1 = 1.2
_B = 0.75


@dataclass(frozen=True)
class TermMatrix:
    """How often each lemma stands in each text.

    Attributes:
        vocabulary: lemma → column.
        counts: float32 CSR matrix of shape ``(texts, lemmas)``; entries may be weighted, so not only integers.
    """

    vocabulary: dict[str, int]
    counts: sparse.csr_matrix

    @classmethod
    def build(cls, texts: Sequence[str]) -> TermMatrix:
        """Count the lemmas of every text."""
        return cls.from_lemmas([lemmatize(text) for text in texts])

    @classmethod
    def from_lemmas(cls, documents: Sequence[Sequence[str]]) -> TermMatrix:
        """Count lemmas that are already known, one sequence per text."""
        vocabulary: dict[str, int] = {}
        columns: list[int] = []
        values: list[int] = []
        offsets = [0]
        for document in documents:
            for term, count in Counter(document).items():
                columns.append(vocabulary.setdefault(term, len(vocabulary)))
                values.append(count)
            offsets.append(len(columns))
        shape = (len(documents), len(vocabulary))
        counts = sparse.csr_matrix(
            (np.asarray(values, dtype=np.float32), np.asarray(columns, dtype=np.int32), np.asarray(offsets)),
            shape=shape,
        )
        return cls(vocabulary, counts)

    def spread(self, mixing: sparse.csr_matrix) -> TermMatrix:
        """Return the matrix of texts mixed with their neighbours: ``mixing`` is ``(texts, texts)``."""
        return TermMatrix(self.vocabulary, sparse.csr_matrix(mixing @ self.counts))

    @cached_property
    def document_frequency(self) -> np.ndarray:
        """In how many texts each lemma stands, shape ``(lemmas,)``."""
        return np.bincount(self.counts.indices, minlength=self.counts.shape[1])

    @cached_property
    def idf(self) -> np.ndarray:
        """Inverse document frequency of each lemma, always positive, shape ``(lemmas,)``."""
        frequency = self.document_frequency
        return np.log1p((self.counts.shape[0] - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)

    @cached_property
    def bm25_weights(self) -> sparse.csc_matrix:
        """BM25 weight of each lemma in each text, by column for quick look-up."""
        counts = self.counts
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        mean_length = float(lengths.mean()) if len(lengths) and lengths.any() else 1.0
        norm = (_K1 * (1 - _B + _B * lengths / mean_length)).astype(np.float32)
        rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        data = counts.data * (_K1 + 1) / (counts.data + norm[rows]) * self.idf[counts.indices]
        return sparse.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape).tocsc()

    def columns(self, terms: Sequence[str]) -> list[int]:
        """Return the columns of those terms that occur at all, without repeats, in order."""
        return [self.vocabulary[term] for term in dict.fromkeys(terms) if term in self.vocabulary]

    def bm25(self, weights: dict[int, float]) -> np.ndarray:
        """Return float32 scores of shape ``(texts,)`` for the columns and query weights given."""
        scores = np.zeros(self.counts.shape[0], dtype=np.float32)
        matrix = self.bm25_weights
        for column, weight in weights.items():
            start, end = matrix.indptr[column], matrix.indptr[column + 1]
            scores[matrix.indices[start:end]] += weight * matrix.data[start:end]
        return scores
