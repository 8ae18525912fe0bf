"""A scope → its sources and its counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from hyperscene_plugin.store.base import SourceInfo, StoreStats
from hyperscene_plugin.store.schema import blobs, encoders, scenes, vectors

__all__ = ["list_sources", "scope_stats"]

_Conditions = Sequence[sa.ColumnElement[bool]]


def list_sources(connection: sa.Connection, visible: _Conditions) -> list[SourceInfo]:
    """Return the sources of the visible scenes, in order of their first adding."""
    first = sa.func.min(scenes.c.seq)
    times = (sa.func.min(scenes.c.added_at), sa.func.max(scenes.c.added_at))
    query = sa.select(scenes.c.source_id, sa.func.count(), *times, first).where(*visible)
    rows = connection.execute(query.group_by(scenes.c.source_id).order_by(first)).all()
    titles: dict[int, str | None] = {}
    for start in range(0, len(rows), 500):
        numbers = [row[4] for row in rows[start : start + 500]]
        found = connection.execute(sa.select(scenes.c.seq, scenes.c.title).where(scenes.c.seq.in_(numbers)))
        titles |= {row[0]: row[1] for row in found}
    return [
        SourceInfo(
            name, titles[seq], number, datetime.fromtimestamp(oldest, tz=UTC), datetime.fromtimestamp(newest, tz=UTC)
        )
        for name, number, oldest, newest, seq in rows
    ]


def scope_stats(connection: sa.Connection, visible: _Conditions) -> StoreStats:
    """Return the counts of the visible scenes and what belongs to them."""
    counts = sa.select(sa.func.count(), sa.func.count(scenes.c.source_id.distinct())).where(*visible)
    by_encoder = (
        sa.select(encoders.c.name, sa.func.count())
        .join_from(encoders, vectors, vectors.c.encoder_seq == encoders.c.seq)
        .join(scenes, scenes.c.seq == vectors.c.scene_seq)
        .where(*visible)
        .group_by(encoders.c.name)
        .order_by(encoders.c.name)
    )
    files = (
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(blobs.c.size), 0))
        .join_from(blobs, scenes, scenes.c.seq == blobs.c.scene_seq)
        .where(*visible)
    )
    num_scenes, num_sources = connection.execute(counts).one()
    num_vectors: dict[str, int] = {row[0]: row[1] for row in connection.execute(by_encoder)}
    num_blobs, num_bytes = connection.execute(files).one()
    return StoreStats(num_scenes, num_sources, num_vectors, num_blobs, int(num_bytes))
