"""Scenes → themes: groups of scenes that keep recurring together and hold up when the clustering is run again.

Scenes become TF-IDF vectors over their content lemmas and couplings (or the encoder's vectors), reduced by truncated
SVD and clustered by k-means several times. A theme's ``stability`` is the mean over the other runs of its best Jaccard
overlap (Hennig 2007, "Cluster-wise assessment of cluster stability"); scenes far from their centre are outliers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperscene_plugin.text.couplings import Coupling, CouplingKind
from hyperscene_plugin.text.word_classes import word_info
from hyperscene_plugin.types import Encoder, Scene, SceneKind

__all__ = ["SCENES_PER_THEME", "Theme", "Themes", "find_themes"]

SCENES_PER_THEME = 14
_MIN_SCENES = 3
_RUNS = 4
_DIMENSIONS = 96
_EXACT_SCENES = 6_000
"""Beyond this many scenes mini-batch k-means takes over."""


@dataclass(frozen=True, slots=True)
class Theme:
    """One cluster: ``scenes`` are indices into the scenes handed in, the most typical first.

    ``terms`` label it; ``cohesion`` is the mean cosine of its scenes to its centre; ``stability`` is in 0–1.
    """

    index: int
    terms: tuple[str, ...]
    scenes: tuple[int, ...]
    cohesion: float
    stability: float


@dataclass(frozen=True, slots=True)
class Themes:
    """The themes, the largest first, and the scenes that belong to none."""

    themes: tuple[Theme, ...]
    outliers: tuple[int, ...]


def find_themes(
    scenes: Sequence[Scene],
    couplings: Sequence[Sequence[Coupling]],
    *,
    encoder: Encoder | None = None,
    num_themes: int | None = None,
    seed: int = 0,
) -> Themes:
    """Cluster ``scenes`` into themes; the same input and seed give the same result.

    Args:
        scenes: the scenes; headings and blank ones are left out as outliers.
        couplings: those of each scene, as ``find_couplings`` gives them.
        encoder: where given, its vectors are clustered instead of TF-IDF ones; labels stay lexical.
        num_themes: how many to look for; default one per 14 scenes.
        seed: of the clustering.
    """
    terms = [_terms(scene, found) for scene, found in zip(scenes, couplings, strict=True)]
    usable = np.array(
        [place for place, scene in enumerate(scenes) if terms[place] and scene.kind is not SceneKind.HEADING], dtype=int
    )
    wanted = num_themes or max(1, round(len(usable) / SCENES_PER_THEME))
    if len(usable) < max(_MIN_SCENES, wanted):
        return Themes((), tuple(range(len(scenes))))
    weights, vocabulary = _tfidf([terms[place] for place in usable])
    if encoder is not None:
        vectors = np.asarray(encoder.encode([scenes[place].text for place in usable]), dtype=np.float64)
    else:
        vectors = _reduced(weights, seed)
    labels, stability = _stable_clusters(vectors, wanted, seed)
    return _collected(labels, stability, vectors, weights, vocabulary, usable, len(scenes))


def _terms(scene: Scene, couplings: Sequence[Coupling]) -> list[str]:
    """The content lemmas of a scene, and the keys of its couplings of several words."""
    terms: list[str] = []
    for coupling in couplings:
        words = coupling.key.split(" ")
        terms.extend(word for word in words if _is_content(word))
        if coupling.kind in (CouplingKind.ENTITY, CouplingKind.COLLOCATION, CouplingKind.NOUN_PHRASE):
            content = [word for word in words if _is_content(word)]
            if len(content) > 1:
                terms.append(" ".join(content))
    return terms


def _is_content(word: str) -> bool:
    info = word_info(word)
    return len(word) > 2 and not info.is_function and info.classes != {"num"} and info.classes != {"adv"}


def _tfidf(terms: list[list[str]]) -> tuple[Any, np.ndarray]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    min_df = 2 if len(terms) >= 50 else 1
    for least in (min_df, 1):
        vectorizer = TfidfVectorizer(analyzer=list, sublinear_tf=True, min_df=least, max_df=0.15 if least > 1 else 1.0)
        try:
            return vectorizer.fit_transform(terms), vectorizer.get_feature_names_out()
        except ValueError:  # no term occurs often enough
            continue
    raise AssertionError("unreachable: every scene handed in has a term")


def _reduced(weights: Any, seed: int) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    dimensions = min(_DIMENSIONS, min(weights.shape) - 1)
    if dimensions < 2:
        return np.asarray(normalize(weights).toarray())
    reduced = TruncatedSVD(dimensions, random_state=seed).fit_transform(weights)
    return np.asarray(normalize(reduced))


def _stable_clusters(vectors: np.ndarray, wanted: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the tightest of several runs, and each cluster's stability over the other runs."""
    runs = [_clustered(vectors, wanted, seed + run) for run in range(_RUNS)]
    best = min(range(_RUNS), key=lambda run: runs[run][1])
    labels = runs[best][0]
    overlaps = [_best_jaccard(labels, other[0], wanted) for run, other in enumerate(runs) if run != best]
    return labels, np.mean(overlaps, axis=0)


