"""Scenes → a ``SceneIndex``: everything about them that does not depend on the query, built once, used for many."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.text.lexical import TermMatrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperscene_plugin.types import Encoder, Scene, TokenCounter

__all__ = ["SceneIndex"]

_NEIGHBOUR_WEIGHT = 0.5


@dataclass(frozen=True, eq=False)
class SceneIndex:
    """The scenes of one or more sources, ready to be scored.

    Attributes:
        scenes: in source order.
        vectors: float32 unit vectors ``(scenes, dimension)`` of ``embedding_texts``, or ``None`` (lexical only).
        encoder_name: which encoder made ``vectors``.
    """

    scenes: tuple[Scene, ...]
    vectors: np.ndarray | None = None
    encoder_name: str | None = None
    _token_counts: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def build(
        cls, scenes: Sequence[Scene], *, encoder: Encoder | None = None, vectors: np.ndarray | None = None
    ) -> SceneIndex:
        """Index ``scenes``; ``vectors`` (one per scene, as ``encoder`` makes them) saves the encoding.

        Raises:
            InputError: ``vectors`` does not have one row per scene.
        """
        scenes = tuple(scenes)
        if vectors is None and encoder is not None and scenes:
            vectors = encoder.encode([embedding_text(scene) for scene in scenes])
        if vectors is not None:
            vectors = np.asarray(vectors, dtype=np.float32)
            if vectors.ndim != 2 or len(vectors) != len(scenes):
                raise InputError(
                    f"vectors must have shape (scenes, dimension) = ({len(scenes)}, …), got {vectors.shape}; "
                    "pass one vector per scene, in the scenes' order"
                )
        return cls(scenes, vectors, encoder.name if encoder is not None else None)

    def __len__(self) -> int:
        return len(self.scenes)

    @cached_property
    def groups(self) -> np.ndarray:
        """Which scenes belong together, shape ``(scenes,)``: the same source, and in a chat the same day."""
        numbers: dict[tuple[str, str | None], int] = {}
        keys = ((scene.source_id, scene.created_at) for scene in self.scenes)
        return np.asarray([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)

    @cached_property
    def mixing(self) -> sparse.csr_matrix:
        """Row-wise weights of a scene and its neighbours in the same group, shape ``(scenes, scenes)``."""
        number = len(self.scenes)
        beside = (self.groups[1:] == self.groups[:-1]).astype(np.float32) * _NEIGHBOUR_WEIGHT
        return sparse.diags([beside, np.ones(number, dtype=np.float32), beside], [-1, 0, 1], format="csr")

    @cached_property
    def terms(self) -> TermMatrix:
        """Lemmas of each scene's title, speaker and text."""
        return TermMatrix.build([lexical_text(scene) for scene in self.scenes])

    @cached_property
    def window_terms(self) -> TermMatrix:
        """Lemmas of each scene with its neighbours."""
        return self.terms.spread(self.mixing)

    @cached_property
    def window_vectors(self) -> np.ndarray | None:
        """Unit vectors of each scene with its neighbours, shape of ``vectors``."""
        if self.vectors is None:
            return None
        mixed = self.mixing @ self.vectors
        return np.asarray(mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-9), dtype=np.float32)

    def token_counts(self, counter: TokenCounter, pieces: Sequence[str]) -> np.ndarray:
        """Return the tokens of each piece (one per scene); remembered per tokenizer name."""
        known = self._token_counts.get(counter.name)
        if known is None:
            known = np.asarray(counter.count_many(pieces), dtype=np.int64)
            self._token_counts[counter.name] = known
        return known


def embedding_text(scene: Scene) -> str:
    """Return what the encoder sees of a scene: its title, then its text."""
    text = scene.text.strip()
    return f"{scene.title}: {text}" if scene.title else text


def lexical_text(scene: Scene) -> str:
    """Return what the lexical scores see of a scene: title, speaker and text."""
    return "\n".join(part for part in (scene.title, scene.speaker, scene.text) if part)
