"""What the kvpress benchmark does on this side: cases, converted configurations, masks, results, its errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import AutoConfig, AutoTokenizer, DynamicCache

from hyperscene_plugin.bench import kvpress_peer as peer
from hyperscene_plugin.bench import kvpress_worker as worker
from hyperscene_plugin.demo_model import weights_path
from hyperscene_plugin.demo_model.evaluate import Item, Judge, load_demo_model
from hyperscene_plugin.errors import HypersceneError, InputError, ModelError

CASE = {"id": "a", "prefix_ids": [1, 3], "context_ids": [7, 8], "questions": [{"ids": [2, 4, 9], "answer_ids": [6, 2]}]}


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_demo_model()


@pytest.fixture(scope="module")
def cases() -> list[peer.Case]:
    return peer.world_cases(contexts=2, people=3, facts=2, questions=3)


@pytest.fixture(scope="module")
def full_context(cases: list[peer.Case]) -> Any:
    return peer._full_context(weights_path(), cases)


# -- cases --------------------------------------------------------------------------------------------------


def test_cases_come_back_as_written(tmp_path: Path, cases: list[peer.Case]) -> None:
    plain = peer.Case("plain", [1], [5, 6], [peer.Question([7], [8])])
    peer.write_cases(tmp_path / "cases.jsonl", [*cases, plain])
    assert peer.read_cases(tmp_path / "cases.jsonl") == [*cases, plain]


def test_cases_of_the_world_are_the_chat_prompt(cases: list[peer.Case], demo: Any) -> None:
    _, tokenizer = demo
    case = cases[0]
    text, question = tokenizer.decode(case.context_ids).strip(), tokenizer.decode(case.questions[0].ids[2:-2]).strip()
    prompt = case.prefix_ids + case.context_ids + case.questions[0].ids
    assert prompt == Judge(*demo).prompt(Item(text, question, ""), in_system=True)
    assert case == peer.world_cases(contexts=1, people=3, facts=2, questions=3)[0]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("not json", "line 2"),
        (json.dumps(CASE), "there already"),
        (json.dumps(CASE | {"id": "b", "context": "text"}), "unknown keys"),
        (json.dumps(CASE | {"id": "b", "context_ids": []}), "context_ids"),
        (json.dumps(CASE | {"id": "b", "context_ids": [1.5]}), "context_ids"),
        (json.dumps(CASE | {"id": "b", "questions": []}), "questions"),
        (json.dumps(CASE | {"id": "b", "questions": [{"ids": [1]}]}), "answer_ids"),
        (json.dumps(CASE | {"id": 4}), "id"),
        ("[]", "line 2"),
    ],
)
def test_a_line_that_is_no_case_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "cases.jsonl").write_text(f"{json.dumps(CASE)}\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=complaint):
        peer.read_cases(tmp_path / "cases.jsonl")


def test_no_file_and_no_cases(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cases can be read"):
        peer.read_cases(tmp_path / "cases.jsonl")
    (tmp_path / "cases.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="no cases"):
        peer.read_cases(tmp_path / "cases.jsonl")


# -- the model folder for another transformers --------------------------------------------------------------


def test_the_configuration_is_told_in_the_old_words_too() -> None:
    rope = {"rope_theta": 1e6, "rope_type": "default"}
    config = {"model_type": "llama", "dtype": "bfloat16", "rope_parameters": rope}
    converted = peer.convert_config(config)
    assert (converted["rope_theta"], converted["rope_scaling"], converted["torch_dtype"]) == (1e6, None, "bfloat16")
    assert converted | config == converted
    assert "rope_theta" not in config
    yarn = peer.convert_config({"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0}})
    assert yarn["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0}
    assert peer.convert_config({"model_type": "gpt2"}) == {"model_type": "gpt2"}


def test_the_copied_model_is_the_same_model(tmp_path: Path) -> None:
    peer.write_model_copy(weights_path(), tmp_path / "model")
    original, copy = (AutoConfig.from_pretrained(path) for path in (weights_path(), tmp_path / "model"))
    assert copy.rope_parameters == original.rope_parameters
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (
        weights_path() / "model.safetensors"
    ).read_bytes()
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (weights_path(), tmp_path / "model")]
    text = "<|begin|><|user|> Anna lives in Oslo.<|end|>"
    assert tokenizers[0].encode(text) == tokenizers[1].encode(text)
    assert tokenizers[0].chat_template == tokenizers[1].chat_template


# -- the worker's arithmetic --------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1.02, 4, 12, 20, 1000])
@pytest.mark.parametrize("tokens", [96, 937, 1000, 2001])
def test_kvpress_rounds_to_what_was_asked(ratio: float, tokens: int) -> None:
    layers, heads = 4, 3
    for name, method in worker.METHODS.items():
        removed = worker.compression_ratio(method, ratio, tokens, layers, heads)
        unit = {"head": 1, "layer": heads, "layers": layers, "model": layers * heads}[method.unit]
        total = unit * tokens
        # kvpress's two ways: KVzipPress.compress_post, and compute_n_kept
        kept = total - int(total * removed) if method.prunes else max(1, int(total * (1 - removed)))
        assert kept == worker.entries(ratio, tokens, unit) == max(1, math.floor(total / ratio + 1e-9)), name
        assert 0 <= removed < 1


def _layers(model: Any, ids: list[int]) -> list[worker.Layer]:
    cache: Any = DynamicCache()
    model.model(input_ids=torch.tensor([ids]), past_key_values=cache)
    return [worker.Layer(e.keys, e.values, torch.ones(e.keys.shape[1:3], dtype=torch.bool)) for e in cache.layers]


@torch.no_grad()
def test_answers_on_a_cache_are_the_answers_on_the_prompt(cases: list[peer.Case], full_context: Any, demo: Any) -> None:
    model, _ = demo
    samples, hits = full_context
    assert "1" in hits[cases[0].id]
    for case in cases:
        ids = case.prefix_ids + case.context_ids
        questions = peer._row(case)["questions"]
        good = worker.answer(model, _layers(model, ids), questions, len(ids), rows=2)
        assert "".join("01"[hit] for hit in good) == hits[case.id]
        wrong = [question | {"answer_ids": [*question["answer_ids"][:-1], 0]} for question in questions]
        assert not any(worker.answer(model, _layers(model, ids), wrong, len(ids)))
    assert len(samples) == len(cases)
    assert len(samples[0]["logits"]) == model.config.vocab_size


@torch.no_grad()
def test_a_masked_entry_is_a_removed_entry(cases: list[peer.Case], demo: Any) -> None:
    """Uneven layers and heads, which kvpress's fake keys and transformers' one mask for all layers cannot express."""
    model, _ = demo
    ids, question = cases[0].prefix_ids + cases[0].context_ids, cases[0].questions[0]
    full, masked, removed = _layers(model, ids), [], []
    generator = torch.Generator().manual_seed(0)
    for index, layer in enumerate(full):
        order = torch.rand(layer.kept.shape, generator=generator).argsort(-1)[:, : 12 + 5 * index].sort(-1).values
        kept = torch.zeros_like(layer.kept).scatter(1, order, True)
        masked.append(worker.Layer(layer.keys, layer.values, kept))
        at = order[None, :, :, None].expand(-1, -1, -1, layer.keys.shape[3])
        whole = torch.ones(order.shape, dtype=torch.bool)
        removed.append(worker.Layer(layer.keys.gather(2, at), layer.values.gather(2, at), whole))
    tokens = torch.tensor([question.ids + question.answer_ids])
    positions = torch.arange(len(ids), len(ids) + tokens.shape[1])[None]
    outputs = []
    for layers in (full, masked, removed):
        with worker._masks(model, layers, tokens.shape[1]):
            past = worker.copied(layers, 1)
            outputs.append(model.model(tokens, past_key_values=past, position_ids=positions).last_hidden_state)
    assert torch.allclose(outputs[1], outputs[2], atol=1e-4)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-2)
    assert full[0].keys.shape[2] == len(ids)  # the layers are copied, not grown


# -- results ------------------------------------------------------------------------------------------------

GOOD = {"method": "KnormPress", "ratio": 4, "exact": 0.25, "questions": 4, "kept_bytes": 25, "held_bytes": 25}
GOOD |= {"full_bytes": 100, "hits": {"a": "1000"}}
FULL = GOOD | {"method": "full context", "ratio": 1, "exact": 0.75, "hits": {"a": "1110"}, "kept_bytes": 100}


def _raw(*rows: Any, difference: float = 1e-6) -> dict[str, Any]:
    return {"versions": {"kvpress": "0"}, "logit_difference": difference, "rows": [FULL, *rows]}


def test_a_summary_is_relative_to_the_full_context() -> None:
    failed = {"method": "TOVAPress", "ratio": 4, "error": "RuntimeError: no"}
    wide = GOOD | {"method": "CURPress", "kept_bytes": 30}
    result = peer.summarise(_raw(GOOD, failed, wide), {"a": "1110"})
    assert (result["full"]["exact"], result["full"]["exact_here"], result["full"]["differing"]) == (0.75, 0.75, 0)
    assert result["rows"][0]["relative"] == pytest.approx(1 / 3, abs=1e-3)
    assert [row.get("over_budget") for row in result["rows"]] == [False, None, True]
    assert result["rows"][1] == failed


@pytest.mark.parametrize("difference", [0.1, math.nan])
def test_other_logits_are_an_error(difference: float) -> None:
    with pytest.raises(ModelError, match="other logits"):
        peer.summarise(_raw(difference=difference) | {"rows": []}, {"a": "1110"})


def test_other_answers_with_the_whole_context_are_an_error() -> None:
    with pytest.raises(ModelError, match="1 of 4 answers differ"):
        peer.summarise(_raw(GOOD), {"a": "1111"})
    broken = _raw(GOOD) | {"rows": [{"method": None, "ratio": 1, "error": "RuntimeError: no"}]}
    with pytest.raises(ModelError, match="uncompressed: RuntimeError"):
        peer.summarise(broken, {"a": "1110"})


# -- the environment ----------------------------------------------------------------------------------------


@pytest.fixture
def case_file(tmp_path: Path) -> Path:
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(CASE) + "\n", encoding="utf-8")
    return path


def test_wrong_arguments_are_refused_before_anything_is_made(tmp_path: Path, case_file: Path) -> None:
    venv, out = tmp_path / "venv", tmp_path / "out.json"
    with pytest.raises(InputError, match="unknown methods"):
        peer.run_peers(case_file, out, [4], ["BestPress"], venv)
    for ratios in ([], [1], [4, math.nan]):
        with pytest.raises(InputError, match="ratios"):
            peer.run_peers(case_file, out, ratios, ["KnormPress"], venv)
    assert not venv.exists()
    assert not out.exists()


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path, case_file: Path) -> None:
    with pytest.raises(InputError, match="no virtual environment"):
        peer.run_peers(case_file, tmp_path / "out.json", [4], ["KnormPress"], tmp_path)
    with pytest.raises(InputError, match="no virtual environment"):
        peer.ensure_environment(case_file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.jsonl"]


def _environment(tmp_path: Path, script: str) -> Path:
    """An environment whose Python is a shell script."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").write_text("", encoding="utf-8")
    python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    python.chmod(0o755)
    return tmp_path / "venv"


