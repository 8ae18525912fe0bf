"""Who is supported, who is refused by name, and what is read off a model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hyperscene_plugin.errors import InputError, UnsupportedModelError
from hyperscene_plugin.model.architectures import attention_shape, check_supported, layer_windows
from hyperscene_plugin.model.rope_of import ModelRope
from tests.model.tiny_architectures import MODELS, tiny_model


@pytest.mark.parametrize("name", MODELS)
def test_supported_models_pass(name):
    model = tiny_model(name)
    check_supported(model)
    shape = attention_shape(model)
    projection = model.model.layers[0].self_attn
    assert shape.num_layers == len(model.model.layers) == len(layer_windows(model))
    assert shape.head_dim == projection.head_dim
    assert shape.num_heads // shape.num_kv_heads == projection.num_key_value_groups


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("llama", (None, None, None)),
        ("qwen2", (None, None, None)),
        ("qwen2-window", (None, 9, 9)),
        ("mistral", (None, None, None)),
        ("mistral-window", (7, 7, 7)),
        ("gemma3", (8, None, 8)),
        ("phi3-window", (10, 10, 10)),
    ],
)
def test_windows_by_layer(name, windows):
    assert layer_windows(tiny_model(name)) == windows


_OTHERS = [
    ("Mixtral", {"num_local_experts": 2}, "mixture of experts"),
    ("Qwen3Moe", {"num_experts": 4}, "mixture of experts"),
    ("DeepseekV3", {}, "MLA"),
    ("Gemma2", {}, "soft-capped"),
    ("Mamba", {}, "state-space"),
    ("Jamba", {}, "experts|hybrid"),
    ("Lfm2", {}, "hybrid"),
    ("Qwen3Next", {}, "experts|hybrid"),
    ("Cohere", {}, "interleaved"),
    ("Glm4", {}, "interleaved"),
    ("GPT2", {}, "learned positions"),
    ("Olmo2", {}, "not been checked"),
]


@pytest.mark.parametrize(("kind", "fields", "why"), _OTHERS)
def test_others_are_refused_by_name_with_a_way_out(kind, fields, why):
    import transformers

    config = getattr(transformers, f"{kind}Config")(**fields)
    name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = type(name, (), {})()
    model.config = config
    with pytest.raises(UnsupportedModelError, match=why) as caught:
        check_supported(model)
    assert name in str(caught.value)
    assert "text tier" in str(caught.value)


def test_an_encoder_decoder_is_refused():
    import transformers

    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        check_supported(SimpleNamespace(config=transformers.T5Config()))


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("gemma3", {"attn_logit_softcapping": 50.0}, "soft-capped at 50"),
        ("gemma3", {"use_bidirectional_attention": True}, "bidirectional"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic NTK"),
    ],
)
def test_settings_that_change_the_attention_are_refused(name, fields, why):
    model = tiny_model(name, **fields)
    for check in (check_supported, ModelRope):
        with pytest.raises(UnsupportedModelError, match=why):
            check(model)


@pytest.mark.parametrize("name", MODELS)
def test_cosines_are_the_models_own(name):
    model = tiny_model(name)
    positions = torch.tensor([0, 5, 77])
    for layer in range(3):
        cos, sin = ModelRope(model).cos_sin(positions, layer)
        kind = (model.config.layer_types[layer],) if name == "gemma3" else ()
        expected = model.model.rotary_emb(torch.zeros(1), positions[None], *kind)
        assert torch.equal(cos, expected[0][0])
        assert torch.equal(sin, expected[1][0])
        assert cos.dtype == torch.float32


def test_gemma_turns_local_and_global_layers_differently():
    rope = ModelRope(tiny_model("gemma3"))
    local, everywhere = (rope.cos_sin(torch.tensor([9]), layer)[0] for layer in (0, 1))
    assert not torch.allclose(local, everywhere)


def test_a_half_precision_model_still_gives_float32():
    cos, _ = ModelRope(tiny_model("llama").bfloat16()).cos_sin(torch.tensor([3]), 0)
    assert cos.dtype == torch.float32


def test_fingerprints_tell_ropes_apart():
    prints = {name: ModelRope(tiny_model(name)).fingerprint() for name in MODELS}
    assert prints["llama"] == ModelRope(tiny_model("llama", seed=9)).fingerprint()
    assert prints["llama"] == prints["llama-mha"]  # the number of heads turns nothing
    different = [
        "llama",
        "llama-llama3",
        "llama-linear",
        "qwen2-yarn",
        "qwen3",
        "gemma3",
        "phi3-partial",
        "phi3-longrope",
    ]
    assert len({prints[name] for name in different}) == len(different)


def test_longrope_ends_at_its_original_window():
    rope = ModelRope(tiny_model("phi3-longrope"))
    assert rope.max_positions == 128
    rope.cos_sin(torch.tensor([127]), 0)
    with pytest.raises(InputError, match="longrope"):
        rope.cos_sin(torch.tensor([128]), 0)
    assert ModelRope(tiny_model("llama")).max_positions is None


def test_positions_of_another_shape_are_refused():
    rope = ModelRope(tiny_model("llama"))
    for positions, layer in ((torch.zeros(1, 2), 0), (torch.zeros(2), 3)):
        with pytest.raises(InputError, match="positions"):
            rope.cos_sin(positions, layer)
