"""A ``SceneIndex`` and a query → a score for every scene, with the components that made it.

Lexical scores are BM25 on lemmas, semantic ones cosines; each is taken on the scene and on the scene with its
neighbours, set to mean 0 and standard deviation 1 over the scenes, and weighted. The weights are round numbers of two
kinds of input, chats and documents; ``docs/text-tier.md`` shows what each component is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import regex

from hyperscene_plugin.text.bridge import Bridges, find_anchors, find_bridges, without_titles
from hyperscene_plugin.text.lemmas import content_lemmas, lemmatize
from hyperscene_plugin.text.lexical import word_pieces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hyperscene_plugin.text.index import SceneIndex
    from hyperscene_plugin.types import Encoder

__all__ = ["SceneScores", "score_scenes"]

_CHAT = {"lexical": 0.2, "lexical_wide": 0.5, "semantic": 0.15, "semantic_near": 0.3, "semantic_wide": 0.5}
_TITLED = {"lexical": 0.3, "lexical_near": 0.4, "semantic": 0.8, "semantic_near": 0.3}
_UNTITLED = {"lexical": 0.5, "lexical_near": 0.2, "semantic": 0.8}
_FROM_BEFORE, _FROM_AFTER = 0.4, 0.15
_FEEDBACK = 0.3
_FEEDBACK_SCENES = 5
_SPEAKER = 2.0
_QUESTION = -0.6
_LEAD, _SECOND, _ANCHORED, _ANCHORED_LEAD, _CROSSING, _ANCHORED_CROSSING = 1.0, 0.3, 0.5, 2.0, 1.0, 2.0
_REACHED, _REACHED_LEAD = 5.0, 2.5
_WORDS_ELSEWHERE, _ANCHORED_REST = -0.3, -0.5
_RELATION_LEXICAL, _RELATION_SEMANTIC = 0.3, 0.5


@dataclass(frozen=True, eq=False)
class SceneScores:
    """Scores of shape ``(scenes,)``; ``total`` is the sum of ``components``, each already weighted."""

    total: np.ndarray
    components: Mapping[str, np.ndarray]

    def explain(self, position: int) -> dict[str, float]:
        """Return the components of one scene's score that are not zero, largest first."""
        parts = {name: float(values[position]) for name, values in self.components.items() if values[position]}
        return dict(sorted(parts.items(), key=lambda part: -part[1]))


def score_scenes(index: SceneIndex, query: str, encoder: Encoder | None = None) -> SceneScores:
    """Score every scene for ``query``.

    ``encoder`` (the one that made ``index.vectors``) encodes the query; without it, or without vectors, the scores are
    lexical and the semantic weights go to their lexical counterparts.
    """
    semantic = encoder is not None and index.vectors is not None
    titles = [] if index.is_chat else _named_titles(index, query)
    relation = without_titles(query, titles) if titles else ""
    texts = [query, relation] if relation else [query]
    encoded = encoder.encode(texts) if semantic and encoder is not None else None
    scores = _fused(index, query, None if encoded is None else encoded[0])
    if index.is_chat:
        scores |= _chat_components(index, query, scores, None if encoded is None else encoded[0])
    else:
        vector = encoded[1] if encoded is not None and relation else None
        scores |= _document_components(index, query, relation, scores, vector)
    return SceneScores(np.sum(list(scores.values()), axis=0), scores)


def _fused(index: SceneIndex, query: str, vector: np.ndarray | None) -> dict[str, np.ndarray]:
    weights = _CHAT if index.is_chat else _TITLED if index.has_titles else _UNTITLED
    if vector is None:
        weights = _lexical_only(weights)
    if not index.is_chat and not index.has_titles:
        weights = weights | {"lexical": weights["lexical"] / 2, "pieces": weights["lexical"] / 2}
    lemmas = content_lemmas(query)
    columns = index.terms.columns(lemmas)
    scores: dict[str, np.ndarray] = {}
    for name, weight in weights.items():
        kind, _, reach = name.partition("_")
        if kind == "lexical":
            raw = index.terms.bm25(columns, index.neighbourhood(reach) if reach else None)
        elif kind == "pieces":
            raw = index.pieces.bm25(index.pieces.columns(word_pieces(lemmas)))
        else:
            raw = index.neighbourhood_vectors(reach) @ vector
        scores[name] = weight * _standard(raw)
    return scores


def _lexical_only(weights: dict[str, float]) -> dict[str, float]:
    moved: dict[str, float] = {}
    for name, weight in weights.items():
        lexical = name.replace("semantic", "lexical")
        moved[lexical] = moved.get(lexical, 0.0) + weight
    return moved


