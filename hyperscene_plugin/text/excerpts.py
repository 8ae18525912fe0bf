"""Documents, a query and one token budget → an excerpt of each document, with the character spans that were kept.

``compress`` returns one text. A retrieval pipeline needs its documents back one by one, each still under its own id,
and shows the model more than their text (metadata lines, blank lines between documents). Here the budget is over all
of that together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hyperscene_plugin.errors import BudgetError, InputError
from hyperscene_plugin.text.auto_encoder import resolve_encoder
from hyperscene_plugin.text.compress import compress_scenes, sample
from hyperscene_plugin.text.index import SceneIndex
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.text.spans import Spans, cut, trim
from hyperscene_plugin.tokens import token_counter
from hyperscene_plugin.types import (
    CompressionResult,
    Document,
    DroppedScene,
    Encoder,
    KeptScene,
    Scene,
    TokenCounter,
)

__all__ = ["Excerpt", "Excerpts", "excerpt_documents"]

_TARGET_TOKENS = 20
"""Scenes of about one sentence: a share of a page's budget is soon smaller than a scene of the usual size."""
_ROUNDS = 5
_SLACK = 0.02


@dataclass(frozen=True, slots=True)
class Excerpt:
    """What is left of one document.

    ``text == spans.cut(document.text, spans)``; nothing kept is no spans.
    Tokens are those of the document's text before and after, without what is shown around it.
    """

    text: str
    spans: Spans
    tokens_before: int
    tokens_after: int


@dataclass(frozen=True, slots=True)
class Excerpts:
    """One excerpt per document, in the documents' order, and the account of the whole.

    ``result.text`` is what the model will be shown; its token counts are of that text, so that
    ``result.tokens_after <= result.max_tokens`` holds for documents and what is shown around them together.
    A scene's ``source_id`` is its document's place in the input, as a string.
    """

    excerpts: tuple[Excerpt, ...]
    result: CompressionResult


def excerpt_documents(
    documents: Sequence[Document],
    query: str | None = None,
    *,
    max_tokens: int,
    tokenizer: object = None,
    encoder: Encoder | str | None = "auto",
    show: Callable[[int, str], str] = lambda place, text: text,
    fixed: Sequence[int] = (),
    separator: str = "\n\n",
) -> Excerpts:
    """Excerpt ``documents`` for ``query`` (or sum them up) in at most ``max_tokens`` tokens all together.

    Args:
        documents: in the order in which the model will read them; not changed. Their ids are not used.
        query: what the excerpts will be used to answer; ``None`` or blank asks for a query-free selection.
        max_tokens: hard budget, counted both on everything shown joined by ``separator`` and on the sum of the parts.
        tokenizer: whose tokens: anything ``token_counter`` takes.
        encoder: as for ``compress``.
        show: ``(place, text) -> what the model is shown`` of the document at that place when ``text`` is left of it
            (metadata lines, templates). Must be a pure function.
        fixed: places of documents that are shown whole whatever happens (images' captions, blank documents).
        separator: what stands between two documents in the prompt.

    Returns:
        An excerpt per document. If everything fits, every document is kept whole and nothing is scored.

    Raises:
        BudgetError: the budget cannot hold the fixed documents and one scene.
        InputError: ``documents`` is empty, or a text cannot be read.
        ConfigError, MissingPackageError: the tokenizer is unknown or its package is missing.
        EncoderError: the encoder named cannot be loaded.
    """
    if not documents:
        raise InputError("there is nothing to excerpt: expected at least one document, got none")
    page = _Page(tuple(documents), frozenset(fixed), show, separator, token_counter(tokenizer))
    free = {*range(len(documents))} - page.fixed
    scenes = tuple(
        segment(
            [
                replace(documents[place], id=str(place), metadata={})
                for place in sorted(free)
                if documents[place].text.strip()
            ],
            target_tokens=_TARGET_TOKENS,
            tokenizer=page.counter,
        )
    )
    if page.cost((), free) <= max_tokens:
        return page.excerpts(_everything(scenes, page.counter, max_tokens, query), (), free)
    floor = page.cost((), set())
    if floor >= max_tokens or not scenes:
        raise BudgetError(
            f"max_tokens={max_tokens} leaves no room: {len(page.fixed)} documents that are kept whole (images, "
            f"blank texts with metadata) take {floor} tokens by {page.counter.name!r}; raise max_tokens, retrieve "
            "fewer of them, or show less of their metadata"
        )
    loaded, notes = resolve_encoder(encoder, query or "", sample(scenes))
    index = SceneIndex.build(scenes, encoder=loaded)
    result = _fit(page, index, query, max_tokens, floor, loaded)
    return page.excerpts(replace(result, notes=(*notes, *result.notes)), [kept.scene for kept in result.kept], set())


