"""Scopes and filters → SQL conditions; the same for every query of the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.store.base import SceneFilter
from hyperscene_plugin.store.rows import timestamp
from hyperscene_plugin.store.schema import scenes
from hyperscene_plugin.types import Scalar, SceneKind

__all__ = ["alive", "filter_conditions", "filter_times", "in_scope"]


def in_scope(scope: Mapping[str, str], *, by_index: bool = True) -> sa.ColumnElement[bool]:
    """Rows whose scope has every field that is set in ``scope``; at least one is set (``Scope`` sees to it).

    ``by_index=False`` keeps the planner from walking all rows of a scope where row numbers are given as well.
    """
    fields = ((scenes.c[name], value) for name, value in scope.items() if value)
    return sa.and_(*((column if by_index else sa.func.coalesce(column, "")) == value for column, value in fields))


def alive(now: float) -> sa.ColumnElement[bool]:
    """Rows that have not expired."""
    return sa.or_(scenes.c.expires_at.is_(None), scenes.c.expires_at > now)


def filter_times(where: SceneFilter) -> tuple[float | None, float | None]:
    """Return ``since`` and ``until`` in seconds.

    Raises:
        InputError: a time is not ISO 8601.
    """
    return _seconds(where.since, "since"), _seconds(where.until, "until")


def filter_conditions(where: SceneFilter, dialect: str, *, times: bool = True) -> list[sa.ColumnElement[bool]]:
    """Return the SQL conditions of a filter; raises ``InputError`` for a value that no scene could have."""
    conditions: list[sa.ColumnElement[bool]] = []
    if where.source_id is not None:
        wanted = (where.source_id,) if isinstance(where.source_id, str) else tuple(where.source_id)
        conditions.append(scenes.c.source_id.in_(wanted))
    if where.kind is not None:
        try:
            kind = SceneKind(where.kind)
        except ValueError:
            known = ", ".join(SceneKind)
            raise InputError(f"unknown kind {where.kind!r}; a scene's kind is one of: {known}") from None
        conditions.append(scenes.c.kind == str(kind))
    for column, wanted_text in ((scenes.c.speaker, where.speaker), (scenes.c.role, where.role)):
        if wanted_text is not None:
            conditions.append(column == wanted_text)
    since, until = filter_times(where)
    if times and since is not None:
        conditions.append(scenes.c.created_ts >= since)
    if times and until is not None:
        conditions.append(scenes.c.created_ts < until)
    for key, value in where.metadata.items():
        options = value if isinstance(value, tuple) else (value,)
        match = _metadata_sqlite if dialect == "sqlite" else _metadata_postgres
        conditions.append(sa.or_(sa.false(), *(match(key, option) for option in options)))
    return conditions


def _seconds(value: datetime | str | None, name: str) -> float | None:
    seconds = timestamp(value)
    if value is not None and seconds is None:
        raise InputError(f"{name}={value!r} is not a time; expected ISO 8601, for example 2024-05-08T12:00:00+00:00")
    return seconds


def _metadata_sqlite(key: str, value: Scalar) -> sa.ColumnElement[bool]:
    entries = sa.func.json_each(scenes.c.metadata).table_valued("key", "value", "type", name="entry")
    kinds = {bool: "true" if value else "false", type(None): "null", str: "text"}
    conditions = [entries.c.key == key]
    if type(value) in kinds:
        conditions.append(entries.c.type == kinds[type(value)])
    else:
        conditions.append(entries.c.type.in_(("integer", "real")))
    if not isinstance(value, bool) and value is not None:
        conditions.append(entries.c.value == sa.literal(value))
    return sa.select(sa.literal(1)).select_from(entries).where(*conditions).exists()


def _metadata_postgres(key: str, value: Scalar) -> sa.ColumnElement[bool]:
    wanted = json.dumps({key: value}, ensure_ascii=False)
    return sa.text("CAST(hyperscene_scenes.metadata AS jsonb) @> CAST(:m AS jsonb)").bindparams(  # type: ignore[return-value]
        sa.bindparam("m", wanted, unique=True)
    )
