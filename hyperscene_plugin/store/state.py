"""Small JSON values under a key, one set for each exact scope (what a session has to remember about itself)."""

from __future__ import annotations

import json
from collections.abc import Callable

import sqlalchemy as sa

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.store.database import Database
from hyperscene_plugin.store.rows import check_text, scope_columns
from hyperscene_plugin.store.schema import state
from hyperscene_plugin.types import Scope

__all__ = ["StateTable", "state_in_scope"]


class StateTable:
    """The key/value table of one store."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._db = database
        self._clock = clock

    def get(self, scope: Scope, key: str) -> object:
        """Return the value, ``None`` where there is none."""
        query = sa.select(state.c.value).where(*_exactly(scope, key))
        with self._db.read() as connection:
            value = connection.execute(query).scalar()
        return None if value is None else json.loads(value)

    def set(self, scope: Scope, key: str, value: object) -> None:
        """Keep a value.

        Raises:
            InputError: the value is not JSON.
        """
        try:
            packed = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"state {key!r}: the value is not JSON ({error})") from error
        row = {**scope_columns(scope), "key": key, "value": packed, "updated_at": self._clock()}
        where = _exactly(scope, key)
        with self._db.write() as connection:
            connection.execute(sa.delete(state).where(*where))
            connection.execute(sa.insert(state).values(row))

    def delete(self, scope: Scope, key: str) -> bool:
        """Remove a key; return whether it was there."""
        where = _exactly(scope, key)
        with self._db.write() as connection:
            return connection.execute(sa.delete(state).where(*where)).rowcount > 0


def state_in_scope(scope: Scope) -> sa.ColumnElement[bool]:
    """Rows of every scope that ``scope`` sees."""
    return sa.and_(*(state.c[name] == value for name, value in scope_columns(scope).items() if value))


def _exactly(scope: Scope, key: str) -> tuple[sa.ColumnElement[bool], ...]:
    check_text(key, "a state key")
    if not key:
        raise InputError("a state key must not be empty")
    return (state.c.key == key, *(state.c[name] == value for name, value in scope_columns(scope).items()))
