"""Scenes → cues: a passage with one unit of meaning taken out, asked for, and the unit as the answer.

A cue is how a later question is likely to look at a scene: it names what the scene is about and lacks what is wanted.
Cues need no generated text, so they work with any model, and they cost a few tokens each. A model is shown a cue with
its answer behind the whole context; where it looks then is what a compact cache has to keep.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from hyperscene_plugin.text.couplings import Coupling, CouplingKind, find_couplings
from hyperscene_plugin.text.sentences import sentence_ends
from hyperscene_plugin.text.word_classes import word_info
from hyperscene_plugin.types import Scene

__all__ = ["Cue", "make_cues"]

_CLAUSE = regex.compile(r"(?:[,;:]|\b(?:and|but|и|но|а)\b)\s+")
_MARKS = regex.compile(r"[.,;:!?…\"“”«»()\[\]*_#>|`]+")
_QUESTION_WORDS = {
    "latin": ("What", "Who", "Where", "When", "Which"),
    "cyrillic": ("Что", "Кто", "Где", "Когда", "Какой"),
}
_CYRILLIC = regex.compile(r"\p{Cyrillic}")
_SURE = frozenset({CouplingKind.DATE, CouplingKind.NUMBER_UNIT, CouplingKind.ENTITY})


@dataclass(frozen=True, slots=True)
class Cue:
    """``question`` lacks ``answer``; both come from scene number ``scene`` of those handed in."""

    question: str
    answer: str
    scene: int


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    scene: int
    speaker: str
    couplings: list[Coupling]


def make_cues(scenes: Sequence[Scene], *, most: int | None = None, seed: int = 0) -> list[Cue]:
    """Return cues for ``scenes``, at most ``most``, spread evenly over the sentences; the same seed gives the same.

    In each sentence the units that say most come first: dates, numbers and names, then words that are rare in the
    scenes. Function words are never asked for. Where a sentence has clauses, only the clause of the unit is quoted,
    behind the names of the sentence's beginning; what was said is asked for under its speaker's name.
    """
    rng = random.Random(seed)
    sentences = _sentences(scenes)
    counts = Counter(key for s in sentences for key in {c.key for c in s.couplings})
    ranked = [_targets(s, counts, rng) for s in sentences]
    cues: list[Cue] = []
    for turn in range(max((len(r) for r in ranked), default=0)):
        order = [place for place, targets in enumerate(ranked) if turn < len(targets)]
        rng.shuffle(order)
        for place in order:
            if most is not None and len(cues) >= most:
                return cues
            cue = _cue(sentences[place], ranked[place][turn], counts, rng)
            if cue is not None:
                cues.append(cue)
    return cues


def _sentences(scenes: Sequence[Scene]) -> list[_Sentence]:
    parts: list[Scene] = []
    owners: list[int] = []
    for number, scene in enumerate(scenes):
        start = 0
        for end in sentence_ends(scene.text):
            text = scene.text[start:end]
            if text.strip():
                parts.append(Scene(text, scene.source_id, start, end, len(parts), scene.kind))
                owners.append(number)
            start = end
    return [
        _Sentence(part.text, owner, scenes[owner].speaker or "", couplings)
        for part, owner, couplings in zip(parts, owners, find_couplings(parts), strict=True)
    ]


def _targets(sentence: _Sentence, counts: Counter[str], rng: random.Random) -> list[Coupling]:
    """Units worth asking for, the most telling first: 0 for dates, numbers and names; then by rarity."""
    found = [c for c in sentence.couplings if not _is_function(sentence.text[c.start : c.end])]
    tie = {id(c): rng.random() for c in found}

    def rank(coupling: Coupling) -> tuple[float, float]:
        text = sentence.text[coupling.start : coupling.end]
        sure = coupling.kind in _SURE or any(ch.isdigit() for ch in text)
        return (0.5 if sure else 1.0) * counts[coupling.key], tie[id(coupling)]

    return sorted(found, key=rank)


def _is_function(text: str) -> bool:
    words = [word for word in _MARKS.sub(" ", text).split() if word]
    return all(word_info(word.casefold()).is_function for word in words)


def _cue(sentence: _Sentence, target: Coupling, counts: Counter[str], rng: random.Random) -> Cue | None:
    text = sentence.text
    cuts = [0, *(m.end() for m in _CLAUSE.finditer(text)), len(text)]
    inside = max(i for i in range(len(cuts) - 1) if cuts[i] <= target.start)
    start, end = cuts[inside], max(cuts[inside + 1], target.end)
    subject = ""
    if start > 0:
        names = [c for c in sentence.couplings if c.start < cuts[1] and text[c.start].isupper()]
        subject = " ".join(text[c.start : c.end] for c in names if not _is_function(text[c.start : c.end]))
    if sentence.speaker and sentence.speaker != text[target.start : target.end] and sentence.speaker not in text:
        subject = f"{sentence.speaker} {subject}"
    rest = f"{subject} {text[start : target.start]} {text[target.end : end]}"
    words = _MARKS.sub(" ", rest).split()
    while words and words[-1].casefold() in ("and", "but", "и", "но", "а"):
        words.pop()
    if not words:
        return None
    script = "cyrillic" if _CYRILLIC.search(text) else "latin"
    return Cue(
        f"{rng.choice(_QUESTION_WORDS[script])} {' '.join(words)}?", text[target.start : target.end], sentence.scene
    )
