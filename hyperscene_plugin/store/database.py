"""A path or URL → a database with read and write transactions, whose errors are ours.

The two backends differ in this file only: how a store is made, how writers are serialised, how space is wiped.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from hyperscene_plugin.errors import MissingPackageError, StoreCorruptError, StoreError
from hyperscene_plugin.store.migrations import SCHEMA_VERSION, migrate, read_version

__all__ = ["Database"]

try:
    import psycopg
except ImportError:  # an optional package: without it there are only SQLite's errors to map
    _DRIVER_ERRORS: tuple[type[Exception], ...] = (sqlite3.Error,)
else:
    _DRIVER_ERRORS = (sqlite3.Error, psycopg.Error)

_HEADER = b"SQLite format 3\x00"
_RECOVER = (
    "The files were left as they are. Restore a backup or an export; or salvage what is readable with: "
    "sqlite3 {path} .recover | sqlite3 recovered.db"
)


class Database:
    """One open database. Use ``open``; ``label`` names it in messages (a password is never part of it)."""

    def __init__(self, engine: sa.Engine, label: str, *, busy_timeout: float, path: Path | None) -> None:
        self.engine = engine
        self.label = label
        self.path = path
        self._busy_timeout = busy_timeout

    @property
    def is_sqlite(self) -> bool:
        """True for a file, False for Postgres."""
        return self.engine.dialect.name == "sqlite"

    @classmethod
    def open(cls, location: str | Path, *, busy_timeout: float = 30.0, synchronous: str = "FULL") -> Database:
        """Open the database at a path or URL, making it if there is none, and migrate it if it is older.

        Raises:
            StoreError: no such place, no rights, not a scene store, or the server cannot be reached.
            StoreCorruptError: the file is damaged.
            StoreVersionError: a newer release wrote it.
            MissingPackageError: Postgres without psycopg.
        """
        url = _parse(location)
        if url.get_backend_name() == "postgresql":
            return cls._open_postgres(url, busy_timeout)
        if url.get_backend_name() != "sqlite":
            raise StoreError(
                f"{url.render_as_string(hide_password=True)}: a scene store lives in SQLite (a path) or Postgres "
                f"(postgresql+psycopg://…), not in {url.get_backend_name()}"
            )
        if not url.database or url.database == ":memory:":
            raise StoreError("a scene store needs a file: pass a path (for a throw-away one, in a temporary folder)")
        return cls._open_sqlite(Path(url.database), busy_timeout, synchronous)

    @classmethod
    def _open_sqlite(cls, path: Path, busy_timeout: float, synchronous: str) -> Database:
        path = path.expanduser().absolute()
        try:
            _check_file(path)
            if not path.exists():
                _create_file(path, busy_timeout)
        except OSError as error:
            raise StoreError(
                f"{path}: the store could not be made or read ({error.strerror or error}). "
                "Name a file in a folder that exists and that you may write to"
            ) from error
        if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            raise StoreError(f"{path}: no right to write to the file and its folder; a store needs both")
        database = cls(_sqlite_engine(path, busy_timeout, synchronous), str(path), busy_timeout=busy_timeout, path=path)
        database._upgrade()
        return database

    @classmethod
    def _open_postgres(cls, url: URL, busy_timeout: float) -> Database:
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        try:
            engine = sa.create_engine(url, pool_pre_ping=True)
        except ModuleNotFoundError as error:
            raise MissingPackageError("psycopg", "postgres", "a scene store in Postgres") from error
        except NoSuchModuleError as error:
            raise StoreError(f"{url.drivername}: unknown driver; use postgresql+psycopg://…") from error
        database = cls(engine, url.render_as_string(hide_password=True), busy_timeout=busy_timeout, path=None)
        database._upgrade()
        return database

    def _upgrade(self) -> None:
        try:
            with self.read() as connection:
                version = read_version(connection, self.label)
            if self.is_sqlite:
                self._write_ahead()
            if version < SCHEMA_VERSION:
                with self.write() as connection:
                    migrate(connection, self.label)
        except BaseException:
            self.engine.dispose()
            raise

    def _write_ahead(self) -> None:
        """Have SQLite keep a write-ahead log: readers go on while one writes. The file remembers the setting."""
        with self._mapped():
            raw = self.engine.raw_connection()
            try:
                self._insist(raw.driver_connection, "PRAGMA journal_mode = WAL")
            finally:
                raw.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction for reading."""
        with self._mapped(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction for writing: all of it is kept (on disk) when the block ends, or none. One at a time."""
        with self._mapped(), self.engine.connect() as connection:
            connection = connection.execution_options(hyperscene_write=True)
            with self._begin(connection):
                if not self.is_sqlite:
                    milliseconds = int(self._busy_timeout * 1000)
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")
                    connection.exec_driver_sql(
                        "SELECT pg_advisory_xact_lock(hashtext('hyperscene'), hashtext(current_schema()))"
                    )
                yield connection

    def _begin(self, connection: sa.Connection) -> sa.RootTransaction:
        """Begin; where SQLite says "busy" without having waited (a checkpoint), try again until time is up."""
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                return connection.begin()
            except DBAPIError as error:
                if not _is_busy(error.orig) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def wipe(self, *, vacuum: bool) -> None:
        """Make what was deleted vanish from the disk: with ``vacuum`` every page is rewritten.

        SQLite: deleted bytes were already overwritten (``secure_delete``); here the write-ahead log is emptied
        and, with ``vacuum``, the file is rewritten. Postgres: ``VACUUM FULL``; its own log and backups are its
        administrator's.
        """
        tables = ("scenes", "vectors", "blobs", "doomed", "state")
        statements = ["VACUUM"] if self.is_sqlite else [f"VACUUM FULL hyperscene_{name}" for name in tables]
        with self._mapped():
            raw = self.engine.raw_connection()
            try:
                driver: Any = raw.driver_connection
                if not self.is_sqlite:
                    driver.autocommit = True
                for statement in statements if vacuum else ():
                    self._insist(driver, statement)
                if self.is_sqlite:
                    self._checkpoint(driver)
            except _DRIVER_ERRORS as error:
                raise DBAPIError.instance("VACUUM", None, error, Exception) from error
            finally:
                if not self.is_sqlite:
                    driver.autocommit = False
                raw.close()

    def _insist(self, driver: Any, statement: str) -> None:
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                driver.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _checkpoint(self, driver: Any) -> None:
        deadline = time.monotonic() + self._busy_timeout
        while True:
            busy = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if not busy:
                return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{self.label}: the rows are deleted, but another process kept reading for "
                    f"{self._busy_timeout:g} s, so the write-ahead log still holds them. "
                    "Close it, then call forget or purge_expired again"
                )
            time.sleep(0.02)

    def integrity_problems(self) -> list[str]:
        """Return what SQLite's own full check finds; Postgres checks its pages as it reads them."""
        if not self.is_sqlite:
            return []
        with self.read() as connection:
            found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._map(error.orig) from error
        except _DRIVER_ERRORS as error:
            raise self._map(error) from error

    def _map(self, error: BaseException | None) -> StoreError:
        name = getattr(error, "sqlite_errorname", None) or ""
        state = getattr(error, "sqlstate", None) or ""
        found = str(error).strip().split("\n")[0]
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or state in ("XX001", "XX002"):
            return StoreCorruptError(f"{self.label} is damaged ({found}). {_RECOVER.format(path=self.label)}")
        if _is_busy(error) or state == "55P03":
            return StoreError(
                f"{self.label}: another process held the write lock for {self._busy_timeout:g} s ({found}). "
                "Nothing was written; try again, or open the store with a larger busy_timeout"
            )
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR")):
            return StoreError(
                f"{self.label}: {found}; nothing was written. It has to be in a folder "
                "that exists, that you may write to, and that has free space"
            )
        if not self.is_sqlite and not state:
            return StoreError(f"{self.label}: the server cannot be reached ({found}). Check that it runs and the URL")
        return StoreError(f"{self.label}: the database refused ({found}); nothing was written")


def _parse(location: str | Path) -> URL:
    if isinstance(location, Path) or "://" not in str(location):
        if not str(location).strip():
            raise StoreError("the store's path is empty; name a file or a URL")
        return URL.create("sqlite", database=str(location))
    try:
        return make_url(str(location))
    except ArgumentError as error:
        raise StoreError("the store's URL cannot be read; expected postgresql+psycopg://user@host/database") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise StoreError(f"{path} is a folder; a scene store is a file, for example {path / 'scenes.db'}")
    log = path.with_name(path.name + "-wal")
    if not path.exists():
        if log.exists() and log.stat().st_size:
            raise StoreCorruptError(
                f"{path} is missing but its write-ahead log {log.name} is there. Put the database back, or move "
                "the log away to start an empty store"
            )
        return
    with path.open("rb") as file:
        header = file.read(len(_HEADER))
    if not header:
        raise StoreCorruptError(f"{path} is empty (0 bytes), which a store never is. Restore it, or delete the file")
    if header != _HEADER:
        raise StoreCorruptError(
            f"{path} is not a SQLite file, or its first page is damaged (it begins with {header!r}). "
            + _RECOVER.format(path=path)
        )


def _create_file(path: Path, busy_timeout: float) -> None:
    """Build an empty store under another name, then link it: at no moment is there a half-made store at ``path``."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        engine = _sqlite_engine(draft, busy_timeout, "FULL")
        try:
            database = Database(engine, str(path), busy_timeout=busy_timeout, path=draft)
            database._write_ahead()
            with database.write() as connection:
                migrate(connection, str(path))
        finally:
            engine.dispose()
        with contextlib.suppress(FileExistsError):  # another process made the store meanwhile: it is as good
            os.link(draft, path)
        _sync_folder(path.parent)
    finally:
        for suffix in ("", "-wal", "-shm"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sqlite_engine(path: Path, busy_timeout: float, synchronous: str) -> sa.Engine:
    engine = sa.create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": busy_timeout})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, by name
        for pragma in (
            f"synchronous = {synchronous}",
            "secure_delete = ON",
            "foreign_keys = ON",
            "cache_size = -16384",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get("hyperscene_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _is_busy(error: object) -> bool:
    return (getattr(error, "sqlite_errorname", None) or "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
