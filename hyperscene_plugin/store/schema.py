"""The current tables (schema version 2) as SQLAlchemy objects; ``migrations`` builds them, queries use them.

A scope field that is not set is stored as the empty string, so that equality and uniqueness need no NULL rules.
``seq`` counts upwards and is never used again; writers are serialised, so a larger ``seq`` was committed later.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Integer, LargeBinary, MetaData, Table, Text

__all__ = ["blobs", "counters", "doomed", "encoders", "meta", "metadata", "scenes", "state", "vectors"]

metadata = MetaData()

meta = Table("hyperscene_meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

counters = Table(
    "hyperscene_counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""``removals`` grows with every removal or change of rows, so that loaded indexes notice."""

scenes = Table(
    "hyperscene_scenes",
    metadata,
    Column("seq", BigInteger, primary_key=True),
    Column("id", Text, nullable=False),
    Column("dedup_key", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("source_id", Text, nullable=False),
    Column("span_start", BigInteger, nullable=False),
    Column("span_end", BigInteger, nullable=False),
    Column("scene_index", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("message_ids", Text, nullable=False),
    Column("speaker", Text),
    Column("role", Text),
    Column("created_at", Text),
    Column("created_ts", Double),
    Column("title", Text),
    Column("metadata", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("text_sha256", Text, nullable=False),
    Column("terms", LargeBinary, nullable=False),
    Column("added_at", Double, nullable=False),
    Column("expires_at", Double),
)

encoders = Table(
    "hyperscene_encoders",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("dimension", Integer, nullable=False),
)

vectors = Table(
    "hyperscene_vectors",
    metadata,
    Column("seq", BigInteger, primary_key=True),
    Column("scene_seq", BigInteger, nullable=False),
    Column("encoder_seq", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

blobs = Table(
    "hyperscene_blobs",
    metadata,
    Column("scene_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
)

doomed = Table("hyperscene_doomed", metadata, Column("path", Text, primary_key=True))
"""Blob files whose rows are gone and which have still to be deleted; worked off after the commit and on open."""

state = Table(
    "hyperscene_state",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("agent_id", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("updated_at", Double, nullable=False),
)
