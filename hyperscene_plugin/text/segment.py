"""A source (text, Markdown, chat messages, documents, framework nodes) → scenes that tile it.

Blocks (``markdown``) → sentences (``sentences``) → scenes: headings, code, tables, lists and tool output stay whole;
prose is packed into scenes of a few sentences by dynamic programming, so that sizes come out even and cuts prefer
the end of a paragraph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.text.markdown import Block, split_blocks
from hyperscene_plugin.text.sentences import cut_long, sentence_ends
from hyperscene_plugin.text.sizes import Sizer, make_sizer
from hyperscene_plugin.text.sources import Passage, iter_passages
from hyperscene_plugin.types import Scene, SceneKind, Source

__all__ = ["Progress", "segment"]

Progress = Callable[[int, int], None]
"""Called with (characters done, characters in all)."""

_KEPT_WHOLE = frozenset({SceneKind.CODE, SceneKind.TABLE, SceneKind.LIST, SceneKind.TOOL})
_SENTENCES = 4
"""Sentences a scene holds before each further one costs something."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """A sentence, or a part of one that is longer than a scene may be."""

    end: int
    tokens: float
    closes_paragraph: bool


def segment(
    source: Source,
    *,
    source_id: str | None = None,
    max_tokens_per_scene: int = 80,
    target_tokens: int = 60,
    max_whole_tokens: int = 4096,
    tokenizer: object = None,
    progress: Progress | None = None,
) -> list[Scene]:
    """Cut ``source`` into scenes, in order. Scene texts of one document or message concatenate to its text exactly.

    Args:
        source: text (Markdown or plain), a message, a document, a mapping or framework object for either, or a
            sequence of these. A scene never spans two messages or two documents.
        source_id: names the text or chat; documents with an id of their own keep it. Default: a hash of the content.
        max_tokens_per_scene: prose is never packed beyond this; a longer sentence is cut at a clause or a word.
        target_tokens: the size aimed at.
        max_whole_tokens: code, tables, lists and tool output stay whole up to this size, and are cut between lines
            (never within one that fits) beyond it.
        tokenizer: what the sizes are counted with (anything ``token_counter`` accepts). ``None`` estimates sizes
            like cl100k's from the kinds of characters, which is fast and the same on every machine. Beyond 2 million
            characters the tokenizer calibrates the estimate instead of counting every sentence.
        progress: called now and then with (characters done, characters in all).

    Returns:
        The scenes; empty only for a sequence in which every item is blank.

    Raises:
        InputError: a blank text or document, a lone surrogate, bytes, an object that is no source, or sizes out of
            order.
    """
    if not 1 <= target_tokens <= max_tokens_per_scene <= max_whole_tokens:
        raise InputError(
            "scene sizes must satisfy 1 <= target_tokens <= max_tokens_per_scene <= max_whole_tokens; got "
            f"{target_tokens}, {max_tokens_per_scene}, {max_whole_tokens}"
        )
    passages = iter_passages(source, source_id)
    total = sum(len(passage.text) for passage in passages)
    sizer = make_sizer((passage.text for passage in passages), total, tokenizer)
    cutter = _Cutter(sizer, max_tokens_per_scene, target_tokens, max_whole_tokens)
    scenes: list[Scene] = []
    done = 0
    for passage in passages:
        for index, (start, end, kind, title) in enumerate(cutter.spans(passage)):
            scenes.append(_scene(passage, index, start, end, kind, title))
            if progress is not None and index % 256 == 0:
                progress(done + end, total)
        done += len(passage.text)
    if progress is not None:
        progress(total, total)
    return scenes


def _scene(passage: Passage, index: int, start: int, end: int, kind: SceneKind, title: str | None) -> Scene:
    return Scene(
        text=passage.text[start:end],
        source_id=passage.source_id,
        start=start,
        end=end,
        index=index,
        kind=kind,
        message_ids=(passage.message_id,) if passage.message_id is not None else (),
        speaker=passage.speaker,
        role=passage.role,
        created_at=passage.created_at,
        title=" > ".join(part for part in (passage.title, title) if part) or None,
        metadata=passage.metadata,
    )


@dataclass(frozen=True, slots=True)
class _Cutter:
    sizer: Sizer
    max_tokens: int
    target: int
    max_whole: int

    def spans(self, passage: Passage) -> Iterable[tuple[int, int, SceneKind, str | None]]:
        """Yield (start, end, kind, title) of the passage's scenes, in order; the spans tile its text."""
        text = passage.text
        if passage.is_tool_output:
            yield from self._whole(text, Block(0, len(text), SceneKind.TOOL))
            return
        is_message = passage.message_id is not None
        if is_message and self._fits(text):
            yield 0, len(text), SceneKind.MESSAGE, None
            return
        prose_kind = SceneKind.MESSAGE if is_message else SceneKind.PROSE
        for run in _runs(split_blocks(text)):
            first = run[0]
            if first.kind is SceneKind.HEADING:
                yield first.start, run[-1].end, SceneKind.HEADING, run[-1].title
            elif first.kind in _KEPT_WHOLE:
                yield from self._whole(text, first)
            else:
                start = first.start
                for end in self._packed(self._units(text, run)):
                    yield start, end, prose_kind, first.title
                    start = end

    def _fits(self, text: str) -> bool:
        return len(text) <= 12 * self.max_tokens and self.sizer.sizes([text])[0] <= self.max_tokens

    def _units(self, text: str, run: list[Block]) -> list[_Unit]:
        """The sentences of a run of paragraphs, the too long ones cut."""
        spans: list[tuple[int, int, bool]] = []
        for block in run:
            start = block.start
            for end in sentence_ends(text, block.start, block.end):
                spans.append((start, end, end == block.end))
                start = end
        units: list[_Unit] = []
        for (start, end, closes), tokens in zip(spans, self._sizes(text, spans), strict=True):
            if tokens <= self.max_tokens:
                units.append(_Unit(end, tokens, closes))
            else:
                units.extend(self._cut(text, start, end, tokens, closes))
        return units

    def _sizes(self, text: str, spans: list[tuple[int, int, bool]]) -> list[float]:
        return self.sizer.sizes([text[start:end] for start, end, _ in spans])

    def _cut(self, text: str, start: int, end: int, tokens: float, closes: bool) -> Iterable[_Unit]:
        """Cut one overlong sentence, again where a piece is still too long (uneven density)."""
        ends = cut_long(text, start, end, math.ceil(tokens / self.max_tokens * 1.1))
        starts = [start, *ends[:-1]]
        sizes = self.sizer.sizes([text[a:b] for a, b in zip(starts, ends, strict=True)])
        for a, b, size in zip(starts, ends, sizes, strict=True):
            if size > self.max_tokens and b - a > 1 and len(ends) > 1:
                yield from self._cut(text, a, b, size, closes and b == end)
            else:
                yield _Unit(b, size, closes and b == end)

    def _whole(self, text: str, block: Block) -> Iterable[tuple[int, int, SceneKind, str | None]]:
        """The block as one scene, or cut between lines where it is larger than ``max_whole_tokens``."""
        start, end = block.start, block.end
        if end - start <= self.max_whole or self.sizer.sizes([text[start:end]])[0] <= self.max_whole:
            yield start, end, block.kind, block.title
            return
        lines = text[start:end].splitlines(keepends=True)
        filled, place = 0.0, start
        for line, size in zip(lines, self.sizer.sizes(lines), strict=True):
            if filled and filled + size > self.max_whole:
                yield start, place, block.kind, block.title
                start, filled = place, 0.0
            if size > self.max_whole:
                for unit in self._cut(text, place, place + len(line), size * self.max_tokens / self.max_whole, False):
                    if unit.end < place + len(line):
                        yield start, unit.end, block.kind, block.title
                        start = unit.end
            place += len(line)
            filled += size
        if start < end:
            yield start, end, block.kind, block.title

    def _packed(self, units: list[_Unit]) -> list[int]:
        """End offsets of the scenes that pack ``units`` at the least cost (dynamic programming, linear in units).

        A scene costs the squared distance of its size from the target, a little for each sentence past four and for
        each paragraph it joins, and a little when it ends inside a paragraph.
        """
        best = [0.0] + [math.inf] * len(units)
        back = [0] * (len(units) + 1)
        for last in range(1, len(units) + 1):
            ending = 0.0 if units[last - 1].closes_paragraph else 0.15
            tokens, joined = 0.0, 0
            for first in range(last - 1, -1, -1):
                unit = units[first]
                tokens += unit.tokens
                joined += unit.closes_paragraph and first != last - 1
                if tokens > self.max_tokens and first != last - 1:
                    break
                count = last - first
                off = (tokens - self.target) / self.target
                cost = best[first] + off * off + ending + 0.06 * max(0, count - _SENTENCES) + 0.04 * joined
                if cost < best[last]:
                    best[last], back[last] = cost, first
        ends: list[int] = []
        last = len(units)
        while last:
            ends.append(units[last - 1].end)
            last = back[last]
        return ends[::-1]


def _runs(blocks: list[Block]) -> Iterable[list[Block]]:
    """Group neighbouring prose blocks of one title, and neighbouring headings; every other block stands alone."""
    run: list[Block] = []
    for block in blocks:
        joins = run and block.kind is run[-1].kind and block.kind not in _KEPT_WHOLE
        if joins and (block.kind is SceneKind.HEADING or block.title == run[-1].title):
            run.append(block)
            continue
        if run:
            yield run
        run = [block]
    if run:
        yield run
