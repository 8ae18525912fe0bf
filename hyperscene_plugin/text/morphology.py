"""A word → its morphemes, with the inflectional ending split off as a marker: ``walk·ed``, ``книг·ами``.

English and Russian are cut into prefixes, roots, suffixes and endings by rules of word formation checked against a
dictionary (``morphemes_en``, ``morphemes_ru``). In other languages that simplemma knows only the ending is split off,
where the form and its lemma share a stem; a word of any other language stays whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import regex

__all__ = ["Morpheme", "MorphemeKind", "Morphemes", "detect_language", "split_word"]

_LETTERS = regex.compile(r"[\p{L}\p{M}]+")
_CYRILLIC = regex.compile(r"\p{Cyrillic}")
_BY_LEMMA = ("de", "fr", "es", "it", "pt", "nl", "pl", "sv", "uk", "bg")


class MorphemeKind(StrEnum):
    """The part a morpheme plays in its word."""

    PREFIX = "prefix"
    ROOT = "root"
    LINK = "link"
    SUFFIX = "suffix"
    ENDING = "ending"
    POSTFIX = "postfix"


@dataclass(frozen=True, slots=True)
class Morpheme:
    """``word[start:end]`` is one morpheme."""

    start: int
    end: int
    kind: MorphemeKind


@dataclass(frozen=True, slots=True)
class Morphemes:
    """A word's morphemes in order; they tile it."""

    word: str
    parts: tuple[Morpheme, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The morphemes as text."""
        return tuple(self.word[part.start : part.end] for part in self.parts)

    @property
    def ending(self) -> str | None:
        """The inflectional ending, or ``None`` where the word has none."""
        for part in reversed(self.parts):
            if part.kind is MorphemeKind.ENDING:
                return self.word[part.start : part.end]
        return None

    @property
    def marked(self) -> str:
        """The word with its ending behind a dot: ``walk·ed``, ``мою·сь`` keeps its postfix after the ending."""
        for part in reversed(self.parts):
            if part.kind is MorphemeKind.ENDING and part.start:
                return f"{self.word[: part.start]}·{self.word[part.start :]}"
        return self.word

    def __str__(self) -> str:
        return "|".join(self.texts)


def split_word(word: str, language: str = "en") -> Morphemes:
    """Return the morphemes of ``word``; a word with hyphens or apostrophes is cut at them first.

    Args:
        word: one word, in any case.
        language: ISO 639-1 code of the text; a Cyrillic word in a Latin text (and the reverse) is taken for Russian
            (for English).
    """
    parts: list[Morpheme] = []
    place = 0
    for match in _LETTERS.finditer(word):
        if match.start() > place and parts:  # the hyphen or apostrophe belongs to the morpheme before it
            parts[-1] = Morpheme(parts[-1].start, match.start(), parts[-1].kind)
        start = match.start() if parts else 0
        for offset, (length, kind) in _pieces_with_offsets(match.group(), language):
            parts.append(
                Morpheme(start if not offset else match.start() + offset, match.start() + offset + length, kind)
            )
        place = match.end()
    if not parts:
        return Morphemes(word, (Morpheme(0, len(word), MorphemeKind.ROOT),) if word else ())
    if place < len(word):
        parts[-1] = Morpheme(parts[-1].start, len(word), parts[-1].kind)
    return Morphemes(word, tuple(parts))


def _pieces_with_offsets(letters: str, language: str) -> list[tuple[int, tuple[int, MorphemeKind]]]:
    offset = 0
    result: list[tuple[int, tuple[int, MorphemeKind]]] = []
    for length, kind in _pieces(letters, language):
        result.append((offset, (length, kind)))
        offset += length
    return result


@lru_cache(maxsize=131_072)
def _pieces(letters: str, language: str) -> tuple[tuple[int, MorphemeKind], ...]:
    """(length, kind) of each morpheme of a run of letters; lengths add up to ``len(letters)``."""
    from hyperscene_plugin.text.morphemes_en import split_english
    from hyperscene_plugin.text.morphemes_ru import split_russian

    folded = letters.lower()
    if len(folded) != len(letters) or len(letters) < 2:
        return ((len(letters), MorphemeKind.ROOT),)
    cyrillic = _CYRILLIC.search(letters) is not None
    if cyrillic and language in ("ru", "en"):
        pieces = split_russian(folded)
    elif letters.isascii() and language in ("en", "ru"):
        if letters.isupper() and len(letters) < 5:  # an acronym
            return ((len(letters), MorphemeKind.ROOT),)
        pieces = split_english(folded)
    else:
        pieces = _split_by_lemma(letters, language)
    return tuple((len(text), kind) for text, kind in pieces)


def _split_by_lemma(word: str, language: str) -> list[tuple[str, MorphemeKind]]:
    """Stem and ending where form and lemma share at least three letters and all but a short end of the form."""
    if language not in _BY_LEMMA:
        return [(word, MorphemeKind.ROOT)]
    import simplemma

    base = simplemma.lemmatize(word, lang=language)
    if base.casefold() == word.casefold():
        return [(word, MorphemeKind.ROOT)]
    shared = 0
    for a, b in zip(word.casefold(), base.casefold(), strict=False):
        if a != b:
            break
        shared += 1
    if shared < 3 or not 0 < len(word) - shared <= 4:
        return [(word, MorphemeKind.ROOT)]
    return [(word[:shared], MorphemeKind.ROOT), (word[shared:], MorphemeKind.ENDING)]


_COMMON_WORDS = {
    "en": "the of and to in a is that was he for it with as his on be at by i this had not are but from you or have",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec je",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como más pero sus le ha me si",
    "it": "di e che la il un a per in una mi sono ho non ma lo ha le si ti i con cosa se come da ci questo del",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem",
    "nl": "de van een het en in is dat op te met voor die niet zijn er aan om ook als dan maar bij of uit nog",
    "pl": "w i na się z nie do że to jest o jak a po co tak za od jego ale tym dla przez czy tylko był go",
    "sv": "och i att det som en på är av för med till den har de inte om ett han men var jag sig från vi så",
    "ru": "и в не на я что он с как а то это по но к у же за вы так все было мы ее из его она от бы о мне",
    "uk": "і в не на я що він з як а то це по але до у ж за ви так все було ми її із його вона від би про",
    "bg": "и на да не се от в за е че с по са като ще си към но до го той ме му я те беше има това или",
}
_MIN_SHARE = 0.08


def detect_language(text: str) -> str:
    """Return the ISO 639-1 code of the language ``text`` is mostly in, told by its commonest function words.

    Knows the languages of ``_COMMON_WORDS``; ``und`` (undetermined) where the best has under 8% of the words. Looks at
    the first 20,000 characters.
    """
    words = [word.casefold() for word in _LETTERS.findall(text[:20_000])]
    shares = {
        code: sum(word in common for word in words) / max(1, len(words))
        for code, common in ((code, frozenset(common.split())) for code, common in _COMMON_WORDS.items())
    }
    best = max(shares, key=lambda code: shares[code])
    return best if shares[best] >= _MIN_SHARE else "und"
