"""Bytes ↔ files of a folder that fsspec can reach; a name is given once and never written again.

A file is written under ``tmp/``, brought to the disk (fsync, where it is a local one) and renamed; only then does a
row name it. So a row always names a whole file, and a crash leaves at most a file without a row, for ``sweep``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import fsspec

from hyperscene_plugin.errors import StoreCorruptError, StoreError
from hyperscene_plugin.store.rows import sha256

__all__ = ["BlobFolder"]

_STALE_SECONDS = 3600.0


class BlobFolder:
    """A folder of immutable files, made on first write. ``location`` is a path or any fsspec URL."""

    def __init__(self, location: str | Path) -> None:
        try:
            self._fs, root = fsspec.core.url_to_fs(str(location))
        except (ImportError, ValueError) as error:
            raise StoreError(f"blob folder {location}: fsspec cannot reach it ({error})") from error
        self.root = str(root).rstrip("/")
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))

    def stage(self, data: bytes) -> str:
        """Write the bytes under a temporary name and bring them to the disk; return that name."""
        name = f"tmp/{secrets.token_hex(16)}"
        with self._mapped(name):
            self._fs.makedirs(f"{self.root}/tmp", exist_ok=True)
            with self._fs.open(f"{self.root}/{name}", "wb") as file:
                file.write(data)
                file.flush()
                if self._local:
                    os.fsync(file.fileno())
        return name

    def publish(self, staged: str) -> str:
        """Rename a staged file to its final name, which is new and random; return it."""
        token = secrets.token_hex(16)
        name = f"{token[:2]}/{token}"
        with self._mapped(name):
            folder = f"{self.root}/{token[:2]}"
            self._fs.makedirs(folder, exist_ok=True)
            if self._local:
                Path(self.root, staged).rename(Path(self.root, name))
                for changed in (folder, self.root):
                    _sync_folder(changed)
            else:
                self._fs.mv(f"{self.root}/{staged}", f"{self.root}/{name}")
        return name

    def read(self, name: str, digest: str, what: str) -> bytes:
        """Return a file's bytes.

        Raises:
            StoreCorruptError: the file is missing, or its bytes do not have the hash ``digest``.
        """
        try:
            with self._mapped(name):
                data = bytes(self._fs.cat_file(f"{self.root}/{name}"))
        except FileNotFoundError:
            raise StoreCorruptError(
                f"{what}: its file {self.root}/{name} is missing. Restore the blob folder, or delete the blob"
            ) from None
        if sha256(data) != digest:
            raise StoreCorruptError(
                f"{what}: its file {self.root}/{name} has SHA-256 {sha256(data)}, stored was {digest}. "
                "Restore the file, or delete the blob"
            )
        return data

    def remove(self, name: str) -> bool:
        """Delete a file; return False where it is not there."""
        try:
            with self._mapped(name):
                self._fs.rm_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return False
        return True

    def sweep(self, known: Collection[str] | None, *, now: float | None = None) -> int:
        """Delete temporary files older than an hour and, given the ``known`` names, every other file; count them.

        With ``known`` the caller must keep writers out meanwhile.
        """
        removed = 0
        limit = (time.time() if now is None else now) - _STALE_SECONDS
        for name, modified in list(self._files("tmp" if known is None else "")):
            orphan = modified < limit if name.startswith("tmp/") else known is not None and name not in known
            if orphan and self.remove(name):
                removed += 1
        return removed

    def _files(self, under: str) -> Iterator[tuple[str, float]]:
        folder = f"{self.root}/{under}".rstrip("/")
        with self._mapped(under):
            if not self._fs.exists(folder):
                return
            found: dict[str, Any] = self._fs.find(folder, detail=True)
        root = self._fs._strip_protocol(self.root).rstrip("/") + "/"
        for path, info in found.items():
            modified = info.get("mtime", info.get("created", 0.0))
            yield path.removeprefix(root), float(modified if isinstance(modified, int | float) else 0.0)

    @contextlib.contextmanager
    def _mapped(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(
                f"blob folder {self.root}: {name} could not be written or read ({error.strerror or error}). "
                "Check the rights and the free space"
            ) from error


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
