"""Kept keys and reference queries → the bias and the values with which they stand for all keys of their scene.

Everything is in units of a query's whole attention: ``mass[q, j] = exp(score − log_total)``. For each scene the kept
slots must give the scene's mass (the bias) and its share of the output (the values). Matched scene by scene, any
subset of scenes can be used, in front of anything else: attention over a union is the mass-weighted mixture of its
parts. Queries that give a scene little attention weigh little by themselves.

Source of the objective: "Fast KV Compaction via Attention Matching" (arXiv 2602.16284).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["HeadFit", "fit_bias", "fit_head", "fit_values", "padded_groups"]

_LOG_WEIGHT = 3.0
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
_STEPS = 150


@dataclass(frozen=True, slots=True)
class HeadFit:
    """One head's fitted slots, in the order of ``kept``: bias (slots,), values (slots, head_dim), and what was found.

    Errors are relative, on the held-out queries: root mean square of the output difference ÷ that of the full output,
    mean absolute difference of the mass ÷ mean mass. ``choice`` is what was shipped: ``fitted``, ``bias`` (original
    values) or ``eviction`` (neither).
    """

    bias: Tensor
    values: Tensor
    output_error: float
    mass_error: float
    eviction_error: float
    choice: str


def padded_groups(groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Return ``(index (num_groups, width), valid)`` that lists the members of each group; ``groups`` is (slots,)."""
    counts = torch.bincount(groups, minlength=num_groups)
    width = int(counts.max()) if len(groups) else 0
    order = torch.argsort(groups, stable=True)
    starts = counts.cumsum(0) - counts
    place = torch.arange(width, device=groups.device)[None]
    valid = place < counts[:, None]
    index = order[(starts[:, None] + place).clamp(max=max(0, len(groups) - 1))] if len(groups) else place.long()
    return torch.where(valid, index, 0), valid


def fit_bias(kept_mass: Tensor, scene_mass: Tensor, groups: Tensor, prior: Tensor, strength: float = 1e-2) -> Tensor:
    """Return (slots,) log weights: non-negative least squares on the scenes' masses, all scenes at once.

    Minimises ``‖M_s w − m_s‖² + strength · tr(G_s)/t · ‖w − prior‖²`` for each scene s with e⁻³ ≤ w ≤ e³, by
    accelerated projected gradient on the Gram matrices.

    Args:
        kept_mass: (n, slots) mass of the kept keys.
        scene_mass: (n, scenes) mass of all keys of each scene.
        groups: (slots,) the scene of each slot.
        prior: (slots,) expected weights (1 + the dropped keys that a slot stands for).
    """
    index, valid = padded_groups(groups, scene_mass.shape[1])
    if index.shape[1] == 0:
        return torch.zeros(0, device=kept_mass.device)
    members = kept_mass[:, index] * valid  # (n, scenes, width)
    gram = torch.einsum("nsa,nsb->sab", members, members)
    right = torch.einsum("nsa,ns->sa", members, scene_mass)
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1) / valid.sum(-1).clamp_min(1)
    ridge = (strength * trace).clamp_min(1e-12)
    eye = torch.eye(index.shape[1], device=gram.device)
    gram = gram + ridge[:, None, None] * eye
    start = prior[index].clamp(math.exp(-_LOG_WEIGHT), math.exp(_LOG_WEIGHT))
    right = right + ridge[:, None] * start
    step = 1.0 / gram.abs().sum(-1).amax(-1).clamp_min(1e-12)  # the largest row sum bounds the largest eigenvalue
    low, high = math.exp(-_LOG_WEIGHT), math.exp(_LOG_WEIGHT)
    weight, ahead, momentum = start, start, 1.0
    for _ in range(_STEPS):
        slope = torch.einsum("sab,sb->sa", gram, ahead) - right
        new = (ahead - step[:, None] * slope).clamp(low, high)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - weight)
        if torch.allclose(new, weight, rtol=1e-5, atol=1e-6):
            weight = new
            break
        weight, momentum = new, following
    bias = torch.zeros_like(prior)
    bias[index[valid]] = weight[valid].log()
    return bias


