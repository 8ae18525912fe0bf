"""Attention over [compact slots ‖ live keys]: one softmax per query, slots biased and ragged by head.

``compact_attention`` is what models run; ``reference_attention`` is the eager oracle that it is held equal to.

    slots of a head   score · scaling + bias      no causality; a windowed layer hides those too far behind the query
    live keys         score · scaling             under the model's own mask
                      ╰─ each part gives (peak, mass, weighted values) in float32; parts merge by log-sum-exp
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.kv.layout import AssembledLayer

__all__ = ["compact_attention", "reference_attention"]

# Scores held at once, in float32 numbers: 64 MiB. Query rows are taken in chunks that stay below, so a long prompt over
# a long context needs no more memory than a short one, and chunks are still large enough to keep a GPU busy.
_MAX_SCORES = 2**24


def compact_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    compact: Sequence[AssembledLayer],
    query_positions: Tensor | None = None,
) -> Tensor:
    """Return the attention of ``query`` over the compact slots and the live keys together.

    Args:
        query: (B, Hq, n, d), rotated.
        key: live keys (B, Hkv, m, d); their last n are the queries' own. m may be 0.
        value: live values (B, Hkv, m, d).
        mask: over the live keys, (B or 1, Hq or 1, n, m): boolean, true where visible, or added to the scores.
            ``None`` is causal.
        scaling: factor of the scores.
        compact: the slots of this layer: one for all rows (not copied), or one per row. Rows that share one object
            are computed together.
        query_positions: logical positions (B or 1, n); needed where a layer has a window.

    Returns:
        (B, n, Hq, d), contiguous, in ``query``'s dtype. A query that sees nothing gets zeros.

    Raises:
        InputError: the shapes or the number of layers do not fit together, or positions are missing.
    """
    _check(query, key, value, compact, query_positions)
    batch, heads, rows, dim = query.shape
    kv_heads, live = key.shape[1], key.shape[2]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, rows, dim).float()
    keys, values = key.float(), value.float()
    slots = max((layer.keys.shape[0] for layer in compact), default=0)
    step = max(1, _MAX_SCORES // max(1, batch * heads * (live + slots // kv_heads)))
    out = torch.empty((batch, rows, heads, dim), dtype=query.dtype, device=query.device)
    for start in range(0, rows, step):
        end = min(rows, start + step)
        chunk = grouped[:, :, :, start:end]
        visible = _causal(rows, live, start, end, query.device) if mask is None else mask[:, :, start:end]
        part = _live_part(chunk, keys, values, visible, scaling)
        positions = None if query_positions is None else query_positions[:, start:end]
        part = _merge(part, _compact_part(chunk, scaling, compact, positions))
        mixed = part.values / part.mass.clamp_min(torch.finfo(torch.float32).tiny)[..., None]
        out[:, start:end] = mixed.permute(0, 3, 1, 2, 4).reshape(batch, end - start, heads, dim)
    return out


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    compact: Sequence[AssembledLayer],
    query_positions: Tensor | None = None,
) -> Tensor:
    """Return what :func:`compact_attention` returns, row by row and head by head, with one softmax over everything.

    Slow and plain, in float32: the oracle of the tests. Arguments and errors as there.
    """
    _check(query, key, value, compact, query_positions)
    batch, heads, rows, _ = query.shape
    group = heads // key.shape[1]
    out = torch.empty_like(query)
    for row in range(batch):
        layer = compact[row if len(compact) > 1 else 0] if compact else None
        for head in range(heads):
            q = query[row, head].float()
            live = q @ key[row, head // group].float().T * scaling
            if mask is None:
                live = live.masked_fill(~_causal(rows, live.shape[1], 0, rows, q.device)[0, 0], -math.inf)
            else:
                seen = mask[row if mask.shape[0] > 1 else 0, head if mask.shape[1] > 1 else 0]
                live = live.masked_fill(~seen, -math.inf) if seen.dtype == torch.bool else live + seen.float()
            scores, values = live, value[row, head // group].float()
            if layer is not None:
                own = layer.head(head // group)
                slots = q @ layer.keys[own].float().T * scaling + layer.bias[own]
                if layer.window is not None and query_positions is not None:
                    at = query_positions[row if query_positions.shape[0] > 1 else 0]
                    slots = slots.masked_fill(at[:, None] - layer.positions[own][None] >= layer.window, -math.inf)
                scores, values = torch.cat((slots, live), 1), torch.cat((layer.values[own].float(), values))
            # a row that sees nothing has no softmax
            out[row, head] = (scores.softmax(-1).nan_to_num(0.0) @ values).to(out.dtype)
    return out.transpose(1, 2).contiguous()


class _Part(NamedTuple):
    """An unfinished softmax: the highest score and the sum of exp(score − peak), each (B, Hkv, G, n).

    ``values`` (B, Hkv, G, n, d) is the same sum with every term times its value.
    """

    peak: Tensor
    mass: Tensor
    values: Tensor


def _finish(scores: Tensor, values: Tensor) -> _Part:
    """Return the part of float32 ``scores`` (..., t) over ``values`` (..., t, d); −∞ is unseen."""
    if not scores.shape[-1]:
        nothing = scores.new_zeros(scores.shape[:-1])
        return _Part(nothing - math.inf, nothing, scores.new_zeros((*scores.shape[:-1], values.shape[-1])))
    peak = scores.amax(-1)
    weights = (scores - _finite(peak)[..., None]).exp()
    return _Part(peak, weights.sum(-1), weights @ values)


def _finite(peak: Tensor) -> Tensor:
    """Replace the peak of a row that sees nothing, so that −∞ − peak stays −∞."""
    return peak.masked_fill(peak == -math.inf, 0.0)


def _merge(a: _Part, b: _Part | None) -> _Part:
    """Return the part over both: log-sum-exp."""
    if b is None:
        return a
    peak = torch.maximum(a.peak, b.peak)
    ours, theirs = (a.peak - _finite(peak)).exp(), (b.peak - _finite(peak)).exp()
    return _Part(peak, a.mass * ours + b.mass * theirs, a.values * ours[..., None] + b.values * theirs[..., None])


def _live_part(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> _Part:
    """Return the part over the live keys; ``query`` (B, Hkv, G, n, d)."""
    batch, kv_heads, group, rows, dim = query.shape
    scores = query.reshape(batch, kv_heads, group * rows, dim) @ key.transpose(-1, -2)
    scores = scores.mul_(scaling).view(batch, kv_heads, group, rows, -1)
    seen = mask[:, :, None] if mask.shape[1] == 1 else mask.view(mask.shape[0], kv_heads, group, rows, -1)
    scores = scores.masked_fill(~seen, -math.inf) if mask.dtype == torch.bool else scores + seen.float()
    part = _finish(scores.view(batch, kv_heads, group * rows, -1), value)
    shape = (batch, kv_heads, group, rows)
    return _Part(part.peak.view(shape), part.mass.view(shape), part.values.view(*shape, dim))


def _compact_part(
    query: Tensor, scaling: float, compact: Sequence[AssembledLayer], positions: Tensor | None
) -> _Part | None:
    """Return the part over the slots; rows of the batch with the same layer together."""
    if not any(layer.keys.shape[0] for layer in compact):
        return None
    batch = query.shape[0]
    parts, order = [], []
    for layer, members in _same(compact):
        alone = len(members) == batch or len(compact) == 1
        chosen = slice(None) if alone else torch.tensor(members, device=query.device)
        at = positions if positions is None or positions.shape[0] == 1 else positions[chosen]
        parts.append(_slots_part(query[chosen], scaling, layer, at))
        order += members
    if len(parts) == 1:
        return parts[0]
    back = torch.tensor(order, device=query.device).argsort()
    return _Part(*(torch.cat(pieces)[back] for pieces in zip(*parts, strict=True)))


def _same(compact: Sequence[AssembledLayer]) -> Iterator[tuple[AssembledLayer, list[int]]]:
    """Give each distinct layer with the rows that use it."""
    rows: dict[int, list[int]] = {}
    for row, layer in enumerate(compact):
        rows.setdefault(id(layer), []).append(row)
    for members in rows.values():
        yield compact[members[0]], members


def _slots_part(query: Tensor, scaling: float, layer: AssembledLayer, positions: Tensor | None) -> _Part:
    """Return the part of rows that share one layer; ``query`` (B, Hkv, G, n, d) float32.

    One query row (decoding): all heads in one product, in which a head's queries see other heads' slots at −∞: more
    arithmetic, but a handful of kernels where a loop over heads would launch dozens. Otherwise head by head.
    """
    batch, kv_heads, group, rows, dim = query.shape
    hidden = None
    if layer.window is not None and positions is not None:
        hidden = (positions[:, :, None] - layer.positions >= layer.window)[:, None]  # (B or 1, 1, n, slots)
    if rows == 1 and batch * kv_heads * group * layer.keys.shape[0] <= _MAX_SCORES:
        scores = query.reshape(-1, dim) @ layer.keys.float().T
        scores = scores.mul_(scaling).view(batch, kv_heads, group, -1)
        foreign = _foreign(layer.offsets, query.device)
        scores = (scores + layer.bias).masked_fill(foreign[:, None], -math.inf)
        if hidden is not None:
            scores = scores.masked_fill(hidden, -math.inf)
        part = _finish(scores, layer.values.float())
        return _Part(part.peak[..., None], part.mass[..., None], part.values[..., None, :])
    parts = []
    for head in range(kv_heads):
        own = layer.head(head)
        scores = query[:, head].reshape(-1, dim) @ layer.keys[own].float().T
        scores = scores.mul_(scaling).add_(layer.bias[own]).view(batch, group, rows, -1)
        if hidden is not None:
            scores = scores.masked_fill(hidden[..., own], -math.inf)
        parts.append(_finish(scores, layer.values[own].float()))
    return _Part(*(torch.stack(pieces, dim=1) for pieces in zip(*parts, strict=True)))


@lru_cache(maxsize=256)
def _foreign(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    """Return (Hkv, slots), true where a slot belongs to another head. Kept: it is the same at every decoding step."""
    with torch.inference_mode(False):  # an inference tensor, once kept, would be refused under autograd later
        ends = torch.tensor(offsets)
        slot = torch.arange(offsets[-1])
        return ((slot < ends[:-1, None]) | (slot >= ends[1:, None])).to(device)


def _causal(rows: int, live: int, start: int, end: int, device: torch.device) -> Tensor:
    """Return (1, 1, end − start, live), true where a query sees a live key; the last key is the last query's own."""
    own = torch.arange(start, end, device=device) + live - rows
    return (torch.arange(live, device=device) <= own[:, None])[None, None]


def _check(
    query: Tensor, key: Tensor, value: Tensor, compact: Sequence[AssembledLayer], positions: Tensor | None
) -> None:
    batch, heads, rows, dim = query.shape
    if key.shape != value.shape or key.shape[0] != batch or key.shape[3] != dim or heads % key.shape[1]:
        raise InputError(
            "attention needs query (B, Hq, n, d) and live key and value (B, Hkv, m, d); got "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        )
    if len(compact) not in (0, 1, batch):
        raise InputError(f"a batch of {batch} rows needs one compact layer or {batch}; got {len(compact)}")
    for layer in compact:
        if len(layer.offsets) != key.shape[1] + 1 or layer.keys.shape[1] != dim:
            raise InputError(
                f"the model has {key.shape[1]} key/value heads of {dim} dimensions; the compact layer has "
                f"{len(layer.offsets) - 1} of {layer.keys.shape[1]}"
            )
    if positions is None and any(layer.window is not None for layer in compact):
        raise InputError("a layer with a sliding window needs the positions of the queries (position_ids)")
    if positions is not None and (positions.shape[-1] != rows or positions.shape[0] not in (1, batch)):
        raise InputError(f"{batch} rows of {rows} queries need positions (1 or B, n); got {tuple(positions.shape)}")
