"""A query → ranked scenes of one scope: BM25 on lemmas, cosine of vectors, or both fused by reciprocal rank."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import sqlalchemy as sa

from hyperscene_plugin.errors import InputError, StoreError
from hyperscene_plugin.store.base import SceneFilter, SearchHit, SearchMode, SearchResult
from hyperscene_plugin.store.fulltext import held_terms, query_terms
from hyperscene_plugin.store.query import filter_conditions, filter_times, in_scope
from hyperscene_plugin.store.rows import scene_from_row
from hyperscene_plugin.store.schema import encoders, scenes, vectors
from hyperscene_plugin.store.scope_index import IndexCache, RowMask
from hyperscene_plugin.store.vectors import unit_rows

__all__ = ["search"]

_RRF_K = 60
"""Reciprocal rank fusion's constant (Cormack, Clarke & Büttcher 2009)."""
_POOL = 50
"""Scenes of each ranking that take part in the fusion, at least."""

_Ranking = list[tuple[int, float]]


def search(
    connection: sa.Connection,
    indexes: IndexCache,
    scope: Mapping[str, str],
    query: str | None,
    vector: np.ndarray | None,
    encoder_name: str | None,
    mode: SearchMode,
    top_k: int,
    where: SceneFilter | None,
    *,
    exact: bool,
    now: float,
    label: str,
) -> SearchResult:
    """See ``SceneStore.search``."""
    if mode not in ("text", "vector", "hybrid"):
        raise InputError(f"unknown mode {mode!r}; expected text, vector or hybrid")
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        raise InputError(f"top_k must be a whole number from 1, got {top_k!r}")
    if query is not None and not isinstance(query, str):
        raise InputError(f"the query must be a string, got {type(query).__name__}")
    notes: list[str] = []
    mask = _mask(connection, scope, where, now)
    if mode == "hybrid" and vector is None:
        notes.append("vector search off: no query vector")
    if mode == "hybrid" and query is None:
        notes.append("text search off: no query text")
    if mode == "text" and query is None:
        raise InputError("mode 'text' needs a query text")
    if mode == "vector" and vector is None:
        raise InputError("mode 'vector' needs a query vector; encode the query, or use mode 'text'")
    if query is None and vector is None:
        raise InputError("a search needs a query text, a query vector, or both")
    pool = top_k if mode != "hybrid" else max(_POOL, 2 * top_k)
    terms = query_terms(query) if query is not None and mode != "vector" else {}
    by_text: _Ranking | None = None
    by_vector: _Ranking | None = None
    if mode != "vector" and query is not None:
        by_text = indexes.text_ranking(connection, scope, list(terms), pool, mask)
    if mode != "text" and vector is not None:
        by_vector = _vector_ranking(
            connection, indexes, scope, vector, encoder_name, pool, mask, notes, exact=exact, label=label, mode=mode
        )
    ranked = _fuse(by_text, by_vector)[:top_k]
    used: SearchMode = "hybrid" if None not in (by_text, by_vector) else "text" if by_text is not None else "vector"
    hits = _hits(connection, scope, ranked, terms, now, label)
    return SearchResult(tuple(hits), used, tuple(notes))


def _vector_ranking(
    connection: sa.Connection,
    indexes: IndexCache,
    scope: Mapping[str, str],
    vector: np.ndarray,
    encoder_name: str | None,
    pool: int,
    mask: RowMask,
    notes: list[str],
    *,
    exact: bool,
    label: str,
    mode: SearchMode,
) -> _Ranking | None:
    if not encoder_name:
        raise InputError("a query vector needs encoder_name: vectors of different encoders cannot be compared")
    row = unit_rows(np.asarray(vector)[None, :] if np.ndim(vector) == 1 else vector, "query vector")
    if len(row) != 1:
        raise InputError(f"expected one query vector, got {len(row)}")
    known = indexes.encoder(connection, encoder_name)
    ranking: _Ranking = []
    total = 0
    if known is not None:
        if known[1] != row.shape[1]:
            raise InputError(
                f"the query vector has {row.shape[1]} dimensions, encoder {encoder_name!r} is stored with {known[1]}"
            )
        ranking, total = indexes.vector_ranking(connection, scope, known, row[0], pool, mask, exact=exact)
    if total:
        return ranking
    others = _encoders_in_scope(connection, scope)
    if not others:
        if mode == "vector":
            return []
        notes.append("vector search off: no scene in this scope has a vector")
        return None
    problem = f"no scene in this scope has a vector of encoder {encoder_name!r}; there are vectors of: {others}"
    if mode == "vector":
        raise StoreError(f"{label}: {problem}. Encode the query with one of these, or add the scenes' vectors")
    notes.append(f"vector search off: {problem}")
    return None


