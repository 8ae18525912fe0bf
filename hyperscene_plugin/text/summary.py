"""A ``SceneIndex`` → what a query-free selection needs: how central each scene is, and how alike two scenes are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from hyperscene_plugin.text.rank import SceneScores

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperscene_plugin.text.index import SceneIndex

__all__ = ["likeness_to", "score_centrality"]

_LEAD = 0.1
_SHORT = 12
"""Lemmas below which a scene says too little by itself; its centrality is scaled down in proportion."""


def score_centrality(index: SceneIndex) -> SceneScores:
    """Score every scene, 0–1, by its likeness to the whole input, in words and (with vectors) in meaning."""
    matrix = _weighted(index)
    centre = np.asarray(matrix.mean(axis=0)).ravel()
    words = _share(matrix @ centre)
    substance = np.minimum(1.0, np.asarray([len(lemmas) for lemmas in index.lemmas]) / _SHORT)
    parts = {"centrality": words * substance}
    if index.vectors is not None:
        parts = {"centrality": 0.5 * parts["centrality"]}
        parts["semantic_centrality"] = 0.5 * _share(index.vectors @ index.vectors.mean(axis=0)) * substance
    parts["lead"] = _LEAD * index.leads.astype(np.float32)
    return SceneScores(np.sum(list(parts.values()), axis=0), parts)


def likeness_to(index: SceneIndex) -> Callable[[int], np.ndarray]:
    """Return a function: scene → its likeness (0–1) to every scene, by words and, with vectors, by meaning."""
    matrix = _weighted(index)

    def likeness(position: int) -> np.ndarray:
        words: np.ndarray = np.asarray((matrix @ matrix[position].T).toarray()).ravel()
        if index.vectors is None:
            return words
        meaning = np.clip(index.vectors @ index.vectors[position], 0.0, 1.0)
        return np.asarray(np.maximum(words, 0.5 * meaning + 0.5 * words))

    return likeness


def _weighted(index: SceneIndex) -> sparse.csr_matrix:
    """TF-IDF rows of length 1."""
    terms = index.terms
    counts = terms.counts.copy()
    counts.data = np.log1p(counts.data) * terms.idf[counts.indices]
    norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1.0 / np.maximum(norms, 1e-9)) @ counts)


def _share(values: np.ndarray) -> np.ndarray:
    values = np.maximum(np.asarray(values).ravel(), 0.0)
    return np.asarray(values / max(float(values.max()), 1e-9))
