"""Lines of words separated by blanks → a set of them, or a tuple in order of length: how word lists are kept."""

from __future__ import annotations

__all__ = ["longest_first", "shortest_first", "word_set"]


def word_set(*lines: str) -> frozenset[str]:
    """The words of the lines as a set."""
    return frozenset(word for line in lines for word in line.split())


def longest_first(*lines: str) -> tuple[str, ...]:
    """The words of the lines once each, the longest first (equal ones by alphabet)."""
    return tuple(sorted(word_set(*lines), key=lambda word: (-len(word), word)))


def shortest_first(*lines: str) -> tuple[str, ...]:
    """The words of the lines once each, the shortest first (equal ones by alphabet)."""
    return tuple(sorted(word_set(*lines), key=lambda word: (len(word), word)))
