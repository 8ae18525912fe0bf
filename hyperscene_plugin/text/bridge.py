"""First scores over titled documents → what speaks for a scene by its document's links (the second hop).

A question often names one document and asks about another that only the first one names. So: documents named in the
query are anchors; a scene of an anchor (or any scene that scores high) that names another document opens a bridge to
it; the other document's scenes, the first above all, are raised by the strength of the best bridge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import regex

from hyperscene_plugin.text.lemmas import lemmatize
from hyperscene_plugin.text.links import TitleFinder, fold

if TYPE_CHECKING:
    from hyperscene_plugin.text.index import SceneIndex

__all__ = ["Bridges", "find_anchors", "find_bridges", "without_titles"]

_FADE = 1.0
_ANCHORED = 0.85
_SPACES = regex.compile(r"\s+")


@dataclass(frozen=True, eq=False)
class Bridges:
    """How each scene hangs on the query by names, all float32 of shape ``(scenes,)``.

    Attributes:
        anchored: 1 where the scene's document is named in the query.
        crossing: 1 where the scene names another document that the query does not.
        reached: strength (0–1) of the best bridge into the scene's document.
    """

    anchored: np.ndarray
    crossing: np.ndarray
    reached: np.ndarray


def find_anchors(index: SceneIndex, query: str) -> np.ndarray:
    """Return which documents the query names, float32 of shape ``(documents,)``."""
    anchors = np.zeros(len(index.titles), dtype=np.float32)
    anchors[list(TitleFinder(index.titles).find(fold(lemmatize(query))))] = 1.0
    return anchors


def find_bridges(index: SceneIndex, anchors: np.ndarray, first: np.ndarray) -> Bridges:
    """Follow the names from anchors and well-scored scenes to other documents.

    Args:
        index: the scenes.
        anchors: as ``find_anchors`` returns them.
        first: scores before bridges, in units of their standard deviation, ``(scenes,)``.
    """
    documents = index.documents
    anchored = anchors[documents]
    scores = first + anchored
    strength = np.exp((scores - scores.max()) / _FADE)
    for document in np.flatnonzero(anchors):
        inside = documents == document
        strength[inside] = np.maximum(strength[inside], _ANCHORED * np.exp(scores[inside] - scores[inside].max()))
    links = index.mentions.multiply(strength[:, None]).max(axis=0).toarray().ravel()
    links[anchors > 0] = 0.0
    crossing = np.asarray(index.mentions @ (anchors == 0).astype(np.float32)).ravel() > 0
    return Bridges(anchored, crossing.astype(np.float32), links[documents].astype(np.float32))


def without_titles(query: str, titles: list[str]) -> str:
    """Return what the query asks apart from the names: ``query`` less the given titles and any parentheses."""
    for title in sorted(titles, key=len, reverse=True):
        query = regex.sub(regex.escape(title), " ", query, flags=regex.IGNORECASE)
    return str(_SPACES.sub(" ", regex.sub(r"\([^)]*\)", " ", query)).strip())
