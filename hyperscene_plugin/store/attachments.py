"""Named blobs of scenes (tensors, to whoever stored them): rows in the database, bytes in a ``BlobFolder``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa

from hyperscene_plugin.errors import InputError, SceneNotFoundError, StoreError
from hyperscene_plugin.store.base import BlobInfo
from hyperscene_plugin.store.blobs import BlobFolder
from hyperscene_plugin.store.database import Database
from hyperscene_plugin.store.query import alive, in_scope
from hyperscene_plugin.store.rows import check_text, scope_columns, sha256
from hyperscene_plugin.store.schema import blobs, doomed, scenes
from hyperscene_plugin.types import Scope

__all__ = ["Attachments"]

_MAX_NAME = 200


class Attachments:
    """The blobs of one store; ``folder`` is ``None`` where none was named, and then using a blob raises."""

    def __init__(self, database: Database, folder: BlobFolder | None, clock: Callable[[], float]) -> None:
        self._db = database
        self._folder = folder
        self._clock = clock

    @property
    def folder(self) -> BlobFolder:
        """The folder of the files; raises ``StoreError`` where there is none."""
        if self._folder is None:
            raise StoreError(
                f"{self._db.label}: no folder for blobs was named; open the store with blobs='…' (a path or fsspec URL)"
            )
        return self._folder

    def put(self, scene_id: str, scope: Scope, name: str, data: bytes) -> BlobInfo:
        """Store bytes, replacing what was under the name; on the disk when this returns."""
        _check_name(name)
        if not isinstance(data, bytes | bytearray | memoryview):
            raise InputError(f"blob {name!r}: expected bytes, got {type(data).__name__}")
        data = bytes(data)
        columns = scope_columns(scope)
        with self._db.read() as connection:
            self._scene(connection, scene_id, columns)
        staged: str | None = self.folder.stage(data)
        published: str | None = None
        info = BlobInfo(name, len(data), sha256(data))
        try:
            with self._db.write() as connection:
                seq = self._scene(connection, scene_id, columns)
                published, staged = self.folder.publish(str(staged)), None
                insert_blob(connection, seq, info, published)
        except BaseException:
            self.discard([path for path in (staged, published) if path is not None])
            raise
        self.delete_doomed()
        return info

    def get(self, scene_id: str, scope: Scope, name: str) -> bytes:
        """Return the bytes under a name, checked against their hash."""
        what = f"blob {name!r} of scene {scene_id}"
        last = ""
        while True:
            row = self._row(scene_id, scope, name)
            if row is None:
                raise SceneNotFoundError(f"{self._db.label}: scene {scene_id} has no blob {name!r}")
            path, digest = row
            try:
                return self.folder.read(path, digest, what)
            except StoreError:
                if path == last:  # the row has not moved on: the file really is missing or damaged
                    raise
                last = path

    def delete(self, scene_id: str, scope: Scope, name: str) -> bool:
        """Remove a blob; return whether it was there."""
        columns = scope_columns(scope)
        with self._db.write() as connection:
            found = (blobs.c.scene_seq == self._scene(connection, scene_id, columns), blobs.c.name == name)
            connection.execute(sa.insert(doomed).from_select(["path"], sa.select(blobs.c.path).where(*found)))
            removed = connection.execute(sa.delete(blobs).where(*found)).rowcount
        self.delete_doomed()
        return removed > 0

    def names(self, scene_id: str, scope: Scope) -> Sequence[BlobInfo]:
        """Return the blobs of a scene, by name."""
        columns = scope_columns(scope)
        with self._db.read() as connection:
            seq = self._scene(connection, scene_id, columns)
            query = sa.select(blobs.c.name, blobs.c.size, blobs.c.sha256).where(blobs.c.scene_seq == seq)
            return [BlobInfo(*row) for row in connection.execute(query.order_by(blobs.c.name))]

    def delete_doomed(self) -> None:
        """Delete the files whose rows are gone (after a commit, and on open for a process that died in between)."""
        with self._db.read() as connection:
            paths = list(connection.execute(sa.select(doomed.c.path)).scalars())
        if not paths or self._folder is None:
            return
        for path in paths:
            self._folder.remove(path)
        with self._db.write() as connection:
            for start in range(0, len(paths), 500):
                connection.execute(sa.delete(doomed).where(doomed.c.path.in_(paths[start : start + 500])))

    def sweep(self) -> int:
        """Delete every file that no row names, while writers wait; return how many."""
        if self._folder is None:
            return 0
        self.delete_doomed()
        with self._db.write() as connection:
            return self._folder.sweep(set(connection.execute(sa.select(blobs.c.path)).scalars()))

    def discard(self, paths: Sequence[str]) -> None:
        """Delete files of a call that failed; what cannot be deleted now is left for ``sweep``."""
        for path in paths:
            with contextlib.suppress(StoreError):
                self.folder.remove(path)

    def _scene(self, connection: sa.Connection, scene_id: str, columns: Mapping[str, str]) -> int:
        query = sa.select(scenes.c.seq).where(scenes.c.id == scene_id, in_scope(columns), alive(self._clock()))
        seq = connection.execute(query).scalar()
        if seq is None:
            raise SceneNotFoundError(f"{self._db.label}: no scene {scene_id!r} in this scope")
        return int(seq)

    def _row(self, scene_id: str, scope: Scope, name: str) -> tuple[str, str] | None:
        columns = scope_columns(scope)
        with self._db.read() as connection:
            seq = self._scene(connection, scene_id, columns)
            query = sa.select(blobs.c.path, blobs.c.sha256).where(blobs.c.scene_seq == seq, blobs.c.name == name)
            row = connection.execute(query).first()
        return None if row is None else (row.path, row.sha256)


def insert_blob(connection: sa.Connection, scene_seq: int, info: BlobInfo, path: str) -> None:
    """Enter a published file under a scene; a file that was under the name is doomed."""
    same = (blobs.c.scene_seq == scene_seq, blobs.c.name == info.name)
    connection.execute(sa.insert(doomed).from_select(["path"], sa.select(blobs.c.path).where(*same)))
    connection.execute(sa.delete(blobs).where(*same))
    row = {"scene_seq": scene_seq, "name": info.name, "path": path, "size": info.size, "sha256": info.sha256}
    connection.execute(sa.insert(blobs).values(row))


def _check_name(name: str) -> None:
    check_text(name, "a blob's name")
    if not 0 < len(name) <= _MAX_NAME:
        raise InputError(f"a blob's name needs 1 to {_MAX_NAME} characters, got {len(name)}")
