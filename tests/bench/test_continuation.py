"""The continuation benchmark on the demo model: full context beats none, bytes are held, all kept is full."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from hyperscene_plugin.bench import continuation
from hyperscene_plugin.errors import InputError
from hyperscene_plugin.model.hf import LocalModel
from hyperscene_plugin.model.prefill import prefill_source


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel.load("demo", device_map="cpu")


@pytest.fixture(scope="module")
def window(model: LocalModel) -> continuation.Window:
    book = continuation.BOOK.read_text(encoding="utf-8")
    return next(continuation.windows_of(model, book, 768, 128, 1))


@pytest.fixture(scope="module")
def source(model: LocalModel, window: continuation.Window) -> Any:
    template = model.hypercode.template(chat=False)
    ids = template.suffix_ids(window.context)
    return prefill_source(model.model, template.prefix_ids, ids)


@pytest.fixture(scope="module")
def live(model: LocalModel, window: continuation.Window) -> list[int]:
    return model.hypercode.template(chat=False).suffix_ids(window.continuation)


def test_windows_tile_and_have_their_lengths(model: LocalModel) -> None:
    book = continuation.BOOK.read_text(encoding="utf-8")
    found = list(continuation.windows_of(model, book, 256, 64, 3))
    assert len(found) == 3
    assert all(window.context + window.continuation in book for window in found)
    assert found[0].context == book[: len(found[0].context)]
    assert book.endswith(found[-1].continuation)


def test_methods_at_the_same_bytes(model: LocalModel, window: continuation.Window) -> None:
    found = continuation.measure_window(model, window, [12.0], "fast")
    assert set(found) == {("full", 1.0), ("hypercode", 12.0), ("streaming", 12.0), ("no context", math.inf)}
    assert found["full", 1.0][0] < found["no context", math.inf][0]
    for method in ("hypercode", "streaming"):
        assert 1 / 14 < found[method, 12.0][1] <= 1 / 12


def test_everything_evicted_is_worse_than_the_full_cache(model: LocalModel, source: Any, live: list[int]) -> None:
    full = continuation.continuation_loss(model, source.context(), live)
    everything = continuation.streaming_context(source, 10**12)
    assert continuation.continuation_loss(model, everything, live) == pytest.approx(full, abs=1e-4)
    nothing = continuation.streaming_context(source, 0)
    assert sum(layer.keys.shape[0] for layer in nothing.layers) == len(source.keys) * source.keys[0].shape[0] * (
        source.num_prefix
    )
    assert continuation.continuation_loss(model, nothing, live) > full + 0.05


def test_another_continuation_costs_more_than_the_text_itself(
    model: LocalModel, source: Any, window: continuation.Window
) -> None:
    repeated = model.hypercode.template(chat=False).suffix_ids(window.context)[:128]
    full = continuation.continuation_loss(model, source.context(), repeated)
    assert full < continuation.continuation_loss(model, source.context(prefix_only=True), repeated)


def test_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    continuation.main(
        ["--windows", "1", "--context", "256", "--continuation", "32", "--ratio", "8", "--quality", "fast"]
    )
    text = capsys.readouterr().out
    report = json.loads(text.splitlines()[-1])
    assert "no language model" in text
    assert report["note"]
    assert [row["method"] for row in report["rows"]] == ["full", "hypercode", "streaming", "no context"]
    assert report["rows"][0]["over_full"] == 0
    assert report["rows"][-1]["ratio"] is None
    for row in report["rows"]:
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("a book", 64, 8, 1), "the text has"),
        (("a book", 10, 8, 1), "at least 64 tokens"),
        (("a book", 8000, 8, 1), "do not fit the window"),
    ],
)
def test_what_cannot_be_measured(model: LocalModel, arguments: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        list(continuation.windows_of(model, *arguments))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as text"):
        continuation.main(["--file", str(tmp_path / "none.md")])