def _encoders_in_scope(connection: sa.Connection, scope: Mapping[str, str]) -> str:
    query = (
        sa.select(encoders.c.name)
        .join_from(encoders, vectors, vectors.c.encoder_seq == encoders.c.seq)
        .join(scenes, scenes.c.seq == vectors.c.scene_seq)
        .where(in_scope(scope))
        .distinct()
    )
    return ", ".join(sorted(repr(name) for (name,) in connection.execute(query)))


def _mask(connection: sa.Connection, scope: Mapping[str, str], where: SceneFilter | None, now: float) -> RowMask:
    if where is None:
        return RowMask(now)
    since, until = filter_times(where)
    conditions = filter_conditions(where, connection.dialect.name, times=False)
    if not conditions:
        return RowMask(now, since, until)
    rows = connection.execute(sa.select(scenes.c.seq).where(in_scope(scope), *conditions).order_by(scenes.c.seq))
    return RowMask(now, since, until, np.fromiter(rows.scalars(), dtype=np.int64))


def _fuse(by_text: _Ranking | None, by_vector: _Ranking | None) -> list[tuple[int, float, dict[str, float]]]:
    """Return ``(seq, score, components)``, best first; equal scores in order of adding."""
    if by_text is None or by_vector is None:
        name, only = ("text", by_text) if by_text is not None else ("vector", by_vector or [])
        return [(seq, score, {name: score}) for seq, score in only]
    merged: OrderedDict[int, tuple[float, dict[str, float]]] = OrderedDict()
    for name, ranking in (("text", by_text), ("vector", by_vector)):
        for rank, (seq, score) in enumerate(ranking, start=1):
            total, components = merged.get(seq, (0.0, {}))
            components = {**components, name: score, f"{name}_rank": float(rank)}
            merged[seq] = (total + 1.0 / (_RRF_K + rank), components)
    ordered = sorted(merged.items(), key=lambda item: (-item[1][0], item[0]))
    return [(seq, score, components) for seq, (score, components) in ordered]


def _hits(
    connection: sa.Connection,
    scope: Mapping[str, str],
    ranked: list[tuple[int, float, dict[str, float]]],
    terms: Mapping[int, str],
    now: float,
    label: str,
) -> list[SearchHit]:
    """Read the ranked rows anew: one that was removed since, or is not in the scope, is never a hit."""
    query = _rows_query(tuple(name for name, value in scope.items() if value))
    values = {"seqs": [seq for seq, _, _ in ranked], "now": now, **{k: v for k, v in scope.items() if v}}
    rows: dict[int, sa.RowMapping] = {row["seq"]: row for row in connection.execute(query, values).mappings()}
    hits = []
    for seq, score, components in ranked:
        if seq in rows:
            held = held_terms(bytes(rows[seq]["terms"])) if terms else ()
            matched = tuple(term for number, term in terms.items() if number in held)
            hits.append(SearchHit(scene_from_row(rows[seq], label), score, components, matched))
    return hits


@cache
def _rows_query(fields: tuple[str, ...]) -> sa.Select[Any]:
    """The rows of given numbers that are alive and have the scope's ``fields``; built once for each set of fields."""
    alive_now = sa.or_(scenes.c.expires_at.is_(None), scenes.c.expires_at > sa.bindparam("now"))
    # coalesce keeps the planner from walking all rows of the scope instead of looking up the few numbers
    scoped = (sa.func.coalesce(scenes.c[name], "") == sa.bindparam(name) for name in fields)
    return sa.select(scenes).where(scenes.c.seq.in_(sa.bindparam("seqs", expanding=True)), alive_now, *scoped)
