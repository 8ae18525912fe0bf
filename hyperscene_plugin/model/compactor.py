"""One block of a source, prefilled whole → its slots: score keys by references, share the budget, fit, measure.

references with and without the context   what each query is worth               references.py
a forward pass over the references        every key's score, every head's aim    _Scoring
scores + head profile                     slots for each head, the keys kept     kv.selection, kv.budgets
a second pass, layer after layer          bias and values, fitted on queries     _Fitting, kv.fitting
                                          that have come through compact layers
held-out references                       error, mass, KL to the full context    _measure
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.kv.budgets import share_slots, slots_within
from hyperscene_plugin.kv.layout import AssembledContext, AssembledLayer, LayerSlots
from hyperscene_plugin.kv.rope import unrotate
from hyperscene_plugin.kv.selection import skip_near_duplicates
from hyperscene_plugin.model.cache_bridge import AttentionRecorder, RecordedLayer
from hyperscene_plugin.model.fitting_pass import FittingPass, kept_layer, queries_of_head, scaling_of, spread
from hyperscene_plugin.model.prefill import SourceKV
from hyperscene_plugin.model.references import (
    ReferenceBatch,
    hidden_states,
    target_log_probs,
    weigh_by_gain,
)
from hyperscene_plugin.model.rope_of import ModelRope

__all__ = [
    "QUALITIES",
    "BlockScores",
    "CompactBlock",
    "Quality",
    "compact_block",
    "evicted_context",
    "full_global_bytes",
    "score_block",
    "select_keys",
    "window_bytes",
]

_PIECE_TOKENS = 4096
_FIT_TOKENS = 2048
_JUDGE_TOKENS = 1024
_CACHED_SCORES, _MOST_SCORES = 2**19, 2**26
"""Scores of one head held at once, float32: on a CPU 2 MiB, which stay near its cores; elsewhere 256 MiB."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What a quality level spends: reference tokens per source token (and at most), fits, passes, duplicates."""

    references_per_token: float
    most_reference_tokens: int
    fit: bool


QUALITIES = {
    "fast": Quality(0.25, 4_096, fit=False),
    "balanced": Quality(0.6, 16_384, fit=True),
    "best": Quality(3.2, 131_072, fit=True),
}


@dataclass(frozen=True, slots=True)
class CompactBlock:
    """The slots of one block; source indices count from the block's first token."""

    layers: tuple[LayerSlots, ...]
    fidelity: dict[str, float]
    routing: dict[str, float]
    scene_kl: dict[int, float]


@dataclass(slots=True)
class BlockScores:
    """Scores (tokens,) of every global layer and head, and how surely each head points at the scene asked about.

    ``hidden`` (places, width) are the model's last states behind the full context where ``reply`` of the references
    that came with the scores is set, in that order; ``None`` where they were not kept.
    """

    keys: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    on_scene: dict[tuple[int, int], float] = field(default_factory=dict)
    asked: int = 0
    hidden: Tensor | None = None


def score_block(
    model: Any, source: SourceKV, references: ReferenceBatch, scene_of: Tensor, progress: Callable[[float], None]
) -> tuple[BlockScores, ReferenceBatch]:
    """Return the scores of all keys, and the references with their weights. ``progress`` gets the share done."""
    scores = BlockScores()
    weighed: list[ReferenceBatch] = []
    answered: list[Tensor] = []
    context, bare = source.context(), source.context(prefix_only=True)
    pieces = list(references.pieces(_PIECE_TOKENS))
    for number, piece in enumerate(pieces):
        alone = target_log_probs(model, piece, hidden_states(model, piece, _at(bare, context.num_positions)))
        kept: dict[int, RecordedLayer] = {}
        recorder = AttentionRecorder(_global_layers(source), kept.__setitem__)
        hidden = hidden_states(model, piece, context, recorder)
        piece = weigh_by_gain(piece, target_log_probs(model, piece, hidden), alone)
        for layer, record in kept.items():
            _score_layer(scores, layer, record, piece, source, scene_of, scaling_of(model, layer))
        scores.asked += len(piece)
        weighed.append(piece)
        answered.append(hidden[piece.reply])
        progress((number + 1) / len(pieces))
    scores.hidden = torch.cat(answered)
    return scores, _joined(weighed)