def _chat_components(
    index: SceneIndex, query: str, scores: dict[str, np.ndarray], vector: np.ndarray | None
) -> dict[str, np.ndarray]:
    asked = set(lemmatize(query))
    named = [spoken for name, spoken in index.speakers.items() if _is_named(name, asked)]
    by_name = np.max(named, axis=0) if named else np.zeros(len(index), dtype=np.float32)
    components = {"speaker": _SPEAKER * by_name, "asks_itself": _QUESTION * index.asks}
    if vector is not None and index.vectors is not None:
        best = np.argsort(-np.sum(list((scores | components).values()), axis=0), kind="stable")[:_FEEDBACK_SCENES]
        widened = vector + 0.5 * index.vectors[best].mean(axis=0)
        components["feedback"] = _FEEDBACK * _standard(index.neighbourhood_vectors("near") @ widened)
    return components


def _is_named(speaker: str, asked: set[str]) -> bool:
    return any(len(word) > 1 and word in asked for word in lemmatize(speaker))


def _document_components(
    index: SceneIndex, query: str, relation: str, scores: dict[str, np.ndarray], relation_vector: np.ndarray | None
) -> dict[str, np.ndarray]:
    if not index.has_titles:
        return {"carried": _carried(index, np.sum(list(scores.values()), axis=0))}
    titled = np.asarray([bool(words) for words in index.titles], dtype=np.float32)[index.documents]
    lead = index.leads * titled
    second = np.concatenate([[0.0], lead[:-1]]) * (np.diff(index.documents, prepend=-1) == 0)
    first = np.sum(list(scores.values()), axis=0)
    bridges = find_bridges(index, find_anchors(index, query), first / max(float(first.std()), 1e-9))
    return {
        "lead": _LEAD * lead + _SECOND * second,
        "title_in_query": bridges.anchored * (_ANCHORED + _ANCHORED_LEAD * lead),
        "names_other": bridges.crossing * (_CROSSING + _ANCHORED_CROSSING * bridges.anchored),
        "bridge": bridges.reached * (_REACHED + _REACHED_LEAD * lead),
        **_after_the_bridge(first, bridges, lead),
        **_relation_components(index, relation, relation_vector, bridges),
    }


def _after_the_bridge(first: np.ndarray, bridges: Bridges, lead: np.ndarray) -> dict[str, np.ndarray]:
    """What a bridge takes away: the query's words are about the named document, whose own rest is not asked for."""
    if not bridges.anchored.any():
        return {}
    rest = bridges.anchored * (1 - bridges.crossing) * (1 - lead)
    return {
        "words_elsewhere": _WORDS_ELSEWHERE * bridges.reached * first,
        "anchored_rest": _ANCHORED_REST * float(bridges.reached.max()) * rest,
    }


def _carried(index: SceneIndex, own: np.ndarray) -> np.ndarray:
    """What a scene gets from the one before it in its document (it may go on about "it") and from the one after."""
    joined = np.diff(index.documents) == 0
    carried = np.zeros_like(own)
    carried[1:] += _FROM_BEFORE * own[:-1] * joined
    carried[:-1] += _FROM_AFTER * own[1:] * joined
    return carried


def _relation_components(
    index: SceneIndex, relation: str, vector: np.ndarray | None, bridges: Bridges
) -> dict[str, np.ndarray]:
    """What the query asks apart from the names, looked for inside the documents that the names lead to."""
    if not relation:
        return {}
    active = np.minimum(1.0, bridges.anchored + bridges.reached)
    components = {
        "relation": _RELATION_LEXICAL
        * active
        * _standard(index.terms.bm25(index.terms.columns(content_lemmas(relation))))
    }
    if vector is not None and index.vectors is not None:
        cosines = index.vectors @ vector
        sums = np.bincount(index.documents, weights=cosines)
        inside = cosines - (sums / np.bincount(index.documents))[index.documents]
        components["relation_semantic"] = _RELATION_SEMANTIC * active * inside / max(float(inside.std()), 1e-9)
    return components


def _named_titles(index: SceneIndex, query: str) -> list[str]:
    anchors = find_anchors(index, query)
    titles = {scene.title for scene, number in zip(index.scenes, index.documents, strict=True) if anchors[number]}
    return [part for title in titles if title for part in (title, regex.sub(r"\s*\([^)]*\)", "", title)) if part]


def _standard(scores: np.ndarray) -> np.ndarray:
    spread = float(scores.std())
    return np.asarray((scores - scores.mean()) / spread if spread > 1e-9 else np.zeros_like(scores), dtype=np.float32)
