"""Ranked keys of a head → the ones to keep: the best, without those that nearly repeat a better one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["skip_near_duplicates"]


def skip_near_duplicates(keys: Tensor, values: Tensor, ranked: Tensor, count: int, most_alike: float = 0.98) -> Tensor:
    """Return up to ``count`` of the ``ranked`` keys (best first), without those nearly equal to a better one.

    Near-duplicates make the fits ill-conditioned. Two keys count as such where both their keys and their values have
    a cosine above ``most_alike``: what is lost is then in the other slot already. Places left free are filled with
    the skipped ones, best first.
    """
    candidates = ranked[: 2 * count]
    unit_keys = torch.nn.functional.normalize(keys[candidates].float(), dim=-1)
    unit_values = torch.nn.functional.normalize(values[candidates].float(), dim=-1)
    alike = (unit_keys @ unit_keys.T > most_alike) & (unit_values @ unit_values.T > most_alike)
    repeated = torch.tril(alike, -1).any(1)
    order = torch.cat([candidates[~repeated], candidates[repeated]])
    return order[:count]
