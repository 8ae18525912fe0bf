"""A lookup never crosses a scope: planted secrets, through every door of the store."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from hyperscene_plugin.errors import SceneNotFoundError, ScopeError
from hyperscene_plugin.store import SceneStore
from hyperscene_plugin.types import Scene, Scope

MakeScene = Callable[..., Scene]
SECRET = "the secret lighthouse password is xylophone"


def sees(asked: Scope, row: Scope) -> bool:
    """The rule, written a second time."""
    pairs = zip(
        (asked.user_id, asked.agent_id, asked.session_id), (row.user_id, row.agent_id, row.session_id), strict=True
    )
    return all(wanted is None or wanted == held for wanted, held in pairs)


ALL_SCOPES = [Scope(u, a, s) for u, a, s in product((None, "x", "y"), repeat=3) if (u, a, s) != (None, None, None)]


def test_every_pair_of_scopes(store: SceneStore, scene: MakeScene) -> None:
    ids = {row: store.add([scene(f"ship {i}", start=i)], row).ids[0] for i, row in enumerate(ALL_SCOPES)}
    for asked in ALL_SCOPES:
        expected = {ids[row] for row in ALL_SCOPES if sees(asked, row)}
        assert {found.id for found in store.list(asked)} == expected
        assert {hit.scene.id for hit in store.search("ships", asked, mode="text", top_k=50)} == expected
        assert store.count(asked) == len(expected)
        for row, name in ids.items():
            if name in expected:
                assert store.get(name, asked).id == name, row
            else:
                with pytest.raises(SceneNotFoundError):
                    store.get(name, asked)


def test_the_same_text_in_two_scopes_is_two_scenes(store: SceneStore, scene: MakeScene) -> None:
    scopes = [Scope("u"), Scope("u", session_id="s"), Scope(agent_id="u"), Scope(session_id="u")]
    ids = [store.add([scene(SECRET)], scope).ids[0] for scope in scopes]
    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    "stranger",
    [
        Scope("eve"),
        Scope(agent_id="anna"),
        Scope(session_id="anna"),
        Scope("anna", session_id="s"),
        Scope("anna' OR 1=1 --"),
    ],
)
def test_a_planted_secret_is_out_of_reach(store: SceneStore, scene: MakeScene, tmp_path: Path, stranger: Scope) -> None:
    owner = Scope("anna")
    planted = store.add([scene(SECRET)], owner, vectors=np.eye(2)[:1], encoder_name="e").ids[0]
    store.put_blob(planted, owner, "kv", SECRET.encode())
    store.set_state(owner, "key", SECRET)
    store.search("secret", owner, vector=np.ones(2), encoder_name="e")  # the owner's index is in memory
    own = store.add([scene("nothing to hide here")], stranger, vectors=np.eye(2)[1:], encoder_name="e").ids[0]

    assert [found.id for found in store.list(stranger)] == [own]
    assert store.stats(stranger).scenes == store.count(stranger) == 1
    assert len(store.sources(stranger)) == 1
    for mode in ("text", "vector", "hybrid"):
        found = store.search("xylophone password", stranger, vector=np.eye(2)[0], encoder_name="e", mode=mode)
        assert planted not in {hit.scene.id for hit in found}
    assert store.get_vectors([planted], stranger, "e") is None
    assert store.get_state(stranger, "key") is None
    for call in (
        lambda: store.get(planted, stranger),
        lambda: store.get_many([own, planted], stranger),
        lambda: store.get_blob(planted, stranger, "kv"),
        lambda: store.list_blobs(planted, stranger),
        lambda: store.put_blob(planted, stranger, "kv", b"overwritten"),
        lambda: store.delete_blob(planted, stranger, "kv"),
    ):
        with pytest.raises(SceneNotFoundError) as refused:
            call()
        assert "xylophone" not in str(refused.value)
    assert store.export(tmp_path / "eve.zip", stranger) == 1
    assert b"xylophone" not in _unzipped(tmp_path / "eve.zip")
    assert store.forget(stranger, ids=[planted]).removed == 0
    assert store.forget(stranger, source_id="doc").removed == 1
    assert store.forget(stranger, everything=True).removed == 0
    assert store.get(planted, owner).text == SECRET
    assert store.get_blob(planted, owner, "kv") == SECRET.encode()
    assert store.get_state(owner, "key") == SECRET


def test_scores_do_not_tell_what_others_stored(store: SceneStore, scene: MakeScene) -> None:
    mine = Scope("anna")
    store.add([scene(f"a common word and number {i}", start=i) for i in range(5)], mine)
    before = store.search("common number", mine, mode="text")
    store.add([scene(f"common common common {i}", start=i) for i in range(50)], Scope("eve"))
    assert store.search("common number", mine, mode="text") == before


def test_an_export_cannot_be_imported_into_another_scope_unasked(
    store: SceneStore, scene: MakeScene, tmp_path: Path
) -> None:
    store.add([scene(SECRET)], Scope("anna"))
    store.export(tmp_path / "anna.zip", Scope("anna"))
    with pytest.raises(ScopeError, match="rescope"):
        store.import_file(tmp_path / "anna.zip", Scope("eve"))
    assert store.count(Scope("eve")) == 0
    assert store.import_file(tmp_path / "anna.zip", Scope("eve"), rescope=True).added == 1
    assert store.count(Scope("anna")) == store.count(Scope("eve")) == 1


def _unzipped(path: Path) -> bytes:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())
