"""Rows in and out of an open write transaction; the caller's transaction makes each call all or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from hyperscene_plugin.errors import InputError, StoreError
from hyperscene_plugin.store.schema import blobs, counters, doomed, encoders, scenes, vectors
from hyperscene_plugin.store.vectors import pack_vectors

__all__ = ["bump_removals", "delete_scenes", "encoder_row", "insert_scenes", "insert_vectors"]

_BATCH = 500


def insert_scenes(
    connection: sa.Connection, rows: Sequence[Mapping[str, Any]], now: float
) -> tuple[dict[str, tuple[int, str]], int]:
    """Insert the rows whose ``dedup_key`` is new; return ``dedup_key → (seq, id)`` of all, and how many were added.

    A row that is there keeps everything but its expiry, which becomes the later one; one that has expired is
    removed first and counts as added.
    """
    unique: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        unique.setdefault(row["dedup_key"], row)
    keys = list(unique)
    found: dict[str, tuple[int, str]] = {}
    for start in range(0, len(keys), _BATCH):
        query = sa.select(scenes.c.dedup_key, scenes.c.seq, scenes.c.id, scenes.c.expires_at)
        for key, seq, scene_id, expires in connection.execute(
            query.where(scenes.c.dedup_key.in_(keys[start : start + _BATCH]))
        ).all():
            if expires is not None and expires <= now:
                delete_scenes(connection, scenes.c.seq == seq)
                continue
            found[key] = (seq, scene_id)
            wanted = unique[key]["expires_at"]
            if expires is not None and (wanted is None or wanted > expires):
                connection.execute(sa.update(scenes).where(scenes.c.seq == seq).values(expires_at=wanted))
                bump_removals(connection)
    fresh = [dict(unique[key]) for key in keys if key not in found]
    for start in range(0, len(fresh), _BATCH):
        batch = fresh[start : start + _BATCH]
        connection.execute(sa.insert(scenes), batch)
        query = sa.select(scenes.c.dedup_key, scenes.c.seq, scenes.c.id)
        for key, seq, scene_id in connection.execute(
            query.where(scenes.c.dedup_key.in_([row["dedup_key"] for row in batch]))
        ):
            found[key] = (seq, scene_id)
    return found, len(fresh)


def encoder_row(connection: sa.Connection, name: str, dimension: int, label: str) -> int:
    """Return the number of the encoder, entering it on first use.

    Raises:
        StoreError: the store knows the encoder with another dimension.
    """
    known = connection.execute(sa.select(encoders.c.seq, encoders.c.dimension).where(encoders.c.name == name)).first()
    if known is None:
        connection.execute(sa.insert(encoders).values(name=name, dimension=dimension))
        return int(connection.execute(sa.select(encoders.c.seq).where(encoders.c.name == name)).scalar_one())
    if known.dimension != dimension:
        raise StoreError(
            f"{label}: encoder {name!r} is stored with {known.dimension} dimensions, the vectors handed in have "
            f"{dimension}. A changed encoder needs a name of its own"
        )
    return int(known.seq)


def insert_vectors(connection: sa.Connection, encoder_seq: int, scene_seqs: Sequence[int], rows: np.ndarray) -> int:
    """Insert unit vectors (n, d) for scenes that have none of this encoder yet; return how many were inserted."""
    if len(scene_seqs) != len(rows):
        raise InputError(f"{len(scene_seqs)} scenes but {len(rows)} vectors; each scene needs exactly one")
    wanted = dict(zip(reversed(scene_seqs), reversed(pack_vectors(rows)), strict=True))  # the first of equals wins
    seqs = list(dict.fromkeys(scene_seqs))
    for start in range(0, len(seqs), _BATCH):
        query = sa.select(vectors.c.scene_seq).where(
            vectors.c.encoder_seq == encoder_seq, vectors.c.scene_seq.in_(seqs[start : start + _BATCH])
        )
        for (seq,) in connection.execute(query):
            del wanted[seq]
    values = [{"scene_seq": seq, "encoder_seq": encoder_seq, "data": wanted[seq]} for seq in seqs if seq in wanted]
    if values:
        connection.execute(sa.insert(vectors), values)
    return len(values)


def delete_scenes(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> tuple[int, int]:
    """Delete the scenes that meet all conditions, with vectors and blob rows; return scenes and blobs removed.

    The blob files are noted in ``doomed`` in the same transaction; whoever commits deletes them.
    """
    chosen = sa.select(scenes.c.seq).where(*conditions)
    owned = blobs.c.scene_seq.in_(chosen)
    connection.execute(sa.insert(doomed).from_select(["path"], sa.select(blobs.c.path).where(owned)))
    num_blobs = connection.execute(sa.delete(blobs).where(owned)).rowcount
    connection.execute(sa.delete(vectors).where(vectors.c.scene_seq.in_(chosen)))
    num_scenes = connection.execute(sa.delete(scenes).where(*conditions)).rowcount
    if num_scenes:
        bump_removals(connection)
    return int(num_scenes), int(num_blobs)


def bump_removals(connection: sa.Connection) -> None:
    """Tell every loaded index that rows went away or changed."""
    connection.execute(sa.update(counters).where(counters.c.name == "removals").values(value=counters.c.value + 1))
