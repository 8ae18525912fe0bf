"""Scenes → the tokens a model reads, where each scene and sentence lies in them, and blocks that fit a window."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from hyperscene_plugin.errors import BudgetError, InputError
from hyperscene_plugin.model.context_template import ContextTemplate
from hyperscene_plugin.text.render import render_pieces
from hyperscene_plugin.text.sentences import sentence_ends
from hyperscene_plugin.types import Scene

__all__ = ["Span", "cut_blocks", "tokenize_source"]

Span = tuple[int, int]
_LEAST_ROOM = 16


def tokenize_source(
    tokenizer: Any, template: ContextTemplate, scenes: Sequence[Scene]
) -> tuple[list[int], list[Span], list[Span]]:
    """Return the source's tokens, each scene's token span, and the token spans of its sentences; spans tile them.

    The source reads as it would in a prompt of text: with speakers, dates and titles where a reader needs them.
    """
    pieces = render_pieces(scenes)
    text, lead = template.context_text("".join(pieces))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, ends = list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]
    spans: list[Span] = []
    units: list[Span] = []
    at, place = 0, lead
    for piece in pieces:
        first = at
        for end in (*sentence_ends(piece), len(piece)):
            last = bisect_right(ends, place + end)
            if last > at:
                units.append((at, last))
                at = last
        place += len(piece)
        spans.append((first, at))
    if at < len(ids):
        spans[-1] = (spans[-1][0], len(ids))
        units[-1] = (units[-1][0], len(ids))
    return ids, spans, units


def cut_blocks(spans: Sequence[Span], room: int) -> list[Span]:
    """Return runs of scenes (first, last) whose tokens fit ``room`` positions.

    Raises:
        BudgetError: there is hardly any room.
        InputError: a single scene does not fit.
    """
    if room < _LEAST_ROOM:
        raise BudgetError(
            f"the model's window leaves no room for a source ({max(0, room)} positions); a larger window is needed"
        )
    blocks: list[Span] = []
    first = 0
    for number, (start, end) in enumerate(spans):
        if end - start > room:
            raise InputError(
                f"scene {number} has {end - start} tokens and the model's window room for {room}; cut it into smaller "
                "scenes (segment with max_whole_tokens)"
            )
        if end - spans[first][0] > room:
            blocks.append((first, number))
            first = number
    return [*blocks, (first, len(spans))]
