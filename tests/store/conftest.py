"""Stores to test with: SQLite always, Postgres (a private server of this test run) where it is installed."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from hyperscene_plugin.store import SceneStore
from hyperscene_plugin.types import Scene, SceneKind

StoreMaker = Callable[..., SceneStore]


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _postgres_folder() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server on a temporary folder; it refuses to run as root, so root starts it as another user."""
    programs = _postgres_folder()
    if programs is None:
        pytest.skip("Postgres is not installed here (no initdb)")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed here (extra 'postgres')")
    user = None
    if os.getuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
    folder = Path(tempfile.mkdtemp(prefix="hs_pg_", dir="/tmp"))
    if user:
        shutil.chown(folder, user)
    port = _free_port()

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [str(programs / program), "-D", str(folder / "data"), *arguments],
            check=True, user=user, cwd="/", stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )  # fmt: skip

    call("initdb", "-A", "trust", "-U", "hyperscene", "-E", "UTF8", "--no-sync")
    call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-F -p {port} -h 127.0.0.1 -k {folder}", "start")
    try:
        yield f"postgresql+psycopg://hyperscene@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_schema(postgres_url: str) -> str:
    """The URL of an empty schema of its own."""
    schema = f"t{uuid.uuid4().hex}"
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    engine.dispose()
    return f"{postgres_url}?options=-csearch_path%3D{schema}"


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where to open an empty store: every test that takes it (or ``open_store``) holds for both backends."""
    if request.param == "sqlite":
        return str(tmp_path / "scenes.db")
    url: str = request.getfixturevalue("postgres_schema")
    return url


@pytest.fixture
def open_store(location: str, clock: Clock, tmp_path: Path) -> Iterator[StoreMaker]:
    """Open the store at ``location``, as often as wanted."""
    opened: list[SceneStore] = []

    def make(**options: object) -> SceneStore:
        store = SceneStore.open(location, blobs=tmp_path / "blobs", **{"clock": clock, **options})  # type: ignore[arg-type]
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: StoreMaker) -> SceneStore:
    return open_store()


def make_scene(text: str, source_id: str = "doc", start: int = 0, **fields: object) -> Scene:
    return Scene(text, source_id, start, start + len(text), **fields)  # type: ignore[arg-type]


@pytest.fixture
def scene() -> Callable[..., Scene]:
    return make_scene


@pytest.fixture
def harbour() -> list[Scene]:
    """Three scenes with every field filled somewhere."""
    return [
        make_scene("The ships sailed into the harbour at dawn. ", "log", 0, index=0, title="Log › June"),
        make_scene(
            "Анна читала книгами письма.", "chat", 0, kind=SceneKind.MESSAGE, message_ids=("m1",), speaker="Anna",
            role="user", created_at="2024-05-08T12:00:00+02:00", metadata={"day": 8, "mood": "calm", "ok": True},
        ),
        make_scene("def sail(): return 42", "log", 43, index=1, kind=SceneKind.CODE, metadata={"day": 8.5, "ok": None}),
    ]  # fmt: skip


@pytest.fixture
def unit() -> Callable[[int, int, int], np.ndarray]:
    """Random unit vectors: ``unit(seed, number, dimension)``."""

    def make(seed: int, number: int, dimension: int) -> np.ndarray:
        rows = np.random.default_rng(seed).standard_normal((number, dimension)).astype(np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    return make
