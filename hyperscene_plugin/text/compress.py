"""A source, an optional query and a token budget → a ``CompressionResult``: whole scenes, never one token over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hyperscene_plugin.errors import BudgetError, InputError
from hyperscene_plugin.text.auto_encoder import resolve_encoder
from hyperscene_plugin.text.index import SceneIndex
from hyperscene_plugin.text.rank import SceneScores, score_scenes
from hyperscene_plugin.text.render import body, day, header, render
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.text.select import Costs, Selection, select_by_score, select_with_novelty
from hyperscene_plugin.text.summary import likeness_to, score_centrality
from hyperscene_plugin.tokens import token_counter
from hyperscene_plugin.types import (
    CompressionResult,
    DroppedScene,
    Encoder,
    KeptScene,
    Scene,
    SceneKind,
    Source,
    TokenCounter,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["compress", "compress_scenes", "cut"]

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
    scenes = cut(source, source_id=source_id, tokenizer=counter)
    whole = source if isinstance(source, str) else None
    return compress_scenes(scenes, query, max_tokens=max_tokens, tokenizer=counter, encoder=encoder, whole_text=whole)


def cut(source: Source, *, source_id: str | None = None, tokenizer: object = None) -> list[Scene]:
    """Cut ``source`` into the scenes that ``compress`` chooses from: sentences, and whole messages up to 160 tokens.

    Smaller than a scene for storing (one to four sentences), because in a document often a single sentence counts.
    """
    return segment(
        source, source_id=source_id, target_tokens=_TARGET_TOKENS, max_tokens_per_scene=_MAX_TOKENS, tokenizer=tokenizer
    )


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
    scores = score_centrality(index) if query is None else score_scenes(index, query, loaded)
    selection, text = _select(index, scores, counter, max_tokens, with_novelty=query is None)
    return _result(index, scores, selection, text, counter, tokens_before, max_tokens, query, notes)


def _select(
    index: SceneIndex, scores: SceneScores, counter: TokenCounter, budget: int, *, with_novelty: bool
) -> tuple[Selection, str]:
    """Choose scenes whose rendered text fits; the second round spends what joining the lines has saved."""
    costs = _costs(index, counter)
    first = [place for place, scene in enumerate(index.scenes) if scene.role in _SYSTEM_ROLES]
    never = _never(index)

    def choose(estimated: int) -> tuple[Selection, str, int]:
        if with_novelty:
            chosen = select_with_novelty(
                scores.total, likeness_to(index), costs, estimated, first=first, never=never | _repeated(index)
            )
        else:
            chosen = select_by_score(scores.total, costs, estimated, repeats=index.repeats, first=first, never=never)
        return _fitted(index, chosen, counter, budget)

    selection, text, used = choose(budget)
    if used < budget:
        again, longer, more = choose(2 * budget - used)
        if more > used and set(selection.chosen) <= set(again.chosen):
            selection, text = again, longer
    if not selection.chosen:
        smallest = int(costs.bodies.min())
        raise BudgetError(
            f"max_tokens={budget} is smaller than the smallest of {len(index)} scenes ({smallest} tokens by "
            f"{counter.name!r}, its title or date not counted); give a larger budget"
        )
    return selection, text


def _fitted(index: SceneIndex, selection: Selection, counter: TokenCounter, budget: int) -> tuple[Selection, str, int]:
    """Drop the last chosen until the rendered text fits; also return the text and its tokens."""
    chosen, reasons = list(selection.chosen), dict(selection.reasons)
    while chosen:
        text = render([index.scenes[place] for place in sorted(chosen)])
        used = counter.count(text)
        if used <= budget:
            return Selection(chosen, reasons), text, used
        reasons[chosen.pop()] = "budget"
    return Selection(chosen, reasons), "", 0


def _costs(index: SceneIndex, counter: TokenCounter) -> Costs:
    runs: dict[tuple[str, str | None], int] = {}
    of_run = [runs.setdefault((scene.source_id, day(scene.created_at)), len(runs)) for scene in index.scenes]
    lines = [header(scene) for scene in index.scenes]
    distinct = list(dict.fromkeys(lines))
    sizes = dict(zip(distinct, counter.count_many([f"{line}\n" if line else "" for line in distinct]), strict=True))
    bodies = index.token_counts(counter, [body(scene) + "\n" for scene in index.scenes])
    return Costs(bodies, np.asarray(of_run), np.asarray([sizes[line] for line in lines]))


def _never(index: SceneIndex) -> dict[int, str]:
    """Headings are no candidates where there is anything else: the scenes under them carry them as their title."""
    headings = [place for place, scene in enumerate(index.scenes) if scene.kind is SceneKind.HEADING]
    blank = {place: "empty" for place, scene in enumerate(index.scenes) if not scene.text.strip()}
    if len(headings) + len(blank) >= len(index):
        return blank
    return blank | dict.fromkeys(headings, "heading: shown as the title of its scenes")


def _repeated(index: SceneIndex) -> dict[int, str]:
    return {later: f"near-duplicate of scene {earlier}" for later, earlier in index.repeats.items()}


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
