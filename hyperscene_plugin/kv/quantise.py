"""A layer's keys and values ↔ int8 rows with one float32 scale each: symmetric, per slot.

The error of an element is at most half a step, ``scale / 2 = max|row| / 254``, and the rounding to the layer's dtype.
Biases, offsets and source indices stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.kv.layout import LayerSlots, bytes_of

__all__ = ["QuantisedLayer", "dequantise_layer", "dequantise_rows", "quantise_layer", "quantise_rows"]

_LEVELS = 127
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class QuantisedLayer:
    """One layer's slots in eight bits: ``keys`` and ``values`` int8 (slots, head_dim), a float32 scale (slots,) each.

    ``dtype`` is what the keys and values had and get back. The other fields are those of ``LayerSlots``.
    """

    keys: Tensor
    key_scale: Tensor
    values: Tensor
    value_scale: Tensor
    bias: Tensor
    offsets: Tensor
    source_index: Tensor
    dtype: torch.dtype
    window: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all seven arrays."""
        rows = (self.keys, self.key_scale, self.values, self.value_scale)
        return bytes_of(*rows, self.bias, self.offsets, self.source_index)


def quantise_layer(layer: LayerSlots) -> QuantisedLayer:
    """Return the layer in eight bits; the layer is not changed.

    Raises:
        InputError: a key or value is infinite or not a number (as float32).
    """
    keys, key_scale = quantise_rows(layer.keys)
    values, value_scale = quantise_rows(layer.values)
    return QuantisedLayer(
        keys,
        key_scale,
        values,
        value_scale,
        layer.bias,
        layer.offsets,
        layer.source_index,
        layer.keys.dtype,
        layer.window,
    )


def dequantise_layer(layer: QuantisedLayer) -> LayerSlots:
    """Return the layer with keys and values in its own dtype; bias, offsets and indices are shared with it.

    Raises:
        InputError: the arrays do not fit each other.
    """
    keys = dequantise_rows(layer.keys, layer.key_scale, layer.dtype)
    values = dequantise_rows(layer.values, layer.value_scale, layer.dtype)
    return LayerSlots(keys, values, layer.bias, layer.offsets, layer.source_index, layer.window)


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return (rows, dim) floats as ``(int8 (rows, dim), float32 scale (rows,))``.

    Raises:
        InputError: a number is infinite or not a number (as float32).
    """
    exact = rows.detach().float()
    if not bool(torch.isfinite(exact).all()):
        raise InputError(
            "keys or values that are infinite or not a number cannot be stored as int8; "
            "store them as they are (storage='same'), or build the cache anew"
        )
    largest = exact.abs().amax(dim=1) if exact.numel() else exact.new_zeros(len(exact))
    scale = (largest / _LEVELS).clamp(min=_SMALLEST_SCALE)
    return (exact / scale[:, None]).round().clamp(-_LEVELS, _LEVELS).to(torch.int8), scale


def dequantise_rows(rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``rows · scale``, (rows, dim), multiplied in float32 and rounded once to ``dtype``.

    Raises:
        InputError: there is not one scale per row.
    """
    if rows.dim() != 2 or scale.shape != rows.shape[:1]:
        raise InputError(f"int8 rows need one scale each; got {tuple(rows.shape)} and {tuple(scale.shape)}")
    limit = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)  # 127 · (max / 127) may round past the max
    return (rows.float() * scale.float()[:, None]).clamp(-limit, limit).to(dtype)
