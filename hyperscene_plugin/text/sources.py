"""Whatever a caller hands in as a ``Source`` → flat ``Passage`` records: one text each, with its provenance.

Accepted: a string; a ``Message`` or ``Document``; a mapping with ``content`` (a message) or ``text`` /
``page_content`` (a document); any object that looks like one of a framework's messages (``.content`` with ``.role``
or ``.type``) or nodes (``.page_content``, ``.get_content()`` or ``.text``, with ``.metadata``); or a sequence of these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any

import regex

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.types import Document, Message, Metadata, Scalar, Source

__all__ = ["Passage", "check_text", "iter_passages"]

_SURROGATE = regex.compile("[\ud800-\udfff]")
_TIME_KEYS = ("created_at", "timestamp", "date", "time")
_TEXT_KEYS = ("text", "page_content", "content")
_ID_KEYS = ("id", "id_", "node_id", "doc_id", "message_id", "uuid")
_MESSAGE_KEYS = {"role", "type", "content", "name", "speaker", *_ID_KEYS, *_TIME_KEYS, "metadata"}
_ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant", "HumanMessageChunk": "user"}


@dataclass(frozen=True, slots=True)
class Passage:
    """One text that scenes are cut from: a whole document, or the content of one message (``message_id`` set)."""

    text: str
    source_id: str
    message_id: str | None = None
    speaker: str | None = None
    role: str | None = None
    created_at: str | None = None
    title: str | None = None
    metadata: Metadata = field(default_factory=dict)

    @property
    def is_tool_output(self) -> bool:
        """Whether this is what a tool or function returned."""
        return self.role in ("tool", "function")


def iter_passages(source: Source, source_id: str | None = None) -> list[Passage]:
    """Return the passages of ``source`` in order; blank ones in a sequence are left out.

    A missing message id becomes ``m<place>`` and a missing document id ``<source_id>/<place>`` (places from 0); a
    repeated id gets ``~2``, ``~3``… so that every span can be told apart. A missing ``source_id`` becomes a hash of
    the content.

    Raises:
        InputError: ``source`` is a blank text, holds a lone surrogate, or is of a kind this function cannot read.
    """
    if isinstance(source, bytes | bytearray):
        raise InputError("the source is bytes, expected text; decode it, or read the file with read_text_file(path)")
    if isinstance(source, str) or not isinstance(source, Sequence):
        passage = _passage(source, 0, source_id, alone=True)
        if not passage.text.strip():
            raise InputError(f"the source {passage.source_id!r} is blank: expected some text to cut into scenes")
        return [passage]
    chat_id = source_id or _hashed("chat", (repr(_text_of(item)) for item in source))
    passages = [_passage(item, place, chat_id, alone=False) for place, item in enumerate(source)]
    return list(_with_unique_ids(passage for passage in passages if passage.text.strip()))


def check_text(text: str, where: str) -> str:
    """Return ``text`` unchanged, or raise ``InputError`` when it holds a lone surrogate (no encoding can store it)."""
    bad = None if text.isascii() else _SURROGATE.search(text)
    if bad is not None:
        raise InputError(
            f"{where}: character {bad.start():,} is the lone surrogate U+{ord(bad.group()):04X}, which is not text; "
            "decode the bytes with errors='replace' or read the file with read_text_file(path)"
        )
    return text


def _passage(item: object, place: int, source_id: str | None, *, alone: bool) -> Passage:
    where = f"source item {place}"
    if isinstance(item, str):
        text = check_text(item, where)
        given = source_id if alone else f"{source_id}/{place}"
        return Passage(text, given or _hashed("text", [text]))
    if _is_message(item):
        return _message_passage(item, place, source_id, where)
    text = check_text(_text_of(item), where)
    metadata = _scalars(_get(item, "metadata") or {})
    own_id = _own_id(item)
    chosen = (source_id or own_id) if alone else (own_id or f"{source_id}/{place}")
    title = _get(item, "title") or metadata.get("title")
    return Passage(
        text,
        chosen or _hashed("text", [text]),
        created_at=_time_of(item) or _time_of(metadata),
        title=str(title) if title else None,
        metadata=metadata,
    )


def _message_passage(item: object, place: int, source_id: str | None, where: str) -> Passage:
    text = check_text(_text_of(item), where)
    role = _get(item, "role") or _get(item, "type") or "user"
    role = str(getattr(role, "value", role))
    role = _ROLES.get(role, role)
    extra = {key: value for key, value in item.items() if key not in _MESSAGE_KEYS} if isinstance(item, Mapping) else {}
    metadata = _scalars({**extra, **(_get(item, "metadata") or {})})
    omitted = _omitted_parts(item)
    if omitted:
        metadata = {**metadata, "omitted_parts": omitted}
    name = _get(item, "name") or _get(item, "speaker")
    return Passage(
        text,
        source_id or _hashed("chat", [text]),
        message_id=_own_id(item) or f"m{place}",
        speaker=str(name) if name else role,
        role=role,
        created_at=_time_of(item),
        metadata=metadata,
    )


def _is_message(item: object) -> bool:
    if isinstance(item, Message):
        return True
    if isinstance(item, Document):
        return False
    if isinstance(item, Mapping):
        return "content" in item and ("role" in item or not ("text" in item or "page_content" in item))
    return hasattr(item, "content") and (hasattr(item, "role") or hasattr(item, "type"))


def _text_of(item: object) -> str:
    """The text of one item: a string as it is, a message's content, a node's text."""
    if isinstance(item, str):
        return item
    if _is_message(item):
        return _joined_parts(_get(item, "content"))
    if not isinstance(item, Mapping):
        content = getattr(item, "get_content", None)
        if not hasattr(item, "page_content") and callable(content):
            return str(content())
    for key in _TEXT_KEYS:
        value = _get(item, key)
        if isinstance(value, str):
            return value
    raise InputError(
        f"cannot read a {type(item).__name__} as a source; expected text, a message (role, content), a document "
        "(text or page_content, metadata) or a sequence of these"
    )


def _joined_parts(content: object) -> str:
    """A message's content as one text: its text parts joined by newlines (``None``, as in a tool call, is empty)."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "\n".join(text for part in content if (text := _part_text(part)) is not None)
    raise InputError(f"a message's content is {type(content).__name__}; expected text or a list of parts")


