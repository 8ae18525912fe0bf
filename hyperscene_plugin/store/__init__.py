"""The scene store: scenes, vectors and blobs kept under a scope, and found again."""

from hyperscene_plugin.store.base import (
    AddReport,
    BlobInfo,
    DoctorReport,
    ForgetReport,
    ImportReport,
    SceneFilter,
    SearchHit,
    SearchMode,
    SearchResult,
    SourceInfo,
    StorePort,
    StoreStats,
)
from hyperscene_plugin.store.sql import SceneStore

__all__ = [
    "AddReport",
    "BlobInfo",
    "DoctorReport",
    "ForgetReport",
    "ImportReport",
    "SceneFilter",
    "SceneStore",
    "SearchHit",
    "SearchMode",
    "SearchResult",
    "SourceInfo",
    "StorePort",
    "StoreStats",
]
