"""Other ways to spend the same bytes of a source's key/value cache, on the same model: baselines of the benchmark.

Each takes the full cache of a source and a number of bytes and returns the context that is kept. Slots of the baselines
that fit nothing carry no bias and no index, so they get their keys and values for the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyperscene_plugin.kv.budgets import bytes_per_slot
from hyperscene_plugin.kv.layout import AssembledContext, AssembledLayer, CompactCache, SceneSpan, stack_heads
from hyperscene_plugin.model.compactor import QUALITIES, BlockScores, compact_block, evicted_context, score_block
from hyperscene_plugin.model.composition import ContextPart, assemble_context
from hyperscene_plugin.model.hypercode import Hypercode
from hyperscene_plugin.model.prefill import SourceKV
from hyperscene_plugin.model.references import ReferenceBatch

__all__ = ["BASELINES", "Repeat", "no_context"]

Baseline = Callable[[Hypercode, SourceKV, "Repeat", int], AssembledContext]


class Repeat:
    """The text repeated behind itself, teacher-forced: the reference queries of KVzip and attention matching."""

    def __init__(self, hypercode: Hypercode, source: SourceKV, ids: list[int]) -> None:
        asked, _ = hypercode.template().reply_ids("Repeat the text.", "x")
        row = asked + ids
        tensor = torch.tensor([row])
        reply = torch.zeros(1, len(row), dtype=torch.bool)
        reply[0, len(asked) - 1 : len(row) - 1] = True
        real = torch.ones_like(reply)
        batch = ReferenceBatch(tensor, reply, real, reply.float(), torch.zeros(1, dtype=torch.int64))
        self.ids = ids
        self.scores, references = score_block(
            hypercode.model, source, batch, torch.zeros(source.num_tokens, dtype=torch.int64), lambda _: None
        )
        self.references = ReferenceBatch(references.ids, reply, real, reply.float(), references.scenes)


def no_context(source: SourceKV) -> AssembledContext:
    """Return the prefix alone, the question where it would stand behind the source."""
    return AssembledContext(source.context(prefix_only=True).layers, source.num_prefix + source.num_tokens)


def recent(hypercode: Hypercode, source: SourceKV, repeat: Repeat, num_bytes: int) -> AssembledContext:
    """Keep the most recent tokens, in all heads, without the prefix's attention sink."""
    count = _tokens(source, num_bytes)
    return _rows(
        source, torch.arange(source.num_prefix + source.num_tokens - count, source.num_prefix + source.num_tokens)
    )


def streaming(hypercode: Hypercode, source: SourceKV, repeat: Repeat, num_bytes: int) -> AssembledContext:
    """Keep the prefix (the attention sink), the first four tokens and the most recent ones (StreamingLLM)."""
    count = _tokens(source, num_bytes)
    last = source.num_prefix + source.num_tokens
    first = min(4, count)
    return _rows(source, torch.cat([torch.arange(source.num_prefix + first), torch.arange(last - count + first, last)]))


def repeat_eviction(hypercode: Hypercode, source: SourceKV, repeat: Repeat, num_bytes: int) -> AssembledContext:
    """Keep the keys that a repetition of the text looks at most, uneven over all heads (KVzip's idea)."""
    places = sorted(repeat.scores.keys)
    total = num_bytes // (2 * source.keys[0].shape[2] * source.keys[0].element_size())
    flat = torch.cat([repeat.scores.keys[place] for place in places])
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[flat.topk(min(total, len(flat))).indices] = True
    parts = torch.split(chosen, source.num_tokens)
    return evicted_context(
        source, {place: part.nonzero().squeeze(1) for place, part in zip(places, parts, strict=True)}
    )


def attention_matching(hypercode: Hypercode, source: SourceKV, repeat: Repeat, num_bytes: int) -> AssembledContext:
    """Even budgets for all heads, keys by the attention of a repetition, bias and values fitted on it."""
    heads = len(repeat.scores.keys)
    keys = source.keys[0]
    each = num_bytes // (bytes_per_slot(keys.shape[2], keys.element_size()) * heads)
    even = BlockScores({place: _top_only(score, each) for place, score in repeat.scores.keys.items()}, {}, 1)
    block = compact_block(
        hypercode.model,
        hypercode.rope,
        source,
        [(0, source.num_tokens)],
        even,
        repeat.references,
        None,
        budget_bytes=num_bytes,
        head_weights=None,
        quality=QUALITIES["best"],
    )
    cache = CompactCache(
        block.layers, (SceneSpan(0, source.num_tokens, "", ""),), torch.tensor(repeat.ids), 1.0, 0, "", {}
    )
    template = hypercode.template()
    return assemble_context(hypercode.prefix(template), [ContextPart(cache)], hypercode.rope, hypercode.window)


BASELINES: dict[str, Baseline] = {
    "recent tokens": recent,
    "streaming (sink + recent)": streaming,
    "eviction by repetition (KVzip-type)": repeat_eviction,
    "plain attention matching": attention_matching,
}


def _top_only(scores: Tensor, count: int) -> Tensor:
    """Return scores that make every head's best ``count`` keys win the shared budget, and no other key."""
    lifted = torch.full_like(scores, -1.0)
    best = scores.topk(min(count, len(scores))).indices
    lifted[best] = 1.0 + scores[best]
    return lifted


def _tokens(source: SourceKV, num_bytes: int) -> int:
    each = sum(2 * k.shape[0] * k.shape[2] * k.element_size() for k in source.keys)
    return min(source.num_tokens, num_bytes // each)


def _rows(source: SourceKV, rows: Tensor) -> AssembledContext:
    layers = []
    for keys, values, window in zip(source.keys, source.values, source.windows, strict=True):
        flat, offsets = stack_heads([head[rows] for head in keys])
        layers.append(
            AssembledLayer(
                flat,
                torch.cat([head[rows] for head in values]),
                torch.zeros(len(flat)),
                tuple(offsets.tolist()),
                rows.repeat(keys.shape[0]),
                window,
            )
        )
    return AssembledContext(tuple(layers), source.num_prefix + source.num_tokens)
