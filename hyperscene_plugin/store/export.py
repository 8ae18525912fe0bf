"""A scope's scenes, vectors and blobs ↔ one zip file: a manifest of hashes, JSON lines, and the blobs' bytes.

manifest.json    format, version, encoders (name → dimension), number of scenes, SHA-256 of every other member
scenes.jsonl     one scene a line, with its scope, vectors (base64 of float16) and the names of its blobs
blobs/<sha256>   the bytes of a blob
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from hyperscene_plugin.errors import InputError, ScopeError, StoreCorruptError, StoreError, StoreVersionError
from hyperscene_plugin.store import writes
from hyperscene_plugin.store.attachments import Attachments, insert_blob
from hyperscene_plugin.store.base import BlobInfo, ImportReport
from hyperscene_plugin.store.database import Database
from hyperscene_plugin.store.query import alive, in_scope
from hyperscene_plugin.store.rows import ID_PATTERN, check_scene, new_id, scene_from_row, scene_to_row, scope_columns
from hyperscene_plugin.store.schema import blobs, encoders, scenes, vectors
from hyperscene_plugin.store.vectors import unit_rows, unpack_vectors
from hyperscene_plugin.types import Scene, SceneKind, Scope

__all__ = ["export_scope", "import_scope"]

_FORMAT, _VERSION = "hyperscene-export", 1
_BATCH = 500
_SCENE_FIELDS = ("text", "source_id", "start", "end", "index", "speaker", "role", "created_at", "title")


def export_scope(database: Database, attachments: Attachments, path: Path, scope: Scope, now: float) -> int:
    """Write what ``scope`` sees to ``path``, which appears only when it is complete; return the number of scenes."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        try:
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive, database.read() as connection:
                number = _write_archive(connection, attachments, archive, scope_columns(scope), now, database.label)
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path}: the export could not be written ({error.strerror or error}). "
            "Name a file in a folder that exists and that you may write to"
        ) from error
    return number