posix = pytest.mark.skipif("os.name != 'posix'")


@posix
def test_no_network_is_a_clear_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    venv = _environment(tmp_path, "echo 'no matching distribution' >&2; exit 1")
    with pytest.raises(HypersceneError, match=r"kvpress==.*is the network there"):
        peer.ensure_environment(venv)
    assert not (venv / ".installed").exists()
    said = capfd.readouterr().err
    assert "installing torch==" in said
    assert "leaving the version of torch to pip" in said
    assert "no matching distribution" in said


@posix
def test_an_environment_is_made_once(tmp_path: Path) -> None:
    venv = _environment(tmp_path, f'echo "$@" >> "{tmp_path}/log"')
    for _ in range(2):
        assert peer.ensure_environment(venv) == venv / "bin" / "python"
    installed = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert [line.split()[-1] for line in installed] == [peer.TORCH, peer.KVPRESS]
    (venv / "bin" / "python").unlink()
    with pytest.raises(HypersceneError, match="could not be installed"):
        peer.ensure_environment(venv)


@posix
def test_a_worker_that_dies_is_an_error_and_leaves_no_result(tmp_path: Path, cases: list[peer.Case]) -> None:
    venv = _environment(tmp_path, 'case "$2" in pip) exit 0;; esac; exit 3')
    peer.write_cases(tmp_path / "cases.jsonl", cases)
    with pytest.raises(HypersceneError, match="exit status 3"):
        peer.run_peers(tmp_path / "cases.jsonl", tmp_path / "out.json", [4], ["KnormPress"], venv)
    assert not (tmp_path / "out.json").exists()


