"""Text → words and their lemmas, so that inflected forms meet: ``ships`` and ``ship``, ``Анной`` and ``Анна``.

English and other Latin-script words go through simplemma, Cyrillic ones through pymorphy3; scripts without
spaces (Han, kana, Thai…) become overlapping character bigrams. Both libraries are loaded on first use.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import regex

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["content_lemmas", "iter_words", "lemma", "lemmatize"]

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['’ʼ_.\-][\p{L}\p{M}\p{N}]+)*")
_CYRILLIC = regex.compile(r"\p{Cyrillic}")
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_ENGLISH = """
    a an the and or but if of in on at to from by for with about as into than then so it its this that these those he
    she they we i you his her their our my your him them us me be is are was were am been being do does did have has had
    can could will would shall should may might must not no there here what which who whom whose when where why how
"""
_RUSSIAN = """
    и в во не что он на я с со как а то все она так его но да ты к у же вы за бы по ее мне было вот от меня еще нет о из
    ему когда ли если или ни быть до вас какой который кто где куда почему зачем чей этот тот они мы их им ей для
"""
_FUNCTION_WORDS = frozenset((_ENGLISH + _RUSSIAN).split())
"""Words that hold a question together and say nothing of what it asks about."""
_CLITIC = regex.compile(r"['’ʼ](?:s|d|m|t|ll|re|ve)$", regex.IGNORECASE)


def iter_words(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield ``(word, start, end)`` for every word of ``text``, in order; offsets in characters."""
    for match in _WORD.finditer(text):
        yield match.group(), match.start(), match.end()


@lru_cache(maxsize=262_144)
def lemma(word: str) -> str:
    """Return the case-folded lemma of one word; a word no dictionary knows comes back case-folded."""
    folded: str = _CLITIC.sub("", word.casefold())
    if _CYRILLIC.search(folded):
        return str(_russian().parse(folded)[0].normal_form).replace("ё", "е")
    if not folded.isascii() or not folded.isalpha():
        return folded
    return str(_simplemma().lemmatize(folded, lang="en")).casefold()


def lemmatize(text: str) -> list[str]:
    """Return the lemmas of ``text`` in order; unspaced scripts give character bigrams."""
    lemmas: list[str] = []
    for word in _WORD.findall(text):
        if _UNSPACED.search(word):
            lemmas.extend(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        else:
            lemmas.append(lemma(word))
    return lemmas


def content_lemmas(text: str) -> list[str]:
    """Return the lemmas of ``text`` less its function words; all of them where there is nothing else."""
    lemmas = lemmatize(text)
    return [word for word in lemmas if word not in _FUNCTION_WORDS] or lemmas


@cache
def _russian() -> Any:
    import pymorphy3

    return pymorphy3.MorphAnalyzer()


@cache
def _simplemma() -> Any:
    import simplemma

    return simplemma
