"""Bytes or slots in all → slots for each layer and head, by the scores of the keys that compete for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperscene_plugin.errors import BudgetError

__all__ = ["MAX_RATIO", "MIN_RATIO", "bytes_per_slot", "share_slots", "slots_within"]

MIN_RATIO, MAX_RATIO = 2.0, 64.0
_BIAS_BYTES = 4
_INDEX_BYTES = 4


def bytes_per_slot(head_dim: int, itemsize: int) -> int:
    """Return what a slot takes: key, value, bias (float32) and source index (int32)."""
    return 2 * head_dim * itemsize + _BIAS_BYTES + _INDEX_BYTES


def slots_within(num_bytes: int, head_dim: int, itemsize: int, heads_per_layer: Sequence[int]) -> int:
    """Return how many slots fit in ``num_bytes`` with their head offsets (int32, one more than heads a layer)."""
    offsets = sum(4 * (heads + 1) for heads in heads_per_layer)
    slots = (num_bytes - offsets) // bytes_per_slot(head_dim, itemsize)
    if slots < 1:
        raise BudgetError(
            f"{num_bytes} bytes hold no slot: offsets alone take {offsets} and each slot "
            f"{bytes_per_slot(head_dim, itemsize)}; use a smaller compaction_ratio or a longer source"
        )
    return slots


def share_slots(scores: Sequence[Tensor], total: int, *, floor: float = 0.0, cap: float | None = None) -> list[int]:
    """Return how many slots each head gets so that they add up to ``total`` (or to all keys, if those are fewer).

    The heads' keys compete on one scale: the best ``total`` keys win, wherever they are. Then every head gets at
    least ``floor`` and at most ``cap`` times the even share (no cap by default: measured on heads that read single
    facts, a cap of 4 loses accuracy; see ``docs/hypercode.md``).

    Args:
        scores: for each head the scores of its keys, (keys,).
        total: slots in all.
        floor: least share, in even shares.
        cap: largest share, in even shares.
    """
    sizes = torch.tensor([len(head) for head in scores])
    total = min(total, int(sizes.sum()))
    even = total / max(1, len(scores))
    least = torch.minimum(sizes, torch.full_like(sizes, int(floor * even)))
    most = sizes if cap is None else torch.minimum(sizes, torch.full_like(sizes, max(1, int(cap * even))))
    if int(most.sum()) < total:
        most = sizes
    shifted = torch.cat(
        [_rank_bounded(head, int(low), int(high)) for head, low, high in zip(scores, least, most, strict=True)]
    )
    owner = torch.repeat_interleave(torch.arange(len(scores)), sizes)
    winners = owner[shifted.topk(total).indices.cpu()]
    return torch.bincount(winners, minlength=len(scores)).tolist()


def _rank_bounded(scores: Tensor, least: int, most: int) -> Tensor:
    """Return the scores with the best ``least`` lifted above, and all past ``most`` sunk below, every other head's."""
    order = scores.argsort(descending=True)
    bounded = scores.float().clone()
    bounded[order[:least]] += 1e6
    bounded[order[most:]] -= 1e6
    return bounded
