"""A source, an optional query and a token budget → a ``CompressionResult``: whole scenes, never one token over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperscene_plugin.errors import BudgetError, EncoderError, InputError
from hyperscene_plugin.text.auto_encoder import resolve_encoder
from hyperscene_plugin.text.costs import Costs, token_costs
from hyperscene_plugin.text.index import SceneIndex
from hyperscene_plugin.text.rank import SceneScores, score_scenes
from hyperscene_plugin.text.render import render
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.text.select import Selection, select_by_score, select_with_novelty
from hyperscene_plugin.text.summary import likeness_to, score_centrality
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

    import numpy as np

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
    index = scenes if isinstance(scenes, SceneIndex) else SceneIndex.build(scenes)
    costs = token_costs(index, counter)
    tokens_before = costs.whole if whole_text is None else counter.count(whole_text)
    if tokens_before <= max_tokens:
        return _everything(index, costs, whole_text, tokens_before, max_tokens, counter, query)
    loaded, notes = resolve_encoder(encoder, query or "", sample(index.scenes))
    if not isinstance(scenes, SceneIndex):
        index = index.with_vectors(loaded, vectors)
    elif loaded is not None:
        notes += _unlike(index, loaded)
    scores = score_centrality(index) if query is None else score_scenes(index, query, loaded)
    selection, text = _select(index, scores, counter, max_tokens, with_novelty=query is None)
    return _result(index, scores, selection, text, counter, tokens_before, max_tokens, query, notes)


def sample(scenes: Sequence[Scene], characters: int = 4000) -> str:
    """Return some text from all over the scenes, to tell its script by."""
    step = max(1, len(scenes) // 40)
    return "\n".join(scene.text[: characters // 40] for scene in scenes[::step])


def _unlike(index: SceneIndex, encoder: Encoder) -> tuple[str, ...]:
    """Check that a ready index fits the encoder; a note where it has no vectors to compare with."""
    if index.vectors is None:
        return ("semantic scores off: the index was built without an encoder",)
    if index.encoder_name not in (None, encoder.name):
        raise EncoderError(
            f"the index holds vectors of the encoder {index.encoder_name!r}, the query would be encoded by "
            f"{encoder.name!r}; build the index again or name the same encoder"
        )
    return ()


def _everything(
    index: SceneIndex,
    costs: Costs,
    whole_text: str | None,
    tokens: int,
    max_tokens: int,
    counter: TokenCounter,
    query: str | None,
) -> CompressionResult:
    text = render(index.scenes) if whole_text is None else whole_text
    sizes = costs.bodies.tolist()
    kept = tuple(
        KeptScene(scene, 0.0, size, ("everything fits",)) for scene, size in zip(index.scenes, sizes, strict=True)
    )
    return CompressionResult(text, kept, (), tokens, tokens, max_tokens, counter.name, query)


def _select(
    index: SceneIndex, scores: SceneScores, counter: TokenCounter, budget: int, *, with_novelty: bool
) -> tuple[Selection, str]:
    """Choose scenes whose rendered text fits; the second round spends what joining the lines has saved."""
    costs = token_costs(index, counter)
    first = [place for place, scene in enumerate(index.scenes) if scene.role in _SYSTEM_ROLES]
    never = index.unchosen

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
    sizes = token_costs(index, counter).bodies.tolist()
    totals = scores.total.tolist()
    for place, scene in enumerate(index.scenes):
        if place in chosen:
            reasons = tuple(f"{name} {value:+.2f}" for name, value in scores.explain(place).items() if value > 0)
            kept.append(KeptScene(scene, totals[place], sizes[place], reasons))
        else:
            reason = selection.reasons.get(place, "budget")
            dropped.append(DroppedScene(scene, totals[place], sizes[place], reason))
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


def _check_budget(max_tokens: int) -> None:
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        raise BudgetError(f"max_tokens must be a whole number of tokens, got {max_tokens!r}")
    if max_tokens <= 0:
        raise BudgetError(f"max_tokens={max_tokens}: expected at least 1 token")
