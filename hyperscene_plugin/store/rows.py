"""Scenes ↔ table rows: checks, hashes, ids, times."""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping

from hyperscene_plugin.errors import InputError, StoreCorruptError
from hyperscene_plugin.store.fulltext import pack_terms
from hyperscene_plugin.types import Scene, SceneKind, Scope

__all__ = [
    "ID_PATTERN",
    "check_scene",
    "check_text",
    "dedup_key",
    "new_id",
    "scene_from_row",
    "scene_to_row",
    "scope_columns",
    "sha256",
    "timestamp",
]

ID_PATTERN = re.compile(r"hs_[0-9a-f]{32}\Z")


def new_id() -> str:
    """Return a scene id: ``hs_`` and 128 random bits in hexadecimal."""
    return f"hs_{secrets.token_hex(16)}"


def scope_columns(scope: Scope) -> dict[str, str]:
    """Return the scope as column values; unset is the empty string."""
    if not isinstance(scope, Scope):
        raise InputError(f"scope must be a Scope, got {type(scope).__name__}; write Scope(user_id=…)")
    values = {
        "user_id": scope.user_id or "",
        "agent_id": scope.agent_id or "",
        "session_id": scope.session_id or "",
    }
    for name, value in values.items():
        check_text(value, f"the scope's {name}")
    return values


def timestamp(value: str | datetime | None) -> float | None:
    """Return seconds since 1970 of an ISO 8601 time (UTC where no zone is given); ``None`` if it is not one."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if value is None:
        return None
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    try:
        return value.timestamp()
    except (OverflowError, ValueError):
        return None


def sha256(data: str | bytes) -> str:
    """Return the SHA-256 of bytes, or of a text's UTF-8, in hexadecimal."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def dedup_key(scene: Scene, scope: Mapping[str, str]) -> str:
    """Return the hash of what makes two added scenes the same one: scope, source, messages, span and text."""
    parts = [
        scope["user_id"],
        scope["agent_id"],
        scope["session_id"],
        scene.source_id,
        list(scene.message_ids),
        scene.start,
        scene.end,
        sha256(scene.text),
    ]
    return sha256(json.dumps(parts, ensure_ascii=True))


def check_scene(scene: Scene) -> None:
    """Raise ``InputError`` naming the scene and the field that no backend could keep as it is."""
    if not isinstance(scene, Scene):
        raise InputError(f"expected a Scene, got {type(scene).__name__}")
    where = f"scene {str(scene.key)[:80]!r}"
    if not isinstance(scene.text, str) or not scene.text:
        raise InputError(f"{where}: the text is empty; a scene needs text")
    for name in ("text", "source_id", "speaker", "role", "created_at", "title"):
        value = getattr(scene, name)
        if value is not None:
            check_text(value, f"{where}: {name}")
    for message_id in scene.message_ids:
        check_text(message_id, f"{where}: message id")
    for key, value in scene.metadata.items():
        check_text(key, f"{where}: metadata key")
        if isinstance(value, str):
            check_text(value, f"{where}: metadata[{key!r}]")
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where}: metadata[{key!r}] is {value}; only finite numbers can be stored")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InputError(f"{where}: metadata[{key!r}] is {value}; whole numbers must fit in 64 bits")
        elif value is not None and not isinstance(value, bool | int | float):
            raise InputError(
                f"{where}: metadata[{key!r}] is a {type(value).__name__}; expected a string, number, boolean or None"
            )


def check_text(value: object, what: str) -> None:
    """Raise ``InputError`` for what is not a string that every backend can keep."""
    if not isinstance(value, str):
        raise InputError(f"{what} is a {type(value).__name__}; expected a string")
    if "\x00" in value:
        raise InputError(f"{what} holds a NUL character; the input is binary, or remove it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} holds a lone surrogate at character {error.start}; decode the input anew") from None


def scene_to_row(scene: Scene, scope: Mapping[str, str], *, now: float, expires_at: float | None) -> dict[str, Any]:
    """Return the values of all columns but ``seq``; the id is a new one."""
    return {
        "id": new_id(),
        "dedup_key": dedup_key(scene, scope),
        **scope,
        "source_id": scene.source_id,
        "span_start": scene.start,
        "span_end": scene.end,
        "scene_index": scene.index,
        "kind": str(scene.kind),
        "message_ids": json.dumps(list(scene.message_ids), ensure_ascii=False),
        "speaker": scene.speaker,
        "role": scene.role,
        "created_at": scene.created_at,
        "created_ts": timestamp(scene.created_at),
        "title": scene.title,
        "metadata": json.dumps(dict(scene.metadata), ensure_ascii=False),
        "text": scene.text,
        "text_sha256": sha256(scene.text),
        "terms": pack_terms(scene.text),
        "added_at": now,
        "expires_at": expires_at,
    }


def scene_from_row(row: Mapping[str, Any] | RowMapping, label: str) -> Scene:
    """Return the scene of a row.

    Raises:
        StoreCorruptError: the text does not have the hash it was stored with.
    """
    if sha256(row["text"]) != row["text_sha256"]:
        raise StoreCorruptError(
            f"{label}: the text of scene {row['id']} does not have the hash it was stored with. "
            "Restore the store from a backup, or forget this scene and add its source again"
        )
    return Scene(
        text=row["text"],
        source_id=row["source_id"],
        start=row["span_start"],
        end=row["span_end"],
        index=row["scene_index"],
        kind=SceneKind(row["kind"]),
        message_ids=tuple(json.loads(row["message_ids"])),
        speaker=row["speaker"],
        role=row["role"],
        created_at=row["created_at"],
        title=row["title"],
        metadata=json.loads(row["metadata"]),
        id=row["id"],
    )
