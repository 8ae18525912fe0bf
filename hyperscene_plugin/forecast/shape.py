"""A ``config.json`` (as a mapping) → ``ModelShape``: the numbers all later arithmetic uses. Plain Python, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperscene_plugin.errors import InputError, UnsupportedModelError
from hyperscene_plugin.forecast.families import Family, family_of

__all__ = ["DTYPE_BYTES", "ModelShape", "shape_of"]

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
_LARGEST = 10**9  # of any single dimension; a larger one is a damaged file


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of a dense decoder. Widths are numbers of elements, ``window`` and ``sliding_window`` tokens.

    ``num_sliding_layers`` of the ``num_layers`` attend to their last ``sliding_window`` tokens only; the others are
    global. ``dtype`` is what the configuration names, whatever that is, or ``None``. ``notes`` say what was assumed.
    """

    name: str
    model_type: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    window: int
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    norms_per_layer: int
    fused: bool
    rope_tables: int
    num_sliding_layers: int
    sliding_window: int | None
    dtype: str | None
    stored_quantization: str | None
    notes: tuple[str, ...]

    @property
    def query_width(self) -> int:
        """Elements of all query heads of one token."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of all key heads (and as many of all value heads) of one token."""
        return self.num_kv_heads * self.head_dim

    @property
    def num_global_layers(self) -> int:
        """Layers that attend to the whole context: those that are compacted."""
        return self.num_layers - self.num_sliding_layers

    def sliding_tokens(self, tokens: int) -> int:
        """Return how many of ``tokens`` a sliding layer attends to."""
        return tokens if self.sliding_window is None else min(tokens, self.sliding_window)


def shape_of(config: Mapping[str, Any], name: str) -> ModelShape:
    """Read a configuration as ``transformers`` does, defaults included.

    Args:
        config: the content of a ``config.json``; a multimodal Gemma 3 is read by its ``text_config``.
        name: what error messages and the result call the model.

    Raises:
        UnsupportedModelError: an architecture these formulas do not describe.
        InputError: a field has a value no model can have; names the field.
    """
    notes: list[str] = []
    if config.get("model_type") == "gemma3" and isinstance(config.get("text_config"), Mapping):
        outer = config
        config = {"model_type": "gemma3_text", **outer["text_config"]}
        for key in ("dtype", "torch_dtype", "quantization_config"):
            config.setdefault(key, outer.get(key))
        notes.append("the text model alone is counted, without the vision tower")
    family = family_of(config, name)
    assumed = [
        f"{key} = {family.defaults[key]}" for key in (*_REQUIRED, "num_key_value_heads") if _absent(config, family, key)
    ]
    if assumed:
        notes.append(f"not in the configuration, taken from transformers' defaults: {', '.join(assumed)}")
    fields = {key: _count(config, family, key, name) for key in _REQUIRED}
    heads, hidden = fields["num_attention_heads"], fields["hidden_size"]
    kv_heads = _count(config, family, "num_key_value_heads", name, otherwise=heads)
    head_dim = _count(config, family, "head_dim", name, otherwise=hidden // heads)
    if heads % kv_heads:
        raise InputError(f"{name}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if head_dim % 2:
        raise InputError(f"{name}: the head size is {head_dim}; rotary positions need an even one")
    sliding_layers, window = _sliding(config, family, fields["num_hidden_layers"], name)
    if window is not None and window >= fields["max_position_embeddings"]:
        notes.append(
            f"sliding_window {window:,} is not smaller than the native window "
            f"{fields['max_position_embeddings']:,}: it never slides, so these layers are counted as global"
        )
        sliding_layers, window = 0, None
    return ModelShape(
        name=name,
        model_type=str(config["model_type"]),
        num_layers=fields["num_hidden_layers"],
        hidden_size=hidden,
        intermediate_size=fields["intermediate_size"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=fields["vocab_size"],
        window=fields["max_position_embeddings"],
        tied_embeddings=bool(_value(config, family, "tie_word_embeddings")),
        qkv_bias=_flag(config, family.qkv_bias),
        output_bias=_flag(config, family.output_bias),
        mlp_bias=_flag(config, family.mlp_bias),
        qk_norm=family.qk_norm,
        norms_per_layer=family.norms_per_layer,
        fused=family.fused,
        rope_tables=family.rope_tables,
        num_sliding_layers=sliding_layers,
        sliding_window=window,
        dtype=_dtype(config),
        stored_quantization=_stored_quantization(config),
        notes=tuple(notes),
    )


def _value(config: Mapping[str, Any], family: Family, key: str) -> Any:
    return config[key] if key in config else family.defaults.get(key)


def _absent(config: Mapping[str, Any], family: Family, key: str) -> bool:
    return key not in config and family.defaults.get(key) is not None


def _flag(config: Mapping[str, Any], rule: bool | str) -> bool:
    return rule if isinstance(rule, bool) else bool(config.get(rule, False))


def _count(
    config: Mapping[str, Any], family: Family, key: str, name: str, *, otherwise: int | None = None, least: int = 1
) -> int:
    """Return a field as a whole number, or ``otherwise`` where it may be left open and is."""
    found = _value(config, family, key)
    if found is None and otherwise is not None:
        found = otherwise
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= _LARGEST:
        raise InputError(
            f"{name}: {key} must be a whole number from {least} to {_LARGEST:,}; the configuration has {found!r}"
        )
    return found


def _sliding(config: Mapping[str, Any], family: Family, layers: int, name: str) -> tuple[int, int | None]:
    """Return how many layers slide and their window in tokens; ``(0, None)`` where none does."""
    if family.sliding == "never":
        return 0, None
    upper = family.sliding == "upper layers"
    off = upper and not config.get("use_sliding_window", False)
    window = None if off else _value(config, family, "sliding_window")
    listed = config.get("layer_types")
    if listed is not None:
        sliding = _listed(listed, layers, name)
    elif window is None:
        sliding = 0
    elif upper:
        sliding = max(0, layers - _count(config, family, "max_window_layers", name, least=0))
    elif family.sliding == "all but every nth":
        pattern = _count(config, family, "sliding_window_pattern", name)
        sliding = sum(1 for layer in range(1, layers + 1) if layer % pattern)
    else:
        sliding = layers
    if not sliding:
        return 0, None
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise InputError(f"{name}: {sliding} layers slide, but sliding_window is {window!r}, not a number of tokens")
    return sliding, window


def _listed(layer_types: object, layers: int, name: str) -> int:
    if not isinstance(layer_types, list) or len(layer_types) != layers:
        raise InputError(f"{name}: layer_types must list one type for each of the {layers} layers; got {layer_types!r}")
    other = sorted({str(kind) for kind in layer_types} - {"full_attention", "sliding_attention"})
    if other:
        raise UnsupportedModelError(
            f"{name}: layers of type {', '.join(other)} are not described by this arithmetic; "
            "supported layer types: full_attention, sliding_attention"
        )
    return layer_types.count("sliding_attention")


def _dtype(config: Mapping[str, Any]) -> str | None:
    found = config.get("dtype") or config.get("torch_dtype")  # the second is how older releases wrote it
    return None if found is None else str(found).removeprefix("torch.")


def _stored_quantization(config: Mapping[str, Any]) -> str | None:
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    bits = found.get("bits") or (4 if found.get("load_in_4bit") else 8 if found.get("load_in_8bit") else None)
    return f"{found.get('quant_method', 'unnamed method')}{f', {bits} bits' if bits else ''}"
