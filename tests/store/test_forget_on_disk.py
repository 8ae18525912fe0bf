"""After forget, the raw bytes of the store's files hold nothing of what was forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hyperscene_plugin.store import SceneStore
from hyperscene_plugin.types import Scene, Scope

USER, OTHER = Scope("u"), Scope("v")
PLANTED = "zanzibarquark"


def places_of(needle: bytes, folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and needle in path.read_bytes()]


def fill(store: SceneStore, scene: Callable[..., Scene]) -> str:
    """Many rows, so that the planted ones share pages with others; deletes and growth, so that pages were reused."""
    rng = np.random.default_rng(0)
    for batch in range(6):
        many = [
            scene(f"filler {i} " + "word " * int(rng.integers(1, 60)), f"s{batch}", i, metadata={"n": i})
            for i in range(150)
        ]
        store.add(many, OTHER, vectors=rng.standard_normal((150, 8)), encoder_name="e")
        secret = [
            scene(
                f"{PLANTED} {i} " + "x" * int(rng.integers(1, 5000)), PLANTED, i, speaker=PLANTED, title=PLANTED,
                metadata={PLANTED: PLANTED}, message_ids=(PLANTED,),
            )
            for i in range(batch * 20, batch * 20 + 20)
        ]  # fmt: skip
        planted = store.add(secret, USER, vectors=rng.standard_normal((20, 8)), encoder_name="e").ids[0]
        if batch % 2:
            store.forget(OTHER, source_id=f"s{batch - 1}", vacuum=False)
    store.put_blob(planted, USER, PLANTED, PLANTED.encode() * 1000)
    store.put_blob(planted, USER, PLANTED, PLANTED.encode() * 2000)  # replaces the first
    store.set_state(USER, PLANTED, PLANTED)
    return planted


@pytest.mark.parametrize("how", ["everything", "purge"])
def test_nothing_is_left(tmp_path: Path, scene: Callable[..., Scene], how: str) -> None:
    with SceneStore.open(tmp_path / "s.db") as store:
        fill(store, scene)
        kept = store.count(OTHER)
        before = places_of(PLANTED.encode(), tmp_path)
        assert any(".blobs" in name for name in before)  # the needle is there to be found
        assert any("s.db" in Path(name).name for name in before)
        if how == "everything":
            report = store.forget(USER, everything=True)
            assert (report.removed, report.remaining, report.blobs_removed) == (120, 0, 1)
        else:
            store.delete_state(USER, PLANTED)
            with sqlite3.connect(tmp_path / "s.db") as raw:
                raw.execute("UPDATE hyperscene_scenes SET expires_at = 1 WHERE user_id = 'u'")
            raw.close()
            assert store.purge_expired() == 120
        assert places_of(PLANTED.encode(), tmp_path) == []  # while the store is still open
        assert store.count(OTHER) == kept
        assert store.doctor().healthy
    assert places_of(PLANTED.encode(), tmp_path) == []


def test_vectors_go_too(tmp_path: Path, scene: Callable[..., Scene]) -> None:
    row = np.random.default_rng(1).standard_normal(64)
    needle = (row / np.linalg.norm(row)).astype("<f2").tobytes()
    with SceneStore.open(tmp_path / "s.db") as store:
        store.add([scene("text")], USER, vectors=row[None], encoder_name="e")
        assert places_of(needle, tmp_path)
        store.forget(USER, everything=True)
        assert places_of(needle, tmp_path) == []


def test_the_check_can_fail(tmp_path: Path, scene: Callable[..., Scene]) -> None:
    """Negative control: rows deleted as SQLite does by default stay readable in the file."""
    with SceneStore.open(tmp_path / "s.db") as store:
        fill(store, scene)
    raw = sqlite3.connect(tmp_path / "s.db")
    raw.execute("PRAGMA secure_delete = OFF")
    raw.execute("DELETE FROM hyperscene_vectors")
    raw.execute("DELETE FROM hyperscene_blobs")
    raw.execute("DELETE FROM hyperscene_scenes WHERE user_id = 'u'")
    raw.commit()
    raw.close()
    assert any(Path(name).name == "s.db" for name in places_of(PLANTED.encode(), tmp_path))


def test_replaced_source_is_overwritten(tmp_path: Path, scene: Callable[..., Scene]) -> None:
    with SceneStore.open(tmp_path / "s.db") as store:
        store.add([scene(f"{PLANTED} {i}", start=i) for i in range(50)], USER)
        store.replace_source("doc", [scene("something else")], USER, vacuum=True)
        assert places_of(PLANTED.encode(), tmp_path) == []
