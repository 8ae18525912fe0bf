"""Reference queries → a score for every source key of a head, and the keys to keep.

A key's score is the most attention that any reference query gives it, each query weighed by how much it matters
(see ``queries.ReferenceQueries``). Scores of all heads are on one scale, so that budgets can be shared between heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperscene_plugin.errors import InputError

__all__ = ["key_scores", "matching_pursuit", "skip_near_duplicates", "top_keys"]

_ROWS = 1024
"""Queries scored at once: at 60,000 keys in float32 that is 250 MB, whatever the number of queries."""


def key_scores(queries: Tensor, weights: Tensor, log_total: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """Return (keys,) float32: max over queries of weight · attention.

    Args:
        queries: (n, head_dim), after rotary embedding, all query heads of the group stacked.
        weights: (n,) not negative; queries of weight 0 are not looked at.
        log_total: (n,) log of the whole softmax denominator of each query (source, prefix and its own live tokens).
        keys: (keys, head_dim), after rotary embedding.
        scaling: what the module multiplies scores with.
    """
    best = torch.zeros(keys.shape[0], device=keys.device)
    used = weights > 0
    queries, weights, log_total = queries[used].float(), weights[used].float(), log_total[used].float()
    keys = keys.float()
    for start in range(0, len(queries), _ROWS):
        rows = slice(start, start + _ROWS)
        share = (queries[rows] @ keys.T * scaling - log_total[rows, None]).exp()
        best = torch.maximum(best, (share * weights[rows, None]).amax(0))
    return best


def top_keys(scores: Tensor, count: int, protected: Tensor | None = None) -> Tensor:
    """Return the indices (count,) of the best keys, ascending; ``protected`` (keys,) bool go in first, best first."""
    if count < 0:
        raise InputError(f"the number of keys to keep must not be negative; got {count}")
    if protected is not None:
        scores = scores + protected * (scores.max() + 1.0)
    return scores.topk(min(count, len(scores))).indices.sort().values


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


def matching_pursuit(mass: Tensor, candidates: Sequence[int], count: int, weights: Tensor) -> list[int]:
    """Greedy selection of keys whose weighted sum best rebuilds each query's whole mass; the slow mode.

    Args:
        mass: (n, keys) exp(score − log_total): what each key contributes to each query.
        candidates: key indices that may be chosen.
        count: how many to choose.
        weights: (n,) importance of the queries.

    Returns:
        Up to ``count`` distinct indices, in the order chosen. Each step takes the key with the largest correlation
        with what is not yet rebuilt, then refits the non-negative weight of that key.
    """
    rows = weights.sqrt()[:, None]
    features = mass[:, list(candidates)] * rows
    norms = features.norm(dim=0).clamp_min(1e-12)
    rest = (mass.sum(1, keepdim=True) * rows).squeeze(1)
    free = torch.ones(len(candidates), dtype=torch.bool)
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        gain = (features.T @ rest) / norms
        gain[~free] = -torch.inf
        best = int(gain.argmax())
        if gain[best] <= 0:
            gain = torch.where(free, norms, torch.full_like(norms, -torch.inf))
            best = int(gain.argmax())
        free[best] = False
        chosen.append(int(candidates[best]))
        step = (features[:, best] @ rest / norms[best] ** 2).clamp_min(0.0)
        rest = rest - step * features[:, best]
    return chosen