def fit_values(kept: Tensor, target: Tensor, groups: Tensor, values: Tensor, ridge: float, num_groups: int) -> Tensor:
    """Return (slots, head_dim): ridge regression toward the original values, scene by scene.

    ``kept`` (n, slots) is the weighted mass of the slots; ``target`` (n, scenes, head_dim) each scene's share of the
    output. Solved in float32, again in float64 where that fails.
    """
    index, valid = padded_groups(groups, num_groups)
    if index.shape[1] == 0:
        return values
    members = kept[:, index] * valid
    start = values[index] * valid[..., None]
    missing = target - torch.einsum("nsa,sad->nsd", members, start)
    gram = torch.einsum("nsa,nsb->sab", members, members)
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1) / valid.sum(-1).clamp_min(1)
    gram = gram + (ridge * trace).clamp_min(1e-9)[:, None, None] * torch.eye(index.shape[1], device=gram.device)
    right = torch.einsum("nsa,nsd->sad", members, missing)
    change = torch.linalg.solve_ex(gram, right)[0]
    if not torch.isfinite(change).all():
        change = torch.linalg.solve_ex(gram.double(), right.double())[0].to(right.dtype)
    change = torch.where(torch.isfinite(change), change, torch.zeros_like(change))
    fitted = values.clone()
    fitted[index[valid]] = (start + change)[valid]
    return fitted


def fit_head(
    mass: Tensor,
    weights: Tensor,
    values: Tensor,
    kept: Tensor,
    scene_of: Tensor,
    num_scenes: int,
    held_out: Tensor,
) -> HeadFit:
    """Fit one head's slots and return what is best on the held-out queries: a fit, the bias alone, or eviction.

    Args:
        mass: (n, keys) float32, exp(score − log_total): each key's share of each query's whole attention.
        weights: (n,) importance of the queries.
        values: (keys, head_dim) float32.
        kept: (slots,) indices of the kept keys, ascending.
        scene_of: (keys,) scene of each key, ascending: scenes are runs of keys.
        num_scenes: scenes in all.
        held_out: (n,) bool: rows for measuring; the others are for fitting.
    """
    groups = scene_of[kept]
    rows = weights.sqrt()[:, None]
    kept_mass = mass[:, kept] * rows
    ends = torch.bincount(scene_of, minlength=num_scenes).cumsum(0).tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    scene_mass = torch.stack([mass[:, a:b].sum(1) for a, b in spans], 1) * rows
    target = torch.stack([mass[:, a:b] @ values[a:b] for a, b in spans], 1) * rows[..., None]
    fit, test = ~held_out, held_out
    originals = values[kept]
    bias = fit_bias(kept_mass[fit], scene_mass[fit], groups, _prior(scene_of, kept, groups, num_scenes))
    weighted = kept_mass * bias.exp()
    tried = {"eviction": (torch.zeros_like(bias), originals), "bias": (bias, originals)}
    for ridge in _RIDGES:
        fitted = fit_values(weighted[fit], target[fit], groups, originals, ridge, num_scenes)
        tried[f"fitted {ridge:g}"] = (bias, fitted)
    whole, total = target[test].sum(1), scene_mass[test].sum(1)
    rest = (rows[test, 0] - total).clamp_min(0.0)  # what prefix and live tokens get
    errors = {}
    for name, (b, v) in tried.items():
        used = kept_mass[test] * b.exp()
        scale = (total + rest) / (used.sum(1) + rest).clamp_min(1e-9)  # the softmax is over what is there
        errors[name] = float(((used @ v) * scale[:, None] - whole).norm() / whole.norm().clamp_min(1e-9))
    best = min(errors, key=lambda name: errors[name])
    bias, fitted = tried[best]
    mass_error = float(((kept_mass[test] * bias.exp()).sum(1) - total).abs().mean() / total.mean().clamp_min(1e-9))
    return HeadFit(bias, fitted, errors[best], mass_error, errors["eviction"], best.split()[0])


def _prior(scene_of: Tensor, kept: Tensor, groups: Tensor, num_scenes: int) -> Tensor:
    """Return (slots,): how many keys of its scene a slot stands for if all slots of the scene share them evenly."""
    keys = torch.bincount(scene_of, minlength=num_scenes).float()
    slots = torch.bincount(groups, minlength=num_scenes).float()
    return (keys / slots.clamp_min(1))[groups]
