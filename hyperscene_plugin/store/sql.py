"""Scenes in, scenes out: ``SceneStore``, in SQLite (a path) or Postgres (a URL), by one and the same code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import sqlalchemy as sa

from hyperscene_plugin.errors import InputError, SceneNotFoundError, StoreError
from hyperscene_plugin.store import search as _search
from hyperscene_plugin.store import writes
from hyperscene_plugin.store.attachments import Attachments
from hyperscene_plugin.store.base import (
    AddReport,
    BlobInfo,
    DoctorReport,
    ForgetReport,
    ImportReport,
    ListOrder,
    SceneFilter,
    SearchMode,
    SearchResult,
    SourceInfo,
    StoreStats,
)
from hyperscene_plugin.store.blobs import BlobFolder
from hyperscene_plugin.store.checkup import examine
from hyperscene_plugin.store.database import Database
from hyperscene_plugin.store.export import export_scope, import_scope
from hyperscene_plugin.store.overview import list_sources, scope_stats
from hyperscene_plugin.store.query import alive, filter_conditions, in_scope
from hyperscene_plugin.store.rows import check_scene, scene_from_row, scene_to_row, scope_columns, timestamp
from hyperscene_plugin.store.schema import encoders, scenes, state, vectors
from hyperscene_plugin.store.scope_index import IndexCache
from hyperscene_plugin.store.state import StateTable, state_in_scope
from hyperscene_plugin.store.vectors import unit_rows, unpack_vectors
from hyperscene_plugin.types import Scene, Scope

__all__ = ["SceneStore"]

_ORDERS: dict[str, tuple[sa.ColumnElement[Any], ...]] = {
    "added": (scenes.c.seq,),
    "source": (scenes.c.source_id, scenes.c.scene_index, scenes.c.span_start, scenes.c.seq),
    "time": (scenes.c.created_ts, scenes.c.seq),
}


class SceneStore:
    """A store of scenes. Open with ``SceneStore.open``; close with ``close`` or a ``with`` block.

    Safe for use by several threads and several processes at once. Every method raises ``StoreError`` when the
    database cannot do what is asked (nothing is then half-written), ``StoreCorruptError`` when it is damaged and
    ``InputError`` for arguments that cannot be used; these are not repeated below.
    """

    def __init__(
        self,
        database: Database,
        *,
        blobs: BlobFolder | None = None,
        clock: Callable[[], float] = time.time,
        index_bytes: int = 512 * 2**20,
    ) -> None:
        self._db = database
        self._clock = clock
        self._cache = IndexCache(database, index_bytes)
        self._blobs = Attachments(database, blobs, clock)
        self._state = StateTable(database, clock)

    @classmethod
    def open(
        cls,
        location: str | Path,
        *,
        blobs: str | Path | None = None,
        busy_timeout: float = 30.0,
        index_bytes: int = 512 * 2**20,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open a store, making it if there is none, and migrating it if an older release wrote it.

        Args:
            location: a file's path (SQLite), or ``postgresql+psycopg://user@host/database``.
            blobs: folder of the blob files, a path or an fsspec URL. ``None``: ``<file>.blobs`` beside a SQLite
                file; with Postgres a folder has to be named before blobs can be used.
            busy_timeout: seconds to wait for another writer.
            index_bytes: memory for search indexes; the least used go first.
            clock: seconds since 1970, for expiry.

        Raises:
            StoreVersionError: a newer release wrote it; it is left untouched.
            StoreCorruptError: it is damaged; it is left untouched.
            MissingPackageError: Postgres without psycopg.
        """
        database = Database.open(location, busy_timeout=busy_timeout)
        try:
            place = blobs if blobs is not None or database.path is None else f"{database.path}.blobs"
            folder = None if place is None else BlobFolder(place)
            store = cls(database, blobs=folder, clock=clock, index_bytes=index_bytes)
            store._blobs.delete_doomed()
            if folder is not None:
                folder.sweep(None)
        except BaseException:
            database.close()
            raise
        return store

    @property
    def location(self) -> str:
        """The path or URL (without password)."""
        return self._db.label

    @property
    def index_bytes(self) -> int:
        """Memory that the loaded search indexes hold, in bytes."""
        return self._cache.num_bytes

    def close(self) -> None:
        """Give back connections and memory; the store must not be used afterwards."""
        self._cache.clear()
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ adding

    def add(
        self,
        scenes: Sequence[Scene],
        scope: Scope,
        *,
        vectors: np.ndarray | None = None,
        encoder_name: str | None = None,
        ttl: float | timedelta | None = None,
    ) -> AddReport:
        """Store scenes; all of them are on the disk when this returns, or none if it raises.

        A scene is the same as a stored one if scope, source, message ids, span and text are; it then keeps its id
        and its other fields, gains the vector if it had none of this encoder, and the later expiry of the two.

        Args:
            vectors: (n, d), one per scene, in order; normalised here. Needs ``encoder_name``.
            ttl: seconds (or a timedelta) until the scenes expire; ``None``: never.
        """
        return self._write(list(scenes), scope, vectors, encoder_name, ttl, source_id=None)

    def add_many(
        self,
        scenes: Iterable[Scene],
        scope: Scope,
        *,
        encode: Callable[[Sequence[Scene]], np.ndarray] | None = None,
        encoder_name: str | None = None,
        ttl: float | timedelta | None = None,
        batch_size: int = 2000,
        progress: Callable[[int], None] | None = None,
    ) -> AddReport:
        """Store any number of scenes in bounded memory, one transaction per batch.

        Stopped half-way, the finished batches stay; run again, it goes on where it was, since adding is idempotent.

        Args:
            encode: scenes → vectors (n, d), called once per batch.
            progress: called after each batch with the number of scenes done.
        """
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        ids: list[str] = []
        added = existing = 0
        source = iter(scenes)
        while batch := list(islice(source, batch_size)):
            for scene in batch:
                check_scene(scene)
            found = encode(batch) if encode else None
            report = self.add(batch, scope, vectors=found, encoder_name=encoder_name if encode else None, ttl=ttl)
            ids += report.ids
            added += report.added
            existing += report.existing
            if progress:
                progress(len(ids))
        return AddReport(tuple(ids), added, existing)

    def replace_source(
        self,
        source_id: str,
        scenes: Sequence[Scene],
        scope: Scope,
        *,
        vectors: np.ndarray | None = None,
        encoder_name: str | None = None,
        ttl: float | timedelta | None = None,
        vacuum: bool = False,
    ) -> AddReport:
        """Make ``scenes`` the only scenes of a source: unchanged ones keep their ids, the others are removed.

        One transaction. It touches rows whose scope is exactly ``scope`` (a user's call does not reach into the
        user's sessions). Removed text is overwritten on disk; ``vacuum`` also rewrites the file, as ``forget`` does.
        """
        strangers = sorted({scene.source_id for scene in scenes} - {source_id})
        if strangers:
            raise InputError(f"replace_source({source_id!r}) got scenes of other sources: {strangers[:5]}")
        report = self._write(list(scenes), scope, vectors, encoder_name, ttl, source_id=source_id)
        if report.removed:
            self._db.wipe(vacuum=vacuum)
        return report

    def _write(
        self,
        batch: list[Scene],
        scope: Scope,
        found: np.ndarray | None,
        encoder_name: str | None,
        ttl: float | timedelta | None,
        *,
        source_id: str | None,
    ) -> AddReport:
        columns = scope_columns(scope)
        for scene in batch:
            check_scene(scene)
        units = _checked_vectors(found, encoder_name, len(batch))
        now = self._clock()
        expires = _expiry(now, ttl)
        rows = [scene_to_row(scene, columns, now=now, expires_at=expires) for scene in batch]
        with self._db.write() as connection:
            placed, added = writes.insert_scenes(connection, rows, now)
            order = [placed[row["dedup_key"]] for row in rows]
            if units is not None and encoder_name is not None and len(units):
                encoder = writes.encoder_row(connection, encoder_name, units.shape[1], self._db.label)
                writes.insert_vectors(connection, encoder, [seq for seq, _ in order], units)
            removed = 0
            if source_id is not None:
                removed = self._remove_others(connection, columns, source_id, {seq for seq, _ in order})
        self._blobs.delete_doomed()
        return AddReport(tuple(scene_id for _, scene_id in order), added, len(order) - added, removed)

    def _remove_others(self, connection: sa.Connection, columns: dict[str, str], source_id: str, kept: set[int]) -> int:
        exactly = [scenes.c[name] == value for name, value in columns.items()]
        query = sa.select(scenes.c.seq).where(scenes.c.source_id == source_id, *exactly)
        gone = [seq for seq in connection.execute(query).scalars() if seq not in kept]
        for start in range(0, len(gone), 500):
            writes.delete_scenes(connection, scenes.c.seq.in_(gone[start : start + 500]))
        return len(gone)

    # ------------------------------------------------------------------ reading

    def get(self, scene_id: str, scope: Scope) -> Scene:
        """Return one scene.

        Raises:
            SceneNotFoundError: no such id, or expired, or in another scope (which cannot be told apart).
        """
        return self.get_many([scene_id], scope)[0]

    def get_many(self, scene_ids: Sequence[str], scope: Scope) -> list[Scene]:
        """Return the scenes in the order of the ids.

        Raises:
            SceneNotFoundError: one of them is not there (see ``get``).
        """
        columns, now = scope_columns(scope), self._clock()
        found: dict[str, Scene] = {}
        with self._db.read() as connection:
            for start in range(0, len(scene_ids), 500):
                wanted = list(scene_ids[start : start + 500])
                query = sa.select(scenes).where(scenes.c.id.in_(wanted), in_scope(columns), alive(now))
                for row in connection.execute(query).mappings():
                    found[row["id"]] = scene_from_row(row, self._db.label)
        missing = [scene_id for scene_id in scene_ids if scene_id not in found]
        if missing:
            raise SceneNotFoundError(
                f"{self._db.label}: no scene {', '.join(map(repr, missing[:5]))} in this scope"
                f"{f' (and {len(missing) - 5} more)' if len(missing) > 5 else ''}; list() shows those there are"
            )
        return [found[scene_id] for scene_id in scene_ids]

    def get_vectors(self, scene_ids: Sequence[str], scope: Scope, encoder_name: str) -> np.ndarray | None:
        """Return the scenes' vectors of one encoder, float32 (n, d) in order, or ``None`` if one of them has none.

        A scene that is not there (see ``get``) has none.
        """
        columns, now = scope_columns(scope), self._clock()
        packed: dict[str, bytes] = {}
        dimension = 0
        with self._db.read() as connection:
            for start in range(0, len(scene_ids), 500):
                query = (
                    sa.select(scenes.c.id, vectors.c.data, encoders.c.dimension)
                    .join_from(vectors, scenes, scenes.c.seq == vectors.c.scene_seq)
                    .join(encoders, encoders.c.seq == vectors.c.encoder_seq)
                    .where(encoders.c.name == encoder_name, in_scope(columns), alive(now))
                    .where(scenes.c.id.in_(list(scene_ids[start : start + 500])))
                )
                for scene_id, data, size in connection.execute(query):
                    packed[scene_id], dimension = bytes(data), size
        if not packed or any(scene_id not in packed for scene_id in scene_ids):
            return None
        return unpack_vectors([packed[scene_id] for scene_id in scene_ids], dimension).astype(np.float32)

    def list(
        self,
        scope: Scope,
        where: SceneFilter | None = None,
        *,
        limit: int = 100,
        offset: int = 0,
        order: ListOrder = "added",
        descending: bool = False,
    ) -> list[Scene]:
        """Return the scenes of a scope, a page at a time.

        Args:
            order: ``added``; ``source`` (by source, then place in it); ``time`` (``created_at``, unknown ones last).
        """
        if order not in _ORDERS:
            raise InputError(f"unknown order {order!r}; expected {', '.join(_ORDERS)}")
        if limit < 0 or offset < 0:
            raise InputError(f"limit and offset must not be negative, got {limit} and {offset}")
        by: list[sa.ColumnElement[Any]] = [column.desc() if descending else column for column in _ORDERS[order]]
        if order == "time":
            by.insert(0, scenes.c.created_ts.is_(None))
        query = sa.select(scenes).where(*self._visible(scope, where)).order_by(*by).limit(limit).offset(offset)
        with self._db.read() as connection:
            return [scene_from_row(row, self._db.label) for row in connection.execute(query).mappings()]

    def count(self, scope: Scope, where: SceneFilter | None = None) -> int:
        """Return the number of scenes in a scope that meet the filter."""
        query = sa.select(sa.func.count()).select_from(scenes).where(*self._visible(scope, where))
        with self._db.read() as connection:
            return int(connection.execute(query).scalar_one())

    def _visible(self, scope: Scope, where: SceneFilter | None) -> Sequence[sa.ColumnElement[bool]]:
        conditions = [in_scope(scope_columns(scope)), alive(self._clock())]
        return [*conditions, *(filter_conditions(where, self._db.engine.dialect.name) if where else [])]

    def search(
        self,
        query: str | None,
        scope: Scope,
        *,
        vector: np.ndarray | None = None,
        encoder_name: str | None = None,
        mode: SearchMode = "hybrid",
        top_k: int = 10,
        where: SceneFilter | None = None,
        exact: bool = False,
    ) -> SearchResult:
        """Return the scenes that fit best; scope and filter apply before the ranking, so they never thin it out.

        Args:
            query: words in any inflected form; any text is safe here, there is no query syntax.
            vector: (d,) of the query, from ``encoder_name``.
            mode: ``text`` (BM25), ``vector`` (cosine), ``hybrid`` (reciprocal rank fusion of the two). Hybrid
                without usable vectors works by text and says so in ``notes``.
            exact: compare every vector itself instead of picking candidates by sign codes first.

        Raises:
            StoreError: mode ``vector``, and the scope holds vectors of other encoders only.
        """
        with self._db.read() as connection:
            return _search.search(
                connection, self._cache, scope_columns(scope), query, vector, encoder_name, mode, top_k, where,
                exact=exact, now=self._clock(), label=self._db.label,
            )  # fmt: skip

    def sources(self, scope: Scope) -> Sequence[SourceInfo]:
        """Return the sources of a scope, in order of their first adding."""
        visible = self._visible(scope, None)
        with self._db.read() as connection:
            return list_sources(connection, visible)

    def stats(self, scope: Scope) -> StoreStats:
        """Return the counts of a scope."""
        visible = self._visible(scope, None)
        with self._db.read() as connection:
            return scope_stats(connection, visible)

    # ------------------------------------------------------------------ forgetting

    def forget(
        self,
        scope: Scope,
        *,
        ids: Sequence[str] | None = None,
        source_id: str | None = None,
        older_than: datetime | timedelta | None = None,
        everything: bool = False,
        vacuum: bool = True,
    ) -> ForgetReport:
        """Remove scenes with their vectors and blobs, and wipe them from the disk.

        The conditions given all have to hold. ``everything=True`` removes the whole scope, its state included, and
        takes no other condition. Expired scenes are removed as well as live ones.

        Args:
            older_than: added before that time, or longer ago than that.
            vacuum: rewrite the database, so that no freed page keeps old bytes. Takes time in proportion to the
                store; for many calls in a row pass ``False`` and ``True`` with the last.
        """
        conditions = [in_scope(scope_columns(scope))]
        if isinstance(ids, str):
            raise InputError(f"ids must be a list of ids, got the string {ids!r}")
        if source_id is not None:
            conditions.append(scenes.c.source_id == source_id)
        if older_than is not None:
            limit = (
                self._clock() - older_than.total_seconds()
                if isinstance(older_than, timedelta)
                else timestamp(older_than)
            )
            conditions.append(scenes.c.added_at < limit)
        given = len(conditions) - 1 + (ids is not None)
        if everything == (given > 0):
            raise InputError(
                "forget needs a condition (ids, source_id, older_than), or everything=True and none; "
                f"got {given} conditions and everything={everything}"
            )
        with self._db.write() as connection:
            removed = num_blobs = left = 0
            for part in _chosen(ids):
                gone, files = writes.delete_scenes(connection, *conditions, *part)
                removed, num_blobs = removed + gone, num_blobs + files
                query = sa.select(sa.func.count()).select_from(scenes).where(*conditions, *part)
                left += int(connection.execute(query).scalar_one())
            if everything:
                connection.execute(sa.delete(state).where(state_in_scope(scope)))
            if left:
                raise StoreError(f"{self._db.label}: {left} scenes could not be removed; all were kept")
        self._blobs.delete_doomed()
        self._db.wipe(vacuum=vacuum)
        return ForgetReport(removed, left, num_blobs, vacuum)

    def purge_expired(self, *, vacuum: bool = True) -> int:
        """Remove expired scenes of all scopes from the disk (they are invisible already); return how many."""
        with self._db.write() as connection:
            removed, _ = writes.delete_scenes(connection, scenes.c.expires_at <= self._clock())
        if removed:
            self._blobs.delete_doomed()
            self._db.wipe(vacuum=vacuum)
        return removed

    # ------------------------------------------------------------------ blobs

    def put_blob(self, scene_id: str, scope: Scope, name: str, data: bytes) -> BlobInfo:
        """Keep bytes beside a scene, replacing what was under the name; on the disk when this returns.

        Raises:
            SceneNotFoundError: see ``get``.
        """
        return self._blobs.put(scene_id, scope, name, data)

    def get_blob(self, scene_id: str, scope: Scope, name: str) -> bytes:
        """Return the bytes kept under a name.

        Raises:
            SceneNotFoundError: no such scene (see ``get``), or it has no such blob.
            StoreCorruptError: the file is missing or does not have the hash it was stored with.
        """
        return self._blobs.get(scene_id, scope, name)

    def delete_blob(self, scene_id: str, scope: Scope, name: str) -> bool:
        """Remove a blob and its file; return whether it was there. Raises ``SceneNotFoundError`` as ``get``."""
        return self._blobs.delete(scene_id, scope, name)

    def list_blobs(self, scene_id: str, scope: Scope) -> Sequence[BlobInfo]:
        """Return the blobs of a scene, by name. Raises ``SceneNotFoundError`` as ``get``."""
        return self._blobs.names(scene_id, scope)

    # ------------------------------------------------------------------ state

    def get_state(self, scope: Scope, key: str) -> object:
        """Return the value kept under a key for exactly this scope; ``None`` where there is none."""
        return self._state.get(scope, key)

    def set_state(self, scope: Scope, key: str, value: object) -> None:
        """Keep a JSON value under a key for exactly this scope."""
        self._state.set(scope, key, value)

    def delete_state(self, scope: Scope, key: str) -> bool:
        """Remove a key; return whether it was there."""
        return self._state.delete(scope, key)

    # ------------------------------------------------------------------ moving and checking

    def export(self, path: str | Path, scope: Scope) -> int:
        """Write the scope's scenes, vectors and blobs to one zip file; return the number of scenes.

        The file appears complete or not at all. State is not exported.
        """
        return export_scope(self._db, self._blobs, Path(path), scope, self._clock())

    def import_file(self, path: str | Path, scope: Scope, *, rescope: bool = False) -> ImportReport:
        """Add what an export holds: all of it, or nothing when it raises. Importing twice changes nothing.

        Args:
            scope: every scene of the file has to be visible in it.
            rescope: store the scenes under ``scope`` instead of the scope they were exported with.

        Raises:
            StoreCorruptError: a hash in the file is wrong, or the file is not whole.
            StoreVersionError: a newer release wrote the file.
            ScopeError: a scene of the file is of another scope.
        """
        return import_scope(self._db, self._blobs, Path(path), scope, self._clock(), rescope=rescope)

    def doctor(self) -> DoctorReport:
        """Check every page, text, vector and blob of the store, all scopes, and delete files that no row names."""
        return examine(self._db, self._blobs)


def _chosen(ids: Sequence[str] | None) -> Iterator[tuple[sa.ColumnElement[bool], ...]]:
    """Conditions that together choose the ids (all rows for ``None``), a few hundred at a time."""
    if ids is None:
        yield ()
        return
    wanted = list(dict.fromkeys(ids))
    for start in range(0, len(wanted), 500):
        yield (scenes.c.id.in_(wanted[start : start + 500]),)


def _checked_vectors(found: np.ndarray | None, encoder_name: str | None, num_scenes: int) -> np.ndarray | None:
    if found is None:
        if encoder_name is not None:
            raise InputError(f"encoder_name={encoder_name!r} without vectors; pass both or neither")
        return None
    if not encoder_name:
        raise InputError("vectors need encoder_name: vectors of different encoders cannot be compared")
    if len(found) != num_scenes:
        raise InputError(f"{num_scenes} scenes but {len(found)} vectors; each scene needs exactly one")
    return unit_rows(found, "vectors") if num_scenes else None


def _expiry(now: float, ttl: float | timedelta | None) -> float | None:
    if ttl is None:
        return None
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise InputError(f"ttl must be a positive number of seconds, got {ttl!r}")
    return now + seconds
