"""Bytes of the key/value cache: the full one, and the hypercode that stands for it.

The full cache holds a key and a value per token, layer and KV head. A hypercode slot holds a key, a value, one float32
bias and the int32 index of its source token; a layer adds one int32 offset per KV head and one more, because heads may
hold unequal numbers of slots.
Layers with a sliding window keep their window either way and are not compacted.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperscene_plugin.forecast.figures import Figure
from hyperscene_plugin.forecast.shape import ModelShape

__all__ = ["Hypercode", "full_cache", "full_cache_figures", "hypercode", "token_bytes"]

BIAS_BYTES = 4
INDEX_BYTES = 4
OFFSET_BYTES = 4


@dataclass(frozen=True, slots=True)
class Hypercode:
    """The compact cache of a context. ``slots`` is the mean per KV head and global layer; bytes are of all layers.

    ``compact`` bytes are what is stored and injected; ``sliding`` bytes are the window of the sliding layers.
    ``byte_ratio`` is full ÷ hypercode, both with their sliding layers.
    """

    slots: int
    compact: int
    sliding: int
    byte_ratio: float
    figures: tuple[Figure, ...]

    @property
    def bytes(self) -> int:
        """Everything the context takes in memory."""
        return self.compact + self.sliding


def token_bytes(shape: ModelShape, size: int) -> int:
    """Return the bytes of one token's keys and values in one layer; ``size`` is bytes per element."""
    return 2 * shape.kv_width * size


def full_cache(shape: ModelShape, tokens: int, size: int) -> int:
    """Return the bytes of the full cache of ``tokens``, sliding layers with their window only."""
    per_layer = token_bytes(shape, size)
    return per_layer * (shape.num_global_layers * tokens + shape.num_sliding_layers * shape.sliding_tokens(tokens))


def full_cache_figures(shape: ModelShape, tokens: int, size: int) -> tuple[Figure, ...]:
    """Return the lines that make up ``full_cache``; the last one has the key ``full``."""
    heads = f"{shape.num_kv_heads} KV heads · {shape.head_dim} · {size} bytes"
    sliding = shape.num_sliding_layers
    total = full_cache(shape, tokens, size)
    if not sliding:
        return (Figure("full", "full", f"2 · {shape.num_layers} layers · {heads} · {tokens:,} tokens", total, "bytes"),)
    kept = shape.sliding_tokens(tokens)
    window_bytes = token_bytes(shape, size) * sliding * kept
    return (
        Figure(
            "full_global",
            "full, global layers",
            f"2 · {shape.num_global_layers} layers · {heads} · {tokens:,} tokens",
            total - window_bytes,
            "bytes",
        ),
        Figure(
            "full_sliding",
            "full, sliding layers",
            f"2 · {sliding} layers · {heads} · {kept:,} tokens (window {shape.sliding_window:,})",
            window_bytes,
            "bytes",
        ),
        Figure("full", "full", "global + sliding layers", total, "bytes"),
    )


def hypercode(shape: ModelShape, context: int, ratio: float, size: int) -> Hypercode:
    """Return the hypercode of ``context`` tokens whose global layers take a ``ratio``-th of their full bytes.

    At least one slot per head is kept, so a very short context misses the ratio; ``byte_ratio`` tells.
    """
    layers, kv_heads = shape.num_global_layers, shape.num_kv_heads
    sliding = token_bytes(shape, size) * shape.num_sliding_layers * shape.sliding_tokens(context)
    full = full_cache(shape, context, size)
    if not layers:
        figure = Figure("hypercode", "hypercode", "every layer slides: nothing to compact", sliding, "bytes")
        return Hypercode(0, 0, sliding, 1.0, (figure,))
    slot = 2 * shape.head_dim * size + BIAS_BYTES + INDEX_BYTES
    offsets = layers * (kv_heads + 1) * OFFSET_BYTES
    target = (full - sliding) / ratio
    slots = max(1, int((target - offsets) // (layers * kv_heads * slot)))
    compact = layers * kv_heads * slots * slot + offsets
    figures = [
        Figure(
            "slot",
            "slot",
            f"2 · {shape.head_dim} · {size} bytes + {BIAS_BYTES} of bias + {INDEX_BYTES} of index",
            slot,
            "bytes",
        ),
        Figure("offsets", "offsets", f"{layers} layers · {kv_heads + 1} · {OFFSET_BYTES} bytes", offsets, "bytes"),
        Figure(
            "slots",
            "slots per KV head, mean",
            f"({full - sliding:,} ÷ {ratio:g} − {offsets:,} bytes) ÷ ({layers} layers · {kv_heads} heads · {slot:,})",
            slots,
            "count",
        ),
        Figure("compaction_ratio", "source tokens per slot", f"{context:,} ÷ {slots:,}", context / slots, "number"),
        Figure(
            "compact",
            "hypercode",
            f"{layers} layers · {kv_heads} KV heads · {slots:,} slots · {slot:,} bytes + {offsets:,}",
            compact,
            "bytes",
        ),
    ]
    if sliding:
        figures.append(
            Figure("hypercode", "hypercode and windows", f"{compact:,} + {sliding:,} bytes", compact + sliding, "bytes")
        )
    byte_ratio = full / (compact + sliding)
    figures.append(
        Figure("byte_ratio", "full ÷ hypercode", f"{full:,} ÷ {compact + sliding:,} bytes", byte_ratio, "times")
    )
    return Hypercode(slots, compact, sliding, byte_ratio, tuple(figures))
