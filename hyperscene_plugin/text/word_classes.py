"""A word → its lemma and the word classes it can have, for English and Russian; other languages get ``other``.

Russian classes come from pymorphy3's tags. English ones come from closed lists for function words and, for open
classes, from the forms that simplemma's dictionary knows: a word with an ``-ing`` form can be a verb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import regex

from hyperscene_plugin.text.lemmas import lemma

__all__ = ["WordInfo", "english_forms", "parse_russian", "russian_analyzer", "word_info"]

_CYRILLIC = regex.compile(r"\p{Cyrillic}")
_ADJECTIVE = regex.compile(r".{2,}(?:ous|ful|less|able|ible|al|ive|ic|ish|ary|ory|ent|ant|ern|like|some|ward)$")

_CLOSED: dict[str, str] = {
    "det": "the a an this that these those some any no every each either neither all both half such another other "
    "my your his her its our their whose what which",
    "pron": "i you he she it we they me him them us who whom myself yourself himself herself itself ourselves "
    "themselves thou thee thy one someone somebody something anyone anybody anything nobody nothing everyone everybody "
    "everything mine yours hers ours theirs there here",
    "aux": "be am is are was were been being have has had having do does did doing will would shall should can could "
    "may might must ought isn't aren't wasn't weren't don't doesn't didn't won't wouldn't can't couldn't hadn't "
    "haven't hasn't shouldn't i'm you're we're they're i've we've i'll i'd he'd it's he's she's that's",
    "prep": "of in on at by for with from to into onto upon over under about above below across after against along "
    "among amid around as before behind beneath beside besides between beyond despite down during except inside near "
    "off out outside per since than through throughout till toward towards until up via within without like",
    "conj": "and or but nor so yet if because while when where whether though although unless lest then as than",
    "adv": "not never very too also just only quite rather almost already always often sometimes again still even now "
    "ever soon once perhaps however therefore thus indeed more most less least much well away back how why",
    "num": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion dozen "
    "several many few",
}
_RUSSIAN = {
    "NOUN": "noun",
    "ADJF": "adj",
    "ADJS": "adj",
    "COMP": "adj",
    "PRTF": "adj",
    "PRTS": "adj",
    "VERB": "verb",
    "INFN": "verb",
    "GRND": "verb",
    "NUMR": "num",
    "ADVB": "adv",
    "PRED": "adv",
    "NPRO": "pron",
    "PREP": "prep",
    "CONJ": "conj",
    "PRCL": "part",
    "INTJ": "part",
}
_FUNCTION = frozenset({"det", "pron", "aux", "prep", "conj", "part"})


@dataclass(frozen=True, slots=True)
class WordInfo:
    """What one word form is: its lemma and the classes it may have (``noun``, ``verb``, ``prep``…)."""

    form: str
    lemma: str
    classes: frozenset[str]

    @property
    def is_function(self) -> bool:
        """Whether it can only be a function word (article, pronoun, preposition, conjunction, particle)."""
        return bool(self.classes) and self.classes <= _FUNCTION

    @property
    def is_capitalised(self) -> bool:
        """Whether it is written with a capital first letter."""
        return self.form[:1].isupper()


@lru_cache(maxsize=131_072)
def word_info(form: str) -> WordInfo:
    """Return the lemma and possible classes of a word form (cached)."""
    if form[:1].isdigit():
        return WordInfo(form, form, frozenset({"num"}))
    if _CYRILLIC.search(form):
        return WordInfo(form, lemma(form), _russian_classes(form))
    return WordInfo(form, lemma(form), _english_classes(form.casefold().replace("’", "'")))


def _russian_classes(form: str) -> frozenset[str]:
    parses = parse_russian(form)
    best = parses[0].score
    return frozenset(
        "det" if "Apro" in parse.tag else _RUSSIAN.get(str(parse.tag.POS), "other")
        for parse in parses
        if parse.score >= 0.25 * best
    )


@cache
def _closed_classes() -> dict[str, frozenset[str]]:
    classes: dict[str, set[str]] = {}
    for name, words in _CLOSED.items():
        for word in words.split():
            classes.setdefault(word, set()).add(name)
    return {word: frozenset(names) for word, names in classes.items()}


def _english_classes(word: str) -> frozenset[str]:
    closed = _closed_classes().get(word)
    if closed is not None:
        return closed
    base = lemma(word)
    forms = english_forms().get(base, frozenset())
    classes: set[str] = set()
    if word.endswith("ly") and len(word) > 4:
        return frozenset({"adv"})
    if any(form.endswith("ing") for form in forms):
        classes.add("verb")
        if word.endswith(("ing", "ed", "en")):
            classes.add("adj")
    graded = any(form.endswith("er") for form in forms) and any(form.endswith("est") for form in forms)
    if _ADJECTIVE.match(word) or graded:
        classes.add("adj")
    past = "verb" in classes and word != base and not word.endswith(("s", "ing"))
    if not past:
        classes.add("noun")
    return frozenset(classes)


@cache
def english_forms() -> Mapping[str, frozenset[str]]:
    """Every English lemma simplemma knows → its forms, both lower-case (about 180,000 forms; built once)."""
    from simplemma.strategies.dictionaries.dictionary_factory import DefaultDictionaryFactory

    forms: dict[str, set[str]] = {}
    for form, base in DefaultDictionaryFactory().get_dictionary("en").items():
        name = base.decode() if isinstance(base, bytes) else str(base)
        word = form.decode() if isinstance(form, bytes) else str(form)
        if word.isalpha() and word.islower() and name.isalpha():
            forms.setdefault(name.lower(), {name.lower()}).add(word)
    return {name: frozenset(words) for name, words in forms.items()}


@cache
def russian_analyzer() -> Any:
    """pymorphy3's analyser (loaded once)."""
    import pymorphy3

    return pymorphy3.MorphAnalyzer()


@lru_cache(maxsize=131_072)
def parse_russian(form: str) -> tuple[Any, ...]:
    """Return pymorphy3's parses of a word form, the likeliest first (cached)."""
    return tuple(russian_analyzer().parse(form))
