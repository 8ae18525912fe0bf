"""What people use today, on the same scenes and budget: recency, BM25, cosine, fusion, embedding filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hyperscene_plugin.text.index import SceneIndex, embedding_text
from hyperscene_plugin.text.lemmas import iter_words
from hyperscene_plugin.text.lexical import TermMatrix

if TYPE_CHECKING:
    from hyperscene_plugin.types import Document, Encoder, Scene, TokenCounter

__all__ = ["Ranker", "chat_rankers", "document_rankers", "fill", "rank_fusion"]

Ranker = Callable[[str], np.ndarray]
"""Question → scores, one per text."""

_RANK_CONSTANT = 60


def rank_fusion(*scores: np.ndarray) -> np.ndarray:
    """Reciprocal rank fusion (Cormack et al. 2009) of scores of the same shape."""
    fused = np.zeros(len(scores[0]))
    for values in scores:
        ranks = np.empty(len(values))
        ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
        fused += 1.0 / (_RANK_CONSTANT + ranks)
    return fused


def fill(scores: np.ndarray, costs: np.ndarray, budget: int) -> list[int]:
    """Return positions taken by score while they fit, in order of position."""
    chosen: list[int] = []
    for position in np.argsort(-scores, kind="stable"):
        if costs[position] <= budget:
            budget -= int(costs[position])
            chosen.append(int(position))
    return sorted(chosen)


def chat_rankers(index: SceneIndex, encoder: Encoder | None) -> dict[str, Ranker]:
    """Baselines over whole chat turns; the cosine ones need an encoder."""
    words = _word_matrix([f"{scene.speaker}: {scene.text}" for scene in index.scenes])
    number = len(index)
    rankers: dict[str, Ranker] = {
        "most recent": lambda question: np.arange(number, dtype=np.float64),
        "BM25": lambda question: _bm25(words, question),
    }
    if encoder is None or index.vectors is None:
        return rankers
    return rankers | _with_cosine(index, encoder, words)


def _with_cosine(index: SceneIndex, encoder: Encoder, words: TermMatrix) -> dict[str, Ranker]:
    def cosine(question: str, reach: str = "") -> np.ndarray:
        return np.asarray(index.neighbourhood_vectors(reach) @ encoder.encode([question])[0])

    def four_way(question: str) -> np.ndarray:
        from hyperscene_plugin.text.lemmas import lemmatize

        columns = index.terms.columns(lemmatize(question))
        lexical = index.terms.bm25(columns), index.terms.bm25(columns, index.neighbourhood("near"))
        return rank_fusion(*lexical, cosine(question), cosine(question, "near"))

    return {
        "cosine": cosine,
        "rank fusion of the two": lambda question: rank_fusion(_bm25(words, question), cosine(question)),
        "four-way rank fusion": four_way,
    }


def document_rankers(
    documents: Sequence[Document], sentences: Sequence[Scene], encoder: Encoder | None, counter: TokenCounter
) -> dict[str, tuple[list[str], np.ndarray, Ranker]]:
    """Baselines over documents: name → (texts, their token costs, ranker).

    ``sentence embedding`` is what LlamaIndex's ``SentenceEmbeddingOptimizer`` keeps (sentences by cosine, titles not
    seen) and ``document embedding`` what LangChain's ``EmbeddingsFilter`` keeps (whole documents by cosine), each cut
    at the budget instead of a percentile or ``k``. ``plain fusion`` is BM25 and cosine on titled sentences, rank-fused.
    """
    texts = [scene.text.strip() for scene in sentences]
    costs = np.asarray(counter.count_many([f"{text}\n" for text in texts]))
    titled = [embedding_text(scene) for scene in sentences]
    words = _word_matrix(titled)
    found: dict[str, tuple[list[str], np.ndarray, Ranker]] = {
        "BM25 on sentences": (texts, costs, lambda question: _bm25(words, question))
    }
    if encoder is None:
        return found
    whole = [document.text for document in documents]
    whole_costs = np.asarray(counter.count_many([f"{text}\n" for text in whole]))
    alone, together, whole_vectors = encoder.encode(texts), encoder.encode(titled), encoder.encode(whole)

    def fusion(question: str) -> np.ndarray:
        return rank_fusion(_bm25(words, question), together @ encoder.encode([question])[0])

    found["sentence embedding (LlamaIndex)"] = (texts, costs, lambda question: alone @ encoder.encode([question])[0])
    found["document embedding (LangChain)"] = (
        whole,
        whole_costs,
        lambda question: whole_vectors @ encoder.encode([question])[0],
    )
    found["plain fusion"] = (texts, costs, fusion)
    return found


def _word_matrix(texts: Sequence[str]) -> TermMatrix:
    """Case-folded words as they stand: the baselines know nothing of lemmas."""
    return TermMatrix.from_lemmas([[word.casefold() for word, _, _ in iter_words(text)] for text in texts])


def _bm25(words: TermMatrix, question: str) -> np.ndarray:
    return words.bm25(words.columns([word.casefold() for word, _, _ in iter_words(question)]))
