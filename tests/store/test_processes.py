"""Several writers at once, and writers killed at any moment: what was acknowledged is there, nothing is half there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hyperscene_plugin.errors import StoreError
from hyperscene_plugin.store import SceneStore
from hyperscene_plugin.types import Scene, Scope

USER = Scope("u")

_WRITER = """
import sys
import numpy as np
from hyperscene_plugin.store import SceneStore
from hyperscene_plugin.types import Scene, Scope
location, blobs, name, first, number = *sys.argv[1:4], *map(int, sys.argv[4:])
with SceneStore.open(location, blobs=blobs) as store:
    print("ready", flush=True)
    for batch in range(first, first + number):
        scenes = [Scene(f"{name} batch {batch} part {i} " + "word " * 40, name, i, i + 1, message_ids=(str(batch),))
                  for i in range(8)]
        ids = store.add(scenes, Scope("u"), vectors=np.ones((8, 16)) + np.eye(8, 16), encoder_name="e").ids
        print("added", batch, *ids, flush=True)
        store.put_blob(ids[0], Scope("u"), "kv", f"blob of {batch} ".encode() * 5000)
        print("blob", batch, ids[0], flush=True)
        if batch % 5 == 4:
            store.forget(Scope("u"), ids=[ids[7]], vacuum=batch % 10 == 9)
            print("forgot", batch, ids[7], flush=True)
"""


def start_writer(location: str, blobs: Path, name: str, first: int, number: int) -> subprocess.Popen[str]:
    arguments = [location, str(blobs), name, str(first), str(number)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_processes_write_at_the_same_time(location: str, tmp_path: Path, open_store: Callable[..., SceneStore]) -> None:
    writers = [start_writer(location, tmp_path / "blobs", f"writer{i}", 0, 10) for i in range(3)]
    outputs = [writer.communicate(timeout=120)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    store = open_store(clock=time.time)
    acknowledged = {
        name for text in outputs for line in text.splitlines() if line.startswith("added") for name in line.split()[2:]
    }
    forgotten = {line.split()[2] for text in outputs for line in text.splitlines() if line.startswith("forgot")}
    assert (len(acknowledged), len(forgotten)) == (240, 6)
    assert {found.id for found in store.list(USER, limit=1000)} == acknowledged - forgotten
    assert store.stats(USER).blobs == 30
    assert store.doctor().healthy


def test_threads_write_and_search_at_the_same_time(store: SceneStore) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(12):
                store.add(
                    [Scene(f"ship {number} {i}", f"t{number}", i, i + 1)],
                    USER,
                    vectors=np.ones((1, 4)),
                    encoder_name="e",
                )
                assert store.search("ship", USER, vector=np.ones(4), encoder_name="e", top_k=3).hits
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.count(USER) == 72
    assert len(store.search("ships", USER, mode="text", top_k=100)) == 72


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment(tmp_path: Path, seed: int) -> None:
    """``kill -9`` at random moments, over and over on one store; each time it is checked with what was printed."""
    rng = random.Random(seed)
    location, blobs = str(tmp_path / "s.db"), tmp_path / "blobs"
    added: dict[str, int] = {}
    with_blob: dict[str, int] = {}
    forgotten: set[str] = set()
    killed = 0
    for round_number in range(5):
        writer = start_writer(location, blobs, "w", 1000 * round_number, 500)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.6))
        writer.send_signal(signal.SIGKILL)
        lines = [line.split() for line in writer.stdout.read().splitlines()]
        killed += writer.wait() == -signal.SIGKILL
        for what, batch, *names in lines:
            if what == "added":
                added |= dict.fromkeys(names, int(batch))
            elif what == "blob":
                with_blob[names[0]] = int(batch)
            else:
                forgotten.add(names[0])
        with SceneStore.open(location, blobs=blobs) as store:
            there = {str(found.id): found for found in store.list(USER, limit=100_000)}
            missing = added.keys() - forgotten - there.keys()
            # one removal may have been done and not yet printed
            assert len(missing) <= 1, "an acknowledged scene is gone"
            forgotten |= missing
            assert not forgotten & there.keys(), "a forgotten scene is back"
            by_batch: dict[str, int] = {}
            for found in there.values():
                by_batch[found.message_ids[0]] = by_batch.get(found.message_ids[0], 0) + 1
            assert set(by_batch.values()) <= {7, 8}, "a batch is half there"
            assert store.stats(USER).vectors.get("e", 0) == len(there)
            for name, number in with_blob.items():
                assert store.get_blob(name, USER, "kv") == f"blob of {number} ".encode() * 5000
            report = store.doctor()
            assert report.problems == ()
            rows = store.stats(USER).blobs
            files = [path for path in blobs.rglob("*") if path.is_file() and path.parent.name != "tmp"]
            assert len(files) == rows, "an orphan file outlived doctor"
            assert store.search("word", USER, top_k=5).hits or not there
    assert killed == 5
    assert not list(tmp_path.glob(".*.new"))


def test_killed_while_the_store_is_made(tmp_path: Path) -> None:
    """At no moment is there a half-made store: whatever was killed, opening works."""
    rng = random.Random(11)
    script = "from hyperscene_plugin.store import SceneStore; import sys; print(flush=True)\n"
    script += "for i in range(200): SceneStore.open(f'{sys.argv[1]}/{i}.db').close()\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    maker = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env=environment)
    assert maker.stdout is not None
    maker.stdout.readline()
    time.sleep(rng.uniform(0.3, 0.6))
    maker.kill()
    maker.communicate()
    made = sorted(tmp_path.glob("[0-9]*.db"))
    for path in [*made, tmp_path / f"{len(made)}.db"]:
        with SceneStore.open(path) as store:
            assert store.add([Scene("text", "d", 0, 4)], USER).added == 1


def test_a_writer_that_stays_is_an_error_with_a_name(location: str, open_store: Callable[..., SceneStore]) -> None:
    patient, impatient = open_store(), open_store(busy_timeout=0.2)
    with patient._db.write(), pytest.raises(StoreError, match="write lock"):
        impatient.add([Scene("text", "d", 0, 4)], USER)
    assert impatient.add([Scene("text", "d", 0, 4)], USER).added == 1
