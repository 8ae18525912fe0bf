"""Sources of a store as hypercode: made, kept beside the scenes, found again, or left to the text tier with the reason.

A source's cache is a blob of its first scene, so it goes when the scene goes. It is used only while the source's scenes
are exactly those that it was made from, and only with the model that made it.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from hyperscene_plugin.errors import (
    FingerprintMismatchError,
    HypercodeError,
    InputError,
    ModelError,
    StoreError,
    UnsupportedModelError,
)
from hyperscene_plugin.model.port import HypercodeModel, LanguageModel
from hyperscene_plugin.store.base import SceneFilter
from hyperscene_plugin.types import Scene, Scope

if TYPE_CHECKING:
    from hyperscene_plugin.store.base import StorePort

__all__ = ["HypercodeTier", "StoredCache"]

BLOB = "hypercode"
_KEPT = 32


@dataclass(frozen=True, slots=True)
class StoredCache:
    """A cache in use: ``key`` names its bytes, ``scenes`` are the store's, in the order of the cache's own."""

    key: str
    cache: Any
    scenes: tuple[Scene, ...]


class HypercodeTier:
    """Makes and finds the compact caches of a store for one model; the last 32 used stay open."""

    def __init__(self, store: StorePort, model: LanguageModel | None, instructions: str) -> None:
        self._store, self._model, self._instructions = store, model, instructions
        self._open: OrderedDict[str, StoredCache] = OrderedDict()
        self._lock = Lock()

    def compact(
        self,
        source_id: str,
        scope: Scope,
        compaction_ratio: float,
        quality: str,
        zoom_share: float | None,
        progress: Callable[[str, int, int], None] | None,
    ) -> StoredCache:
        """Compact all scenes of a source and keep the cache in the store.

        Raises:
            InputError: the scope has no such source, or an argument is out of range.
            UnsupportedModelError: the model cannot stand behind compact caches.
            StoreError: the cache could not be stored; nothing was changed.
        """
        model = self._require()
        scenes = self._scenes(source_id, scope)
        if not scenes:
            raise InputError(f"there is no source {source_id!r} in this scope; remember it first")
        cache = model.compact(
            scenes,
            compaction_ratio,
            quality=quality,
            zoom_share=zoom_share,
            source_id=source_id,
            instructions=self._instructions,
            progress=progress,
        )
        from hyperscene_plugin.kv.storage import pack

        with tempfile.TemporaryDirectory() as folder:
            packed = pack(cache.save(Path(folder) / "cache"), Path(folder) / "cache.hypercode")
            info = self._store.put_blob(str(scenes[0].id), scope, BLOB, packed.read_bytes())
        return self._keep(StoredCache(info.sha256, cache, tuple(scenes)))

    def remove(self, source_id: str, scope: Scope) -> bool:
        """Delete a source's cache; its scenes stay. Return whether there was one."""
        scenes = self._scenes(source_id, scope)
        return bool(scenes) and self._store.delete_blob(str(scenes[0].id), scope, BLOB)

    def find(self, scope: Scope) -> tuple[list[StoredCache], tuple[str, ...]]:
        """Return the usable caches of the scope, and a note for each one that cannot be used."""
        if not isinstance(self._model, HypercodeModel) or not self._store.stats(scope).blobs:
            return [], ()
        found: list[StoredCache] = []
        notes: list[str] = []
        for source in self._store.sources(scope):
            scenes = self._scenes(source.source_id, scope)
            blobs = [b for b in self._store.list_blobs(str(scenes[0].id), scope) if b.name == BLOB] if scenes else []
            if not blobs:
                continue
            try:
                found.append(self._load(blobs[0].sha256, scenes, scope))
            except (FingerprintMismatchError, HypercodeError, UnsupportedModelError, _Stale) as error:
                notes.append(f"source {source.source_id!r} goes in as text: {error}")
        return found, tuple(notes)

    def by_key(self, key: str) -> StoredCache:
        """Return a cache that a plan names.

        Raises:
            StoreError: it is no longer open; plan again.
        """
        with self._lock:
            if key not in self._open:
                raise StoreError("the plan's compact caches are no longer open; make a new plan for this question")
            return self._open[key]

    def _load(self, key: str, scenes: list[Scene], scope: Scope) -> StoredCache:
        with self._lock:
            held = self._open.get(key)
        if held is None:
            from hyperscene_plugin.kv.storage import unpack

            data = self._store.get_blob(str(scenes[0].id), scope, BLOB)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "cache.hypercode"
                file.write_bytes(data)
                cache = self._require().load_compact(
                    unpack(file, Path(folder) / "cache"), instructions=self._instructions
                )
            held = StoredCache(key, cache, tuple(scenes))
        if [scene.text for scene in held.cache.scenes] != [scene.text for scene in scenes]:
            raise _Stale("its scenes have changed since it was compacted; compact it again")
        return self._keep(StoredCache(key, held.cache, tuple(scenes)))

    def _keep(self, stored: StoredCache) -> StoredCache:
        with self._lock:
            self._open[stored.key] = stored
            self._open.move_to_end(stored.key)
            while len(self._open) > _KEPT:
                self._open.popitem(last=False)
        return stored

    def _scenes(self, source_id: str, scope: Scope) -> list[Scene]:
        where = SceneFilter(source_id=source_id)
        return self._store.list(scope, where, limit=max(1, self._store.count(scope, where)), order="source")

    def _require(self) -> HypercodeModel:
        if not isinstance(self._model, HypercodeModel):
            raise ModelError(
                "hypercode needs a local model: pass one, for example Engine(store, LocalModel.load('demo'))"
            )
        return self._model


class _Stale(Exception):
    """The cache no longer stands for the source's scenes."""
