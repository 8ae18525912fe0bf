"""The rows of one scope → an in-memory index for ranking, kept fresh as any process adds or removes rows.

An index holds rows of its scope alone, so a score never depends on what others stored. It is loaded on the first
search of a scope, takes up new rows in order of ``seq``, and drops rows when the store's ``removals`` counter moved.
Rows live in segments whose sizes roughly halve, so that taking up a row costs little however many are there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa

from hyperscene_plugin.store.database import Database
from hyperscene_plugin.store.fulltext import Postings, bm25_idf, unpack_terms
from hyperscene_plugin.store.query import in_scope
from hyperscene_plugin.store.schema import counters, encoders, scenes, vectors
from hyperscene_plugin.store.vectors import VectorMatrix, unpack_vectors

__all__ = ["IndexCache", "RowMask", "ScopeIndex"]

_CHUNK = 4096


@dataclass(frozen=True)
class RowMask:
    """Which rows may be hits: times in seconds (``None``: open), and scene ``seqs`` (sorted; ``None``: all)."""

    now: float
    since: float | None = None
    until: float | None = None
    seqs: np.ndarray | None = None


@dataclass(frozen=True)
class _Segment:
    """Some rows: ``seqs`` (n,) int64 scene numbers, ``created`` (n,) seconds or nan, ``expires`` seconds or inf."""

    seqs: np.ndarray
    created: np.ndarray
    expires: np.ndarray
    payload: Postings | VectorMatrix

    def allowed(self, mask: RowMask) -> np.ndarray | None:
        """Return (n,) bool, or ``None`` where every row may be a hit."""
        parts = []
        if mask.since is not None:
            parts.append(self.created >= mask.since)
        if mask.until is not None:
            parts.append(self.created < mask.until)
        if mask.seqs is not None:
            parts.append(np.isin(self.seqs, mask.seqs, assume_unique=True))
        return np.logical_and.reduce(parts) if parts else None

    @property
    def num_bytes(self) -> int:
        total = self.seqs.nbytes + self.created.nbytes + self.expires.nbytes
        return total + sum(v.nbytes for v in vars(self.payload).values() if isinstance(v, np.ndarray))


@dataclass(frozen=True)
class _Freshness:
    last_scene: int
    last_vector: int
    removals: int


class ScopeIndex:
    """The index of one scope: of its texts (``encoder`` is ``None``) or of its vectors by one encoder."""

    def __init__(self, scope: Mapping[str, str], encoder: tuple[int, int] | None) -> None:
        self._scope = scope
        self._encoder = encoder
        self._segments: tuple[_Segment, ...] = ()
        self._cursor = 0
        self._removals = -1
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Memory held by the index, in bytes."""
        return sum(segment.num_bytes for segment in self._segments)

    def refresh(self, connection: sa.Connection, fresh: _Freshness, now: float) -> tuple[_Segment, ...]:
        """Take up what changed; return the segments, which are never changed afterwards."""
        with self._lock:
            if self._removals != fresh.removals:
                if self._removals >= 0 and self._segments:
                    self._keep(connection)
                self._removals = fresh.removals
            last = fresh.last_scene if self._encoder is None else fresh.last_vector
            if last > self._cursor:
                self._load(connection)
                self._cursor = max(self._cursor, last)
            self._expire(now)
            return self._segments

    def _load(self, connection: sa.Connection) -> None:
        row_number = scenes.c.seq if self._encoder is None else vectors.c.seq
        columns = [row_number, scenes.c.seq, scenes.c.created_ts, scenes.c.expires_at]
        query = sa.select(*columns, scenes.c.terms if self._encoder is None else vectors.c.data)
        if self._encoder is not None:
            query = query.join_from(vectors, scenes, vectors.c.scene_seq == scenes.c.seq)
            query = query.where(vectors.c.encoder_seq == self._encoder[0])
        first = self._cursor == 0
        query = query.where(in_scope(self._scope, by_index=first), row_number > self._cursor).order_by(row_number)
        result = connection.execution_options(yield_per=_CHUNK).execute(query)
        pieces: list[_Segment] = []
        for rows in result.partitions(_CHUNK):
            pieces.append(self._segment(rows))
            self._cursor = int(rows[-1][0])
        if not pieces:
            return
        segments = [*self._segments, _join(pieces)]
        while len(segments) > 1 and len(segments[-2].seqs) <= 2 * len(segments[-1].seqs):
            segments[-2:] = [_join(segments[-2:])]
        self._segments = tuple(segments)

    def _segment(self, rows: Sequence[Any]) -> _Segment:
        data = [bytes(row[4]) for row in rows]
        payload: Postings | VectorMatrix
        if self._encoder is None:
            payload = Postings.build(*unpack_terms(data), len(data))
        else:
            payload = VectorMatrix.build(unpack_vectors(data, self._encoder[1]))
        return _Segment(
            np.array([row[1] for row in rows], dtype=np.int64),
            np.array([np.nan if row[2] is None else row[2] for row in rows], dtype=np.float64),
            np.array([np.inf if row[3] is None else row[3] for row in rows], dtype=np.float64),
            payload,
        )

    def _keep(self, connection: sa.Connection) -> None:
        """Drop the rows that are gone and read the expiry of the others anew."""
        query = sa.select(scenes.c.seq, scenes.c.expires_at).where(in_scope(self._scope)).order_by(scenes.c.seq)
        alive = connection.execute(query).all()
        seqs = np.array([row[0] for row in alive], dtype=np.int64)
        expires = np.array([np.inf if row[1] is None else row[1] for row in alive], dtype=np.float64)
        kept = []
        for segment in self._segments:
            place = np.minimum(np.searchsorted(seqs, segment.seqs), max(0, len(seqs) - 1))
            alive_here = seqs[place] == segment.seqs if len(seqs) else np.zeros(len(segment.seqs), dtype=bool)
            if alive_here.any():
                smaller = _take(segment, alive_here)
                kept.append(replace(smaller, expires=expires[place[alive_here]]))
        self._segments = tuple(kept)

    def _expire(self, now: float) -> None:
        if any((segment.expires <= now).any() for segment in self._segments):
            smaller = [_take(segment, segment.expires > now) for segment in self._segments]
            self._segments = tuple(segment for segment in smaller if len(segment.seqs))


