"""A built-in configuration → a real model folder with random weights: config, safetensors, tokenizer, chat template.

What costs time and memory is the shape of a model, not what it has learned, so speed can be measured without a
download. What such a model answers means nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperscene_plugin.errors import InputError, MissingPackageError
from hyperscene_plugin.forecast.references import REFERENCES, reference_names

__all__ = ["CHAT_TEMPLATE", "configuration_of", "save_random_model", "train_tokenizer"]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ("<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_VOCABULARY = 16_384
_SPREAD = 0.02


def configuration_of(name: str, **changes: Any) -> dict[str, Any]:
    """Return the configuration behind a built-in name, a ``config.json`` or its folder, with ``changes``.

    Raises:
        InputError: neither a built-in name nor such a file.
    """
    if name in REFERENCES:
        found: dict[str, Any] = {key: value for key, value in REFERENCES[name].items() if not key.startswith("_")}
        return found | changes
    path = Path(name).expanduser()
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{name!r} is no configuration file and none of: {', '.join(reference_names())}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} cannot be read as a configuration ({error})") from error
    return {key: value for key, value in found.items() if not key.startswith("_")} | changes


def train_tokenizer(text: str, vocabulary: int = _VOCABULARY) -> Any:
    """Return a byte-level BPE tokenizer with a chat template, trained on ``text``; every text round-trips."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise MissingPackageError(error.name or "transformers", "model", "making a model folder") from error
    plain = Tokenizer(models.BPE())
    byte_level: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.pre_tokenizer = byte_level
    byte_decoder: Any = decoders.ByteLevel()
    plain.decoder = byte_decoder
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator(text.splitlines(keepends=True), trainer)
    make: Any = PreTrainedTokenizerFast
    fast = make(tokenizer_object=plain, bos_token="<s>", eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_random_model(folder: str | Path, config: Mapping[str, Any], text: str, dtype: str = "bfloat16") -> Path:
    """Write a model of this configuration, and a tokenizer trained on ``text``, as a folder; return it.

    The output and embedding matrices keep the configuration's vocabulary; the tokenizer knows a part of it.

    Raises:
        InputError: the vocabulary has no room for the bytes.
        MissingPackageError: torch or transformers is not installed.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise MissingPackageError(error.name or "transformers", "model", "making a model folder") from error
    vocabulary = int(config["vocab_size"])
    if vocabulary < 256 + len(_SPECIAL):
        raise InputError(f"a vocabulary of {vocabulary} has no room for 256 bytes and {len(_SPECIAL)} special tokens")
    tokenizer = train_tokenizer(text, min(vocabulary, _VOCABULARY))
    fields = {key: value for key, value in config.items() if key not in ("model_type", "dtype", "architectures")}
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    auto_model: Any = AutoModelForCausalLM
    made = AutoConfig.for_model(config["model_type"], **(fields | special | {"initializer_range": _SPREAD}))
    model = auto_model.from_config(made, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
