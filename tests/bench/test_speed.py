"""The speed benchmark on a tiny model: its figures, its last line, refusals, and bars that a tiny model misses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from hyperscene_plugin.bench import speed
from hyperscene_plugin.bench.random_model import configuration_of, save_random_model
from hyperscene_plugin.bench.speed_memory import Task, measure_memory
from hyperscene_plugin.bench.speed_plot import plot_speed
from hyperscene_plugin.errors import HypersceneError, InputError
from hyperscene_plugin.model.hf import LocalModel

TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "config.json"
    file.write_text(json.dumps(configuration_of("smollm2-135m", **TINY)), encoding="utf-8")
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, dict[str, Any]]:
    speed.main([str(argument) for argument in arguments])
    text = capsys.readouterr().out
    return text, json.loads(text.splitlines()[-1])


def test_a_small_run(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, report = run(
        capsys, "--model-config", config_file, "--dtype", "float32", "--context", 400, "--repeats", 1,
        "--new-tokens", 4, "--quality", "balanced", "--no-memory",
    )  # fmt: skip
    (row,) = report["rows"]
    ways = {"full", "stored", "stored_zoom", "loaded"}
    assert set(row["first_token_s"]) == set(row["decode_tokens_per_s"]) == ways
    assert all(seconds > 0 for seconds in row["first_token_s"].values())
    assert row["source_tokens"] == pytest.approx(400, rel=0.1)  # rendered: titles stand where a reader needs them
    assert row["kv_bytes"]["full"] == row["source_tokens"] * 2 * 2 * 2 * 16 * 4
    assert row["kv_bytes"]["hypercode"] <= row["kv_bytes"]["hypercode_zoom"]
    assert row["ratios"]["kv_hypercode"] > 12  # half of the bytes is free for zoom
    assert row["disk_bytes"]["verbatim"] >= row["kv_bytes"]["full"]
    assert row["ratios"]["compaction_balanced"] == pytest.approx(row["compaction"]["balanced"]["prefills"], abs=1e-3)
    # negative control: a model so small gains nothing, and the benchmark says so
    assert row["ratios"]["first_token_stored_zoom"] < speed.BARS["first_token"]
    assert "first token" in text
    assert "MISSED" in text


def test_a_context_beyond_the_window_is_refused(config_file: Path) -> None:
    with pytest.raises(InputError, match=r"needs a window of 60,544; the configuration has 8,192"):
        speed.main(["--model-config", str(config_file), "--context", "60000"])


def test_an_unknown_configuration_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"nothing.*qwen2\.5-0\.5b"):
        configuration_of("nothing")


def test_a_configuration_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("no", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read as a configuration"):
        configuration_of(str(tmp_path))


def test_the_random_model_is_a_real_folder(tmp_path: Path) -> None:
    folder = save_random_model(tmp_path / "model", configuration_of("qwen2.5-0.5b", **TINY), "a book " * 50)
    model = LocalModel.load(str(folder), dtype="float32", device_map="cpu")
    assert model.context_window == 32_768
    assert model.generate("What?").usage.completion_tokens > 0
    with pytest.raises(InputError, match="no room for 256 bytes"):
        save_random_model(tmp_path / "other", configuration_of("qwen2.5-0.5b", vocab_size=200), "a book")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_fresh_process(tmp_path: Path) -> None:
    config = configuration_of("smollm2-135m", **TINY | {"intermediate_size": 4096})
    folder = save_random_model(tmp_path / "model", config, "a book " * 50, "float32")
    task = Task(str(folder), "float32", "cpu", "Who?", 4)
    short, long = (measure_memory(Task(**{**_fields(task), "text": "a book " * words})) for words in (20, 1500))
    assert 0 < short["weights"] < short["peak"]
    assert long["beyond_weights"] > short["beyond_weights"] + 5_000_000


def test_a_failing_process_is_reported() -> None:
    with pytest.raises(HypersceneError, match="the measuring process failed"):
        measure_memory(Task("/nowhere/at/all", "float32", "cpu", "Who?", 4))


def test_curves_need_two_lengths(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    row = {
        "context": 512,
        "first_token_s": {"full": 2.0, "stored": 0.1, "stored_zoom": 0.2},
        "kv_bytes": {"full": 1200, "hypercode": 50, "hypercode_zoom": 100},
    }
    report = {"model_config": "tiny", "dtype": "float32", "device": "cpu", "ratio": 12.0, "rows": [row]}
    with pytest.raises(InputError, match="at least two context lengths"):
        plot_speed(report, tmp_path)
    file = plot_speed(report | {"rows": [row, row | {"context": 1024}]}, tmp_path)
    assert file.read_bytes().startswith(b"\x89PNG")


def _fields(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in Task.__dataclass_fields__}