def compact_block(
    model: Any,
    rope: ModelRope,
    source: SourceKV,
    scenes: Sequence[tuple[int, int]],
    scores: BlockScores,
    references: ReferenceBatch,
    held_out: ReferenceBatch | None,
    *,
    budget_bytes: int,
    head_weights: Tensor | None,
    quality: Quality,
) -> CompactBlock:
    """Compact one block into ``budget_bytes`` (windowed layers keep their window on top of it).

    Args:
        scenes: token spans in the block, in order; they tile it.
        head_weights: (layers, heads) log factors on the scores of each head (``head_profile``), or ``None``.

    Raises:
        BudgetError: the budget holds no slot.
    """
    scene_of = _scene_of(scenes, source.num_tokens, model.device)
    kept = select_keys(source, scores, budget_bytes, head_weights)
    evicted = evicted_context(source, kept)
    assembled, fitting = evicted, None
    if quality.fit:
        fitting = FittingPass(model, source, kept, scene_of, len(scenes), _sample(references, _FIT_TOKENS))
        hidden_states(model, fitting.batch, source.context(), AttentionRecorder(None, fitting.on_layer))
        fitted = AssembledContext(tuple(fitting.layers), evicted.num_positions)
        if _fit_is_closer(model, source, fitted, evicted, scores, references):
            assembled = fitted
    fidelity, scene_kl = _measure(model, source, assembled, held_out)
    if fitting is not None:
        fidelity |= {**fitting.errors(), "fitted": float(assembled is not evicted)}
    layers = tuple(_unrotated(rope, layer, number, source) for number, layer in enumerate(assembled.layers))
    routing = {f"{layer}.{head}": value / max(1, scores.asked) for (layer, head), value in scores.on_scene.items()}
    return CompactBlock(layers, fidelity, routing, scene_kl)


def evicted_context(source: SourceKV, kept: dict[tuple[int, int], Tensor]) -> AssembledContext:
    """Return prefix and kept keys with their own values and no bias, at their own positions."""
    layers = []
    for layer, keys in enumerate(source.keys):
        whole = source.windows[layer] is not None
        nothing = [None] * keys.shape[0]
        layers.append(source.context().layers[layer] if whole else kept_layer(source, kept, layer, nothing))
    return AssembledContext(tuple(layers), source.num_prefix + source.num_tokens)


