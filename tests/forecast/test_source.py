"""Where a configuration comes from, and every way it can be wrong: one named error each."""

from __future__ import annotations

import json

import pytest

from hyperscene_plugin import demo_model
from hyperscene_plugin.errors import InputError, ModelNotFoundError, UnsupportedModelError
from hyperscene_plugin.forecast import Request, forecast, shape_of
from hyperscene_plugin.forecast.source import find_model
from tests.forecast.shapes import config_of

REQUEST = Request(context=100)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_of("llama, tied")), encoding="utf-8")
    return tmp_path


def write_weights(path, **tensors):
    """Write a safetensors file of zeros: name = (dtype, shape)."""
    header, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def test_demo_folder_file_and_name_are_found(folder):
    assert find_model("demo").config == find_model(str(demo_model.weights_path())).config
    assert find_model(str(folder)).config == find_model(str(folder / "config.json")).config
    assert find_model(str(folder)).stored is None
    assert find_model("Llama-3.2-1B").name == "llama-3.2-1b"


def test_files_are_summed_by_their_headers(folder):
    write_weights(folder / "a.safetensors", x=("F32", [2, 3], 24), y=("BF16", [4], 8))
    write_weights(folder / "b.safetensors", z=("U8", [5], 5))
    stored = find_model(str(folder)).stored
    assert stored is not None
    assert (stored.files, stored.bytes, stored.elements) == (2, 37, 15)
    assert stored.dtypes == {"float32": 24, "bfloat16": 8, "U8": 5}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"z": "b.safetensors"}}))
    stored = find_model(str(folder)).stored
    assert stored is not None
    assert stored.bytes == 5  # what the index does not name is not part of the model
    index.write_text(json.dumps({"weight_map": {"z": "c.safetensors"}}))
    with pytest.raises(InputError, match=r"lacks c\.safetensors"):
        find_model(str(folder))
    index.write_text("{}")
    with pytest.raises(InputError, match="no weight_map"):
        find_model(str(folder))


def test_files_that_hold_something_else_are_noted(folder):
    write_weights(folder / "model.safetensors", x=("BF16", [10], 20))
    found = forecast(str(folder), Request(context=100, dtype="bfloat16"))
    assert found.weights.bytes == 20
    assert any("the files hold 10 parameters, the formula counts" in note for note in found.notes)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 40,
        (3).to_bytes(8, "little") + b"{x}",
        (2).to_bytes(8, "little") + b"[]",
        (20).to_bytes(8, "little") + b'{"x": {"dtype": "F"}}',
    ],
)
def test_damaged_weights_are_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="safetensors"):
        find_model(str(folder))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./nowhere", "no model './nowhere'"),
        ("/nowhere/config.json", "no model"),
        ("lama-3.1-8b", "did you mean 'llama-3.1-8b'"),
        ("gpt2", "forecast --list"),
        ("owner/absent-model", "hub id"),
        ("x" * 5000, "cannot be looked up"),
        ("~nobody-of-that-name/model", "cannot be looked up"),
    ],
)
def test_what_is_not_there_is_named(model, message):
    with pytest.raises(ModelNotFoundError, match=message):
        find_model(model)


def test_a_folder_without_a_configuration_is_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 100_000])
def test_what_is_not_json_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="not a readable JSON file"):
        find_model(str(tmp_path))


def test_json_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="holds list"):
        find_model(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "mixtral"}, "mixture of experts"),
        ({"model_type": "qwen3_moe"}, "mixture of experts"),
        ({"model_type": "brand_new_moe", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "mamba2"}, "state-space"),
        ({"model_type": "qwen3_next"}, "state-space"),
        ({"model_type": "deepseek_v3"}, "latent attention"),
        ({"model_type": "brand_new", "kv_lora_rank": 512}, "latent attention"),
        ({"model_type": "gemma2"}, "soft-capped"),
        ({"model_type": "llama4_text"}, "chunked"),
        ({"model_type": "bert"}, "not a decoder"),
        ({"model_type": "brand_new"}, "not an architecture these formulas were checked against"),
        ({}, "None"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ],
)
def test_unsupported_architectures_are_refused_by_name(config, reason):
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        shape_of(config, "here")
    assert repr(config.get("model_type")) in str(caught.value)
    assert "Supported: gemma3_text, llama, mistral, phi3, qwen2, qwen3" in str(caught.value)


