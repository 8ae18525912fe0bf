"""An answer and the scenes in the prompt → the sentences that support it, with their source spans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import regex

from hyperscene_plugin.text.lemmas import lemmatize
from hyperscene_plugin.text.sentences import sentence_ends
from hyperscene_plugin.types import Scene

__all__ = ["Citation", "cite"]

_MINIMUM_SUPPORT = 0.5
_ABSTENTION = regex.compile(
    r"\b(?:do not|don['’]t|cannot|can['’]t) (?:know|say|tell|answer)\b|не знаю", regex.IGNORECASE
)


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

    Among sentences with the same support, those that share more lemmas with the question (the speaker's name and
    the title count as part of the sentence) come first. This shows where an answer can be checked; it does not
    prove that the model used that sentence. An answer that says it does not know cites nothing.
    """
    wanted = set(lemmatize(answer))
    if not wanted or _ABSTENTION.search(answer):
        return ()
    asked = set(lemmatize(question)) - wanted
    ranked: list[tuple[float, float, Citation]] = []
    for scene in scenes:
        around = set(lemmatize(f"{scene.speaker or ''} {scene.title or ''}"))
        for start, end in _sentences(scene.text):
            quote = scene.text[start:end]
            held = set(lemmatize(quote))
            support = len(wanted & held) / len(wanted)
            if support < _MINIMUM_SUPPORT:
                continue
            citation = Citation(
                scene.id, scene.source_id, scene.message_ids, scene.start + start, scene.start + end, quote, support
            )
            overlap = len(asked & (held | around)) / len(asked) if asked else 0.0
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