def _part_text(part: object) -> str | None:
    if isinstance(part, str):
        return part
    text = _get(part, "text")
    return text if isinstance(text, str) else None


def _omitted_parts(item: object) -> int:
    content = _get(item, "content")
    if content is None or isinstance(content, str) or not isinstance(content, Sequence):
        return 0
    return sum(_part_text(part) is None for part in content)


def _get(item: object, key: str) -> Any:
    return item.get(key) if isinstance(item, Mapping) else getattr(item, key, None)


def _own_id(item: object) -> str | None:
    for key in _ID_KEYS:
        value = _get(item, key)
        if isinstance(value, str | int) and str(value).strip():
            return str(value)
    return None


def _time_of(item: object) -> str | None:
    for key in _TIME_KEYS:
        value = _get(item, key)
        if isinstance(value, datetime | date):
            return value.isoformat()
        if isinstance(value, str | int | float) and str(value).strip():
            return str(value)
    return None


def _scalars(metadata: Mapping[str, Any]) -> dict[str, Scalar]:
    """Metadata with scalar values; anything else is kept as its JSON text."""
    return {
        str(key): value
        if value is None or isinstance(value, str | int | float | bool)
        else json.dumps(value, ensure_ascii=False, default=str)
        for key, value in metadata.items()
    }


def _with_unique_ids(passages: Iterable[Passage]) -> Iterable[Passage]:
    seen: dict[tuple[str, str | None], int] = {}
    for passage in passages:
        key = (passage.source_id, passage.message_id)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] == 1:
            yield passage
        elif passage.message_id is None:
            yield replace(passage, source_id=f"{passage.source_id}~{seen[key]}")
        else:
            yield replace(passage, message_id=f"{passage.message_id}~{seen[key]}")


def _hashed(prefix: str, texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return f"{prefix}-{digest.hexdigest()[:12]}"
