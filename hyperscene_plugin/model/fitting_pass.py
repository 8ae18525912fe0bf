"""References run through a model whose layers are compacted on the way: bias and values of each layer, fitted in turn.

The queries of a layer have come through the compacted layers below it, so each fit makes up for what those changed. One
forward pass in all. ``kv.fitting`` does the fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyperscene_plugin.kv.fitting import HeadFit, fit_head
from hyperscene_plugin.kv.layout import AssembledLayer, stack_heads
from hyperscene_plugin.model.cache_bridge import RecordedLayer
from hyperscene_plugin.model.prefill import SourceKV
from hyperscene_plugin.model.references import ReferenceBatch

__all__ = ["FittingPass", "kept_layer", "queries_of_head", "scaling_of", "spread"]

_FIT_ROWS = 1024
"""Queries that a head is fitted and judged on, evenly spread over all: a quarter is held out."""


class FittingPass:
    """Give ``on_layer`` to an ``AttentionRecorder``; afterwards ``layers`` holds every layer, prefix included."""

    def __init__(
        self,
        model: Any,
        source: SourceKV,
        kept: dict[tuple[int, int], Tensor],
        scene_of: Tensor,
        num_scenes: int,
        batch: ReferenceBatch,
    ) -> None:
        self.model, self.source, self.kept = model, source, kept
        self.scene_of, self.num_scenes, self.batch = scene_of, num_scenes, batch
        self.layers: list[AssembledLayer] = []
        self._fits: list[HeadFit] = []

    def errors(self) -> dict[str, float]:
        """Return mean relative errors over the heads that were fitted, and the share that kept a fit."""
        if not self._fits:
            return {}
        count = len(self._fits)
        return {
            "output_error": sum(fit.output_error for fit in self._fits) / count,
            "mass_error": sum(fit.mass_error for fit in self._fits) / count,
            "output_error_of_eviction": sum(fit.eviction_error for fit in self._fits) / count,
            "heads_fitted": sum(fit.choice != "eviction" for fit in self._fits) / count,
        }

    def on_layer(self, layer: int, record: RecordedLayer) -> AssembledLayer | None:
        """Fit one layer on these queries and return it, for the pass to go on with; windowed layers stay whole."""
        if self.source.windows[layer] is not None:
            self.layers.append(self.source.context().layers[layer])
            return None
        keys, values = self.source.keys[layer], self.source.values[layer]
        group = record.query.shape[1] // keys.shape[0]
        scaling = scaling_of(self.model, layer)
        used = self.batch.weights > 0
        weights = self.batch.weights[used].repeat(group)
        fits: list[HeadFit | None] = []
        for head in range(keys.shape[0]):
            kept = self.kept[layer, head]
            if not len(kept):
                fits.append(None)
                continue
            pairs = queries_of_head(record, head, group, used, scaling)
            queries, live = torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
            rows = spread(len(queries), _FIT_ROWS, queries.device)
            mass = queries[rows] @ keys[head].float().T * scaling
            total = torch.logaddexp(live[rows], mass.logsumexp(-1))
            mass = mass[:, self.source.num_prefix :].sub_(total[:, None]).exp_()
            held_out = torch.arange(len(rows), device=rows.device) % 4 == 3
            own = values[head, self.source.num_prefix :].float()
            fits.append(fit_head(mass, weights[rows], own, kept, self.scene_of, self.num_scenes, held_out))
        self._fits += [fit for fit in fits if fit is not None]
        self.layers.append(kept_layer(self.source, self.kept, layer, fits))
        return self.layers[-1]


def kept_layer(
    source: SourceKV, kept: dict[tuple[int, int], Tensor], layer: int, fits: Sequence[HeadFit | None]
) -> AssembledLayer:
    """Return the prefix and the kept keys of a global layer, with fitted bias and values where there is a fit."""
    keys, values = source.keys[layer], source.values[layer]
    prefix = torch.arange(source.num_prefix, device=keys.device)
    key_parts, value_parts, bias_parts, place_parts = [], [], [], []
    for head, fit in enumerate(fits):
        own = kept[layer, head] + source.num_prefix
        rows = torch.cat([prefix, own])
        fitted = values[head, own] if fit is None else fit.values.to(values.dtype)
        bias = torch.zeros(len(own), device=keys.device) if fit is None else fit.bias
        key_parts.append(keys[head, rows])
        value_parts.append(torch.cat([values[head, : source.num_prefix], fitted]))
        bias_parts.append(torch.cat([torch.zeros(source.num_prefix, device=keys.device), bias]))
        place_parts.append(rows)
    flat, offsets = stack_heads(key_parts)
    return AssembledLayer(
        flat,
        torch.cat(value_parts),
        torch.cat(bias_parts),
        tuple(offsets.tolist()),
        torch.cat(place_parts),
        source.windows[layer],
    )


def queries_of_head(
    record: RecordedLayer, head: int, group: int, used: Tensor, scaling: float
) -> list[tuple[Tensor, Tensor]]:
    """Return, for each query head of the group, the used queries (n, d) float32 and the log mass of their live keys."""
    live = record.key[:, head].float()
    causal = torch.ones(live.shape[1], live.shape[1], dtype=torch.bool, device=live.device).tril()
    found = []
    for member in range(group):
        query = record.query[:, head * group + member].float()
        own = (query @ live.transpose(1, 2) * scaling).masked_fill(~causal, -torch.inf).logsumexp(-1)[used]
        found.append((query[used], own))
    return found


def scaling_of(model: Any, layer: int) -> float:
    """Return what a layer multiplies its scores with."""
    return float(model.model.layers[layer].self_attn.scaling)


def spread(length: int, most: int, device: torch.device) -> Tensor:
    """Return at most ``most`` indices below ``length``, evenly spread."""
    if length <= most:
        return torch.arange(length, device=device)
    return torch.linspace(0, length - 1, most, device=device).long()
