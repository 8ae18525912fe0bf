"""A question and the caches in front of it → which spans to read verbatim, which caches to leave out.

The model itself points: the question runs once over the compact context, and in the few heads that were seen to point
at the right scene (``CompactCache.routing``) its queries are compared with the full keys, which are read head by head
from where they are kept and never enter the model's memory. What is pointed at most goes in verbatim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperscene_plugin.kv.layout import AssembledContext, CompactCache
from hyperscene_plugin.kv.rope import rotate
from hyperscene_plugin.model.cache_bridge import AttentionRecorder, HyperCache, RecordedLayer, use_compact_attention
from hyperscene_plugin.model.composition import ContextPart
from hyperscene_plugin.model.rope_of import ModelRope

__all__ = ["Pointing", "choose_scenes", "choose_zoom", "gate_parts", "point_at_units"]

_MOST_HEADS = 8
_OTHER_TOKENS = 0.25
"""What the question's other tokens count beside the last one, at which the reply begins."""
GATE = 0.1
"""A cache whose best span is pointed at less than this share of the best of all caches is left out."""


@dataclass(frozen=True, slots=True)
class Pointing:
    """How much each zoom unit of one cache is pointed at: (units,) float32; ``used`` names the heads."""

    scores: Tensor
    used: tuple[str, ...]


@torch.no_grad()
def point_at_units(
    model: Any,
    rope: ModelRope,
    context: AssembledContext,
    parts: Sequence[ContextPart],
    places: Sequence[Tensor],
    question_ids: Sequence[int],
) -> list[Pointing]:
    """Return the pointing of every part; a cache without verbatim keys is judged by its slots' keys.

    Args:
        context: the parts as hypercode.
        places: logical positions of each part's source tokens (``place_parts``).
        question_ids: the live tokens up to the reply.
    """
    heads = _routing_heads([part.cache for part in parts])
    layers = sorted({layer for layer, _ in heads})
    records: dict[int, RecordedLayer] = {}
    recorder = AttentionRecorder(layers, lambda layer, record: records.__setitem__(layer, record))
    cache = HyperCache(model.config, [context], recorder=recorder, keep_live=False)
    ids = torch.tensor([list(question_ids)], device=model.device)
    with use_compact_attention(model):
        model.model(
            input_ids=ids,
            position_ids=cache.position_ids(ids.shape[1]).to(model.device),
            past_key_values=cache,
            use_cache=True,
        )
    totals = [torch.zeros(len(part.cache.zoom_units)) for part in parts]
    for (layer, head), weight in heads.items():
        record = records[layer]
        group = record.query.shape[1] // record.key.shape[1]
        queries = record.query[0, head * group : (head + 1) * group].float()  # (group, n, d)
        scaling = float(model.model.layers[layer].self_attn.scaling)
        scores = []
        for part, place in zip(parts, places, strict=True):
            keys, index = _keys(part.cache, layer, head)
            cos, sin = rope.cos_sin(place[index].to(model.device), layer)
            turned = rotate(keys.to(model.device).float(), cos, sin)
            scores.append((queries @ turned.T * scaling, index))
        whole = torch.logsumexp(torch.cat([score for score, _ in scores], -1), -1, keepdim=True)
        for total, part, (score, index) in zip(totals, parts, scores, strict=True):
            share = (score - whole).exp().mean(0).cpu()  # (n, keys)
            seen = share[-1] + _OTHER_TOKENS * share[:-1].mean(0) if share.shape[0] > 1 else share[-1]
            total += weight * _by_unit(seen, index.cpu(), part.cache)
    names = tuple(f"{layer}.{head}" for layer, head in heads)
    return [Pointing(total, names) for total in totals]


def gate_parts(pointing: Sequence[Pointing], least: float = GATE) -> list[bool]:
    """Say which caches stay: those whose best span is pointed at at least ``least`` times as much as the best."""
    best = [float(p.scores.max()) if len(p.scores) else 0.0 for p in pointing]
    top = max(best, default=0.0)
    return [value >= least * top for value in best]


