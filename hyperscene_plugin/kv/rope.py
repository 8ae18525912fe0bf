"""Rotary positions of keys, put on and taken off: ``rotate`` and its exact inverse ``unrotate``, in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperscene_plugin.errors import InputError

__all__ = ["rotate", "unrotate"]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``x`` with rotary positions applied: dimension i turns together with i + rotary_dim / 2, as in Llama.

    Args:
        x: (..., n, head_dim), any floating dtype.
        cos: (n, rotary_dim) float32; dimensions of ``x`` past rotary_dim are left as they are (partial rotary).
        sin: as ``cos``. A scale in both (YaRN's attention factor) scales the turned dimensions.

    Returns:
        A new tensor of ``x``'s shape and dtype; computed in float32 and rounded once.

    Raises:
        InputError: the shapes do not fit together.
    """
    rotary = _check(x, cos, sin)
    turned = x[..., :rotary].float()
    turned = turned * cos + _half_turn(turned) * sin
    return _join(turned, x, rotary)


def unrotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return what :func:`rotate` with the same ``cos`` and ``sin`` was given; shapes and errors as there.

    The scale that they carry is read off cos² + sin², which is 1 for a plain rotation and scale² otherwise.
    """
    rotary = _check(x, cos, sin)
    turned = x[..., :rotary].float()
    turned = (turned * cos - _half_turn(turned) * sin) / (cos.square() + sin.square())
    return _join(turned, x, rotary)


def _half_turn(x: Tensor) -> Tensor:
    """Return (−second half, first half) of the last dimension."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def _join(turned: Tensor, x: Tensor, rotary: int) -> Tensor:
    rounded = turned.to(x.dtype)
    return rounded if rotary == x.shape[-1] else torch.cat((rounded, x[..., rotary:]), dim=-1)


def _check(x: Tensor, cos: Tensor, sin: Tensor) -> int:
    """Check the shapes and return rotary_dim."""
    if x.dim() < 2 or cos.dim() != 2 or cos.shape != sin.shape or cos.shape[0] != x.shape[-2]:
        raise InputError(
            "rotary positions need x (..., n, head_dim) with cos and sin (n, rotary_dim); got "
            f"{tuple(x.shape)}, {tuple(cos.shape)} and {tuple(sin.shape)}"
        )
    rotary = cos.shape[1]
    if rotary % 2 or rotary > x.shape[-1]:
        raise InputError(f"rotary_dim must be even and at most head_dim {x.shape[-1]}; got {rotary}")
    return rotary
