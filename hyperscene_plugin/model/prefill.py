"""Token ids → the full keys and values of a source, read once behind the fixed prefix: what compaction starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from hyperscene_plugin.kv.layout import AssembledContext, AssembledLayer, bytes_of
from hyperscene_plugin.model.architectures import attention_shape, layer_windows

__all__ = ["SourceKV", "prefill_source"]

_CHUNK = 4096
"""Tokens prefilled at once: activations stay bounded, and a text of usual length goes in one pass."""


@dataclass(frozen=True, slots=True)
class SourceKV:
    """Full keys (after rotary embedding, at positions 0…) and values of prefix + source, by layer.

    ``keys[layer]`` and ``values[layer]``: (num_kv_heads, held, head_dim). A global layer holds all ``num_prefix +
    num_tokens``; a layer with a sliding window the last ``window − 1`` of them.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    windows: tuple[int | None, ...]
    num_prefix: int
    num_tokens: int

    @property
    def nbytes(self) -> int:
        """Bytes of all layers, prefix included."""
        return bytes_of(*self.keys, *self.values)

    def context(self, *, prefix_only: bool = False) -> AssembledContext:
        """Return everything (or the prefix alone) as a context: nothing is copied but what the prefix needs."""
        layers = []
        for keys, values, window in zip(self.keys, self.values, self.windows, strict=True):
            held = keys.shape[1]
            first = self.num_prefix + self.num_tokens - held
            count = max(0, self.num_prefix - first) if prefix_only else held
            rows = keys[:, :count].reshape(-1, keys.shape[2])
            positions = torch.arange(first, first + count, device=keys.device).repeat(keys.shape[0])
            layers.append(
                AssembledLayer(
                    rows,
                    values[:, :count].reshape(-1, keys.shape[2]),
                    torch.zeros(len(rows), device=keys.device),
                    tuple(range(0, (keys.shape[0] + 1) * count, count)) if count else (0,) * (keys.shape[0] + 1),
                    positions,
                    window,
                )
            )
        return AssembledContext(tuple(layers), self.num_prefix + (0 if prefix_only else self.num_tokens))


@torch.no_grad()
def prefill_source(
    model: Any, prefix_ids: tuple[int, ...], ids: list[int], progress: Callable[[int], None] | None = None
) -> SourceKV:
    """Run prefix and source through the model once, in chunks; ``progress(tokens done)`` after each chunk."""
    if not prefix_ids and not ids:  # a tokenizer without a beginning of its own
        shape = attention_shape(model)
        nothing = torch.zeros(shape.num_kv_heads, 0, shape.head_dim, dtype=model.dtype, device=model.device)
        return SourceKV((nothing,) * shape.num_layers, (nothing,) * shape.num_layers, layer_windows(model.config), 0, 0)
    everything = torch.tensor([[*prefix_ids, *ids]], device=model.device)
    total = everything.shape[1]
    cache = DynamicCache(config=model.config)
    for start in range(0, total, _CHUNK):
        end = min(start + _CHUNK, total)
        model.model(
            input_ids=everything[:, start:end],
            position_ids=torch.arange(start, end, device=model.device)[None],
            past_key_values=cache,
            use_cache=True,
        )
        if progress:
            progress(end)
    held: list[Any] = list(cache.layers)
    return SourceKV(
        tuple(layer.keys[0] for layer in held),
        tuple(layer.values[0] for layer in held),
        layer_windows(model.config),
        len(prefix_ids),
        len(ids),
    )
