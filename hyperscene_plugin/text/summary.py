"""A ``SceneIndex`` → scores for a query-free selection: how central each scene is to the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hyperscene_plugin.text.rank import SceneScores

if TYPE_CHECKING:
    from hyperscene_plugin.text.index import SceneIndex

__all__ = ["score_centrality"]


def score_centrality(index: SceneIndex) -> SceneScores:
    """Score every scene by its likeness to the whole input, in words and (where there are vectors) in meaning."""
    terms = index.terms
    weights = terms.bm25_weights.tocsr()
    centre = np.asarray(weights.mean(axis=0)).ravel()
    lengths = np.sqrt(np.asarray(weights.multiply(weights).sum(axis=1)).ravel())
    lexical = np.asarray(weights @ centre).ravel() / np.maximum(lengths * np.linalg.norm(centre), 1e-9)
    components = {"centrality": lexical.astype(np.float32)}
    if index.vectors is not None:
        mean = index.vectors.mean(axis=0)
        components["semantic_centrality"] = index.vectors @ (mean / max(float(np.linalg.norm(mean)), 1e-9))
    return SceneScores(np.sum(list(components.values()), axis=0), components)
