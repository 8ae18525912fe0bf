"""The benchmark measures a real process: its table, its last line, and a prediction near what was measured."""

from __future__ import annotations

import json
import sys

import pytest

from hyperscene_plugin.bench import forecast as bench
from hyperscene_plugin.errors import HypersceneError, InputError


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_small_run(capsys, monkeypatch):
    monkeypatch.setattr(bench, "CASES", (bench.Case("smollm2-135m", 2048, layers=2),))
    bench.main(["--only", "smollm2-135m"])
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row["quotient"] == pytest.approx(1, abs=0.1)
    assert row["quotient_beyond"] == pytest.approx(1, abs=0.15)


def test_a_failing_process_is_reported():
    with pytest.raises(HypersceneError, match=r"(?s)the measuring process failed.*KeyError: 'unknown'"):
        bench.measure(bench.Case("smollm2-135m", 8, way="unknown"))


def test_an_unknown_model_is_named():
    with pytest.raises(InputError, match="models measured"):
        bench.main(["--only", "nothing"])
