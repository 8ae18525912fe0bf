"""A scene and its couplings → groups of 10–20 tokens, each of which one hypertoken will stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from hyperscene_plugin.text.couplings import Coupling
from hyperscene_plugin.text.sentences import cut_long
from hyperscene_plugin.tokens import token_counter
from hyperscene_plugin.types import Scene, TokenCounter

__all__ = ["MAX_TOKENS", "MIN_TOKENS", "HypertokenGroup", "group_scenes", "hypertoken_groups"]

MIN_TOKENS = 10
MAX_TOKENS = 20
_TARGET = 15.0


class HypertokenGroup(NamedTuple):
    """``scene.text[start:end]`` holds ``num_tokens`` tokens; a scene's groups tile it and their tokens add up."""

    start: int
    end: int
    num_tokens: int

    @property
    def is_short(self) -> bool:
        """Whether it is a tail of fewer than ten tokens."""
        return self.num_tokens < MIN_TOKENS

    @property
    def is_long(self) -> bool:
        """Whether it holds more than twenty tokens (a single word that cannot be cut)."""
        return self.num_tokens > MAX_TOKENS


def hypertoken_groups(scene: Scene, couplings: Sequence[Coupling], tokenizer: object = None) -> list[HypertokenGroup]:
    """Return the groups of one scene (see ``group_scenes``)."""
    return group_scenes([scene], [couplings], tokenizer)[0]


def group_scenes(
    scenes: Sequence[Scene], couplings: Sequence[Sequence[Coupling]], tokenizer: object = None
) -> list[list[HypertokenGroup]]:
    """Group each scene's couplings into runs of 10–20 tokens at the least cost (dynamic programming).

    A group never crosses a scene and never cuts a coupling, unless that alone has more than 20 tokens: it is then cut
    at a word or, where there is none, between characters. A scene, or its last stretch, that cannot be filled gives a
    group of fewer than ten tokens (``is_short``).

    Args:
        scenes: the scenes.
        couplings: those of each scene, as ``find_couplings`` gives them.
        tokenizer: anything ``token_counter`` accepts.

    Returns:
        For each scene its groups; spans are offsets into ``scene.text``, tile it, and their tokens add up to the
        scene's tokens by the tokenizer.
    """
    counter = token_counter(tokenizer)
    ends = [_unit_ends(scene, found) for scene, found in zip(scenes, couplings, strict=True)]
    sizes = _sizes(scenes, ends, counter)
    for place, scene in enumerate(scenes):
        finer = _split_oversize(scene.text, ends[place], sizes[place])
        if finer != ends[place]:
            ends[place] = finer
            sizes[place] = _sizes([scene], [finer], counter)[0]
    return [_grouped(scene_ends, scene_sizes) for scene_ends, scene_sizes in zip(ends, sizes, strict=True)]


def _unit_ends(scene: Scene, couplings: Sequence[Coupling]) -> list[int]:
    """Ends of the units: each coupling with the punctuation and blanks up to the next one."""
    starts = [coupling.start for coupling in couplings[1:]]
    return [*starts, len(scene.text)]


def _sizes(scenes: Sequence[Scene], ends: list[list[int]], counter: TokenCounter) -> list[list[int]]:
    """Tokens of each unit as differences of prefix counts, so that they add up to the scene's tokens.

    Prefixes start at the last paragraph of earlier counted text, at most about 400 characters back, which keeps the
    work linear for long scenes.
    """
    texts: list[str] = []
    for scene, scene_ends in zip(scenes, ends, strict=True):
        for block_start, block_end, places in _blocks(scene.text, scene_ends):
            texts.extend(scene.text[block_start : min(place, block_end)] for place in places)
    counts = iter(counter.count_many(texts))
    result: list[list[int]] = []
    for scene, scene_ends in zip(scenes, ends, strict=True):
        sizes: list[int] = []
        for _, _, places in _blocks(scene.text, scene_ends):
            before = 0
            for _ in places:
                count = max(before, next(counts))
                sizes.append(count - before)
                before = count
        result.append(sizes)
    return result


_BLOCK = 400


def _blocks(text: str, ends: list[int]) -> list[tuple[int, int, list[int]]]:
    """Cut the unit ends of a long scene into blocks of about 400 characters: (start, end, unit ends)."""
    if len(text) <= 2 * _BLOCK:
        return [(0, len(text), ends)]
    blocks: list[tuple[int, int, list[int]]] = []
    start, places = 0, []
    for end in ends:
        places.append(end)
        if end - start >= _BLOCK:
            blocks.append((start, end, places))
            start, places = end, []
    if places:
        blocks.append((start, ends[-1], places))
    return blocks


def _split_oversize(text: str, ends: list[int], sizes: list[int]) -> list[int]:
    finer: list[int] = []
    start = 0
    for end, size in zip(ends, sizes, strict=True):
        if size > MAX_TOKENS and end - start > 1:
            finer.extend(cut_long(text, start, end, min(end - start, math.ceil(1.3 * size / MAX_TOKENS))))
        else:
            finer.append(end)
        start = end
    return finer


def _grouped(ends: list[int], sizes: list[int]) -> list[HypertokenGroup]:
    """The cheapest grouping: squared distance from 15 tokens, much dearer below ten, never over 20 but alone."""
    best = [0.0] + [math.inf] * len(ends)
    back = [0] * (len(ends) + 1)
    for last in range(1, len(ends) + 1):
        total = 0
        for first in range(last - 1, -1, -1):
            total += sizes[first]
            if total > MAX_TOKENS and first != last - 1:
                break
            cost = best[first] + ((total - _TARGET) / 5) ** 2 + (4.0 if total < MIN_TOKENS else 0.0)
            if cost < best[last]:
                best[last], back[last] = cost, first
    groups: list[HypertokenGroup] = []
    last = len(ends)
    while last:
        first = back[last]
        start = ends[first - 1] if first else 0
        groups.append(HypertokenGroup(start, ends[last - 1], sum(sizes[first:last])))
        last = first
    return groups[::-1]