@dataclass(frozen=True)
class _Page:
    """What the model is shown, and what that costs."""

    documents: tuple[Document, ...]
    fixed: frozenset[int]
    show: Callable[[int, str], str]
    separator: str
    counter: TokenCounter

    def spans(self, scenes: Sequence[Scene]) -> dict[int, list[tuple[int, int]]]:
        """Place → the spans of ``scenes`` (in source order): touching ones joined, outer blanks cut off."""
        joined: dict[int, list[tuple[int, int]]] = {}
        for scene in scenes:
            spans = joined.setdefault(int(scene.source_id), [])
            if spans and spans[-1][1] == scene.start:
                spans[-1] = (spans[-1][0], scene.end)
            else:
                spans.append((scene.start, scene.end))
        trimmed = {
            place: [span for span in (trim(self.documents[place].text, *span) for span in spans) if span[0] < span[1]]
            for place, spans in joined.items()
        }
        return {place: spans for place, spans in trimmed.items() if spans}

    def texts(self, scenes: Sequence[Scene], whole: set[int]) -> dict[int, str]:
        """Place → the text left of that document, for the documents that stay, in order."""
        texts = {place: cut(self.documents[place].text, spans) for place, spans in self.spans(scenes).items()}
        texts |= {place: self.documents[place].text for place in self.fixed | whole}
        return dict(sorted(texts.items()))

    def parts(self, texts: dict[int, str]) -> list[str]:
        return [self.show(place, text) for place, text in texts.items()]

    def cost(self, scenes: Sequence[Scene], whole: set[int]) -> int:
        """Tokens of what is shown: of the joined text or of the parts, whichever is more."""
        parts = self.parts(self.texts(scenes, whole))
        return max(self.counter.count(self.separator.join(parts)), sum(self.counter.count_many(parts))) if parts else 0

    def excerpts(self, result: CompressionResult, scenes: Sequence[Scene], whole: set[int]) -> Excerpts:
        spans, texts = self.spans(scenes), self.texts(scenes, whole)
        before = self.counter.count_many([document.text for document in self.documents])
        after = dict(zip(texts, self.counter.count_many(list(texts.values())), strict=True))
        excerpts = []
        for place, document in enumerate(self.documents):
            kept_whole = place in self.fixed or place in whole
            found = ((0, len(document.text)),) if kept_whole and document.text else tuple(spans.get(place, ()))
            excerpts.append(Excerpt(texts.get(place, ""), found, before[place], after.get(place, 0)))
        shown = replace(
            result,
            text=self.separator.join(self.parts(texts)),
            tokens_before=self.cost((), {*range(len(self.documents))}),
            tokens_after=self.cost(scenes, whole),
        )
        return Excerpts(tuple(excerpts), shown)


def _fit(
    page: _Page, index: SceneIndex, query: str | None, max_tokens: int, floor: int, encoder: Encoder | None
) -> CompressionResult:
    """Select under a budget for the scenes alone, and move that budget until what is shown fills ``max_tokens``."""
    budget, best, best_cost, smallest = max_tokens - floor, None, -1, max_tokens + 1
    result: CompressionResult | None = None
    for _ in range(_ROUNDS):
        try:
            result = compress_scenes(index, query, max_tokens=budget, tokenizer=page.counter, encoder=encoder)
        except BudgetError:
            if result is None:
                raise
            break
        cost = page.cost([kept.scene for kept in result.kept], set())
        if best_cost < cost <= max_tokens:
            best, best_cost = result, cost
        elif cost > max_tokens:
            smallest = min(smallest, budget)
        slack = max_tokens - cost
        budget = min(budget + slack, smallest - 1)
        if 0 <= slack <= _SLACK * max_tokens or budget < 1 or (best is not None and budget <= best.max_tokens):
            break
    assert result is not None
    return replace(best or _shrink(page, result, max_tokens), max_tokens=max_tokens)


def _shrink(page: _Page, result: CompressionResult, max_tokens: int) -> CompressionResult:
    """Drop the lowest-scored scenes until what is shown fits."""
    kept, dropped = list(result.kept), list(result.dropped)
    while kept:
        if page.cost([item.scene for item in kept], set()) <= max_tokens:
            return replace(result, kept=tuple(kept), dropped=tuple(sorted(dropped, key=_place)))
        worst = min(kept, key=lambda item: item.score)
        kept.remove(worst)
        dropped.append(DroppedScene(worst.scene, worst.score, worst.num_tokens, "budget"))
    least = min(page.cost([item.scene], set()) for item in result.kept)
    raise BudgetError(
        f"max_tokens={max_tokens} cannot hold one scene with what is shown around it: the smallest takes {least} "
        f"tokens by {page.counter.name!r}; raise max_tokens or show less metadata"
    )


def _everything(
    scenes: Sequence[Scene], counter: TokenCounter, max_tokens: int, query: str | None
) -> CompressionResult:
    counts = counter.count_many([scene.text for scene in scenes])
    kept = tuple(
        KeptScene(scene, 0.0, count, ("everything fits",)) for scene, count in zip(scenes, counts, strict=True)
    )
    return CompressionResult("", kept, (), 0, 0, max_tokens, counter.name, query)


def _place(item: DroppedScene) -> tuple[int, int]:
    return int(item.scene.source_id), item.scene.start
