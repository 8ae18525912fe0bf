"""Stores of other versions, damaged ones, and places that are no store: a clear error, and every byte stays."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from hyperscene_plugin.errors import HypersceneError, StoreCorruptError, StoreError, StoreVersionError
from hyperscene_plugin.store import SceneFilter, SceneStore
from hyperscene_plugin.store import migrations as migrations_module
from hyperscene_plugin.store.migrations import MIGRATIONS, SCHEMA_VERSION, migrate
from hyperscene_plugin.store.schema import metadata
from hyperscene_plugin.types import Scene, Scope

USER = Scope("u")
MakeScene = Callable[..., Scene]


def make_version_1(location: str, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """A store as the first version wrote it: without ``created_ts`` and without the state table."""
    monkeypatch.setattr(migrations_module, "MIGRATIONS", {1: MIGRATIONS[1]})
    url = location if "://" in location else f"sqlite:///{location}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        migrate(connection, location, to=1)
        for number, scene in enumerate(scenes):
            connection.execute(
                sa.text(
                    "INSERT INTO hyperscene_scenes (id, dedup_key, user_id, agent_id, session_id, source_id, "
                    "span_start, span_end, scene_index, kind, message_ids, created_at, metadata, text, text_sha256, "
                    "terms, added_at) "
                    "VALUES (:id, :id, 'u', '', '', 'doc', 0, 1, 0, 'prose', '[]', :at, '{}', :text, :sha, :terms, 0)"
                ),
                {
                    "id": f"hs_{number:032x}",
                    "at": scene.created_at,
                    "text": scene.text,
                    "sha": hashlib.sha256(scene.text.encode()).hexdigest(),
                    "terms": b"",
                },
            )
    engine.dispose()
    monkeypatch.undo()


def test_an_older_store_is_brought_up_to_date(
    location: str, open_store: Callable[..., SceneStore], scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = ["2024-01-01", "2024-06-01", "no time", None]
    make_version_1(location, [scene(f"t{i}", created_at=day) for i, day in enumerate(days)], monkeypatch)
    store = open_store()
    assert store.doctor().schema_version == SCHEMA_VERSION == 2
    assert [found.text for found in store.list(USER)] == ["t0", "t1", "t2", "t3"]
    assert [found.text for found in store.list(USER, SceneFilter(since="2024-02-01"))] == ["t1"]
    store.set_state(USER, "k", 1)
    assert store.get_state(USER, "k") == 1
    assert open_store().count(USER) == 4


def test_a_step_that_fails_changes_nothing(
    location: str, open_store: Callable[..., SceneStore], scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_version_1(location, [scene("kept", created_at="2024-01-01")], monkeypatch)

    def half_way(connection: sa.Connection) -> None:
        MIGRATIONS[2](connection)
        raise StoreError("the power went")

    monkeypatch.setattr(migrations_module, "MIGRATIONS", {1: MIGRATIONS[1], 2: half_way})
    with pytest.raises(StoreError, match="the power went"):
        open_store()
    monkeypatch.undo()
    store = open_store()
    assert [found.text for found in store.list(USER)] == ["kept"]


def test_steps_and_tables_agree(store: SceneStore) -> None:
    with store._db.read() as connection:
        inspector = sa.inspect(connection)
        found = {
            name: {column["name"] for column in inspector.get_columns(name)} for name in inspector.get_table_names()
        }
    expected = {table.name: {column.name for column in table.columns} for table in metadata.tables.values()}
    assert {name: columns for name, columns in found.items() if name.startswith("hyperscene_")} == expected


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".db-shm"}


def test_a_newer_store_is_left_alone(tmp_path: Path, scene: MakeScene) -> None:
    path = tmp_path / "s.db"
    with SceneStore.open(path) as store:
        store.add([scene("kept")], USER)
    raw = sqlite3.connect(path)
    raw.execute("UPDATE hyperscene_meta SET value = '3' WHERE key = 'schema_version'")
    raw.commit()
    raw.close()
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match=r"version 3; this release reads up to 2.*[Uu]pgrade"):
        SceneStore.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"dear diary, " * 500, "not a SQLite file"),
        (b"SQLite format 3\x00" + b"\xff" * 5000, "damaged"),
    ],
    ids=["empty", "text", "rubbish behind a good header"],
)
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(content)
    with pytest.raises(StoreCorruptError, match=message) as refused:
        SceneStore.open(path)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == content
    assert [found.name for found in tmp_path.iterdir()] == ["s.db"]


def test_cut_or_overwritten_files_never_pass_for_empty_ones(tmp_path: Path, scene: MakeScene) -> None:
    """Each damage ends in our error, in ``doctor`` naming it, or in every scene as it was; never in fewer scenes."""
    good = tmp_path / "good.db"
    with SceneStore.open(good) as store:
        ids = store.add([scene(f"scene number {i} " * 20, start=i) for i in range(120)], USER).ids
        store.forget(Scope("nobody"), everything=True)  # everything is in the file itself, the log is empty
    whole = good.read_bytes()
    rng = random.Random(7)
    noticed = 0
    for number in range(30):
        path = tmp_path / f"bad{number}.db"
        data = bytearray(whole)
        if number % 2:
            del data[rng.randrange(100, len(data)) :]
        else:
            place = rng.randrange(0, len(data) - 600)
            data[place : place + 600] = rng.randbytes(600)
        path.write_bytes(data)
        found = _look(path, ids)
        noticed += found is not True
        if isinstance(found, HypersceneError):
            assert str(path) in str(found)
    assert noticed >= 20


def _look(path: Path, ids: Sequence[str]) -> bool | HypersceneError:
    """Return our error, or whether ``doctor`` is content; a scene that is missing or changed fails the test."""
    try:
        with SceneStore.open(path) as store:
            texts = [found.text for found in store.get_many(ids, USER)]
            number, healthy = store.count(USER), store.doctor().healthy
    except HypersceneError as error:
        return error
    assert texts == [f"scene number {i} " * 20 for i in range(120)]
    assert number == 120
    return healthy


def test_a_changed_text_is_noticed(tmp_path: Path, scene: MakeScene) -> None:
    with SceneStore.open(tmp_path / "s.db") as store:
        name = store.add([scene("the true text")], USER).ids[0]
        assert store.doctor().healthy
        raw = sqlite3.connect(tmp_path / "s.db")
        raw.execute("UPDATE hyperscene_scenes SET text = 'another text'")
        raw.commit()
        raw.close()
        with pytest.raises(StoreCorruptError, match=name):
            store.get(name, USER)
        assert any(name in problem for problem in store.doctor().problems)


def test_a_log_without_its_database_is_not_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "s.db-wal").write_bytes(b"x" * 100)
    with pytest.raises(StoreCorruptError, match="write-ahead log"):
        SceneStore.open(tmp_path / "s.db")


def test_a_database_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE customers (id)")
    raw.commit()
    raw.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="customers"):
        SceneStore.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", "empty"),
        (":memory:", "needs a file"),
        ("mysql://u:hunter2@h/d", "not in mysql"),
        ("postgresql+psycopg://u:hunter2@127.0.0.1:1/d", "cannot be reached"),
        ("postgresql+nodriver://u:hunter2@h/d", "driver"),
        ("://", "URL"),
    ],
)
def test_places_where_no_store_can_be(location: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as refused:
        SceneStore.open(location)
    assert "hunter2" not in str(refused.value)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        SceneStore.open(tmp_path)
    with pytest.raises(StoreError, match="folder that exists"):
        SceneStore.open(tmp_path / "missing" / "s.db")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="folder that exists"):
        SceneStore.open(tmp_path / "file" / "s.db")


def test_no_right_to_write(tmp_path: Path) -> None:
    """Root may write anywhere, so root lets another user try."""
    script = (
        "import os, sys\n"
        "from hyperscene_plugin.errors import StoreError\n"
        "from hyperscene_plugin.store import SceneStore\n"
        "SceneStore.open(sys.argv[1]).close()\n"  # loads every module while that is still allowed
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "for name in sys.argv[2:]:\n"
        "    try: SceneStore.open(name)\n"
        "    except StoreError as error: print(error)\n"
        "    else: print('opened')\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with SceneStore.open(place / "there.db"):
            pass
        place.chmod(0o555)
        found = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "s.db"), str(place / "new.db"), str(place / "there.db")],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout.splitlines()  # fmt: skip
        place.chmod(0o755)
        assert sorted(path.name for path in place.iterdir()) == ["there.db"]
    assert len(found) == 2
    assert "may write" in found[0]
    assert "no right to write" in found[1]


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, scene: MakeScene) -> None:
    with SceneStore.open(tmp_path / "s.db") as store:
        name = store.add([scene("kept")], USER).ids[0]
        with store._db.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(StoreError, match=r"full.*nothing was written"):
            store.add([scene("x" * 3000, start=10 * i) for i in range(100)], USER)
        assert [found.id for found in store.list(USER)] == [name]