def _take(segment: _Segment, keep: np.ndarray) -> _Segment:
    if keep.all():
        return segment
    payload = segment.payload
    if isinstance(payload, VectorMatrix):
        smaller: Postings | VectorMatrix = VectorMatrix.build(payload.rows[keep])
    else:
        hashes, docs, counts = payload.entries()
        number = np.cumsum(keep, dtype=np.int32) - np.int32(1)
        wanted = keep[docs]
        smaller = Postings.build(hashes[wanted], number[docs[wanted]], counts[wanted], int(keep.sum()))
    return _Segment(segment.seqs[keep], segment.created[keep], segment.expires[keep], smaller)


def _join(segments: Sequence[_Segment]) -> _Segment:
    if len(segments) == 1:
        return segments[0]
    first = segments[0].payload
    payload: Postings | VectorMatrix
    if isinstance(first, VectorMatrix):
        payload = VectorMatrix.build(
            np.concatenate([s.payload.rows for s in segments if isinstance(s.payload, VectorMatrix)])
        )
    else:
        offsets = np.cumsum([0, *(len(s.seqs) for s in segments)])
        parts = [s.payload.entries() for s in segments if isinstance(s.payload, Postings)]
        payload = Postings.build(
            np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] + np.int32(o) for part, o in zip(parts, offsets, strict=False)]),
            np.concatenate([part[2] for part in parts]),
            int(offsets[-1]),
        )
    return _Segment(
        np.concatenate([s.seqs for s in segments]),
        np.concatenate([s.created for s in segments]),
        np.concatenate([s.expires for s in segments]),
        payload,
    )


