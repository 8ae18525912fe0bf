"""``hyperscene forecast`` as a user types it, and that it needs neither torch nor transformers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hyperscene_plugin.cli.app import run
from hyperscene_plugin.forecast import reference_names


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run(("forecast", *arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_report_shows_its_arithmetic(cli):
    code, out, err = cli("--model", "llama-3.1-8b", "--context", "60000", "--ratio", "12")
    assert (code, err) == (0, "")
    for line in (
        "full = 2 · 32 layers · 8 KV heads · 128 · 2 bytes · 60,000 tokens = 7.32 GiB",
        "full = 60,000² = 3,600,000,000",
        "8,030,261,248 · 2 bytes (bfloat16) = 14.96 GiB",
        "the hypercode is made once",
        "24 GB, hypercode",
    ):
        assert line in out


def test_json_holds_every_line(cli):
    code, out, _ = cli("--model", "demo", "--context", "2000", "--json", "--card", "4", "--card", "80")
    assert code == 0
    found = json.loads(out)
    assert found["request"]["context"] == 2000
    assert found["cache"]["full"] == {
        "label": "full",
        "formula": "2 · 4 layers · 3 KV heads · 64 · 2 bytes · 2,000 tokens",
        "value": 6_144_000,
        "unit": "bytes",
    }
    sections = {"weights", "cache", "peak_memory", "attention_pairs", "first_token", "each_token"}
    assert sections <= set(found)
    assert {fit["card_gib"] for fit in found["fits"]} == {4.0, 80.0}
    assert found["peak_memory"]["hypercode"]["value"] < found["peak_memory"]["full"]["value"]


def test_options_change_what_they_say(cli):
    def peak(*more):
        code, out, err = cli("--model", "qwen2.5-7b", "--context", "20000", "--json", *more)
        assert code == 0, err
        return json.loads(out)["peak_memory"]["full"]["value"]

    plain = peak()
    assert peak("--prefill-chunk", "512") < plain
    assert peak("--quantization", "4bit") < peak("--quantization", "8bit") < plain < peak("--dtype", "float32")
    assert peak("--question-tokens", "5000") > plain


def test_the_built_in_models_are_listed(cli):
    code, out, _ = cli("--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(reference_names())
    assert json.loads(cli("--list", "--json")[1])["llama-3.1-8b"] == "meta-llama/Llama-3.1-8B-Instruct"


def test_beyond_the_window_is_said(cli):
    assert "beyond the model's native window of 32,768" in cli("--model", "qwen2.5-7b", "--context", "60000")[1]
    assert "nothing to compact" not in cli("--model", "gemma-3-4b", "--context", "60000")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "--model NAME and --context TOKENS"),
        (("--model", "demo"), 2, "--context TOKENS"),
        (("--model", "demo", "--context", "0"), 2, "--context"),
        (("--model", "demo", "--context", "10", "--ratio", "0.5"), 2, "--ratio"),
        (("--model", "demo", "--context", "10", "--dtype", "int4"), 1, "dtype must be one of"),
        (("--model", "demo", "--context", "10", "--card", "0"), 1, "cards need more than 0"),
        (("--model", "./nowhere", "--context", "10"), 1, "no model './nowhere'"),
        (("--model", "moe", "--context", "10"), 1, "mixture of experts"),
        (("--model", "broken", "--context", "10"), 1, "not a readable JSON file"),
    ],
)
def test_errors_are_one_line_with_an_honest_code(cli, tmp_path, arguments, code, message):
    for name, text in (("moe", '{"model_type": "mixtral"}'), ("broken", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    got, out, err = cli(*arguments)
    assert got == code
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""


def test_no_torch_is_loaded():
    code = (
        "import sys; from hyperscene_plugin.forecast import Request, forecast; "
        "str(forecast('demo', Request(context=500))); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
