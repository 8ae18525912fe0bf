"""Texts → a sparse term matrix; query terms → BM25 scores (Robertson & Zaragoza 2009) for every text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from hyperscene_plugin.text.lemmas import lemmatize

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TermMatrix", "word_pieces"]

_K1 = 1.2
_B = 0.75
_PIECE = 4


def word_pieces(lemmas: Sequence[str]) -> list[str]:
    """Return the runs of four letters in ``lemmas``, edges marked, so that derived words meet: ``победа, победитель``.

    A lemma of one letter is one piece.
    """
    return [piece for lemma in lemmas for piece in _pieces(lemma)]


@lru_cache(maxsize=131_072)
def _pieces(lemma: str) -> tuple[str, ...]:
    marked = f"\x02{lemma}\x03"
    return tuple(marked[start : start + _PIECE] for start in range(max(1, len(marked) - _PIECE + 1)))


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

    @cached_property
    def document_frequency(self) -> np.ndarray:
        """In how many texts each lemma stands, shape ``(lemmas,)``."""
        return np.bincount(self.counts.indices, minlength=self.counts.shape[1])

    @cached_property
    def idf(self) -> np.ndarray:
        """Inverse document frequency of each lemma, always positive, shape ``(lemmas,)``."""
        frequency = self.document_frequency
        return np.asarray(np.log1p((self.counts.shape[0] - frequency + 0.5) / (frequency + 0.5)), dtype=np.float32)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Lemmas in each text, shape ``(texts,)``."""
        return np.asarray(self.counts.sum(axis=1), dtype=np.float32).ravel()

    @cached_property
    def by_column(self) -> sparse.csc_matrix:
        """``counts`` stored by column, for quick look-up of a query's few lemmas."""
        return self.counts.tocsc()

    def columns(self, terms: Sequence[str]) -> list[int]:
        """Return the columns of those terms that occur at all, without repeats, in order."""
        return [self.vocabulary[term] for term in dict.fromkeys(terms) if term in self.vocabulary]

    def bm25(self, columns: Sequence[int], mixing: sparse.csr_matrix | None = None) -> np.ndarray:
        """Score every text for the query lemmas in ``columns``.

        Args:
            columns: the query's lemmas, see ``columns``.
            mixing: ``(texts, texts)`` weights of each text's neighbours; ``None`` scores the text alone.

        Returns:
            float32 scores, shape ``(texts,)``.
        """
        if not len(columns):
            return np.zeros(self.counts.shape[0], dtype=np.float32)
        counts = self.by_column[:, list(columns)].toarray()
        lengths = self.lengths
        if mixing is not None:
            counts, lengths = mixing @ counts, mixing @ lengths
        frequency = (counts > 0).sum(axis=0)
        idf = np.log1p((len(counts) - frequency + 0.5) / (frequency + 0.5))
        norm = _K1 * (1 - _B + _B * lengths / max(float(lengths.mean()), 1e-9))
        return np.asarray((counts * (_K1 + 1) / (counts + norm[:, None] + 1e-9)) @ idf, dtype=np.float32)