def _score_layer(
    scores: BlockScores,
    layer: int,
    record: RecordedLayer,
    piece: ReferenceBatch,
    source: SourceKV,
    scene_of: Tensor,
    scaling: float,
) -> None:
    keys = source.keys[layer]
    group = record.query.shape[1] // keys.shape[0]
    used = piece.weights > 0
    weights = piece.weights[used]
    first = _first_reply(piece)[used]
    owner = piece.scenes[:, None].expand(used.shape)[used]
    rows = max(16, (_CACHED_SCORES if keys.device.type == "cpu" else _MOST_SCORES) // keys.shape[1])
    held = torch.empty(rows, keys.shape[1], device=keys.device)
    for head in range(keys.shape[0]):
        best = torch.zeros(source.num_tokens, device=keys.device)
        pointing = torch.zeros((), device=keys.device)
        own_keys = keys[head].float().T * scaling
        for queries, live in queries_of_head(record, head, group, used, scaling):
            for start in range(0, len(queries), rows):
                part = slice(start, start + rows)
                share = torch.mm(queries[part], own_keys, out=held[: len(queries[part])])
                peak = share.amax(-1)
                share.sub_(peak[:, None]).exp_()
                share *= (peak - torch.logaddexp(live[part], peak + share.sum(-1).log())).exp_()[:, None]
                asking = first[part]
                seen = share[asking, source.num_prefix :] * (scene_of == owner[part][asking, None])
                pointing += seen.sum()
                share *= weights[part, None]
                best = torch.maximum(best, share[:, source.num_prefix :].amax(0))
        where = (layer, head)
        scores.keys[where] = torch.maximum(scores.keys[where], best) if where in scores.keys else best
        scores.on_scene[where] = scores.on_scene.get(where, 0.0) + float(pointing) / group


def select_keys(
    source: SourceKV, scores: BlockScores, budget_bytes: int, head_weights: Tensor | None
) -> dict[tuple[int, int], Tensor]:
    """Return the source tokens that each global head keeps, ascending."""
    places = sorted(scores.keys)
    keys = source.keys[places[0][0]]
    heads = [source.keys[layer].shape[0] for layer in _global_layers(source)]
    total = slots_within(budget_bytes, keys.shape[2], keys.element_size(), heads)
    weighted = []
    for layer, head in places:
        factor = 1.0 if head_weights is None else float(head_weights[layer, head].exp())
        weighted.append(scores.keys[layer, head] * factor)
    counts = share_slots(weighted, total)
    kept = {}
    for where, score, count in zip(places, weighted, counts, strict=True):
        layer, head = where
        ranked = score.argsort(descending=True, stable=True)
        own_keys, own_values = (part[layer][head, source.num_prefix :] for part in (source.keys, source.values))
        kept[where] = skip_near_duplicates(own_keys, own_values, ranked, count).sort().values
    return kept


def _unrotated(rope: ModelRope, layer: AssembledLayer, number: int, source: SourceKV) -> LayerSlots:
    """Return the stored form: without the prefix, keys turned back, indices from the block's first token."""
    own = layer.positions >= source.num_prefix
    cos, sin = rope.cos_sin(layer.positions[own], number)
    index = (layer.positions[own] - source.num_prefix).to(torch.int32)
    counts = [int(own[layer.head(head)].sum()) for head in range(len(layer.offsets) - 1)]
    offsets = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
    keys = unrotate(layer.keys[own], cos, sin)
    return LayerSlots(keys.cpu(), layer.values[own].cpu(), layer.bias[own].cpu(), offsets, index.cpu(), layer.window)


@torch.no_grad()
def _fit_is_closer(
    model: Any,
    source: SourceKV,
    fitted: AssembledContext,
    evicted: AssembledContext,
    scores: BlockScores,
    references: ReferenceBatch,
) -> bool:
    """Say which context answers some references more like the full one, a place by what the context is worth there."""
    chosen = _sampled(references, _JUDGE_TOKENS)
    judges = references.rows(chosen)
    wanted = None
    if scores.hidden is not None:
        owner = references.reply.nonzero()[:, 0]
        wanted = scores.hidden[torch.isin(owner, chosen)]
    weights = judges.weights[judges.reply]
    of_fit, of_eviction = (
        (kl * weights).sum() for kl, _ in _divergences(model, source, (fitted, evicted), judges, wanted)
    )
    return bool(of_fit <= of_eviction)


def _divergences(
    model: Any,
    source: SourceKV,
    compacts: Sequence[AssembledContext],
    batch: ReferenceBatch,
    full: Tensor | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Return for each context KL (nats) to the full one, and agreement of the top choice, at the reply places.

    ``full`` are the last states there behind the full context, where they are known.
    """
    wanted = _log_probs(model, _reply_states(model, batch, source.context()) if full is None else full)
    found = []
    for compact in compacts:
        got = _log_probs(model, _reply_states(model, batch, compact))
        found.append(((wanted.exp() * (wanted - got)).sum(-1), wanted.argmax(-1) == got.argmax(-1)))
    return found


def _reply_states(model: Any, batch: ReferenceBatch, context: AssembledContext) -> Tensor:
    """Return (places, width): the last states at the reply places, in the batch's order, with little padding run."""
    per_row = [torch.empty(0)] * len(batch)
    for index in batch.like_rows(_PIECE_TOKENS):
        part = batch.rows(index)
        states = hidden_states(model, part, context)[part.reply]
        ends = part.reply.sum(1).cumsum(0).tolist()
        for row, start, end in zip(index.tolist(), [0, *ends[:-1]], ends, strict=True):
            per_row[row] = states[start:end]
    return torch.cat(per_row)


def _log_probs(model: Any, states: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(states)
    return logits.float().log_softmax(-1)


@torch.no_grad()
def _measure(
    model: Any, source: SourceKV, compact: AssembledContext, held_out: ReferenceBatch | None
) -> tuple[dict[str, float], dict[int, float]]:
    """Return fidelity on held-out references, and the mean KL of each scene that they ask about (nats)."""
    if held_out is None or not len(held_out):
        return {}, {}
    ((kl, agree),) = _divergences(model, source, (compact,), held_out)
    scenes = held_out.scenes[held_out.reply.nonzero()[:, 0]]
    by_scene = {int(s): float(kl[scenes == s].mean()) for s in sorted(set(scenes.tolist()))}
    return {
        "kl": float(kl.mean()),
        "top1_agreement": float(agree.float().mean()),
        "held_out_tokens": float(len(kl)),
    }, by_scene


def _at(context: AssembledContext, num_positions: int) -> AssembledContext:
    """Return the same entries, the live tokens starting elsewhere."""
    return AssembledContext(context.layers, num_positions)


def _first_reply(batch: ReferenceBatch) -> Tensor:
    return batch.reply & (batch.reply.cumsum(1) == 1)


def _global_layers(source: SourceKV) -> list[int]:
    return [layer for layer, window in enumerate(source.windows) if window is None]


def _scene_of(scenes: Sequence[tuple[int, int]], num_tokens: int, device: torch.device) -> Tensor:
    if not scenes or scenes[0][0] != 0 or scenes[-1][1] != num_tokens:
        raise InputError(f"the scenes must tile the {num_tokens} tokens of the block; got {scenes[:2]} … {scenes[-1:]}")
    lengths = torch.tensor([end - start for start, end in scenes], device=device)
    return torch.repeat_interleave(torch.arange(len(scenes), device=device), lengths)


def _sample(references: ReferenceBatch, most_tokens: int) -> ReferenceBatch:
    """Return evenly spread sequences that fit ``most_tokens`` with their padding."""
    return references.rows(_sampled(references, most_tokens))


def _sampled(references: ReferenceBatch, most_tokens: int) -> Tensor:
    width = int(references.real.sum(1).max())
    count = min(len(references), max(1, most_tokens // width))
    return spread(len(references), count, references.ids.device)


def _joined(pieces: Sequence[ReferenceBatch]) -> ReferenceBatch:
    width = max(piece.ids.shape[1] for piece in pieces)

    def pad(tensor: Tensor) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]))

    return ReferenceBatch(
        torch.cat([pad(p.ids) for p in pieces]),
        torch.cat([pad(p.reply) for p in pieces]),
        torch.cat([pad(p.real) for p in pieces]),
        torch.cat([pad(p.weights) for p in pieces]),
        torch.cat([p.scenes for p in pieces]),
    )


def window_bytes(source: SourceKV) -> int:
    """Return the bytes of the windowed layers' entries, which stay whole."""
    return sum(
        2 * keys.numel() * keys.element_size()
        for keys, window in zip(source.keys, source.windows, strict=True)
        if window is not None
    )


def full_global_bytes(source: SourceKV) -> int:
    """Return the bytes of the full cache of the source (without prefix) in the global layers."""
    return sum(
        2 * keys.shape[0] * source.num_tokens * keys.shape[2] * keys.element_size()
        for keys, window in zip(source.keys, source.windows, strict=True)
        if window is None
    )
