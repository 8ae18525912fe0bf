"""Every way a model can fail to load has its own error, before anything is half-loaded."""

from __future__ import annotations

import json
import shutil

import pytest

from hyperscene_plugin import LocalModel
from hyperscene_plugin.errors import (
    ConfigError,
    ModelError,
    ModelNotFoundError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from tests.tiny_model import save_tiny_model


@pytest.fixture
def copy(tiny_model_folder, tmp_path):
    return shutil.copytree(tiny_model_folder, tmp_path / "copy")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_good_copy_loads(copy):
    assert LocalModel.load(str(copy), device_map="cpu").context_window == 256


def test_device_map_auto_goes_through_accelerate(copy):
    assert LocalModel.load(str(copy)).generate("a scene").text is not None


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        LocalModel.load(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no \\*.safetensors"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_a_missing_file_is_named(copy, file, message):
    (copy / file).unlink()
    with pytest.raises(ModelNotFoundError, match=message):
        LocalModel.load(str(copy), device_map="cpu")


def test_pickled_weights_are_not_loaded(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="can run code"):
        LocalModel.load(str(copy), device_map="cpu")


def test_an_unknown_hub_id_offline_is_not_found():
    with pytest.raises(ModelNotFoundError, match="hub"):
        LocalModel.load("nobody/no-such-model")


def test_an_encoder_model_is_refused_by_name(copy):
    edit_config(copy, model_type="bert", architectures=["BertForMaskedLM"])
    with pytest.raises(UnsupportedModelError, match="BertForMaskedLM"):
        LocalModel.load(str(copy), device_map="cpu")


def test_an_unknown_architecture_is_refused(copy):
    edit_config(copy, model_type="quantum", architectures=["QuantumForCausalLM"])
    with pytest.raises(UnsupportedModelError, match="quantum"):
        LocalModel.load(str(copy), device_map="cpu")


def test_damaged_weights_are_an_error_not_a_random_model(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ModelError, match="could not be loaded"):
        LocalModel.load(str(copy), device_map="cpu")


def test_a_missing_tensor_is_an_error_not_a_random_one(copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack .*layers\.1\.mlp\.up_proj"):
        LocalModel.load(str(copy), device_map="cpu")


def test_too_little_memory_says_how_much(copy, monkeypatch):
    import accelerate.utils

    monkeypatch.setattr(accelerate.utils, "get_max_memory", lambda: {"cpu": 1024})
    with pytest.raises(OutOfMemoryError, match=r"needs .* GiB .* free"):
        LocalModel.load(str(copy), device_map="cpu")


@pytest.mark.parametrize(("name", "value"), [("dtype", "float8"), ("quantization", "3bit")])
def test_wrong_settings_are_refused(copy, name, value):
    with pytest.raises(ConfigError, match=value):
        LocalModel.load(str(copy), device_map="cpu", **{name: value})


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantised_weights_take_less_memory_and_generate(tmp_path, bits):
    copy = save_tiny_model(tmp_path / "wide", hidden=256)  # 4-bit kernels of some processors want wide matrices
    whole = LocalModel.load(str(copy), device_map="cpu", dtype="float16")
    quantised = LocalModel.load(str(copy), device_map="cpu", quantization=bits)
    assert quantised.weight_bytes < whole.weight_bytes
    assert quantised.generate("a scene").usage.completion_tokens > 0
