"""An answer and the scenes in the prompt → the sentences that support it, with their source spans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hyperscene_plugin.text.lemmas import lemmatize
from hyperscene_plugin.text.sentences import sentence_ends
from hyperscene_plugin.types import Scene

__all__ = ["Citation", "cite"]

_MINIMUM_SUPPORT = 0.5


@dataclass(frozen=True, slots=True)
class Citation:
    """A sentence of a scene. ``quote`` is ``source_text[start:end]``; ``support`` is the share of the answer's

    content lemmas the sentence holds (1 = all of them).
    """

    scene_id: str | None
    source_id: str
    message_ids: tuple[str, ...]
    start: int
    end: int
    quote: str
    support: float


def cite(answer: str, scenes: Iterable[Scene], *, question: str = "", limit: int = 3) -> tuple[Citation, ...]:
    """Return up to ``limit`` sentences that hold the answer, best first; none when nothing holds half of it.

    Among sentences with the same support, those that share more lemmas with the question come first. This shows
    where an answer can be checked; it does not prove that the model used that sentence.
    """
    wanted = set(lemmatize(answer))
    if not wanted:
        return ()
    asked = set(lemmatize(question)) - wanted
    ranked: list[tuple[float, float, Citation]] = []
    for scene in scenes:
        for start, end in _sentences(scene.text):
            quote = scene.text[start:end]
            held = set(lemmatize(quote))
            support = len(wanted & held) / len(wanted)
            if support < _MINIMUM_SUPPORT:
                continue
            citation = Citation(
                scene.id, scene.source_id, scene.message_ids, scene.start + start, scene.start + end, quote, support
            )
            overlap = len(asked & held) / len(asked) if asked else 0.0
            ranked.append((support, overlap, citation))
    ranked.sort(key=lambda item: (-item[0], -item[1]))
    return tuple(citation for _, _, citation in ranked[:limit])


def _sentences(text: str) -> Iterable[tuple[int, int]]:
    """Yield the spans of the sentences of ``text`` without surrounding whitespace."""
    start = 0
    for end in [*sentence_ends(text), len(text)]:
        piece = text[start:end]
        stripped = piece.strip()
        if stripped:
            left = start + piece.index(stripped)
            yield left, left + len(stripped)
        start = end
