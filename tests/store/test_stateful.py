"""Random histories of a SQLite store against a plain dict that does the same slowly."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from hyperscene_plugin.store import SceneStore
from hyperscene_plugin.types import Scene, Scope

SCOPES = [Scope("a"), Scope("a", session_id="s"), Scope("b"), Scope(session_id="s"), Scope("b", "g", "s")]
TEXTS = ["a ship", "ships and boats", "the boat", "Анна читала", "книга о кораблях", "x" * 300]


@dataclasses.dataclass
class Row:
    scope: Scope
    scene: Scene
    expires: float
    vector: np.ndarray | None
    blobs: dict[str, bytes]


def sees(asked: Scope, row: Scope) -> bool:
    return (
        asked.user_id in (None, row.user_id)
        and asked.agent_id in (None, row.agent_id)
        and asked.session_id in (None, row.session_id)
    )


class StoreMachine(RuleBasedStateMachine):
    """``rows`` is the oracle: id → row, in order of adding."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="hs_state_"))
        self.now = 1000.0
        self.store = self.open()
        self.rows: dict[str, Row] = {}

    def open(self) -> SceneStore:
        return SceneStore.open(self.folder / "s.db", clock=lambda: self.now)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def alive(self, asked: Scope) -> dict[str, Row]:
        return {k: row for k, row in self.rows.items() if row.expires > self.now and sees(asked, row.scope)}

    @rule(
        target=ids,
        scope=st.sampled_from(SCOPES),
        texts=st.lists(st.tuples(st.sampled_from(TEXTS), st.integers(0, 2)), min_size=1, max_size=4),
        ttl=st.sampled_from([None, 5.0, 50.0]),
        angle=st.none() | st.floats(0, 6),
    )
    def add(self, scope: Scope, texts: list[tuple[str, int]], ttl: float | None, angle: float | None) -> object:
        scenes = [Scene(text, f"doc{place}", place, place + len(text)) for text, place in texts]
        vectors = None
        if angle is not None:
            vectors = np.array([[np.cos(angle + i), np.sin(angle + i)] for i in range(len(scenes))])
        report = self.store.add(scenes, scope, vectors=vectors, encoder_name=None if vectors is None else "e", ttl=ttl)
        expires = float("inf") if ttl is None else self.now + ttl
        added = 0
        for number, (scene, name) in enumerate(zip(scenes, report.ids, strict=True)):
            vector = None if vectors is None else vectors[number]
            known = [k for k, row in self.rows.items() if row.scope == scope and row.scene == scene]
            if known and self.rows[known[0]].expires <= self.now:
                del self.rows[known[0]]
                known = []
            if known:
                assert name == known[0]
                row = self.rows[name]
                row.expires = max(row.expires, expires)
                row.vector = vector if row.vector is None else row.vector
            else:
                assert name not in self.rows
                self.rows[name] = Row(scope, scene, expires, vector, {})
                added += 1
        assert (report.added, report.existing) == (added, len(scenes) - added)
        return multiple(*report.ids)

    @rule(name=ids, scope=st.sampled_from(SCOPES), data=st.binary(max_size=20))
    def put_blob(self, name: str, scope: Scope, data: bytes) -> None:
        if name in self.alive(scope):
            self.store.put_blob(name, scope, "kv", data)
            self.rows[name].blobs["kv"] = data

    @rule(name=ids, scope=st.sampled_from(SCOPES))
    def forget_id(self, name: str, scope: Scope) -> None:
        gone = [name] if name in self.rows and sees(scope, self.rows[name].scope) else []
        assert self.store.forget(scope, ids=[name], vacuum=False).removed == len(gone)
        for key in gone:
            del self.rows[key]

    @rule(scope=st.sampled_from(SCOPES), place=st.none() | st.integers(0, 2))
    def forget_many(self, scope: Scope, place: int | None) -> None:
        gone = [key for key, row in self.rows.items() if sees(scope, row.scope) and place in (None, row.scene.start)]
        if place is None:
            report = self.store.forget(scope, everything=True)
        else:
            report = self.store.forget(scope, source_id=f"doc{place}", vacuum=False)
        assert (report.removed, report.remaining) == (len(gone), 0)
        for key in gone:
            del self.rows[key]

    @rule(seconds=st.sampled_from([1.0, 7.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def purge(self) -> None:
        gone = [key for key, row in self.rows.items() if row.expires <= self.now]
        assert self.store.purge_expired(vacuum=False) == len(gone)
        for key in gone:
            del self.rows[key]

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    @rule(scope=st.sampled_from(SCOPES))
    def export_and_import(self, scope: Scope) -> None:
        expected = self.alive(scope)
        assert self.store.export(self.folder / "out.zip", scope) == len(expected)
        report = self.store.import_file(self.folder / "out.zip", scope)
        assert (report.added, report.existing) == (0, len(expected))

    @rule(scope=st.sampled_from(SCOPES), word=st.sampled_from(["ship", "boats", "книги", "читать", "none"]))
    def search_text(self, scope: Scope, word: str) -> None:
        holding = {"ship": "ship", "boats": "boat", "книги": "книг", "читать": "чита", "none": "none"}[word]
        expected = {key for key, row in self.alive(scope).items() if holding in row.scene.text}
        hits = self.store.search(word, scope, mode="text", top_k=1000).hits
        assert {hit.scene.id for hit in hits} == expected

    @rule(scope=st.sampled_from(SCOPES), angle=st.floats(0, 6))
    def search_vector(self, scope: Scope, angle: float) -> None:
        query = np.array([np.cos(angle), np.sin(angle)])
        expected = {key: float(row.vector @ query) for key, row in self.alive(scope).items() if row.vector is not None}
        if not expected and any(sees(scope, row.scope) for row in self.rows.values()):
            return  # vectors of expired rows only
        hits = self.store.search(None, scope, vector=query, encoder_name="e", mode="vector", top_k=1000).hits
        assert {hit.scene.id for hit in hits} == set(expected)
        for hit in hits:
            np.testing.assert_allclose(hit.score, expected[str(hit.scene.id)], atol=2e-3)

    @invariant()
    def agrees(self) -> None:
        for scope in SCOPES:
            expected = self.alive(scope)
            found = self.store.list(scope, limit=1000)
            assert [scene.id for scene in found] == list(expected)
            assert [dataclasses.replace(scene, id=None) for scene in found] == [r.scene for r in expected.values()]
            stats = self.store.stats(scope)
            assert stats.scenes == len(expected)
            assert sum(stats.vectors.values()) == sum(row.vector is not None for row in expected.values())
            assert stats.blob_bytes == sum(len(data) for row in expected.values() for data in row.blobs.values())
        for name, row in self.alive(SCOPES[0]).items():
            for key, data in row.blobs.items():
                assert self.store.get_blob(name, SCOPES[0], key) == data


StoreMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestStore = StoreMachine.TestCase