def test_unknown_kinds_of_layers_are_refused():
    config = config_of("gemma3") | {"layer_types": ["full_attention"] * 6 + ["linear_attention"]}
    with pytest.raises(UnsupportedModelError, match="linear_attention"):
        shape_of(config, "here")


@pytest.mark.parametrize(
    ("variant", "change", "message"),
    [
        ("llama, tied", {"hidden_size": "big"}, "hidden_size must be a whole number"),
        ("llama, tied", {"hidden_size": True}, "hidden_size"),
        ("llama, tied", {"vocab_size": 0}, "vocab_size"),
        ("llama, tied", {"num_hidden_layers": -2}, "num_hidden_layers"),
        ("llama, tied", {"intermediate_size": 10**12}, "intermediate_size"),
        ("llama, tied", {"num_key_value_heads": 4}, "not a multiple of num_key_value_heads 4"),
        ("llama, tied", {"head_dim": 15}, "even"),
        ("gemma3", {"layer_types": ["full_attention"]}, "one type for each of the 7 layers"),
        ("gemma3", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
        ("mistral", {"sliding_window": "wide"}, "sliding_window is 'wide'"),
    ],
)
def test_values_no_model_can_have_are_refused(variant, change, message):
    with pytest.raises(InputError, match=message):
        shape_of(config_of(variant) | change, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": 0}, "context must be at least 1"),
        ({"question_tokens": 0}, "question_tokens"),
        ({"new_tokens": -1}, "new_tokens"),
        ({"prefill_chunk": 0}, "prefill_chunk"),
        ({"ratio": 0.5}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"ratio": float("inf")}, "ratio"),
        ({"dtype": "int8"}, "dtype"),
        ({"quantization": "3bit"}, "quantization"),
    ],
)
def test_impossible_requests_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Request(**{"context": 100, **change})


def test_a_multimodal_gemma_is_read_by_its_text_model():
    text = {key: value for key, value in config_of("gemma3").items() if key != "model_type"}
    shape = shape_of({"model_type": "gemma3", "torch_dtype": "bfloat16", "text_config": text}, "here")
    assert (shape.model_type, shape.dtype, shape.num_sliding_layers) == ("gemma3_text", "bfloat16", 6)
    assert "vision tower" in shape.notes[0]


def test_a_dtype_nobody_named_is_assumed_aloud(folder):
    found = forecast(str(folder), REQUEST)
    assert found.dtype == "bfloat16"
    assert any("names no dtype" in note for note in found.notes)
    (folder / "config.json").write_text(json.dumps(config_of("llama, tied") | {"dtype": "float8_e4m3fn"}))
    with pytest.raises(InputError, match=r"float8_e4m3fn.*--dtype"):
        forecast(str(folder), REQUEST)
    assert forecast(str(folder), Request(context=100, dtype="float16")).dtype == "float16"


def test_a_hub_id_is_fetched_and_its_failure_named(folder, monkeypatch):
    import huggingface_hub

    from hyperscene_plugin.forecast import source

    asked = []

    def fetch(model, file):
        asked.append((model, file))
        if model == "owner/gone":
            raise OSError("404")
        return str(folder / file)

    monkeypatch.setattr(source, "why_unavailable", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert find_model("owner/name").config["model_type"] == "llama"
    assert asked == [("owner/name", "config.json")]  # the configuration alone, no weights
    with pytest.raises(ModelNotFoundError, match=r"owner/gone.*404"):
        find_model("owner/gone")
