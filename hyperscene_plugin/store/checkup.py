"""A store → what is wrong with it: every page, every hash, every file; orphan files are swept on the way."""

from __future__ import annotations

import sqlalchemy as sa

from hyperscene_plugin.errors import StoreError
from hyperscene_plugin.store.attachments import Attachments
from hyperscene_plugin.store.base import DoctorReport
from hyperscene_plugin.store.database import Database
from hyperscene_plugin.store.migrations import read_version
from hyperscene_plugin.store.rows import scene_from_row
from hyperscene_plugin.store.schema import blobs, encoders, scenes, vectors

__all__ = ["examine"]

_BATCH = 500


def examine(database: Database, attachments: Attachments) -> DoctorReport:
    """Check everything; see ``SceneStore.doctor``."""
    problems: list[str] = []
    version = num_scenes = num_blobs = swept = 0
    try:
        problems += database.integrity_problems()
        with database.read() as connection:
            version = read_version(connection, database.label)
        num_scenes = _check_scenes(database, problems)
        _check_vectors(database, problems)
        swept = attachments.sweep()
        num_blobs = _check_blobs(database, attachments, problems)
    except StoreError as error:  # too damaged to read on: that is the finding
        problems.append(str(error))
    return DoctorReport(version, num_scenes, num_blobs, swept, tuple(problems))


def _check_scenes(database: Database, problems: list[str]) -> int:
    number, cursor = 0, 0
    while True:
        with database.read() as connection:
            query = sa.select(scenes).where(scenes.c.seq > cursor).order_by(scenes.c.seq).limit(_BATCH)
            rows = connection.execute(query).mappings().all()
        if not rows:
            return number
        for row in rows:
            try:
                scene_from_row(row, database.label)
            except (StoreError, ValueError, TypeError) as error:
                problems.append(f"scene {row['id']}: {error}")
        number += len(rows)
        cursor = rows[-1]["seq"]


def _check_vectors(database: Database, problems: list[str]) -> None:
    wrong = sa.func.length(vectors.c.data) != 2 * encoders.c.dimension
    query = sa.select(vectors.c.scene_seq, encoders.c.name).join_from(
        vectors, encoders, vectors.c.encoder_seq == encoders.c.seq
    )
    lost = sa.select(vectors.c.seq).where(vectors.c.scene_seq.not_in(sa.select(scenes.c.seq)))
    with database.read() as connection:
        for seq, name in connection.execute(query.where(wrong)):
            problems.append(f"the vector of row {seq} by encoder {name!r} does not have the encoder's dimension")
        num_lost = len(connection.execute(lost).all())
    if num_lost:
        problems.append(f"{num_lost} vectors belong to no scene")


def _check_blobs(database: Database, attachments: Attachments, problems: list[str]) -> int:
    query = sa.select(scenes.c.id, blobs.c.name, blobs.c.path, blobs.c.sha256).join_from(
        blobs, scenes, scenes.c.seq == blobs.c.scene_seq
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    for scene_id, name, path, digest in rows:
        try:
            attachments.folder.read(path, digest, f"blob {name!r} of scene {scene_id}")
        except StoreError as error:
            problems.append(str(error))
    return len(rows)
