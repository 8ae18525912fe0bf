"""Parameters and weight bytes: equal to the real models', the published counts and the files' own sizes."""

from __future__ import annotations

import pytest

from hyperscene_plugin import demo_model
from hyperscene_plugin.errors import InputError
from hyperscene_plugin.forecast.families import FAMILIES
from hyperscene_plugin.forecast.parameters import count_parameters, weights_of
from hyperscene_plugin.forecast.references import REFERENCES, reference_names
from hyperscene_plugin.forecast.shape import shape_of
from hyperscene_plugin.forecast.source import find_model
from tests.forecast.shapes import VARIANTS, build, config_of, transformers_config

# What the hub shows for these models (elements of their safetensors files).
PUBLISHED = {
    "gemma-3-1b": 999_885_952,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_248_023_552,
    "phi-3-mini": 3_821_079_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "smollm2-135m": 134_515_008,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_to_the_real_model(variant):
    counted = count_parameters(shape_of(config_of(variant), variant))
    assert counted.total == sum(parameter.numel() for parameter in build(variant).parameters())
    assert counted.figures[-1].value == counted.total


@pytest.mark.parametrize("variant", VARIANTS)
def test_sliding_layers_are_those_of_transformers(variant):
    from transformers.cache_utils import get_layer_types_and_kwargs

    types, settings = get_layer_types_and_kwargs(transformers_config(variant))
    shape = shape_of(config_of(variant), variant)
    assert shape.num_sliding_layers == types.count("sliding_attention")
    windows = {setting["sliding_window"] for setting in settings if "sliding_window" in setting}
    assert windows == ({shape.sliding_window} if shape.num_sliding_layers else set())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_are_those_of_transformers(model_type):
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type)
    shape = shape_of({"model_type": model_type}, model_type)
    assert shape.num_layers == config.num_hidden_layers
    assert shape.hidden_size == config.hidden_size
    assert shape.intermediate_size == config.intermediate_size
    assert shape.num_heads == config.num_attention_heads
    assert shape.num_kv_heads == config.num_key_value_heads
    assert shape.head_dim == getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    assert shape.vocab_size == config.vocab_size
    assert shape.window == config.max_position_embeddings
    assert shape.tied_embeddings == config.tie_word_embeddings
    assert "taken from transformers' defaults: vocab_size" in shape.notes[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_built_in_figures_give_the_published_count(name):
    assert count_parameters(shape_of(REFERENCES[name], name)).total == PUBLISHED[name]


@pytest.mark.parametrize("name", reference_names())
def test_every_built_in_configuration_is_readable(name):
    shape = shape_of(REFERENCES[name], name)
    assert shape.num_heads % shape.num_kv_heads == 0
    assert weights_of(shape, "bfloat16").bytes == 2 * count_parameters(shape).total


def test_files_beside_the_configuration_are_believed():
    from safetensors import safe_open

    source = find_model("demo")
    shape = shape_of(source.config, "demo")
    with safe_open(demo_model.weights_path() / "model.safetensors", framework="np") as file:
        elements = sum(int(file.get_slice(key).get_shape()[0]) * _rest(file, key) for key in file.keys())  # noqa: SIM118
    assert source.stored is not None
    assert source.stored.elements == elements == count_parameters(shape).total
    assert weights_of(shape, "bfloat16", stored=source.stored).bytes == source.stored.bytes == 2 * elements
    converted = weights_of(shape, "float32", stored=source.stored)
    assert converted.bytes == 4 * elements
    assert "converted to float32" in converted.notes[0]


def _rest(file, key):
    shape = file.get_slice(key).get_shape()
    return shape[1] if len(shape) == 2 else 1


def test_quantised_bytes_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    import torch

    shape = shape_of(config_of("llama, untied"), "llama")
    counted = count_parameters(shape)
    rest = 2 * (counted.total - counted.matrices)
    four = eight = 0
    for name, weight in build("llama, untied").named_parameters():
        if ".layers." in name and weight.dim() == 2:
            packed, state = functional.quantize_4bit(weight.detach().contiguous(), quant_type="nf4")
            four += packed.numel() * packed.element_size() + state.absmax.numel() * 4
            integers, rows, _ = functional.int8_vectorwise_quant(weight.detach().to(torch.float16))
            eight += integers.numel() + rows.numel() * 4
    assert weights_of(shape, "float16", "4bit").bytes == four + rest
    assert weights_of(shape, "float16", "8bit").bytes == eight + rest


def test_an_untied_input_table_is_not_read_whole():
    tied, untied = (shape_of(config_of(f"llama, {kind}"), kind) for kind in ("tied", "untied"))
    assert weights_of(tied, "float32").read_per_token == weights_of(tied, "float32").bytes
    table = 4 * (untied.vocab_size - 1) * untied.hidden_size
    assert weights_of(untied, "float32").read_per_token == weights_of(untied, "float32").bytes - table


def test_stored_quantised_weights_need_a_file_or_a_name():
    config = config_of("llama, tied") | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    shape = shape_of(config, "here")
    with pytest.raises(InputError, match=r"awq, 4 bits.*--quantization"):
        weights_of(shape, "float16")
    assert weights_of(shape, "float16", "4bit").bytes < weights_of(shape, "float16", "8bit").bytes
    with pytest.raises(InputError, match="one of 8bit, 4bit"):
        weights_of(shape, "float16", "2bit")
