"""Which models hypercode can drive, and their attention's shape and windows. Everything else is refused by name.

Functions take a model, or its configuration where only that is read; transformers is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperscene_plugin.errors import UnsupportedModelError

__all__ = ["AttentionShape", "attention_shape", "check_supported", "layer_types", "layer_windows", "rope_parameters"]

# model_type → class. All: softmax attention, rotary keys in half-split layout, one key and value per head and token.
_SUPPORTED = {
    "gemma3_text": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# These slide in every layer when sliding_window is set; the others go by layer_types; Llama has no window.
_SLIDE_EVERYWHERE = frozenset({"mistral", "phi3"})
_ROPE_TYPES = frozenset({"default", "linear", "llama3", "longrope", "yarn"})
_WHY_NOT = {
    "cohere": "its rotary embedding is interleaved",
    "cohere2": "its rotary embedding is interleaved, and some layers have none",
    "gemma2": "its attention scores are soft-capped",
    "gemma3": "it is the multimodal class; load the text part as Gemma3ForCausalLM",
    "glm": "its rotary embedding is interleaved",
    "glm4": "its rotary embedding is interleaved",
    "gpt2": "it has learned positions, not rotary ones",
    "gpt_oss": "its softmax has a learned sink, and it is a mixture of experts",
    "smollm3": "some of its layers have no rotary embedding",
}
# A field of the configuration that is set → what the model is.
_SIGNS = (
    ("is_encoder_decoder", "it is an encoder-decoder"),
    ("kv_lora_rank", "its attention is latent (MLA): it caches no keys per head"),
    ("num_local_experts", "it is a mixture of experts"),
    ("num_experts", "it is a mixture of experts"),
    ("n_routed_experts", "it is a mixture of experts"),
    ("state_size", "it is a state-space model: it has no key/value cache"),
    ("ssm_state_size", "it is a state-space or hybrid model"),
    ("mamba_d_state", "it is a state-space or hybrid model"),
    ("conv_L_cache", "it is a hybrid with convolution layers"),
    ("alibi", "its positions are ALiBi, not rotary"),
)


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Layers, query heads, key/value heads and the dimension of one head."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


def check_supported(model: Any) -> None:
    """Return if hypercode can drive ``model``.

    Supported: Llama, Qwen2, Qwen3, Mistral, Gemma 3 (text) and Phi-3, with rotary embedding of type default, linear,
    llama3, yarn, or longrope within its original window.

    Raises:
        UnsupportedModelError: any other model; names it, says why, and what to do.
    """
    config = model.config
    kind = str(config.model_type)
    name = type(model).__name__
    wanted = _SUPPORTED.get(kind)
    if wanted is None or wanted not in {cls.__name__ for cls in type(model).__mro__}:
        raise _refusal(name, kind, _reason(config, kind))
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise _refusal(name, kind, f"its attention scores are soft-capped at {config.attn_logit_softcapping}")
    if getattr(config, "use_bidirectional_attention", False):
        raise _refusal(name, kind, "its attention is bidirectional")
    for layer_type, parameters in rope_parameters(model).items():
        rope_type = parameters.get("rope_type", "default")
        if rope_type == "dynamic":
            why = (
                "its rotary embedding is dynamic NTK: all angles change with the length of the prompt, so stored keys "
                'cannot be moved. Load it with rope_type "default", "linear" or "yarn" in rope_parameters'
            )
            raise _refusal(name, kind, why)
        if rope_type not in _ROPE_TYPES:
            raise _refusal(name, kind, f"its rotary embedding ({layer_type}) is of type {rope_type!r}")


def attention_shape(model: Any) -> AttentionShape:
    """Return the numbers of layers and heads of a model or configuration, and the head dimension."""
    config = _config(model)
    heads = int(config.num_attention_heads)
    return AttentionShape(
        num_layers=int(config.num_hidden_layers),
        num_heads=heads,
        num_kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
    )


def layer_windows(model: Any) -> tuple[int | None, ...]:
    """Return the sliding window of each layer in tokens, ``None`` for a global layer.

    A query at position p sees position k of a windowed layer when 0 ≤ p − k < window.
    """
    config = _config(model)
    window = getattr(config, "sliding_window", None)
    layers = int(config.num_hidden_layers)
    if window is None or config.model_type == "llama":
        return (None,) * layers
    if config.model_type in _SLIDE_EVERYWHERE:
        return (int(window),) * layers
    return tuple(int(window) if kind == "sliding_attention" else None for kind in layer_types(config))


def layer_types(model: Any) -> tuple[str, ...]:
    """Return ``full_attention`` or ``sliding_attention`` for each layer, as the configuration has it."""
    config = _config(model)
    return tuple(getattr(config, "layer_types", None) or ("full_attention",) * int(config.num_hidden_layers))


def rope_parameters(model: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the rotary parameters by layer type; the key is ``""`` where all layers share them."""
    parameters = getattr(_config(model), "rope_parameters", None) or {}
    if parameters and all(isinstance(value, Mapping) or value is None for value in parameters.values()):
        return {kind: value for kind, value in parameters.items() if value is not None}
    return {"": parameters}


def _config(model: Any) -> Any:
    return getattr(model, "config", model)


def _reason(config: Any, kind: str) -> str:
    if kind in _WHY_NOT:
        return _WHY_NOT[kind]
    for sign, reason in _SIGNS:
        if getattr(config, sign, None):
            return reason
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if others:
        return f"it is a hybrid: some of its layers are {', '.join(sorted(others))}"
    return "its attention has not been checked against the reference"


def _refusal(name: str, kind: str, why: str) -> UnsupportedModelError:
    supported = ", ".join(sorted(cls.removesuffix("ForCausalLM") for cls in _SUPPORTED.values()))
    return UnsupportedModelError(
        f"hypercode cannot run on {name} (model type {kind!r}): {why}. Supported: {supported}. "
        "Use the text tier, which works with any model, or another model"
    )
