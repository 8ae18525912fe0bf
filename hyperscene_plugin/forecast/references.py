"""Built-in configurations of well-known public models: the numbers of their ``config.json`` that decide sizes.

Each name stands for the instruction-tuned release on the hub named beside it. Only what this arithmetic reads is kept.
Parameter counts from these numbers equal the published ones (``tests/forecast/test_parameters.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["REFERENCES", "reference_names"]


def _config(
    model_type: str,
    hub_id: str,
    sizes: tuple[int, int, int, int, int, int],
    window: int,
    *,
    tied: bool,
    **more: Any,
) -> Mapping[str, Any]:
    """``sizes``: layers, hidden, intermediate, query heads, KV heads, vocabulary."""
    layers, hidden, intermediate, heads, kv_heads, vocabulary = sizes
    return MappingProxyType(
        {
            "_name_or_path": hub_id,
            "model_type": model_type,
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": vocabulary,
            "max_position_embeddings": window,
            "tie_word_embeddings": tied,
            "dtype": "bfloat16",
            **more,
        }
    )


_QWEN, _QWEN_LARGE, _LLAMA = 151_936, 152_064, 128_256

REFERENCES: Mapping[str, Mapping[str, Any]] = {
    "gemma-3-1b": _config(
        "gemma3_text",
        "google/gemma-3-1b-it",
        (26, 1152, 6912, 4, 1, 262_144),
        32_768,
        tied=True,
        head_dim=256,
        sliding_window=512,
    ),
    "gemma-3-4b": _config(
        "gemma3_text",
        "google/gemma-3-4b-it",
        (34, 2560, 10_240, 8, 4, 262_208),
        131_072,
        tied=True,
        head_dim=256,
        sliding_window=1024,
    ),
    "llama-3.1-8b": _config(
        "llama", "meta-llama/Llama-3.1-8B-Instruct", (32, 4096, 14_336, 32, 8, _LLAMA), 131_072, tied=False
    ),
    "llama-3.2-1b": _config(
        "llama", "meta-llama/Llama-3.2-1B-Instruct", (16, 2048, 8192, 32, 8, _LLAMA), 131_072, tied=True
    ),
    "llama-3.2-3b": _config(
        "llama", "meta-llama/Llama-3.2-3B-Instruct", (28, 3072, 8192, 24, 8, _LLAMA), 131_072, tied=True
    ),
    "mistral-7b": _config(
        "mistral",
        "mistralai/Mistral-7B-Instruct-v0.3",
        (32, 4096, 14_336, 32, 8, 32_768),
        32_768,
        tied=False,
        sliding_window=None,
    ),
    "phi-3-mini": _config(
        "phi3",
        "microsoft/Phi-3-mini-128k-instruct",
        (32, 3072, 8192, 32, 32, 32_064),
        131_072,
        tied=False,
        sliding_window=262_144,
    ),
    "qwen2.5-0.5b": _config("qwen2", "Qwen/Qwen2.5-0.5B-Instruct", (24, 896, 4864, 14, 2, _QWEN), 32_768, tied=True),
    "qwen2.5-1.5b": _config("qwen2", "Qwen/Qwen2.5-1.5B-Instruct", (28, 1536, 8960, 12, 2, _QWEN), 32_768, tied=True),
    "qwen2.5-7b": _config(
        "qwen2", "Qwen/Qwen2.5-7B-Instruct", (28, 3584, 18_944, 28, 4, _QWEN_LARGE), 32_768, tied=False
    ),
    "qwen3-0.6b": _config("qwen3", "Qwen/Qwen3-0.6B", (28, 1024, 3072, 16, 8, _QWEN), 40_960, tied=True, head_dim=128),
    "qwen3-4b": _config("qwen3", "Qwen/Qwen3-4B", (36, 2560, 9728, 32, 8, _QWEN), 40_960, tied=True, head_dim=128),
    "qwen3-8b": _config("qwen3", "Qwen/Qwen3-8B", (36, 4096, 12_288, 32, 8, _QWEN), 40_960, tied=False, head_dim=128),
    "smollm2-135m": _config(
        "llama", "HuggingFaceTB/SmolLM2-135M-Instruct", (30, 576, 1536, 9, 3, 49_152), 8192, tied=True
    ),
}


def reference_names() -> tuple[str, ...]:
    """Return the built-in names, sorted."""
    return tuple(sorted(REFERENCES))
