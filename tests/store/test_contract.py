"""What every backend promises: adding, reading, filtering, searching, forgetting, expiry, state."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from hyperscene_plugin.errors import InputError, SceneNotFoundError, ScopeError, StoreError
from hyperscene_plugin.store import SceneFilter, SceneStore
from hyperscene_plugin.types import Scene, SceneKind, Scope

USER = Scope(user_id="u1")
OTHER = Scope(user_id="u2")
MakeScene = Callable[..., Scene]


def without_ids(scenes: list[Scene]) -> list[Scene]:
    return [dataclasses.replace(scene, id=None) for scene in scenes]


def test_every_field_comes_back_as_it_was(store: SceneStore, harbour: list[Scene]) -> None:
    report = store.add(harbour, USER)
    assert (report.added, report.existing) == (3, 0)
    found = store.get_many(report.ids, USER)
    assert without_ids(found) == harbour
    assert [scene.id for scene in found] == list(report.ids)
    assert [type(value) for value in found[1].metadata.values()] == [int, str, bool]


def test_ids_carry_128_random_bits(store: SceneStore, scene: MakeScene) -> None:
    ids = store.add([scene(f"text {i}", start=i) for i in range(200)], USER).ids
    assert len(set(ids)) == 200
    assert all(re.fullmatch(r"hs_[0-9a-f]{32}", name) for name in ids)


def test_adding_again_gives_the_ids_there_are(open_store: Callable[..., SceneStore], harbour: list[Scene]) -> None:
    first = open_store().add(harbour, USER)
    again = open_store().add([*harbour, harbour[0]], USER)
    assert again.ids == (*first.ids, first.ids[0])
    assert (again.added, again.existing) == (0, 4)
    assert open_store().count(USER) == 3


@pytest.mark.parametrize(
    "change", [{"text": "Another text of the same"}, {"start": 1}, {"source_id": "x"}, {"message_ids": ("m2",)}]
)
def test_a_changed_scene_is_another_scene(store: SceneStore, scene: MakeScene, change: dict[str, object]) -> None:
    first = scene("The text that there was.")
    store.add([first], USER)
    assert store.add([dataclasses.replace(first, **change)], USER).added == 1  # type: ignore[arg-type]
    assert store.count(USER) == 2


def test_one_bad_scene_keeps_the_whole_call_out(store: SceneStore, scene: MakeScene) -> None:
    with pytest.raises(InputError, match="NUL"):
        store.add([scene("good"), scene("bad\x00", start=9)], USER)
    store.add([scene("a")], USER, vectors=np.eye(2)[:1], encoder_name="e")
    with pytest.raises(StoreError, match="2 dimensions"):
        store.add([scene("b", start=5)], USER, vectors=np.eye(3)[:1], encoder_name="e")
    assert [found.text for found in store.list(USER)] == ["a"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": ""}, "empty"),
        ({"text": "lone \ud800"}, "surrogate"),
        ({"metadata": {"x": [1]}}, "list"),
        ({"metadata": {"x": float("nan")}}, "finite"),
        ({"metadata": {"x": 2**63}}, "64 bits"),
        ({"speaker": 7}, "int"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(
    store: SceneStore, scene: MakeScene, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        store.add([dataclasses.replace(scene("text"), **fields)], USER)  # type: ignore[arg-type]
    assert store.count(USER) == 0


@pytest.mark.parametrize(
    ("vectors", "name", "message"),
    [
        (np.eye(2), "e", "1 scenes but 2 vectors"),
        (np.eye(2)[:1], None, "encoder_name"),
        (np.zeros((1, 2)), "e", "zero"),
        (np.full((1, 2), np.inf), "e", "not finite"),
        (None, "e", "without vectors"),
    ],
)
def test_wrong_vectors_are_refused(
    store: SceneStore, scene: MakeScene, vectors: np.ndarray | None, name: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        store.add([scene("text")], USER, vectors=vectors, encoder_name=name)
    assert store.count(USER) == 0


def test_list_pages_orders_and_filters(store: SceneStore, scene: MakeScene) -> None:
    days = ["2024-01-03", None, "2024-01-01", "not a time", "2024-01-02T00:00:00Z"]
    store.add([scene(f"scene {i}", f"s{i % 2}", i, index=9 - i, created_at=day) for i, day in enumerate(days)], USER)

    def texts(where: SceneFilter | None = None, **options: object) -> str:
        return "".join(found.text[-1] for found in store.list(USER, where, **options))  # type: ignore[arg-type]

    assert texts() == "01234"
    assert texts(limit=2, offset=1) == "12"
    assert texts(descending=True, limit=2) == "43"
    assert texts(order="source") == "42031"
    assert texts(order="time") == "24013"
    assert texts(SceneFilter(source_id="s1")) == "13"
    assert texts(SceneFilter(source_id=("s1", "s0"))) == "01234"
    assert texts(SceneFilter(since="2024-01-02")) == "04"
    assert texts(SceneFilter(since="2024-01-01", until=datetime(2024, 1, 2, tzinfo=UTC))) == "2"
    assert store.count(USER, SceneFilter(until="2024-01-03")) == 2


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (SceneFilter(kind=SceneKind.CODE), [2]),
        (SceneFilter(kind="message", speaker="Anna", role="user"), [1]),
        (SceneFilter(speaker="Bob"), []),
        (SceneFilter(metadata={"day": 8}), [1]),
        (SceneFilter(metadata={"day": 8.0}), [1]),
        (SceneFilter(metadata={"day": (8, 8.5)}), [1, 2]),
        (SceneFilter(metadata={"day": "8"}), []),
        (SceneFilter(metadata={"ok": True}), [1]),
        (SceneFilter(metadata={"ok": 1}), []),
        (SceneFilter(metadata={"ok": None}), [2]),
        (SceneFilter(metadata={"mood": "calm", "day": 8}), [1]),
        (SceneFilter(metadata={"mood' OR 1=1 --": "calm"}), []),
        (SceneFilter(metadata={"day": ()}), []),
    ],
)
def test_filters_hold_in_list_count_and_search(
    store: SceneStore, harbour: list[Scene], where: SceneFilter, expected: list[int]
) -> None:
    store.add(harbour, USER, vectors=np.eye(3), encoder_name="e")
    assert without_ids(store.list(USER, where)) == [harbour[i] for i in expected]
    assert store.count(USER, where) == len(expected)
    hits = store.search(None, USER, vector=np.ones(3), encoder_name="e", mode="vector", where=where)
    assert sorted(hit.scene.start + len(hit.scene.text) for hit in hits) == sorted(harbour[i].end for i in expected)


def test_wrong_filters_and_pages_are_refused(store: SceneStore) -> None:
    for call in (
        lambda: store.list(USER, SceneFilter(since="yesterday")),
        lambda: store.list(USER, SceneFilter(kind="poem")),
        lambda: store.list(USER, limit=-1),
        lambda: store.list(USER, order="size"),  # type: ignore[arg-type]
        lambda: store.search("x", USER, top_k=0),
        lambda: store.search("x", USER, mode="magic"),  # type: ignore[arg-type]
        lambda: store.search(None, USER),
        lambda: store.search("x", USER, mode="vector"),
        lambda: store.search("x", USER, vector=np.ones(2)),
        lambda: store.list("u1"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError):
            call()
    with pytest.raises(ScopeError):
        Scope()


@pytest.mark.parametrize("query", ["ship", "harbours sail", "читать", "книга", "SAILING"])
def test_inflected_forms_hit(store: SceneStore, harbour: list[Scene], query: str) -> None:
    store.add(harbour, USER)
    hits = store.search(query, USER, mode="text").hits
    assert hits
    assert hits[0].matched_terms
    assert set(hits[0].components) == {"text"}
    assert store.search("volcano", USER, mode="text").hits == ()


@pytest.mark.parametrize("query", ['"', "ship AND", "NEAR(ship", "ship*", "'; DROP TABLE x; --", "()", "", "a:b -c ^d"])
def test_no_query_is_syntax(store: SceneStore, harbour: list[Scene], query: str) -> None:
    store.add(harbour, USER)
    found = store.search(query, USER, mode="text")
    assert bool(found.hits) == ("ship" in query)
    assert store.count(USER) == 3


def test_hybrid_explains_both_rankings(store: SceneStore, harbour: list[Scene]) -> None:
    store.add(harbour, USER, vectors=np.eye(3), encoder_name="e")
    found = store.search("ships", USER, vector=np.array([0.9, 0.1, 0.0]), encoder_name="e")
    assert (found.mode, found.notes) == ("hybrid", ())
    best = found.hits[0]
    assert best.scene.text == harbour[0].text
    assert best.matched_terms == ("ship",)
    assert best.components["text_rank"] == best.components["vector_rank"] == 1
    assert best.components["vector"] == pytest.approx(0.9939, abs=1e-3)
    assert best.score == pytest.approx(2 / 61)
    assert "text" not in found.hits[1].components


def test_vectors_of_different_encoders_never_meet(store: SceneStore, scene: MakeScene) -> None:
    a, b = scene("a ship", start=0), scene("a boat", start=9)
    store.add([a], USER, vectors=np.eye(2)[:1], encoder_name="first")
    store.add([b], USER, vectors=np.eye(2)[:1], encoder_name="second")
    for name, text in (("first", "a ship"), ("second", "a boat")):
        hits = store.search(None, USER, vector=np.ones(2), encoder_name=name, mode="vector").hits
        assert [hit.scene.text for hit in hits] == [text]
    with pytest.raises(StoreError, match="'first', 'second'"):
        store.search(None, USER, vector=np.ones(2), encoder_name="third", mode="vector")
    found = store.search("ship", USER, vector=np.ones(2), encoder_name="third")
    assert found.mode == "text"
    assert "third" in found.notes[0]
    with pytest.raises(InputError, match="3 dimensions"):
        store.search(None, USER, vector=np.ones(3), encoder_name="first", mode="vector")
    assert store.stats(USER).vectors == {"first": 1, "second": 1}


def test_hybrid_without_vectors_says_so(store: SceneStore, harbour: list[Scene]) -> None:
    assert store.search(None, USER, vector=np.ones(2), encoder_name="e", mode="vector").hits == ()
    store.add(harbour, USER)
    found = store.search("ships", USER)
    assert (found.mode, len(found)) == ("text", 1)
    assert "no query vector" in found.notes[0]
    assert (
        "no scene in this scope has a vector"
        in store.search("ships", USER, vector=np.ones(2), encoder_name="e").notes[0]
    )


def test_vectors_can_come_later_and_are_read_back(store: SceneStore, harbour: list[Scene]) -> None:
    ids = store.add(harbour, USER).ids
    assert store.get_vectors(ids, USER, "e") is None
    store.add(harbour[:2], USER, vectors=3 * np.eye(3)[:2], encoder_name="e")
    assert store.get_vectors(ids, USER, "e") is None
    store.add(harbour, USER, vectors=np.eye(3)[::-1], encoder_name="e")  # those that there are stay
    found = store.get_vectors(ids[::-1], USER, "e")
    assert found is not None
    np.testing.assert_allclose(found, np.eye(3)[[0, 1, 0]], atol=1e-3)
    assert store.get_vectors(ids, OTHER, "e") is None


def test_replace_source_keeps_what_stayed_the_same(store: SceneStore, scene: MakeScene) -> None:
    session = Scope(user_id="u1", session_id="s")
    old = [scene("one ", start=0), scene("two ", start=4), scene("three", start=8)]
    ids = store.add(old, USER).ids
    store.add(old, session)
    store.add([scene("bystander", "other")], USER)
    report = store.replace_source("doc", [old[0], scene("TWO ", start=4)], USER)
    assert (report.added, report.existing, report.removed) == (1, 1, 2)
    assert report.ids[0] == ids[0]
    assert {found.text for found in store.list(session)} == {"one ", "two ", "three"}
    assert [found.text for found in store.list(USER)] == ["one ", "one ", "two ", "three", "bystander", "TWO "]
    with pytest.raises(InputError, match="other"):
        store.replace_source("doc", [scene("x", "other")], USER)
    assert store.replace_source("doc", [], USER).removed == 2


def test_sources_and_stats(store: SceneStore, harbour: list[Scene], clock: object) -> None:
    ids = store.add(harbour, USER, vectors=np.eye(3), encoder_name="e").ids
    store.put_blob(ids[0], USER, "kv", b"12345")
    sources = store.sources(USER)
    assert [(info.source_id, info.title, info.num_scenes) for info in sources] == [
        ("log", "Log › June", 2),
        ("chat", None, 1),
    ]
    assert sources[0].first_added == datetime.fromtimestamp(1_700_000_000, tz=UTC)
    stats = store.stats(USER)
    assert (stats.scenes, stats.sources, stats.vectors, stats.blobs, stats.blob_bytes) == (3, 2, {"e": 3}, 1, 5)
    assert store.stats(OTHER).scenes == 0
    assert store.sources(OTHER) == []


@pytest.mark.parametrize("condition", ["ids", "source_id", "older_than", "older_than_time", "everything"])
def test_forget_removes_what_was_named_and_proves_it(
    store: SceneStore, harbour: list[Scene], clock: object, condition: str
) -> None:
    ids = store.add(harbour[:2], USER, vectors=np.eye(3)[:2], encoder_name="e").ids
    store.set_state(USER, "turn", 1)
    clock.now += 100  # type: ignore[attr-defined]
    late = store.add(harbour[2:], USER, vectors=np.eye(3)[2:], encoder_name="e").ids
    store.search("ships", USER, vector=np.ones(3), encoder_name="e")  # indexes are loaded, so they must notice
    options, gone = {
        "ids": ({"ids": [ids[1], "hs_unknown"]}, {ids[1]}),
        "source_id": ({"source_id": "log"}, {ids[0], late[0]}),
        "older_than": ({"older_than": timedelta(seconds=50)}, set(ids)),
        "older_than_time": ({"older_than": datetime.fromtimestamp(1_700_000_050, tz=UTC)}, set(ids)),
        "everything": ({"everything": True}, {*ids, *late}),
    }[condition]
    report = store.forget(USER, **options)  # type: ignore[arg-type]
    assert (report.removed, report.remaining, report.vacuumed) == (len(gone), 0, True)
    left = {*ids, *late} - gone
    assert {found.id for found in store.list(USER)} == left
    assert {hit.scene.id for hit in store.search("ship", USER, vector=np.ones(3), encoder_name="e")} == left
    assert store.stats(USER).vectors == ({"e": len(left)} if left else {})
    assert store.get_state(USER, "turn") == (None if condition == "everything" else 1)
    for name in gone:
        with pytest.raises(SceneNotFoundError):
            store.get(name, USER)
    assert store.forget(USER, **options).removed == 0  # type: ignore[arg-type]


def test_forget_refuses_to_guess(store: SceneStore, harbour: list[Scene]) -> None:
    store.add(harbour, USER)
    for options in ({}, {"everything": True, "ids": []}, {"ids": "hs_1"}, {"source_id": "log", "everything": True}):
        with pytest.raises(InputError):
            store.forget(USER, **options)
    assert store.forget(USER, ids=[]).removed == 0
    assert store.count(USER) == 3


def test_expired_scenes_are_gone_at_once_and_purged_later(
    store: SceneStore, harbour: list[Scene], clock: object
) -> None:
    short = store.add(harbour[:1], USER, ttl=10, vectors=np.eye(3)[:1], encoder_name="e").ids[0]
    store.add(harbour[1:], USER, ttl=timedelta(seconds=30), vectors=np.eye(3)[1:], encoder_name="e")
    store.put_blob(short, USER, "kv", b"x")
    assert len(store.search("ships", USER, mode="text")) == 1
    clock.now += 10  # type: ignore[attr-defined]
    assert store.count(USER) == 2
    assert len(store.search("ships", USER, mode="text")) == 0
    assert len(store.search(None, USER, vector=np.ones(3), encoder_name="e", mode="vector")) == 2
    for call in (lambda: store.get(short, USER), lambda: store.get_blob(short, USER, "kv")):
        with pytest.raises(SceneNotFoundError):
            call()
    assert store.purge_expired() == 1
    assert store.purge_expired() == 0
    again = store.add(harbour[:1], USER)
    assert again.added == 1
    assert again.ids[0] != short
    with pytest.raises(InputError, match="ttl"):
        store.add(harbour, USER, ttl=0)


def test_adding_again_before_or_after_expiry(store: SceneStore, harbour: list[Scene], clock: object) -> None:
    first = store.add(harbour[:1], USER, ttl=10).ids[0]
    store.search("ships", USER, mode="text")
    assert store.add(harbour[:1], USER, ttl=100).ids == (first,)
    clock.now += 50  # type: ignore[attr-defined]
    assert len(store.search("ships", USER, mode="text")) == 1
    clock.now += 100  # type: ignore[attr-defined]
    replaced = store.add(harbour[:1], USER)
    assert replaced.added == 1
    assert store.count(USER) == 1
    clock.now += 10**9  # type: ignore[attr-defined]
    assert store.get(replaced.ids[0], USER).text == harbour[0].text


def test_add_many_takes_any_number_and_reports_progress(store: SceneStore, scene: MakeScene) -> None:
    seen: list[int] = []
    asked: list[int] = []

    def encode(texts: object) -> np.ndarray:
        asked.append(len(texts))  # type: ignore[arg-type]
        return np.ones((asked[-1], 4))

    many = (scene(f"scene {i}", start=i) for i in range(250))
    report = store.add_many(many, USER, encode=encode, encoder_name="e", batch_size=100, progress=seen.append)
    assert (report.added, len(report.ids), seen, asked) == (250, 250, [100, 200, 250], [100, 100, 50])
    assert store.stats(USER).vectors == {"e": 250}


def test_state_is_kept_for_exactly_one_scope(store: SceneStore) -> None:
    session = Scope(user_id="u1", session_id="s")
    store.set_state(USER, "turn", {"n": [1, None, "ё"]})
    store.set_state(USER, "turn", {"n": [2]})
    assert store.get_state(USER, "turn") == {"n": [2]}
    assert store.get_state(session, "turn") is None
    assert store.delete_state(session, "turn") is False
    store.set_state(session, "turn", 5)
    store.forget(Scope(user_id="u1"), everything=True)  # a user's forgetting takes the user's sessions along
    assert store.get_state(session, "turn") is None
    with pytest.raises(InputError, match="JSON"):
        store.set_state(USER, "turn", object())
