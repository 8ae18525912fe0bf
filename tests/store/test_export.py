"""Export and import: everything comes back, twice changes nothing, and a wrong byte lets nothing in."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hyperscene_plugin.errors import HypersceneError, InputError, StoreCorruptError, StoreError, StoreVersionError
from hyperscene_plugin.store import SceneStore
from hyperscene_plugin.types import Scene, Scope

USER = Scope("u")
SESSION = Scope("u", session_id="s")


@pytest.fixture
def exported(store: SceneStore, harbour: list[Scene], tmp_path: Path) -> Path:
    """An export of three scenes in two scopes, with vectors of two encoders and blobs (two of them alike)."""
    first = store.add(harbour[:2], USER, vectors=np.eye(3)[:2], encoder_name="e").ids
    second = store.add(harbour[2:], SESSION, vectors=np.eye(2)[:1], encoder_name="f", ttl=1000).ids
    for name in (*first, *second):
        store.put_blob(name, USER, "same", b"same bytes")
    store.put_blob(first[0], USER, "own", b"\x00\x01 own bytes")
    assert store.export(tmp_path / "out.zip", USER) == 3
    return tmp_path / "out.zip"


def view(store: SceneStore, scope: Scope) -> list[object]:
    """Everything that can be seen of a scope."""
    seen: list[object] = []
    for scene in store.list(scope):
        assert scene.id is not None
        blobs = {blob.name: store.get_blob(scene.id, scope, blob.name) for blob in store.list_blobs(scene.id, scope)}
        vectors = [store.get_vectors([scene.id], scope, name) for name in ("e", "f")]
        seen.append((scene, blobs, [None if v is None else v.tolist() for v in vectors]))
    return seen


def test_everything_comes_back(store: SceneStore, exported: Path, tmp_path: Path, clock: object) -> None:
    with SceneStore.open(tmp_path / "copy.db", clock=clock) as copy:  # type: ignore[arg-type]
        report = copy.import_file(exported, USER)
        assert (report.added, report.existing, report.blobs, report.renamed) == (3, 0, 4, {})
        assert view(copy, USER) == view(store, USER)
        assert view(copy, SESSION) == view(store, SESSION)
        hits = copy.search("ships", USER, vector=np.eye(3)[0], encoder_name="e")
        assert hits.hits[0].scene.text.startswith("The ships")
        again = copy.import_file(exported, USER)
        assert (again.added, again.existing, again.blobs) == (0, 3, 0)
        assert view(copy, USER) == view(store, USER)
        assert copy.doctor().healthy
        clock.now += 2000  # type: ignore[attr-defined]
        assert copy.count(USER) == 2  # the time to live came along
        copy.purge_expired()
        assert copy.import_file(exported, USER).existing == 2  # what has expired stays out


def test_back_into_its_own_store_after_forgetting(store: SceneStore, exported: Path) -> None:
    before = view(store, USER)
    assert store.import_file(exported, USER).existing == 3
    store.forget(USER, everything=True)
    assert store.import_file(exported, USER).added == 3
    assert view(store, USER) == before


def test_an_id_that_is_taken_is_given_anew(store: SceneStore, exported: Path, tmp_path: Path) -> None:
    eve = Scope("eve")
    report = store.import_file(exported, eve, rescope=True)
    assert (report.added, report.existing, len(report.renamed)) == (3, 0, 3)
    assert {found.id for found in store.list(eve)} == set(report.renamed.values())
    assert {found.id for found in store.list(USER)} == set(report.renamed)
    copied = [dataclasses.replace(scene, id=None) for scene in store.list(eve)]
    assert copied == [dataclasses.replace(scene, id=None) for scene in store.list(USER)]


def rewrite(path: Path, member: str, change: Callable[[bytes], bytes], *, rehash: bool = False) -> None:
    import hashlib

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = change(members[member])
    if rehash:
        manifest = json.loads(members["manifest.json"])
        manifest["members"][member] = hashlib.sha256(members[member]).hexdigest()
        members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def damages() -> dict[str, Callable[[Path], None]]:
    def one_blob(path: Path) -> str:
        with zipfile.ZipFile(path) as archive:
            return next(name for name in archive.namelist() if name.startswith("blobs/"))

    def last_line(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        record = json.loads(lines[-1])
        record["kind"] = "poem"
        return b"".join(lines[:-1]) + json.dumps(record).encode()

    def without_field(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        record = json.loads(lines[-1])
        del record["source_id"]
        return b"".join(lines[:-1]) + json.dumps(record).encode()

    def own_id(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        record = json.loads(lines[-1])
        record["id"] = "hs_1"
        return b"".join(lines[:-1]) + json.dumps(record).encode()

    return {
        "text changed": lambda path: rewrite(path, "scenes.jsonl", lambda data: data.replace(b"ships", b"boats")),
        "blob changed": lambda path: rewrite(path, one_blob(path), lambda data: data[:-1] + b"!"),
        "cut short": lambda path: path.write_bytes(path.read_bytes()[:-200]) and None,
        "no zip": lambda path: path.write_bytes(b"hello") and None,
        "no manifest": lambda path: rewrite(path, "manifest.json", lambda data: b"{}"),
        "rubbish manifest": lambda path: rewrite(path, "manifest.json", lambda data: b"{"),
        "newer": lambda path: rewrite(
            path, "manifest.json", lambda data: data.replace(b'"version": 1', b'"version": 2')
        ),
        "extra member": lambda path: zipfile.ZipFile(path, "a").writestr("extra", b"x"),
        "unknown kind": lambda path: rewrite(path, "scenes.jsonl", last_line, rehash=True),
        "field missing": lambda path: rewrite(path, "scenes.jsonl", without_field, rehash=True),
        "guessable id": lambda path: rewrite(path, "scenes.jsonl", own_id, rehash=True),
    }


@pytest.mark.parametrize("damage", damages())
def test_a_wrong_file_lets_nothing_in(exported: Path, tmp_path: Path, damage: str, clock: object) -> None:
    damages()[damage](exported)
    expected = {"newer": StoreVersionError, "guessable id": InputError}.get(damage, StoreCorruptError)
    with SceneStore.open(tmp_path / "copy.db", clock=clock) as copy:  # type: ignore[arg-type]
        with pytest.raises(expected, match=r"out\.zip") as refused:
            copy.import_file(exported, USER)
        assert isinstance(refused.value, HypersceneError)
        assert "othing was imported" in str(refused.value) or "nothing was imported" in str(refused.value)
        assert copy.count(USER) == 0
        assert copy.stats(USER).vectors == {}
    assert [path for path in (tmp_path / "copy.db.blobs").rglob("*") if path.is_file()] == []


def test_export_is_whole_or_not_there(store: SceneStore, harbour: list[Scene], tmp_path: Path) -> None:
    name = store.add(harbour, USER).ids[0]
    store.put_blob(name, USER, "kv", b"x")
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(StoreCorruptError, match="missing"):
        store.export(tmp_path / "out.zip", USER)
    with pytest.raises(StoreError, match="could not be written"):
        store.export(tmp_path / "nowhere" / "out.zip", Scope("v"))
    assert not list(tmp_path.glob("*.zip")) + list(tmp_path.glob(".*.new"))
    with pytest.raises(StoreError, match="could not be read"):
        store.import_file(tmp_path / "nowhere.zip", USER)
    assert store.export(tmp_path / "empty.zip", Scope("v")) == 0
    assert store.import_file(tmp_path / "empty.zip", Scope("v")).added == 0