@posix
def test_a_run_from_cases_to_the_result_file(
    tmp_path: Path, cases: list[peer.Case], full_context: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other environment is played by a script that hands back a stored result."""
    _, hits = full_context
    exact = "".join(hits.values()).count("1") / sum(map(len, hits.values()))
    full = FULL | {"exact": exact, "questions": 6, "hits": hits, "pipeline": {"checked": 4, "agreeing": 4}}
    row = GOOD | {"hits": dict.fromkeys(hits, "000"), "exact": 0.0, "pipeline": {"error": "RuntimeError: masks"}}
    failed = {"method": "TOVAPress", "ratio": 4, "error": "RuntimeError: no"}
    raw = {"versions": {"kvpress": "0"}, "logit_difference": 0.0, "rows": [full, row, failed]}
    (tmp_path / "raw.json").write_text(json.dumps(raw), encoding="utf-8")
    # Called as "python -m pip …" and as "python -I worker.py job result".
    copy = f'cp "$3" "{tmp_path}/job.json" && cp "{tmp_path}/raw.json" "$4"'
    venv = _environment(tmp_path, f'[ "$2" = pip ] || {{ {copy}; }}')
    path, out = tmp_path / "cases.jsonl", tmp_path / "out.json"
    peer.write_cases(path, cases)
    names = ["KnormPress", "TOVAPress"]
    arguments = ["--cases", str(path), "--out", str(out), "--venv", str(venv), "--ratios", "4", "--methods", *names]
    assert peer.main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert any("only in kvpress's own pipeline" in line for line in printed)
    assert json.loads(printed[-1])["rows"][1]["error"] == "RuntimeError: no"
    assert json.loads(out.read_text(encoding="utf-8"))["rows"][0]["relative"] == 0.0
    job = json.loads((tmp_path / "job.json").read_text(encoding="utf-8"))
    assert [case["id"] for case in job["cases"]] == [case.id for case in cases]
    assert job["methods"] == names
    assert not Path(job["model"]).exists()


def test_the_methods_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert peer.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*worker.METHODS, *worker.LEFT_OUT))
