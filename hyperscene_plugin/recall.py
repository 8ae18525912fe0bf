"""A question and a scope → the compressed text of the scenes that matter, with notes on how they were found."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from hyperscene_plugin.errors import EncoderError
from hyperscene_plugin.store.base import SceneFilter
from hyperscene_plugin.text.auto_encoder import resolve_encoder
from hyperscene_plugin.text.compress import compress_scenes
from hyperscene_plugin.text.index import SceneIndex, embedding_text
from hyperscene_plugin.types import CompressionResult, Encoder, Scene, Scope, TokenCounter

if TYPE_CHECKING:
    from hyperscene_plugin.store.base import StorePort

__all__ = ["Progress", "Recall"]

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)``; stages are ``encode`` and ``store``."""

_MOST_RANKED = 2000
_ENCODE_BATCH = 256


class Recall:
    """Finds scenes: encodes what is stored and what is asked, and keeps the indexes of the last few scopes.

    Args:
        store: where the scenes are.
        encoder: an encoder, a model name, ``"auto"`` or ``None``, as ``Engine`` takes it. ``notes`` says what became
            of it.
    """

    def __init__(self, store: StorePort, encoder: Encoder | str | None) -> None:
        self.store = store
        self.encoder, self.notes = resolve_encoder(encoder)
        self._indexes = _IndexCache()

    @property
    def encoder_name(self) -> str | None:
        """The name vectors are stored under; ``None`` without an encoder."""
        return self.encoder.name if self.encoder is not None else None

    def find(
        self,
        query: str,
        scope: Scope,
        max_tokens: int,
        counter: TokenCounter,
        without: frozenset[str] = frozenset(),
    ) -> tuple[CompressionResult | None, tuple[str, ...]]:
        """Return the scope's scenes compressed for ``query`` (``None`` when there are none), and notes.

        Scenes whose ids are in ``without`` are left aside: they reach the model another way.
        """
        notes = list(self.notes)
        held = self.store.count(scope)
        if held == 0:
            return None, (*notes, "the scope holds no scenes: the model answers from the question alone")
        if held <= _MOST_RANKED:
            scenes = self.store.list(scope, limit=held, order="source")
        else:
            vector = self.encoder.encode([query])[0] if self.encoder is not None else None
            found = self.store.search(query, scope, vector=vector, encoder_name=self.encoder_name, top_k=_MOST_RANKED)
            scenes = sorted((hit.scene for hit in found), key=lambda scene: (scene.source_id, scene.index))
            notes += [*found.notes, f"ranked the {len(scenes)} best of {held} scenes found by search"]
            if not scenes:
                return None, (*notes, "no scene matches the question")
        scenes = [scene for scene in scenes if scene.id not in without] if without else scenes
        if not scenes:
            return None, tuple(dict.fromkeys(notes))
        index = self._indexes.get(scenes, lambda: self._build_index(scenes, scope))
        result = compress_scenes(index, query, max_tokens=max_tokens, tokenizer=counter, encoder=self.encoder)
        return result, tuple(dict.fromkeys((*notes, *result.notes)))

    def _build_index(self, scenes: Sequence[Scene], scope: Scope) -> SceneIndex:
        vectors = None
        if self.encoder is not None:
            ids = [scene.id for scene in scenes if scene.id is not None]
            vectors = self.store.get_vectors(ids, scope, self.encoder.name)
            if vectors is None:  # some were stored under another encoder, or under none
                vectors = self.encode(scenes, None)
        return SceneIndex.build(scenes, encoder=self.encoder, vectors=vectors)

    def vectors_for(self, scenes: Sequence[Scene], scope: Scope, progress: Progress | None) -> np.ndarray | None:
        """Return one vector per scene; what is stored already (a chat sent again whole) is not encoded again."""
        if self.encoder is None:
            return None
        where = SceneFilter(source_id=tuple(dict.fromkeys(scene.source_id for scene in scenes)))
        held = self.store.list(scope, where, limit=max(1, self.store.count(scope, where)))
        id_of = {(scene.key, scene.text): scene.id for scene in held}
        known = [place for place, scene in enumerate(scenes) if id_of.get((scene.key, scene.text))]
        ids = [id_of[scenes[place].key, scenes[place].text] for place in known]
        stored = self.store.get_vectors([i for i in ids if i], scope, self.encoder.name) if known else None
        if stored is None:
            return self.encode(scenes, progress)
        new = sorted(set(range(len(scenes))) - set(known))
        vectors = np.empty((len(scenes), stored.shape[1]), dtype=np.float32)
        vectors[known] = stored
        if new:
            vectors[new] = self.encode([scenes[place] for place in new], progress)
        return vectors

    def encode(self, scenes: Sequence[Scene], progress: Progress | None) -> np.ndarray:
        """Return float32 vectors of shape (scenes, dimension); needs an encoder."""
        if self.encoder is None:
            raise EncoderError("this engine has no encoder")
        parts = []
        for start in range(0, len(scenes), _ENCODE_BATCH):
            parts.append(self.encoder.encode([embedding_text(s) for s in scenes[start : start + _ENCODE_BATCH]]))
            if progress:
                progress("encode", min(start + _ENCODE_BATCH, len(scenes)), len(scenes))
        return np.concatenate(parts)


class _IndexCache:
    """The last few scene indexes, by the ids they hold, so that a second question costs no second indexing."""

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._lock = Lock()
        self._held: OrderedDict[tuple[str | None, ...], SceneIndex] = OrderedDict()

    def get(self, scenes: Sequence[Scene], build: Callable[[], SceneIndex]) -> SceneIndex:
        """Return the index of exactly these scenes, built now if it is not held."""
        key = tuple(scene.id for scene in scenes)
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        index = build()
        with self._lock:
            self._held[key] = index
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return index
