"""Bytes beside scenes: whole or not there, checked by hash, swept when nothing names them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperscene_plugin.errors import InputError, SceneNotFoundError, StoreCorruptError, StoreError
from hyperscene_plugin.store import SceneStore
from hyperscene_plugin.store.blobs import BlobFolder
from hyperscene_plugin.types import Scene, Scope

USER = Scope("u")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def scene_id(store: SceneStore, scene: Callable[..., Scene]) -> str:
    return store.add([scene("text")], USER).ids[0]


def test_put_get_list_replace_delete(store: SceneStore, scene_id: str, tmp_path: Path) -> None:
    info = store.put_blob(scene_id, USER, "kv/ü ../x", b"one")
    assert (info.name, info.size) == ("kv/ü ../x", 3)
    store.put_blob(scene_id, USER, "lora", b"")
    assert [blob.name for blob in store.list_blobs(scene_id, USER)] == ["kv/ü ../x", "lora"]
    assert store.get_blob(scene_id, USER, "kv/ü ../x") == b"one"
    assert store.get_blob(scene_id, USER, "lora") == b""
    store.put_blob(scene_id, USER, "kv/ü ../x", b"two")
    assert store.get_blob(scene_id, USER, "kv/ü ../x") == b"two"
    assert len(files(tmp_path / "blobs")) == 2  # the replaced file is gone, names never reach the paths
    assert store.delete_blob(scene_id, USER, "lora") is True
    assert store.delete_blob(scene_id, USER, "lora") is False
    with pytest.raises(SceneNotFoundError, match="no blob 'lora'"):
        store.get_blob(scene_id, USER, "lora")
    assert len(files(tmp_path / "blobs")) == 1
    assert store.forget(USER, everything=True).blobs_removed == 1
    assert files(tmp_path / "blobs") == []


@pytest.mark.parametrize(("name", "data"), [("", b""), ("x" * 201, b""), ("a\x00", b""), ("kv", "text")])
def test_wrong_blobs_are_refused(store: SceneStore, scene_id: str, tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(InputError):
        store.put_blob(scene_id, USER, name, data)
    assert files(tmp_path / "blobs") == []


def test_a_damaged_or_missing_file_is_an_error_that_names_it(store: SceneStore, scene_id: str, tmp_path: Path) -> None:
    store.put_blob(scene_id, USER, "kv", b"payload")
    (path,) = files(tmp_path / "blobs")
    path.write_bytes(b"pAyload")
    with pytest.raises(StoreCorruptError, match=path.name):
        store.get_blob(scene_id, USER, "kv")
    path.unlink()
    with pytest.raises(StoreCorruptError, match="missing"):
        store.get_blob(scene_id, USER, "kv")
    assert any("missing" in problem for problem in store.doctor().problems)


def test_orphans_are_swept_and_nothing_else(store: SceneStore, scene_id: str, tmp_path: Path) -> None:
    store.put_blob(scene_id, USER, "kv", b"payload")
    (kept,) = files(tmp_path / "blobs")
    orphan = tmp_path / "blobs" / "ab" / "abcdef"
    fresh, stale = tmp_path / "blobs" / "tmp" / "fresh", tmp_path / "blobs" / "tmp" / "stale"
    for path in (orphan, fresh, stale):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    long_ago = time.time() - 7200
    os.utime(stale, (long_ago, long_ago))
    report = store.doctor()
    assert (report.swept, report.blobs_checked, report.problems) == (2, 1, ())
    assert files(tmp_path / "blobs") == sorted([kept, fresh])  # a fresh temporary file may be another writer's


def test_a_put_that_fails_leaves_no_file(
    store: SceneStore, scene_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr("hyperscene_plugin.store.attachments.insert_blob", full)
    with pytest.raises(StoreError, match="disk full"):
        store.put_blob(scene_id, USER, "kv", b"payload")
    assert files(tmp_path / "blobs") == []
    assert store.list_blobs(scene_id, USER) == []


def test_without_a_folder_blobs_say_what_to_do(postgres_schema: str, scene: Callable[..., Scene]) -> None:
    with SceneStore.open(postgres_schema) as store:
        name = store.add([scene("text")], USER).ids[0]
        with pytest.raises(StoreError, match="blobs="):
            store.put_blob(name, USER, "kv", b"x")
        assert store.forget(USER, everything=True).removed == 1


def test_other_file_systems_work_alike() -> None:
    folder = BlobFolder("memory://blobs-of-a-test")
    name = folder.publish(folder.stage(b"payload"))
    digest = "239f59ed55e737c77147cf55ad0c1b030b6d7ee748a7426952f9b852d5a935e5"
    assert folder.read(name, digest, "blob") == b"payload"
    assert folder.sweep({name}) == 0
    assert folder.sweep(set()) == 1
    with pytest.raises(StoreCorruptError, match="missing"):
        folder.read(name, digest, "blob")
    with pytest.raises(StoreError, match="fsspec"):
        BlobFolder("nosuchprotocol://x")


@given(data=st.binary(max_size=5000))
def test_any_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    import hashlib

    folder = BlobFolder(tmp_path_factory.getbasetemp() / "any")
    name = folder.publish(folder.stage(data))
    assert folder.read(name, hashlib.sha256(data).hexdigest(), "blob") == data
