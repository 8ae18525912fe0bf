"""BM25 on the sparse matrix equals a slow count over plain lists."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from hyperscene_plugin.text.lexical import TermMatrix, word_pieces

_WORDS = st.lists(st.sampled_from(list("abcdef")), min_size=0, max_size=12)


def slow_bm25(documents: list[list[str]], query: list[str], k1: float = 1.2, b: float = 0.75) -> list[float]:
    mean = max(sum(map(len, documents)) / len(documents), 1e-9)
    scores = []
    for document in documents:
        total = 0.0
        for term in dict.fromkeys(query):
            frequency = sum(term in other for other in documents)
            count = document.count(term)
            idf = math.log1p((len(documents) - frequency + 0.5) / (frequency + 0.5))
            total += idf * count * (k1 + 1) / (count + k1 * (1 - b + b * len(document) / mean) + 1e-9)
        scores.append(total)
    return scores


@given(st.lists(_WORDS, min_size=1, max_size=8), _WORDS)
def test_bm25_equals_the_slow_count(documents: list[list[str]], query: list[str]) -> None:
    matrix = TermMatrix.from_lemmas(documents)
    known = [term for term in query if any(term in document for document in documents)]
    assert np.allclose(matrix.bm25(matrix.columns(query)), slow_bm25(documents, known), atol=1e-4)


@given(st.lists(_WORDS, min_size=1, max_size=8), _WORDS)
def test_no_neighbours_changes_nothing(documents: list[list[str]], query: list[str]) -> None:
    matrix = TermMatrix.from_lemmas(documents)
    alone = sparse.identity(len(documents), format="csr", dtype=np.float32)
    columns = matrix.columns(query)
    assert np.allclose(matrix.bm25(columns), matrix.bm25(columns, alone), atol=1e-5)


def test_a_neighbour_lends_its_words() -> None:
    matrix = TermMatrix.from_lemmas([["ship"], ["nothing"], ["else"]])
    mixing = sparse.csr_matrix(np.asarray([[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]], dtype=np.float32))
    columns = matrix.columns(["ship"])
    assert matrix.bm25(columns)[1] == 0
    assert matrix.bm25(columns, mixing)[1] > 0
    assert matrix.bm25(columns, mixing)[2] == 0


def test_inflected_texts_meet() -> None:
    matrix = TermMatrix.build(["The ships sailed.", "A sheep slept."])
    scores = matrix.bm25(matrix.columns(["ship"]))
    assert scores[0] > 0 == scores[1]


def test_pieces_are_the_four_letter_runs_of_the_marked_word() -> None:
    for word in ("победитель", "go", "a", "ship"):
        marked = f"\x02{word}\x03"
        slow = [marked[start : start + 4] for start in range(len(marked)) if start + 4 <= len(marked)] or [marked]
        assert word_pieces([word]) == slow
    assert word_pieces([]) == []


def test_derived_words_meet_in_pieces_and_unlike_words_do_not() -> None:
    documents = [["победитель", "получить", "кубок"], ["дождь", "идти", "утро"]]
    lemmas = TermMatrix.from_lemmas(documents)
    pieces = TermMatrix.from_lemmas([word_pieces(document) for document in documents])
    assert not lemmas.columns(["победа"])
    scores = pieces.bm25(pieces.columns(word_pieces(["победа"])))
    assert scores[0] > 0 == scores[1]
