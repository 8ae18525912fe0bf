"""Tiny random models of every supported architecture, and contexts that hold all keys of a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyperscene_plugin.kv.layout import AssembledContext, AssembledLayer, stack_heads
from hyperscene_plugin.model.architectures import layer_windows
from hyperscene_plugin.model.cache_bridge import record_attention

_COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10_000.0}
_LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 4.0],
    "original_max_position_embeddings": 128,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10_000.0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10_000.0,
}

# name → (transformers' class without ForCausalLM/Config, fields)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-mha": ("Llama", {"num_key_value_heads": 4}),
    "llama-llama3": ("Llama", {"rope_parameters": _LLAMA3}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": _YARN}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "mistral": ("Mistral", {"sliding_window": None, "num_key_value_heads": 1}),
    "mistral-window": ("Mistral", {"sliding_window": 7}),
    "gemma3": (
        "Gemma3",
        {
            "head_dim": 8,
            "query_pre_attn_scalar": 5,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "phi3": ("Phi3", {}),
    "phi3-window": ("Phi3", {"sliding_window": 10}),
    "phi3-partial": ("Phi3", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
    "phi3-longrope": ("Phi3", {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 128}),
}


def tiny_model(name: str, seed: int = 0, **fields: Any) -> Any:
    """Return a random model in eval mode; ``fields`` override the configuration."""
    import transformers

    kind, own = MODELS[name]
    config_name = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    config = getattr(transformers, config_name)(**{**_COMMON, **own, **fields})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    model.generation_config.pad_token_id = 0
    return model


def tokens(rows: int, length: int, seed: int = 1) -> Tensor:
    """Return random token ids (rows, length), none of them padding."""
    return torch.randint(1, 64, (rows, length), generator=torch.Generator().manual_seed(seed))


def full_context(model: Any, ids: Tensor) -> AssembledContext:
    """Return a context of all keys and values of one row of tokens (1, T), bias 0."""
    length = ids.shape[1]
    records = record_attention(model, ids, torch.arange(length)[None])
    return AssembledContext(
        tuple(
            assembled(list(records[index].key[0]), list(records[index].value[0]), range(length), window)
            for index, window in enumerate(layer_windows(model))
        ),
        length,
    )


def assembled(
    keys: Sequence[Tensor], values: Sequence[Tensor], at: Sequence[int], window: int | None
) -> AssembledLayer:
    """Return a layer from one (T, d) tensor per head, all heads at the positions ``at``."""
    flat, offsets = stack_heads(keys)
    positions = torch.tensor(list(at), dtype=torch.int64).repeat(len(keys))
    return AssembledLayer(
        flat, stack_heads(values)[0], torch.zeros(len(flat)), tuple(offsets.tolist()), positions, window
    )
