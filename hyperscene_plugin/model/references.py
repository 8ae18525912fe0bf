"""Scenes → reference sequences: what is asked of a context to learn which of its keys matter.

A sequence is a cue (``text.cues``) in the model's own chat format with its answer teacher-forced. Queries count from
the reply header on, each by what the context is worth there: how much likelier the right token is with the context than
without. A quarter as much count the queries of the cue itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hyperscene_plugin.kv.layout import AssembledContext
from hyperscene_plugin.model.cache_bridge import AttentionRecorder, HyperCache, use_compact_attention
from hyperscene_plugin.model.context_template import ContextTemplate
from hyperscene_plugin.text.cues import make_cues
from hyperscene_plugin.types import Scene

__all__ = ["ReferenceBatch", "build_references", "hidden_states", "target_log_probs", "weigh_by_gain"]

_MOST_GAIN = 4.0
"""Nats of gain that count fully: a token that the context makes e⁴ times likelier needs the context."""
_QUESTION_SHARE = 0.25
_LOGIT_ROWS = 512
_LIKE_LENGTH, _PASS_TOKENS = 1.2, 256
"""Longest ÷ shortest sequence of a batch, once it has so many tokens: a smaller pass would not keep a device busy."""


@dataclass(frozen=True, slots=True)
class ReferenceBatch:
    """Sequences padded on the right. ``ids`` (B, n); ``reply`` (B, n) bool marks positions that predict a known token
    of the reply; ``real`` (B, n) bool marks tokens; ``weights`` (B, n) float32 in [0, 1]; ``scenes`` (B,)."""

    ids: Tensor
    reply: Tensor
    real: Tensor
    weights: Tensor
    scenes: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return int(self.real.sum())

    def rows(self, index: Tensor) -> ReferenceBatch:
        """Return some of the sequences, cut to the longest of them."""
        width = int(self.real[index].sum(1).max()) if len(index) else 0
        ids, reply, real, weights = (t[index, :width] for t in (self.ids, self.reply, self.real, self.weights))
        return ReferenceBatch(ids, reply, real, weights, self.scenes[index])

    def pieces(self, most_tokens: int) -> Iterator[ReferenceBatch]:
        """Yield batches of at most ``most_tokens`` tokens (padding counted), sequences of like length together."""
        return map(self.rows, self.like_rows(most_tokens))

    def like_rows(self, most_tokens: int) -> Iterator[Tensor]:
        """Yield the row numbers of each of the :meth:`pieces`.

        A piece ends early where the lengths differ so much that padding would cost more than another pass.
        """
        order = self.real.sum(1).argsort()
        lengths = self.real.sum(1)[order].tolist()
        start = 0
        for end in range(1, len(order) + 1):
            full = end == len(order) or lengths[end] * (end + 1 - start) > most_tokens
            uneven = not full and lengths[end] > _LIKE_LENGTH * lengths[start]
            if full or (uneven and lengths[end - 1] * (end - start) >= _PASS_TOKENS):
                yield order[start:end]
                start = end


def build_references(
    tokenizer: Any,
    template: ContextTemplate,
    scenes: Sequence[Scene],
    *,
    max_tokens: int,
    longest: int,
    device: torch.device,
    seed: int = 0,
) -> ReferenceBatch | None:
    """Return reference sequences of about ``max_tokens`` in all, none longer than ``longest``; ``None`` if none fits.

    Cues that say most come first, so a small number covers every sentence once.
    """
    rows: list[tuple[list[int], int, int]] = []
    spent = 0
    for cue in make_cues(scenes, most=max(1, max_tokens // 8), seed=seed):
        question, answer = template.reply_ids(cue.question, _as_reply(cue.answer))
        if len(question) + len(answer) > longest or not answer:
            continue
        if rows and spent + len(question) + len(answer) > max_tokens:
            break
        rows.append((question + answer, len(question), cue.scene))
        spent += len(question) + len(answer)
    if not rows:
        return None
    width = max(len(ids) for ids, _, _ in rows)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    ids = torch.full((len(rows), width), pad, device=device)
    reply = torch.zeros(len(rows), width, dtype=torch.bool, device=device)
    real = torch.zeros_like(reply)
    for row, (tokens, asked, _) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens, device=device)
        reply[row, asked - 1 : len(tokens) - 1] = True
        real[row, : len(tokens)] = True
    owners = torch.tensor([scene for _, _, scene in rows], device=device)
    return ReferenceBatch(ids, reply, real, reply.float(), owners)


def _as_reply(answer: str) -> str:
    return answer if answer.endswith((".", "!", "?", "…")) else f"{answer}."


@torch.no_grad()
def hidden_states(
    model: Any, batch: ReferenceBatch, context: AssembledContext, recorder: AttentionRecorder | None = None
) -> Tensor:
    """Run the sequences behind ``context``; return the last hidden states (B, n, hidden). Records as it goes."""
    cache = HyperCache(model.config, [context], recorder=recorder, keep_live=False)
    start = context.num_positions
    positions = torch.arange(start, start + batch.ids.shape[1], device=batch.ids.device)[None]
    with use_compact_attention(model):
        out = model.model(
            input_ids=batch.ids,
            position_ids=positions.expand(len(batch), -1),
            past_key_values=cache,
            use_cache=True,
        )
    hidden: Tensor = out.last_hidden_state
    return hidden


@torch.no_grad()
def target_log_probs(model: Any, batch: ReferenceBatch, hidden: Tensor) -> Tensor:
    """Return (B, n) float32: log probability of the next token where ``batch.reply`` is set, 0 elsewhere."""
    result = torch.zeros(batch.ids.shape, device=hidden.device)
    places = batch.reply.nonzero()
    for start in range(0, len(places), _LOGIT_ROWS):
        rows, at = places[start : start + _LOGIT_ROWS].unbind(1)
        logits = model.lm_head(hidden[rows, at]).float()
        result[rows, at] = logits.log_softmax(-1).gather(1, batch.ids[rows, at + 1][:, None]).squeeze(1)
    return result


def weigh_by_gain(batch: ReferenceBatch, with_context: Tensor, without: Tensor) -> ReferenceBatch:
    """Return the batch with weights in [0, 1]: what the context is worth at each reply position, a share elsewhere."""
    gain = (with_context - without).clamp(0.0, _MOST_GAIN) / _MOST_GAIN
    weights = torch.where(batch.reply, gain, _QUESTION_SHARE * batch.real.float())
    return replace(batch, weights=torch.maximum(weights, _QUESTION_SHARE * batch.real.float()))
