"""A ``SceneIndex`` and a query → a score for every scene, with the components that made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hyperscene_plugin.text.lemmas import lemmatize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hyperscene_plugin.text.index import SceneIndex

__all__ = ["SceneScores", "score_scenes"]


@dataclass(frozen=True, eq=False)
class SceneScores:
    """Scores of shape ``(scenes,)``; ``total`` is the sum of ``components``, each already weighted."""

    total: np.ndarray
    components: Mapping[str, np.ndarray]

    def explain(self, position: int) -> dict[str, float]:
        """Return the components of one scene's score, largest first."""
        parts = {name: float(values[position]) for name, values in self.components.items()}
        return dict(sorted(parts.items(), key=lambda part: -part[1]))


def score_scenes(index: SceneIndex, query: str, query_vector: np.ndarray | None = None) -> SceneScores:
    """Score every scene for ``query``; ``query_vector`` is the same encoder's unit vector of the query.

    Pure: reads the index (filling its caches), returns new arrays.
    """
    terms = lemmatize(query)
    components: dict[str, np.ndarray] = {}
    for name, matrix in (("lexical", index.terms), ("lexical_window", index.window_terms)):
        components[name] = _standard(matrix.bm25(dict.fromkeys(matrix.columns(terms), 1.0)))
    if query_vector is not None and index.vectors is not None and index.window_vectors is not None:
        components["semantic"] = _standard(index.vectors @ query_vector)
        components["semantic_window"] = _standard(index.window_vectors @ query_vector)
    total = np.sum(list(components.values()), axis=0)
    return SceneScores(total, components)


def _standard(scores: np.ndarray) -> np.ndarray:
    spread = float(scores.std())
    return np.asarray((scores - scores.mean()) / spread if spread > 1e-9 else np.zeros_like(scores), dtype=np.float32)
