"""The benchmark on two small sets of its own, and the vector cache it uses."""

from __future__ import annotations

import json
import lzma
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hyperscene_plugin.bench.cached_encoder import CachedEncoder
from hyperscene_plugin.bench.datasets import load_corpora
from hyperscene_plugin.bench.text_baselines import fill, rank_fusion
from hyperscene_plugin.bench.text_tier import main
from hyperscene_plugin.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    with lzma.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    sents = [
        [f"Keeper {n} guards tower {n}.", f"It was built in {1800 + n}.", "The walls are thick."] for n in range(8)
    ]
    docs = [
        {"title": f"Tower {n}", "text": " ".join(lines), "sents": lines, "gold_sents": [0] if n == 3 else []}
        for n, lines in enumerate(sents)
    ]
    _write(tmp_path / "hotpotqa.jsonl.xz", [{"question": "Who guards tower 3?", "type": "bridge", "docs": docs}])
    turns = [
        {"id": f"D1:{n}", "session": 1, "date": "8 May, 2023", "speaker": "Ann", "text": f"I sold {n} green lamps."}
        for n in range(40)
    ]
    asked = [{"question": "Who sold 17 lamps?", "evidence": ["D1:17"], "category": 1}]
    asked.append({"question": "Unanswerable?", "evidence": ["D1:1"], "category": 5})
    _write(tmp_path / "locomo.jsonl.xz", [{"turns": turns, "qa": asked}])
    return tmp_path


def test_the_script_prints_a_table_and_ends_in_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(data), "--only", "hotpotqa", "locomo", "--encoder", "none", "--tokenizer", "demo"]
    assert main([*arguments, "--no-speed"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads(printed.splitlines()[-1])["rows"]
    kept = {(row["set"], row["method"], row["ratio"]): row["kept"] for row in rows}
    assert kept["hotpotqa", "this package, lexical only", 4] == 1.0
    assert kept["locomo", "this package, lexical only", 12] == 1.0
    assert kept["locomo", "most recent", 12] == 0.0, "the oldest half of a chat is what recency loses"
    assert "results over budget: 0" in printed


def test_unanswerable_questions_are_left_out(data: Path) -> None:
    assert [len(corpus.cases) for corpus in load_corpora("locomo", data)] == [1]


def test_unknown_and_missing_sets_are_named(data: Path) -> None:
    with pytest.raises(InputError, match="no evaluation set 'x'"):
        load_corpora("x", data)
    with pytest.raises(InputError, match="no file"):
        load_corpora("2wiki", data)


def test_fill_and_fusion_by_hand() -> None:
    assert fill(np.asarray([0.1, 0.9, 0.5]), np.asarray([1, 5, 2]), 4) == [0, 2]
    assert int(np.argmax(rank_fusion(np.asarray([3.0, 2.0, 1.0]), np.asarray([1.0, 3.0, 2.0])))) == 1


class _Counting:
    name = "counting"

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.encoded += texts
        return np.asarray([[len(text), 1.0] for text in texts], dtype=np.float32)


def test_no_text_is_encoded_twice_also_after_a_restart(tmp_path: Path) -> None:
    inner = _Counting()
    cached = CachedEncoder(inner, tmp_path)
    first = cached.encode(["a", "bb", "a"])
    cached.save()
    again = CachedEncoder(inner, tmp_path).encode(["bb", "a", "a"])
    assert inner.encoded == ["a", "bb"]
    assert np.array_equal(first[[1, 0, 2]], again)