def choose_scenes(
    parts: Sequence[ContextPart], pointing: Sequence[Pointing], room: int
) -> list[tuple[int, ...] | None]:
    """Return the scenes of each part that go in: all (``None``) where they fit ``room`` positions together.

    Else those whose best span is pointed at most, as many as fit; one that does not fit is passed over.
    """
    if sum(part.cache.num_source_tokens for part in parts) <= room:
        return [None] * len(parts)
    ranked: list[tuple[float, int, int]] = []
    for number, (part, pointed) in enumerate(zip(parts, pointing, strict=True)):
        units = list(zip(part.cache.zoom_units, pointed.scores.tolist(), strict=True))
        for scene, span in enumerate(part.cache.scenes):
            own = [score for (start, _), score in units if span.start <= start < span.end]
            ranked.append((-max(own, default=0.0), number, scene))
    chosen: list[list[int]] = [[] for _ in parts]
    for _, number, scene in sorted(ranked):
        tokens = parts[number].cache.scenes[scene].num_tokens
        if 0 < tokens <= room:
            chosen[number].append(scene)
            room -= tokens
    return [tuple(sorted(scenes)) for scenes in chosen]


def choose_zoom(
    parts: Sequence[ContextPart], pointing: Sequence[Pointing], zoom_bytes: int
) -> list[tuple[tuple[int, int], ...]]:
    """Return the spans to read verbatim for each part, the most pointed at first, within ``zoom_bytes`` in all.

    A span that does not fit is passed over for the next one that does; so are those of scenes that are not in.
    """
    active = [part.active() for part in parts]
    ranked = sorted(
        ((float(score), number, unit) for number, p in enumerate(pointing) for unit, score in enumerate(p.scores)),
        reverse=True,
    )
    chosen: list[list[tuple[int, int]]] = [[] for _ in parts]
    left = zoom_bytes
    for _, number, unit in ranked:
        cache = parts[number].cache
        start, end = cache.zoom_units[unit]
        cost = (end - start) * cache.full_nbytes // max(1, cache.num_source_tokens)
        if cost <= left and cache.verbatim is not None and bool(active[number][start:end].all()):
            chosen[number].append((start, end))
            left -= cost
    return [tuple(sorted(spans)) for spans in chosen]


def _routing_heads(caches: Sequence[CompactCache]) -> dict[tuple[int, int], float]:
    """Return the heads that point best (mean over the caches), at least half as well as the best one."""
    summed: dict[str, float] = {}
    for cache in caches:
        for name, value in cache.routing.items():
            summed[name] = summed.get(name, 0.0) + value / len(caches)
    ranked = sorted(summed.items(), key=lambda item: -item[1])[:_MOST_HEADS]
    best = ranked[0][1] if ranked else 0.0
    chosen = [(name, value) for name, value in ranked if value >= 0.5 * best and value > 0]
    return {(int(name.split(".")[0]), int(name.split(".")[1])): value for name, value in chosen}


def _keys(cache: CompactCache, layer: int, head: int) -> tuple[Tensor, Tensor]:
    if cache.verbatim is not None:
        return cache.verbatim.read_keys(layer, head), torch.arange(cache.num_source_tokens)
    slots = cache.layers[layer]
    own = slots.head(head)
    return slots.keys[own], slots.source_index[own].long()


def _by_unit(seen: Tensor, index: Tensor, cache: CompactCache) -> Tensor:
    unit_of = torch.full((cache.num_source_tokens,), len(cache.zoom_units))
    for number, (start, end) in enumerate(cache.zoom_units):
        unit_of[start:end] = number
    total = torch.zeros(len(cache.zoom_units) + 1)
    return total.index_add_(0, unit_of[index], seen)[:-1]
