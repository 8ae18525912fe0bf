"""Small configurations of every supported family, and their real models with random weights."""

from __future__ import annotations

from typing import Any

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 7,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama, untied": {"model_type": "llama", "tie_word_embeddings": False},
    "llama, biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama, head size by division": {"model_type": "llama", "head_dim": None},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2, upper layers slide": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 32,
        "max_window_layers": 4,
    },
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": False},
    "qwen3, biases": {"model_type": "qwen3", "attention_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral, sliding": {"model_type": "mistral", "sliding_window": 32},
    "gemma3": {"model_type": "gemma3_text", "sliding_window": 32},
    "gemma3, pattern of three": {"model_type": "gemma3_text", "sliding_window": 32, "sliding_window_pattern": 3},
    "gemma3, listed layers": {
        "model_type": "gemma3_text",
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"] * 3 + ["full_attention"],
    },
    "gemma3, biases": {"model_type": "gemma3_text", "sliding_window": 32, "attention_bias": True},
    "phi3": {"model_type": "phi3", "head_dim": None},
    "phi3, sliding": {"model_type": "phi3", "head_dim": None, "sliding_window": 32},
}


def config_of(variant: str) -> dict[str, Any]:
    """Return the configuration as a ``config.json`` would hold it."""
    return {key: value for key, value in (SIZES | VARIANTS[variant]).items() if value is not None or key != "head_dim"}


def transformers_config(variant: str) -> Any:
    """Return the configuration as ``transformers`` reads it."""
    from transformers import AutoConfig

    config = config_of(variant)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return AutoConfig.for_model(config.pop("model_type"), **config, **special)


def build(variant: str, attention: str = "sdpa") -> Any:
    """Return the real model with random weights, in evaluation mode."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    auto_model: Any = AutoModelForCausalLM
    return auto_model.from_config(transformers_config(variant), attn_implementation=attention).eval()
