"""The benchmark runs, and its last line is JSON with a figure for each claim."""

from __future__ import annotations

import json

import pytest

from hyperscene_plugin.bench.store import main


def test_a_small_run(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--scenes", "2500", "--queries", "20"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report["search"]) == {"text", "vector", "hybrid", "hybrid, by time"}
    assert report["vector_recall_at_10"] == 1.0  # so few rows are compared one by one
    assert set(report["fts5"]) == {"FTS5, every lemma", "FTS5, rarest"}
    assert report["disk_mb"] > 0
    assert report["index_mb"] > 0
