"""The architectures a forecast can count, as data: what their layers hold, their defaults; and who is refused, and why.

A ``config.json`` may leave out any field that has a default in ``transformers``; the defaults here are those of its
configuration classes (a test compares them with the installed version). No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hyperscene_plugin.errors import UnsupportedModelError

__all__ = ["FAMILIES", "Family", "family_of"]

Sliding = Literal["never", "every layer", "upper layers", "all but every nth"]


@dataclass(frozen=True, slots=True)
class Family:
    """How one ``model_type`` is built.

    ``qkv_bias`` and ``output_bias`` are ``True``, ``False`` or the configuration field that decides. ``fused``: query,
    key and value (and gate and up) are one matrix each, whose output stays alive while its parts are used. ``sliding``:
    which layers slide when the configuration lists no ``layer_types``.
    """

    defaults: Mapping[str, Any]
    qkv_bias: bool | str = False
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: bool = False
    norms_per_layer: int = 2
    fused: bool = False
    rope_tables: int = 1
    sliding: Sliding = "never"
    unsupported_fields: tuple[str, ...] = ()


def _defaults(**fields: Any) -> dict[str, Any]:
    common: dict[str, Any] = {"tie_word_embeddings": False, "num_key_value_heads": None, "head_dim": None}
    return common | fields


FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        _defaults(
            vocab_size=32_000,
            hidden_size=4096,
            intermediate_size=11_008,
            num_hidden_layers=32,
            num_attention_heads=32,
            max_position_embeddings=2048,
        ),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    "qwen2": Family(
        _defaults(
            vocab_size=151_936,
            hidden_size=4096,
            intermediate_size=22_016,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=32_768,
            sliding_window=4096,
            max_window_layers=28,
        ),
        qkv_bias=True,
        sliding="upper layers",
    ),
    "qwen3": Family(
        _defaults(
            vocab_size=151_936,
            hidden_size=4096,
            intermediate_size=22_016,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            head_dim=128,
            max_position_embeddings=32_768,
            sliding_window=4096,
            max_window_layers=28,
        ),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        sliding="upper layers",
    ),
    "mistral": Family(
        _defaults(
            vocab_size=32_000,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=131_072,
            sliding_window=4096,
        ),
        sliding="every layer",
    ),
    "gemma3_text": Family(
        _defaults(
            vocab_size=262_208,
            hidden_size=2304,
            intermediate_size=9216,
            num_hidden_layers=26,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=256,
            max_position_embeddings=131_072,
            tie_word_embeddings=True,
            sliding_window=4096,
            sliding_window_pattern=6,
        ),
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        norms_per_layer=4,
        rope_tables=2,
        sliding="all but every nth",
        unsupported_fields=("use_bidirectional_attention", "attn_logit_softcapping"),
    ),
    "phi3": Family(
        _defaults(
            vocab_size=32_064,
            hidden_size=3072,
            intermediate_size=8192,
            num_hidden_layers=32,
            num_attention_heads=32,
            max_position_embeddings=4096,
            sliding_window=None,
        ),
        fused=True,
        sliding="every layer",
    ),
}

_EXPERTS = "a mixture of experts: which weights a token touches depends on the token"
_STATE = "a state-space, linear-attention or hybrid model: it has no key/value cache per token to compact"
_LATENT = "latent attention (MLA): its cache holds latents, not keys and values"
_CHUNKED = "chunked or key/value-sharing attention, which this arithmetic does not describe"
_NOT_DECODER = "not a decoder-only language model"

_REFUSED_TYPES: Mapping[str, str] = {
    **dict.fromkeys(
        ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "olmoe", "phimoe", "granitemoe", "dbrx", "jetmoe", "arctic"),
        _EXPERTS,
    ),
    **dict.fromkeys(
        ("mamba", "mamba2", "falcon_mamba", "jamba", "zamba", "zamba2", "rwkv", "recurrent_gemma", "bamba"), _STATE
    ),
    **dict.fromkeys(("falcon_h1", "granitemoehybrid", "nemotron_h", "qwen3_next", "minimax", "lfm2"), _STATE),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "longcat_flash", "minicpm3"), _LATENT),
    **dict.fromkeys(("llama4", "llama4_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text"), _CHUNKED),
    **dict.fromkeys(("bert", "roberta", "distilbert", "t5", "mt5", "bart", "whisper", "clip", "vit"), _NOT_DECODER),
    "gemma2": "attention with soft-capped logits, which SDPA cannot compute and the compact cache does not support",
}

_REFUSED_FIELDS: Mapping[str, str] = {
    "kv_lora_rank": _LATENT,
    "num_local_experts": _EXPERTS,
    "num_experts": _EXPERTS,
    "n_routed_experts": _EXPERTS,
    "ssm_cfg": _STATE,
    "state_size": _STATE,
    "mamba_d_state": _STATE,
    "linear_num_key_heads": _STATE,
    "attention_chunk_size": _CHUNKED,
    "num_kv_shared_layers": _CHUNKED,
}


def family_of(config: Mapping[str, Any], name: str) -> Family:
    """Return the family of a configuration.

    Raises:
        UnsupportedModelError: an architecture these formulas do not describe; says which, why and what is supported.
    """
    model_type = config.get("model_type")
    reason = _REFUSED_TYPES.get(str(model_type))
    if reason is None:
        reason = next((text for key, text in _REFUSED_FIELDS.items() if config.get(key)), None)
    family = FAMILIES.get(str(model_type))
    if reason is None and family is not None:
        found = next((key for key in family.unsupported_fields if config.get(key)), None)
        if found is None:
            return family
        reason = f"{found} = {config[found]!r}, which this arithmetic does not describe"
    if reason is None:
        reason = "not an architecture these formulas were checked against"
    raise UnsupportedModelError(
        f"{name}: model_type {model_type!r} is {reason}. Supported: {', '.join(sorted(FAMILIES))} (dense decoders); "
        "give the config.json of such a model, or a name from `hyperscene forecast --list`"
    )
