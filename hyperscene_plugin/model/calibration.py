"""Sample texts → a head profile of a model: which heads earn their slots (``head_profile``). Done once per model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.model.compactor import BlockScores, evicted_context, full_global_bytes, score_block, select_keys
from hyperscene_plugin.model.head_profile import HeadProfile, search_weights
from hyperscene_plugin.model.hypercode import Hypercode
from hyperscene_plugin.model.prefill import SourceKV, prefill_source
from hyperscene_plugin.model.references import ReferenceBatch, build_references, hidden_states
from hyperscene_plugin.text.segment import segment

__all__ = ["calibrate"]

Progress = Callable[[str, int, int], None]
_TOKENS = 1024
_REFERENCES_PER_TOKEN = 4.0
_TRIED = 80
_LONGEST = 128


@dataclass(frozen=True, slots=True)
class _Sample:
    kv: SourceKV
    scores: BlockScores
    tried: ReferenceBatch
    wanted: Tensor


@torch.no_grad()
def calibrate(
    hypercode: Hypercode,
    texts: Sequence[str],
    *,
    ratios: Sequence[float] = (8.0, 16.0, 32.0, 64.0),
    progress: Progress | None = None,
) -> HeadProfile:
    """Search a profile that brings answers under a budget closest to those with the full context.

    Each text is cut to about 1,000 tokens; a few texts of the kind that will be compacted are enough. Cost: some
    ``4 · heads · ratios`` forward passes over eighty short questions for each text.

    Args:
        texts: samples. What is asked about them comes from the texts alone (``text.cues``).
        ratios: byte ratios to search at; others are interpolated.
        progress: called as ``progress(stage, done, total)``.

    Raises:
        InputError: no text to ask about.
    """
    samples = [sample for text in texts if (sample := _sample(hypercode, text)) is not None]
    if not samples:
        raise InputError("calibration needs at least one text with a few sentences")
    keys = samples[0].kv.keys
    shape = (len(keys), keys[0].shape[0])
    weights: list[Tensor] = []
    report: dict[str, float] = {}
    start: Tensor | None = None
    for number, ratio in enumerate(sorted(ratios)):

        def loss(factors: Tensor, ratio: float = ratio) -> float:
            return sum(_kl(hypercode, sample, factors, ratio) for sample in samples) / len(samples)

        def report_progress(done: int, total: int, _: float, number: int = number) -> None:
            if progress:
                progress("calibrate", number * total + done, len(ratios) * total)

        best, lowest, _ = search_weights(loss, shape, start=start, progress=report_progress)
        weights.append(best)
        report |= {f"kl_before_at_{ratio:g}": round(loss(torch.zeros(shape)), 4), f"kl_at_{ratio:g}": round(lowest, 4)}
        start = best
    identity = hypercode.fingerprint(hypercode.template())
    return HeadProfile(
        tuple(sorted(ratios)), tuple(weights), hashlib.sha256(json.dumps(identity).encode()).hexdigest(), report
    )


def _sample(hypercode: Hypercode, text: str) -> _Sample | None:
    model, template = hypercode.model, hypercode.template()
    scenes = segment(text)
    ids, spans, _ = hypercode.tokens_of(scenes, template)
    last = max((n for n, (_, end) in enumerate(spans) if end <= _TOKENS), default=0) + 1
    scenes, spans = scenes[:last], spans[:last]
    ids = ids[: spans[-1][1]]
    references = build_references(
        hypercode.tokenizer,
        template,
        scenes,
        max_tokens=int(_REFERENCES_PER_TOKEN * len(ids)),
        longest=_LONGEST,
        device=model.device,
    )
    if references is None:
        return None
    kv = prefill_source(model, template.prefix_ids, ids)
    lengths = torch.tensor([b - a for a, b in spans], device=model.device)
    scene_of = torch.repeat_interleave(torch.arange(len(spans), device=model.device), lengths)
    scores, references = score_block(model, kv, references, scene_of, lambda _: None)
    worth = torch.where(references.reply, references.weights, 0.0).amax(1)
    tried = references.rows(worth.argsort(descending=True, stable=True)[:_TRIED])
    return _Sample(kv, scores, tried, _log_probs(hypercode, tried, hidden_states(model, tried, kv.context())))


def _kl(hypercode: Hypercode, sample: _Sample, factors: Tensor, ratio: float) -> float:
    kept = select_keys(sample.kv, sample.scores, int(full_global_bytes(sample.kv) / ratio), factors)
    hidden = hidden_states(hypercode.model, sample.tried, evicted_context(sample.kv, kept))
    got = _log_probs(hypercode, sample.tried, hidden)
    weights = sample.tried.weights[sample.tried.reply]
    kl = (sample.wanted.exp() * (sample.wanted - got)).sum(-1)
    return float((kl * weights).sum() / weights.sum().clamp_min(1e-6))


def _log_probs(hypercode: Hypercode, batch: ReferenceBatch, hidden: Tensor) -> Tensor:
    rows, at = batch.reply.nonzero().unbind(1)
    logits: Tensor = hypercode.model.lm_head(hidden[rows, at])
    return logits.float().log_softmax(-1)