def _write_archive(
    connection: sa.Connection,
    attachments: Attachments,
    archive: zipfile.ZipFile,
    columns: Mapping[str, str],
    now: float,
    label: str,
) -> int:
    names = {row.seq: (row.name, row.dimension) for row in connection.execute(sa.select(encoders))}
    used: dict[str, int] = {}
    wanted: dict[str, tuple[str, str]] = {}
    digest, number, cursor = hashlib.sha256(), 0, 0
    with archive.open("scenes.jsonl", "w", force_zip64=True) as member:
        while True:
            query = sa.select(scenes).where(scenes.c.seq > cursor, in_scope(columns), alive(now))
            rows = connection.execute(query.order_by(scenes.c.seq).limit(_BATCH)).mappings().all()
            if not rows:
                break
            cursor = rows[-1]["seq"]
            seqs = [row["seq"] for row in rows]
            held: dict[int, dict[str, str]] = {seq: {} for seq in seqs}
            for row in connection.execute(sa.select(vectors).where(vectors.c.scene_seq.in_(seqs))):
                name, dimension = names[row.encoder_seq]
                used[name] = dimension
                held[row.scene_seq][name] = base64.b64encode(row.data).decode()
            files: dict[int, list[dict[str, object]]] = {seq: [] for seq in seqs}
            for row in connection.execute(sa.select(blobs).where(blobs.c.scene_seq.in_(seqs)).order_by(blobs.c.name)):
                files[row.scene_seq].append({"name": row.name, "size": row.size, "sha256": row.sha256})
                wanted[row.sha256] = (row.path, row.name)
            for scene_row in rows:
                record = _record(scene_row, held[scene_row["seq"]], files[scene_row["seq"]], label)
                line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
                digest.update(line)
                member.write(line)
                number += 1
    members = {"scenes.jsonl": digest.hexdigest()}
    for blob_hash, (blob_path, name) in wanted.items():
        archive.writestr(f"blobs/{blob_hash}", attachments.folder.read(blob_path, blob_hash, f"blob {name!r}"))
        members[f"blobs/{blob_hash}"] = blob_hash
    manifest = {"format": _FORMAT, "version": _VERSION, "encoders": used, "scenes": number, "members": members}
    archive.writestr("manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False))
    return number


def _record(
    row: sa.RowMapping, held: Mapping[str, str], files: list[dict[str, object]], label: str
) -> dict[str, object]:
    scene = scene_from_row(row, label)
    return {
        "id": scene.id,
        **{name: getattr(scene, name) for name in _SCENE_FIELDS},
        "kind": str(scene.kind),
        "message_ids": list(scene.message_ids),
        "metadata": dict(scene.metadata),
        "scope": [row["user_id"], row["agent_id"], row["session_id"]],
        "added_at": row["added_at"],
        "expires_at": row["expires_at"],
        "vectors": held,
        "blobs": files,
    }


def import_scope(
    database: Database, attachments: Attachments, path: Path, scope: Scope, now: float, *, rescope: bool
) -> ImportReport:
    """Add what the file holds, in one transaction, once every hash was checked; see ``SceneStore.import_file``."""
    columns = scope_columns(scope)
    files: dict[str, str] = {}
    added = existing = num_blobs = 0
    renamed: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _checked_manifest(archive, path)
            _stage_blobs(archive, attachments, files)
            with database.write() as connection:
                known = {
                    name: (writes.encoder_row(connection, name, dimension, database.label), dimension)
                    for name, dimension in manifest["encoders"].items()
                }
                for batch in _batches(archive, path, now):
                    rows = [_row(record, columns, now, path, rescope=rescope) for record in batch]
                    _free_ids(connection, rows)
                    placed, fresh = writes.insert_scenes(connection, rows, now)
                    added += fresh
                    existing += len(rows) - fresh
                    for record, row in zip(batch, rows, strict=True):
                        seq, scene_id = placed[row["dedup_key"]]
                        if scene_id != record["id"]:
                            renamed[record["id"]] = scene_id
                        num_blobs += _place_blobs(connection, attachments, seq, record, files)
                    _place_vectors(connection, batch, [placed[row["dedup_key"]][0] for row in rows], known)
    except BaseException as error:
        attachments.discard(list(files.values()))
        if isinstance(error, zipfile.BadZipFile | binascii.Error | KeyError | TypeError | UnicodeDecodeError):
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
        if isinstance(error, OSError) and not isinstance(error, ScopeError):
            raise StoreError(f"{path}: the export could not be read ({error.strerror or error})") from error
        raise
    attachments.discard([name for name in files.values() if name.startswith("tmp/")])
    attachments.delete_doomed()
    return ImportReport(added, existing, num_blobs, renamed)


def _damaged(path: Path, found: str) -> StoreCorruptError:
    return StoreCorruptError(
        f"{path} is not a whole export of a scene store ({found}). Nothing was imported; export anew"
    )


def _checked_manifest(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    """Return the manifest; every member of the file is in it and has the hash it says."""
    try:
        manifest = json.loads(archive.read("manifest.json"))
    except ValueError as error:
        raise _damaged(path, f"manifest.json: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise _damaged(path, "its manifest does not say hyperscene-export")
    if manifest.get("version") != _VERSION:
        raise StoreVersionError(
            f"{path} has export version {manifest.get('version')!r}; this release reads {_VERSION}. Upgrade "
            "hyperscene-plugin; nothing was imported"
        )
    expected: dict[str, str] = manifest["members"]
    found = set(archive.namelist()) - {"manifest.json"}
    if found != set(expected):
        raise _damaged(path, f"members {sorted(found ^ set(expected))[:3]} are missing or not in the manifest")
    for name, wanted in expected.items():
        digest = hashlib.sha256()
        with archive.open(name) as member:
            while chunk := member.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest() != wanted:
            raise _damaged(path, f"{name} has SHA-256 {digest.hexdigest()[:16]}…, the manifest says {wanted[:16]}…")
    return manifest


def _stage_blobs(archive: zipfile.ZipFile, attachments: Attachments, files: dict[str, str]) -> None:
    for name in archive.namelist():
        if name.startswith("blobs/"):
            files[name.removeprefix("blobs/")] = attachments.folder.stage(archive.read(name))


def _batches(archive: zipfile.ZipFile, path: Path, now: float) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    with archive.open("scenes.jsonl") as member:
        for number, line in enumerate(member, start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise _damaged(path, f"scenes.jsonl line {number}: {error}") from error
            if record["expires_at"] is None or record["expires_at"] > now:
                batch.append(record)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _row(
    record: dict[str, Any], columns: Mapping[str, str], now: float, path: Path, *, rescope: bool
) -> dict[str, Any]:
    own = dict(zip(columns, record["scope"], strict=True))
    if rescope:
        own = dict(columns)
    elif any(value and own[name] != value for name, value in columns.items()):
        raise ScopeError(
            f"{path}: scene {record['id']} is of another scope than the one imported into; nothing was imported. "
            "Name the scope it was exported from, or pass rescope=True to take the scenes over"
        )
    try:
        scene = Scene(
            **{name: record[name] for name in _SCENE_FIELDS},
            kind=SceneKind(record["kind"]),
            message_ids=tuple(record["message_ids"]),
            metadata=record["metadata"],
        )
    except ValueError as error:
        raise _damaged(path, f"scene {record['id']}: {error}") from error
    check_scene(scene)
    expires = record["expires_at"]
    row = scene_to_row(scene, own, now=now, expires_at=None if expires is None else float(expires))
    row["added_at"] = float(record["added_at"])
    if not ID_PATTERN.match(record["id"]):
        raise InputError(f"{path}: {record['id']!r} is not a scene id; nothing was imported")
    row["id"] = record["id"]
    return row


def _free_ids(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    """Give rows whose id is taken a new one."""
    taken = set(connection.execute(sa.select(scenes.c.id).where(scenes.c.id.in_([r["id"] for r in rows]))).scalars())
    for row in rows:
        if row["id"] in taken:
            row["id"] = new_id()
        taken.add(row["id"])


def _place_vectors(
    connection: sa.Connection, batch: list[dict[str, Any]], seqs: list[int], known: Mapping[str, tuple[int, int]]
) -> None:
    for name, (encoder, dimension) in known.items():
        chosen = [i for i, record in enumerate(batch) if name in record["vectors"]]
        if chosen:
            packed = [base64.b64decode(batch[i]["vectors"][name], validate=True) for i in chosen]
            rows = unit_rows(unpack_vectors(packed, dimension).astype(np.float32), f"vectors of {name}")
            writes.insert_vectors(connection, encoder, [seqs[i] for i in chosen], rows)


def _place_blobs(
    connection: sa.Connection, attachments: Attachments, seq: int, record: dict[str, Any], files: dict[str, str]
) -> int:
    """Enter the record's blobs that the scene does not have yet; a file shared by several is copied."""
    held = {
        row[0]: row[1]
        for row in connection.execute(sa.select(blobs.c.name, blobs.c.sha256).where(blobs.c.scene_seq == seq))
    }
    placed = 0
    for entry in record["blobs"]:
        info = BlobInfo(entry["name"], entry["size"], entry["sha256"])
        if held.get(info.name) == info.sha256:
            continue
        staged = files[info.sha256]
        if not staged.startswith("tmp/"):
            data = attachments.folder.read(staged, info.sha256, f"blob {info.name!r}")
            staged = attachments.folder.stage(data)
            files[f"{info.sha256} {seq} {info.name}"] = published = attachments.folder.publish(staged)
        else:
            files[info.sha256] = published = attachments.folder.publish(staged)
        insert_blob(connection, seq, info, published)
        placed += 1
    return placed
