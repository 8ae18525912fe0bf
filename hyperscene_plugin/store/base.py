"""What a scene store takes and gives: frozen records, and the protocol that every backend keeps.

**Scope.** Every row carries the scope it was added with; every call names one. A field that is set must be
equal on the row; a field that is ``None`` in the call does not restrict. So ``Scope(user_id="u")`` sees all
sessions of user ``u`` and nothing of another user, and ``Scope(user_id="u", session_id="s")`` sees rows added
with that user *and* that session, not rows of ``u`` that name no session. A row outside the scope behaves in
every call exactly as a row that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from hyperscene_plugin.types import Scalar, Scene, SceneKind, Scope

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "AddReport",
    "BlobInfo",
    "DoctorReport",
    "ForgetReport",
    "ImportReport",
    "ListOrder",
    "SceneFilter",
    "SearchHit",
    "SearchMode",
    "SearchResult",
    "SourceInfo",
    "StorePort",
    "StoreStats",
]

SearchMode = Literal["text", "vector", "hybrid"]
ListOrder = Literal["added", "source", "time"]


@dataclass(frozen=True, slots=True)
class SceneFilter:
    """Conditions that all have to hold; ``None`` and an empty mapping do not restrict.

    ``since`` (inclusive) and ``until`` (exclusive) compare with the scene's ``created_at``; a scene whose time
    is missing or is not ISO 8601 never matches a time condition. A time without a zone is read as UTC.
    ``metadata`` maps a key to the value it must have, or to a tuple of values of which it must have one.
    """

    source_id: str | tuple[str, ...] | None = None
    kind: SceneKind | str | None = None
    speaker: str | None = None
    role: str | None = None
    since: datetime | str | None = None
    until: datetime | str | None = None
    metadata: Mapping[str, Scalar | tuple[Scalar, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One scene found, and why.

    ``score`` orders the hits (higher first). ``components`` holds what it was made of: ``text`` (BM25),
    ``vector`` (cosine), and in hybrid mode ``text_rank`` and ``vector_rank`` (1 is best; absent when that
    ranking did not hold the scene). ``matched_terms`` are the query's lemmas that the scene contains.
    """

    scene: Scene
    score: float
    components: Mapping[str, float]
    matched_terms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first. ``mode`` is the one used; ``notes`` records every fallback from the one asked for."""

    hits: tuple[SearchHit, ...]
    mode: SearchMode
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[SearchHit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True, slots=True)
class AddReport:
    """``ids`` has one id per scene handed in, in order; ``added + existing == len(ids)``.

    ``removed`` counts the scenes that ``replace_source`` took out.
    """

    ids: tuple[str, ...]
    added: int
    existing: int
    removed: int = 0


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """``removed`` scenes and ``blobs_removed`` files are gone; ``remaining`` counted again afterwards, is 0.

    ``vacuumed`` says whether the freed space was also rewritten.
    """

    removed: int
    remaining: int
    blobs_removed: int
    vacuumed: bool


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Counts of one import; ``renamed`` maps ids of the file to new ones where the old id was taken."""

    added: int
    existing: int
    blobs: int
    renamed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """One source in a scope: its id, title (of its first scene), scene count, and first and last adding."""

    source_id: str
    title: str | None
    num_scenes: int
    first_added: datetime
    last_added: datetime


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counts in one scope; ``vectors`` maps ``encoder name`` to the number of scenes that have its vector."""

    scenes: int
    sources: int
    vectors: Mapping[str, int]
    blobs: int
    blob_bytes: int


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One blob's name, size in bytes and SHA-256 (hex)."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What a full check found: ``problems`` is empty for a healthy store; ``swept`` orphan files were removed."""

    schema_version: int
    scenes_checked: int
    blobs_checked: int
    swept: int
    problems: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems


class StorePort(Protocol):
    """What the engine needs of a scene store. All methods may be called from several threads."""

    def add(
        self,
        scenes: Sequence[Scene],
        scope: Scope,
        *,
        vectors: np.ndarray | None = None,
        encoder_name: str | None = None,
        ttl: float | timedelta | None = None,
    ) -> AddReport: ...

    def add_many(
        self,
        scenes: Iterable[Scene],
        scope: Scope,
        *,
        encode: Callable[[Sequence[Scene]], np.ndarray] | None = None,
        encoder_name: str | None = None,
        ttl: float | timedelta | None = None,
        batch_size: int = 2000,
        progress: Callable[[int], None] | None = None,
    ) -> AddReport: ...

    def replace_source(
        self,
        source_id: str,
        scenes: Sequence[Scene],
        scope: Scope,
        *,
        vectors: np.ndarray | None = None,
        encoder_name: str | None = None,
        ttl: float | timedelta | None = None,
        vacuum: bool = False,
    ) -> AddReport: ...

    def get(self, scene_id: str, scope: Scope) -> Scene: ...

    def get_many(self, scene_ids: Sequence[str], scope: Scope) -> list[Scene]: ...

    def get_vectors(self, scene_ids: Sequence[str], scope: Scope, encoder_name: str) -> np.ndarray | None: ...

    def list(
        self,
        scope: Scope,
        where: SceneFilter | None = None,
        *,
        limit: int = 100,
        offset: int = 0,
        order: ListOrder = "added",
        descending: bool = False,
    ) -> list[Scene]: ...

    def count(self, scope: Scope, where: SceneFilter | None = None) -> int: ...

    def search(
        self,
        query: str | None,
        scope: Scope,
        *,
        vector: np.ndarray | None = None,
        encoder_name: str | None = None,
        mode: SearchMode = "hybrid",
        top_k: int = 10,
        where: SceneFilter | None = None,
        exact: bool = False,
    ) -> SearchResult: ...

    def sources(self, scope: Scope) -> Sequence[SourceInfo]: ...

    def stats(self, scope: Scope) -> StoreStats: ...

    def forget(
        self,
        scope: Scope,
        *,
        ids: Sequence[str] | None = None,
        source_id: str | None = None,
        older_than: datetime | timedelta | None = None,
        everything: bool = False,
        vacuum: bool = True,
    ) -> ForgetReport: ...

    def purge_expired(self, *, vacuum: bool = True) -> int: ...

    def put_blob(self, scene_id: str, scope: Scope, name: str, data: bytes) -> BlobInfo: ...

    def get_blob(self, scene_id: str, scope: Scope, name: str) -> bytes: ...

    def delete_blob(self, scene_id: str, scope: Scope, name: str) -> bool: ...

    def list_blobs(self, scene_id: str, scope: Scope) -> Sequence[BlobInfo]: ...

    def get_state(self, scope: Scope, key: str) -> object: ...

    def set_state(self, scope: Scope, key: str, value: object) -> None: ...

    def delete_state(self, scope: Scope, key: str) -> bool: ...

    def export(self, path: str | Path, scope: Scope) -> int: ...

    def import_file(self, path: str | Path, scope: Scope, *, rescope: bool = False) -> ImportReport: ...

    def doctor(self) -> DoctorReport: ...

    def close(self) -> None: ...
