"""Scenes → a ``SceneIndex``: everything about them that does not depend on the query, built once, used for many."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import regex
from scipy import sparse

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.text.lemmas import lemmatize
from hyperscene_plugin.text.lexical import TermMatrix, word_pieces
from hyperscene_plugin.text.links import fold, mention_matrix, title_words
from hyperscene_plugin.text.render import day
from hyperscene_plugin.types import Encoder, Scene, SceneKind

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SceneIndex", "embedding_text"]

_ASKS = regex.compile(r"\?[\s\"'»”)\]]*$")
_REACHES = {"near": (1, 0.5), "wide": (4, 0.8)}


@dataclass(frozen=True, eq=False)
class SceneIndex:
    """The scenes of one or more sources, ready to be scored.

    Attributes:
        scenes: in source order.
        vectors: float32 unit vectors ``(scenes, dimension)`` of ``embedding_text``, or ``None`` (lexical only).
        encoder_name: which encoder made ``vectors``.
        remembered: what other modules computed from this index and keep with it.
    """

    scenes: tuple[Scene, ...]
    vectors: np.ndarray | None = None
    encoder_name: str | None = None
    remembered: dict[tuple[str, str], object] = field(default_factory=dict, repr=False)
    _mixings: dict[str, sparse.csr_matrix] = field(default_factory=dict, repr=False)
    _mixed_vectors: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def build(
        cls, scenes: Sequence[Scene], *, encoder: Encoder | None = None, vectors: np.ndarray | None = None
    ) -> SceneIndex:
        """Index ``scenes``; ``vectors`` (one per scene, as ``encoder`` makes them) saves the encoding.

        Raises:
            InputError: ``vectors`` does not have one row per scene.
        """
        index = cls(tuple(scenes))
        return index if encoder is None and vectors is None else index.with_vectors(encoder, vectors)

    def with_vectors(self, encoder: Encoder | None, vectors: np.ndarray | None = None) -> SceneIndex:
        """Return this index with vectors: those given, or else what ``encoder`` makes; without either, as it is.

        Raises:
            InputError: ``vectors`` does not have one row per scene.
        """
        if vectors is None:
            if encoder is None or not self.scenes:
                return self
            vectors = encoder.encode([embedding_text(scene) for scene in self.scenes])
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(self.scenes):
            raise InputError(
                f"vectors must have shape (scenes, dimension) = ({len(self.scenes)}, …), got {vectors.shape}; "
                "pass one vector per scene, in the scenes' order"
            )
        return SceneIndex(self.scenes, vectors, encoder.name if encoder is not None else None, self.remembered)

    def __len__(self) -> int:
        return len(self.scenes)

    @cached_property
    def is_chat(self) -> bool:
        """Whether these are chat messages rather than documents."""
        return any(scene.message_ids for scene in self.scenes)

    @cached_property
    def lemmas(self) -> list[list[str]]:
        """The lemmas of each scene's own text, in order."""
        return [lemmatize(scene.text) for scene in self.scenes]

    @cached_property
    def terms(self) -> TermMatrix:
        """Lemmas of each scene's title, speaker and text."""
        heads: dict[tuple[str | None, str | None], list[str]] = {}
        documents = []
        for scene, lemmas in zip(self.scenes, self.lemmas, strict=True):
            key = (scene.title, scene.speaker)
            if key not in heads:
                heads[key] = lemmatize("\n".join(part for part in key if part))
            documents.append([*heads[key], *lemmas])
        return TermMatrix.from_lemmas(documents)

    @cached_property
    def pieces(self) -> TermMatrix:
        """Runs of four letters in the lemmas of each scene's own text."""
        return TermMatrix.from_lemmas([word_pieces(lemmas) for lemmas in self.lemmas])

    @cached_property
    def documents(self) -> np.ndarray:
        """The document of each scene, numbered from 0 in order of appearance, shape ``(scenes,)``."""
        numbers: dict[str, int] = {}
        return np.asarray([numbers.setdefault(scene.source_id, len(numbers)) for scene in self.scenes], dtype=np.int64)

    @cached_property
    def asks(self) -> np.ndarray:
        """1 where a scene ends in a question mark, else 0; float32 ``(scenes,)``."""
        return np.asarray([bool(_ASKS.search(scene.text)) for scene in self.scenes], dtype=np.float32)

    @cached_property
    def speakers(self) -> dict[str, np.ndarray]:
        """Speaker who is more than a role → 1 where the scene is theirs, else 0; float32 ``(scenes,)``."""
        names = {scene.speaker for scene in self.scenes if scene.speaker and scene.speaker != scene.role}
        return {
            name: np.asarray([scene.speaker == name for scene in self.scenes], dtype=np.float32)
            for name in sorted(names)
        }

    @cached_property
    def unchosen(self) -> dict[int, str]:
        """Scenes that are never chosen and why: blank ones, and headings where there is anything else."""
        blank = {place: "empty" for place, scene in enumerate(self.scenes) if not scene.text.strip()}
        headings = [place for place, scene in enumerate(self.scenes) if scene.kind is SceneKind.HEADING]
        if len(headings) + len(blank) >= len(self.scenes):
            return blank
        return blank | dict.fromkeys(headings, "heading: shown as the title of its scenes")

    @cached_property
    def leads(self) -> np.ndarray:
        """Whether each scene is the first (not a heading) of its document, shape ``(scenes,)``."""
        leads = np.zeros(len(self.scenes), dtype=bool)
        seen: set[str] = set()
        for place, scene in enumerate(self.scenes):
            if scene.source_id not in seen and scene.kind is not SceneKind.HEADING:
                seen.add(scene.source_id)
                leads[place] = True
        return leads

    @cached_property
    def titles(self) -> list[tuple[str, ...]]:
        """Each document's title as lemmas; empty where it has none or shares it with another document."""
        first: dict[int, Scene] = {}
        for document, scene in zip(self.documents, self.scenes, strict=True):
            first.setdefault(int(document), scene)
        whole = [" ".join((scene.title or "").casefold().split()) for scene in first.values()]
        return [
            title_words(scene.title) if whole.count(title) == 1 else ()
            for scene, title in zip(first.values(), whole, strict=True)
        ]

    @cached_property
    def has_titles(self) -> bool:
        """Whether there are several documents of which at least one has a title of its own."""
        return len(self.titles) > 1 and any(self.titles)

    @cached_property
    def mentions(self) -> sparse.csr_matrix:
        """Which scene names which other document, ``(scenes, documents)``."""
        return mention_matrix([fold(words) for words in self.lemmas], self.documents, self.titles)

    @cached_property
    def repeats(self) -> dict[int, int]:
        """Later scene → the first scene with the same speaker and words (case, endings, punctuation aside)."""
        seen: dict[tuple[object, ...], int] = {}
        twins: dict[int, int] = {}
        for place, (scene, lemmas) in enumerate(zip(self.scenes, self.lemmas, strict=True)):
            first = seen.setdefault((scene.speaker, tuple(lemmas) or scene.text.strip()), place)
            if first != place:
                twins[place] = first
        return twins

    def neighbourhood(self, reach: str) -> sparse.csr_matrix:
        """Return weights of a scene and its neighbours, ``(scenes, scenes)``: ``"near"`` or ``"wide"``.

        Near is one scene on each side at half weight; wide is four on each side, fading by .8 a step. Neighbours
        belong to the same document or, in a chat, to the same day.
        """
        if reach not in self._mixings:
            self._mixings[reach] = self._mixing(*_REACHES[reach])
        return self._mixings[reach]

    def neighbourhood_vectors(self, reach: str = "") -> np.ndarray:
        """Return the unit vectors of each scene with its neighbours, shape of ``vectors``; ``""`` is the scene alone.

        Raises:
            InputError: the index has no vectors.
        """
        if self.vectors is None:
            raise InputError("this index has no vectors; build it with an encoder to use semantic scores")
        if not reach:
            return self.vectors
        if reach not in self._mixed_vectors:
            self._mixed_vectors[reach] = _unit(self.neighbourhood(reach) @ self.vectors)
        return self._mixed_vectors[reach]

    def _mixing(self, reach: int, decay: float) -> sparse.csr_matrix:
        bands: list[np.ndarray] = [np.ones(len(self.scenes), dtype=np.float32)]
        offsets = [0]
        for distance in range(1, min(reach, len(self.scenes) - 1) + 1):
            same = (self._runs[distance:] == self._runs[:-distance]).astype(np.float32) * decay**distance
            bands += [same, same]
            offsets += [distance, -distance]
        return sparse.csr_matrix(sparse.diags(bands, offsets, dtype=np.float32))

    @cached_property
    def _runs(self) -> np.ndarray:
        numbers: dict[tuple[str, str | None], int] = {}
        keys = ((scene.source_id, day(scene.created_at)) for scene in self.scenes)
        return np.asarray([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def embedding_text(scene: Scene) -> str:
    """Return what the encoder sees of a scene: its title or speaker, then its text."""
    text = scene.text.strip()
    head = scene.title or scene.speaker
    return f"{head}: {text}" if head else text


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-9), dtype=np.float32)