class IndexCache:
    """Indexes by scope; the ones unused for longest go when all together pass ``max_bytes``."""

    def __init__(self, database: Database, max_bytes: int) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._indexes: OrderedDict[tuple[object, ...], ScopeIndex] = OrderedDict()
        self._encoders: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def encoder(self, connection: sa.Connection, name: str) -> tuple[int, int] | None:
        """Return the number and dimension of an encoder (they never change), ``None`` for an unknown one."""
        if name not in self._encoders:
            query = sa.select(encoders.c.seq, encoders.c.dimension).where(encoders.c.name == name)
            row = connection.execute(query).first()
            if row is None:
                return None
            self._encoders[name] = (int(row.seq), int(row.dimension))
        return self._encoders[name]

    def text_ranking(
        self, connection: sa.Connection, scope: Mapping[str, str], terms: Sequence[int], top: int, mask: RowMask
    ) -> list[tuple[int, float]]:
        """Return ``(scene seq, BM25 score)`` of the best scenes with a lemma of ``terms``, best first."""
        segments = self._segments(connection, scope, None, mask.now)
        texts = [(segment, segment.payload) for segment in segments if isinstance(segment.payload, Postings)]
        total = sum(len(segment.seqs) for segment, _ in texts)
        mean = sum(float(p.lengths.sum(dtype=np.float64)) for _, p in texts) / max(1, total)
        frequencies = {term: sum(len(p.find(term)[0]) for _, p in texts) for term in terms}
        weights = {term: bm25_idf(total, n) for term, n in frequencies.items() if n}
        found: list[tuple[int, float]] = []
        for segment, postings in texts if weights else ():
            places, scores = postings.best(weights, mean, segment.allowed(mask), top)
            found += zip(segment.seqs[places].tolist(), scores.tolist(), strict=True)
        return sorted(found, key=lambda item: (-item[1], item[0]))[:top]

    def vector_ranking(
        self,
        connection: sa.Connection,
        scope: Mapping[str, str],
        encoder: tuple[int, int],
        query: np.ndarray,
        top: int,
        mask: RowMask,
        *,
        exact: bool = False,
    ) -> tuple[list[tuple[int, float]], int]:
        """Return ``(scene seq, cosine)`` of the most similar scenes, best first, and how many have a vector.

        ``encoder`` is its number and dimension; ``query`` (d,) float32, L2 norm 1.
        """
        segments = self._segments(connection, scope, encoder, mask.now)
        found: list[tuple[int, float]] = []
        for segment in segments:
            if isinstance(segment.payload, VectorMatrix):
                places, cosines = segment.payload.nearest(query, top, segment.allowed(mask), exact=exact)
                found += zip(segment.seqs[places].tolist(), cosines.tolist(), strict=True)
        total = sum(len(segment.seqs) for segment in segments)
        return sorted(found, key=lambda item: (-item[1], item[0]))[:top], total

    @property
    def num_bytes(self) -> int:
        """Memory held by all indexes, in bytes."""
        with self._lock:
            return sum(index.num_bytes for index in self._indexes.values())

    def clear(self) -> None:
        """Drop every index; the next search loads anew."""
        with self._lock:
            self._indexes.clear()

    def _segments(
        self, connection: sa.Connection, scope: Mapping[str, str], encoder: tuple[int, int] | None, now: float
    ) -> tuple[_Segment, ...]:
        key = (*scope.values(), encoder)
        with self._lock:
            index = self._indexes.pop(key, None) or ScopeIndex(scope, encoder)
            self._indexes[key] = index
        segments = index.refresh(connection, _freshness(connection), now)
        with self._lock:
            total = sum(index.num_bytes for index in self._indexes.values())
            while total > self._max_bytes and len(self._indexes) > 1:
                _, oldest = self._indexes.popitem(last=False)
                total -= oldest.num_bytes
        return segments


_FRESHNESS = sa.select(
    sa.select(sa.func.coalesce(sa.func.max(scenes.c.seq), 0)).scalar_subquery(),
    sa.select(sa.func.coalesce(sa.func.max(vectors.c.seq), 0)).scalar_subquery(),
    sa.select(counters.c.value).where(counters.c.name == "removals").scalar_subquery(),
)


def _freshness(connection: sa.Connection) -> _Freshness:
    return _Freshness(*connection.execute(_FRESHNESS).one())
