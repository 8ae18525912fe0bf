"""Scenes → which of them repeat an earlier one, word for word or nearly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperscene_plugin.text.lemmas import iter_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperscene_plugin.types import Scene

__all__ = ["find_duplicates"]


def find_duplicates(scenes: Sequence[Scene]) -> dict[int, int]:
    """Return later scene → first scene with the same speaker, title and words (case and punctuation aside)."""
    seen: dict[tuple[object, ...], int] = {}
    twins: dict[int, int] = {}
    for place, scene in enumerate(scenes):
        words = tuple(word.casefold() for word, _, _ in iter_words(scene.text))
        key = (scene.speaker, words or scene.text.strip())
        first = seen.setdefault(key, place)
        if first != place:
            twins[place] = first
    return twins
