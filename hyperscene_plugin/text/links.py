"""Titled documents → where one document's scenes name another: the bridges that a second hop follows."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import regex
from scipy import sparse

from hyperscene_plugin.text.lemmas import lemmatize

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TitleFinder", "mention_matrix", "title_words"]

_PARENTHESES = regex.compile(r"\s*\([^)]*\)")
_COMMON_SHARE = 0.5
"""A one-word title that more than this share of the other documents mention is an ordinary word, not a name."""


def title_words(title: str | None) -> tuple[str, ...]:
    """Return the lemmas of a title without its parentheses (``Get Low (song)`` → ``get low``), accents folded."""
    if not title:
        return ()
    return tuple(fold(lemmatize(_PARENTHESES.sub("", title)) or lemmatize(title)))


def fold(lemmas: Sequence[str]) -> list[str]:
    """Return the lemmas without accents, so that ``Bohème`` and ``Boheme`` meet."""
    return [lemma if lemma.isascii() else _bare(lemma) for lemma in lemmas]


class TitleFinder:
    """Finds titles, as runs of lemmas, in lemmatised texts.

    Args:
        titles: one tuple of lemmas per document; an empty one is never found.
    """

    def __init__(self, titles: Sequence[tuple[str, ...]]) -> None:
        self._starting: dict[str, list[tuple[tuple[str, ...], int]]] = defaultdict(list)
        for document, words in enumerate(titles):
            if words:
                self._starting[words[0]].append((words, document))

    def find(self, lemmas: Sequence[str]) -> dict[int, int]:
        """Return document → where its title first stands in ``lemmas``."""
        found: dict[int, int] = {}
        for place, lemma in enumerate(lemmas):
            for words, document in self._starting.get(lemma, ()):
                if document not in found and tuple(lemmas[place : place + len(words)]) == words:
                    found[document] = place
        return found


def mention_matrix(
    lemmas: Sequence[Sequence[str]], documents: np.ndarray, titles: Sequence[tuple[str, ...]]
) -> sparse.csr_matrix:
    """Return which scene names which *other* document: float32 ``(scenes, documents)`` of zeros and ones.

    Args:
        lemmas: each scene's lemmas, accents folded.
        documents: each scene's document, shape ``(scenes,)``.
        titles: each document's title as lemmas.
    """
    finder = TitleFinder(titles)
    pairs = [
        (scene, document)
        for scene, words in enumerate(lemmas)
        for document in finder.find(words)
        if document != documents[scene]
    ]
    rows, columns = (np.asarray(side, dtype=np.int64) for side in (zip(*pairs, strict=True) if pairs else ((), ())))
    shape = (len(lemmas), len(titles))
    matrix = sparse.csr_matrix((np.ones(len(pairs), dtype=np.float32), (rows, columns)), shape=shape)
    single = np.asarray([len(words) == 1 for words in titles])
    if single.any() and len(titles) > 2:
        named_in = np.asarray([len(set(documents[rows[columns == document]])) for document in range(len(titles))])
        common = single & (named_in > _COMMON_SHARE * (len(titles) - 1))
        matrix = matrix @ sparse.diags((~common).astype(np.float32))
    return sparse.csr_matrix(matrix)


def _bare(word: str) -> str:
    """The word without combining accents; ``й`` and ``ё`` are letters, not accented ones, and stay."""
    if regex.search(r"\p{Cyrillic}", word):
        return word
    return "".join(char for char in unicodedata.normalize("NFKD", word) if not unicodedata.combining(char))
