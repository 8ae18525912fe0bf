"""A source, an optional query and a token budget → a ``CompressionResult``: whole scenes, never one token over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hyperscene_plugin.errors import BudgetError, InputError
from hyperscene_plugin.text.auto_encoder import resolve_encoder
from hyperscene_plugin.text.duplicates import find_duplicates
from hyperscene_plugin.text.index import SceneIndex
from hyperscene_plugin.text.rank import SceneScores, score_scenes
from hyperscene_plugin.text.render import body, header, render
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.text.select import Selection, select_by_score
from hyperscene_plugin.text.summary import score_centrality
from hyperscene_plugin.tokens import token_counter
from hyperscene_plugin.types import (
    CompressionResult,
    DroppedScene,
    Encoder,
    KeptScene,
    Scene,
    Source,
    TokenCounter,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["compress", "compress_scenes"]

_SYSTEM_ROLES = ("system", "developer")
_TARGET_TOKENS = 1
_MAX_TOKENS = 160
"""Scenes for selection are single sentences (a target below any sentence) and whole chat turns up to this size."""


def compress(
    source: Source,
    query: str | None = None,
    *,
    max_tokens: int,
    tokenizer: object = None,
    encoder: Encoder | str | None = "auto",
    source_id: str | None = None,
) -> CompressionResult:
    """Return the part of ``source`` that matters for ``query`` (or sums it up), in at most ``max_tokens`` tokens.

    Args:
        source: text, a message, a document, or a sequence of messages or documents.
        query: what the text will be used to answer; ``None`` or blank asks for a query-free selection.
        max_tokens: hard budget on the returned text (titles, speakers, dates and line breaks included).
        tokenizer: whose tokens: anything ``token_counter`` takes; ``None`` is the demo model's.
        encoder: ``"auto"`` (the multilingual default; what happens without it is in the result's ``notes``), an
            encoder, a model's name, or ``None`` for lexical scores only.
        source_id: the source's id in the spans; a hash of the content by default.

    Raises:
        BudgetError: ``max_tokens`` is not positive, or not even the smallest scene fits in it.
        InputError: the source is blank or of a kind that cannot be read.
        EncoderError: the encoder named explicitly cannot be loaded.
        ConfigError: the tokenizer is unknown.
    """
    _check_budget(max_tokens)
    counter = token_counter(tokenizer)
    scenes = segment(
        source, source_id=source_id, target_tokens=_TARGET_TOKENS, max_tokens_per_scene=_MAX_TOKENS, tokenizer=counter
    )
    whole = source if isinstance(source, str) else None
    return compress_scenes(scenes, query, max_tokens=max_tokens, tokenizer=counter, encoder=encoder, whole_text=whole)


def compress_scenes(
    scenes: Sequence[Scene] | SceneIndex,
    query: str | None = None,
    *,
    max_tokens: int,
    tokenizer: object = None,
    encoder: Encoder | str | None = "auto",
    vectors: np.ndarray | None = None,
    whole_text: str | None = None,
) -> CompressionResult:
    """Compress scenes that are cut already; arguments and errors as ``compress``.

    Args:
        scenes: in source order, or a ``SceneIndex`` built before (its vectors are used; nothing is encoded but the
            query).
        vectors: float32 unit vectors, one per scene, made by ``encoder`` from ``index.embedding_text(scene)``.
        whole_text: what to return when everything fits; by default the scenes rendered.
    """
    _check_budget(max_tokens)
    counter = token_counter(tokenizer)
    if not len(scenes):
        raise InputError("there is nothing to compress: expected at least one scene, got none")
    query = query.strip() if query and query.strip() else None
    listed = scenes.scenes if isinstance(scenes, SceneIndex) else tuple(scenes)
    whole_text = render(listed) if whole_text is None else whole_text
    tokens_before = counter.count(whole_text)
    if tokens_before <= max_tokens:
        kept = [_kept(scene, 0.0, counter, ("everything fits",)) for scene in listed]
        return CompressionResult(
            whole_text, tuple(kept), (), tokens_before, tokens_before, max_tokens, counter.name, query
        )
    loaded, notes = resolve_encoder(encoder)
    index = scenes if isinstance(scenes, SceneIndex) else SceneIndex.build(listed, encoder=loaded, vectors=vectors)
    if query is None:
        scores = score_centrality(index)
    else:
        use = loaded is not None and index.vectors is not None
        scores = score_scenes(index, query, loaded.encode([query])[0] if use and loaded is not None else None)
    selection, text = _select(index, scores, counter, max_tokens)
    return _result(index, scores, selection, text, counter, tokens_before, max_tokens, query, notes)


def _select(index: SceneIndex, scores: SceneScores, counter: TokenCounter, budget: int) -> tuple[Selection, str]:
    costs = index.token_counts(counter, [body(scene) + "\n" for scene in index.scenes])
    headers: dict[tuple[str, str | None], int] = {}
    groups = [headers.setdefault((scene.source_id, header(scene)), len(headers)) for scene in index.scenes]
    group_costs = np.asarray(counter.count_many([f"{line}\n" if line else "" for _, line in headers]), dtype=np.int64)
    first = [place for place, scene in enumerate(index.scenes) if scene.role in _SYSTEM_ROLES]
    selection = select_by_score(scores.total, costs, groups, group_costs, budget, find_duplicates(index.scenes), first)
    chosen, reasons = list(selection.chosen), dict(selection.reasons)
    while chosen:
        text = render([index.scenes[place] for place in sorted(chosen)])
        if counter.count(text) <= budget:
            return Selection(chosen, reasons), text
        reasons[chosen.pop()] = "budget"
    smallest = int(costs.min())
    raise BudgetError(
        f"max_tokens={budget} is smaller than the smallest of {len(index)} scenes ({smallest} tokens by "
        f"{counter.name!r}, its header not counted); give a larger budget"
    )


def _result(
    index: SceneIndex,
    scores: SceneScores,
    selection: Selection,
    text: str,
    counter: TokenCounter,
    tokens_before: int,
    max_tokens: int,
    query: str | None,
    notes: tuple[str, ...],
) -> CompressionResult:
    chosen = set(selection.chosen)
    kept: list[KeptScene] = []
    dropped: list[DroppedScene] = []
    for place, scene in enumerate(index.scenes):
        score = float(scores.total[place])
        if place in chosen:
            reasons = tuple(f"{name} {value:+.2f}" for name, value in scores.explain(place).items() if value > 0)
            kept.append(_kept(scene, score, counter, reasons))
        else:
            reason = selection.reasons.get(place, "budget")
            dropped.append(DroppedScene(scene, score, counter.count(scene.text), reason))
    return CompressionResult(
        text,
        tuple(kept),
        tuple(dropped),
        tokens_before,
        counter.count(text),
        max_tokens,
        counter.name,
        query,
        notes,
    )


def _kept(scene: Scene, score: float, counter: TokenCounter, reasons: tuple[str, ...]) -> KeptScene:
    return KeptScene(scene, score, counter.count(scene.text), reasons)


def _check_budget(max_tokens: int) -> None:
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        raise BudgetError(f"max_tokens must be a whole number of tokens, got {max_tokens!r}")
    if max_tokens <= 0:
        raise BudgetError(f"max_tokens={max_tokens}: expected at least 1 token")