def _clustered(vectors: np.ndarray, wanted: int, seed: int) -> tuple[np.ndarray, float]:
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    kind = KMeans if len(vectors) <= _EXACT_SCENES else MiniBatchKMeans
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct scenes than clusters: smaller result
        model = kind(wanted, n_init=1, random_state=seed).fit(vectors)
    return model.labels_, float(model.inertia_)


def _best_jaccard(labels: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """For each cluster of ``labels`` the highest Jaccard overlap with a cluster of ``other``; shape ``(count,)``."""
    from scipy.sparse import coo_matrix

    both = coo_matrix((np.ones(len(labels)), (labels, other)), shape=(count, count)).tocsr().tocoo()
    sizes, other_sizes = np.bincount(labels, minlength=count), np.bincount(other, minlength=count)
    jaccard = both.data / (sizes[both.row] + other_sizes[both.col] - both.data)
    best = np.zeros(count)
    np.maximum.at(best, both.row, jaccard)
    return best


def _collected(
    labels: np.ndarray,
    stability: np.ndarray,
    vectors: np.ndarray,
    weights: Any,
    vocabulary: np.ndarray,
    usable: np.ndarray,
    num_scenes: int,
) -> Themes:
    found: list[Theme] = []
    for cluster in np.flatnonzero(np.bincount(labels) >= _MIN_SCENES):
        members = np.flatnonzero(labels == cluster)
        centre = vectors[members].mean(axis=0)
        closeness = vectors[members] @ centre / max(1e-12, float(np.linalg.norm(centre)))
        near = closeness >= 0.5 * np.median(closeness)
        members, closeness = members[near], closeness[near]
        if len(members) < _MIN_SCENES:
            continue
        order = np.argsort(-closeness, kind="stable")
        found.append(
            Theme(
                0,
                _label(weights, members, vocabulary),
                tuple(int(place) for place in usable[members[order]]),
                float(closeness.mean()),
                float(stability[cluster]),
            )
        )
    found.sort(key=lambda theme: (-len(theme.scenes), theme.scenes))
    themes = tuple(
        Theme(index, theme.terms, theme.scenes, theme.cohesion, theme.stability) for index, theme in enumerate(found)
    )
    inside = {scene for theme in themes for scene in theme.scenes}
    return Themes(themes, tuple(place for place in range(num_scenes) if place not in inside))


def _label(weights: Any, members: np.ndarray, vocabulary: np.ndarray, count: int = 5) -> tuple[str, ...]:
    """The terms that weigh most in the cluster and least elsewhere, of those in at least two of its scenes."""
    part = weights[members]
    total = np.asarray(part.sum(axis=0)).ravel()
    total = total * np.sqrt(total / np.maximum(1e-12, np.asarray(weights.sum(axis=0)).ravel()))
    total[np.asarray((part > 0).sum(axis=0)).ravel() < 2] *= 0.1
    best = [int(place) for place in np.argsort(-total, kind="stable")[:count] if total[place] > 0]
    return tuple(str(vocabulary[place]) for place in best)
