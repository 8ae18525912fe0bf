"""An English word (lower-case letters) → its morphemes, by simplemma's dictionary and rules of word formation.

The ending first (plural and verbal ``-s``, ``-ed``, ``-ing``, ``-er``/``-est`` of adjectives), where the lemma shows
one; then suffixes and prefixes, each taken off only where what remains is a dictionary word, allowing for the usual
changes of spelling (``retir(e)|ing``, ``happi|ness`` from *happy*, ``stopp|ed``); then compounds of two known words.
"""

from __future__ import annotations

from functools import lru_cache

import regex

from hyperscene_plugin.text.lemmas import lemma
from hyperscene_plugin.text.morphology import MorphemeKind
from hyperscene_plugin.text.word_classes import english_forms, word_info
from hyperscene_plugin.text.word_lists import longest_first, shortest_first, word_set

__all__ = ["split_english"]

_VOWELS = frozenset("aeiouy")
_ENDINGS = ("ing", "est", "ed", "s", "es", "er")

_SUFFIXES = shortest_first(
    "ness less ful ship hood dom ment ish ism ist ize ise ify able ible ability ibility al ial ical ic ity ty ly y ive",
    "ative ous ious eous ance ence ancy ency ant ent ate ation ition ion ary ery ory age en er or ee eer ess ette ward",
    "wards wise like some fold most th an ian ese let ling ster ure ing ed",
)
_OPEN_PREFIXES = word_set(
    "counter inter trans under super hyper micro macro multi ultra pseudo semi anti auto fore over post non out mis",
    "dis pre sub un re",
)
"""Prefixes that still form new words freely; the others need a longer remainder."""
_PREFIXES = longest_first(" ".join(_OPEN_PREFIXES), "extra intra self con com mid de in im il ir en em ex co up be a")
_IRREGULAR_STEMS: dict[str, tuple[str, ...]] = {
    "cept": ("ceive",), "scrip": ("scribe",), "duc": ("duce",), "vis": ("vise", "vide"), "cis": ("cide",),
    "sump": ("sume",), "miss": ("mit",), "tens": ("tend",), "pens": ("pend",), "fens": ("fend",), "clus": ("clude",),
    "lus": ("lude",), "plica": ("ply",), "fica": ("fy",), "claim": ("claim",), "clama": ("claim",), "ens": ("end",),
}  # fmt: skip
"""Latin stems before ``-ion``, ``-ive``, ``-ory`` and what they are at the end of the verb."""


def split_english(word: str) -> list[tuple[str, MorphemeKind]]:
    """Return (text, kind) of the morphemes of ``word`` (lower case, ASCII letters only); the texts tile it."""
    stem, ending = _without_ending(word)
    pieces = list(_stem(stem, 0))
    if ending:
        pieces.append((ending, MorphemeKind.ENDING))
    return pieces


def _without_ending(word: str) -> tuple[str, str]:
    """Stem and inflectional ending, where the lemma and the rules of spelling agree on one."""
    if len(word) < 3:
        return word, ""
    base = lemma(word)
    for ending in _ENDINGS:
        stem = word[: -len(ending)]
        if not word.endswith(ending) or len(stem) < 2 or not _VOWELS & set(stem):
            continue
        restored = _restored(stem)
        if ending in ("er", "est"):
            if (base != word and base in restored) or any(_is_graded(candidate) for candidate in restored):
                return stem, ending
        elif ending in ("s", "es"):
            if base != word and base in _singulars(stem, ending):
                return stem, ending
        elif base in restored or (base == word and any(_is_verb(candidate) for candidate in restored)):
            return stem, ending
    return word, ""


def _singulars(stem: str, ending: str) -> list[str]:
    """What ``stem`` is without the plural ending: ``boxes`` box, ``studies`` study, ``wives`` wife."""
    if ending == "s":
        return [stem, stem[:-2] + "f", stem[:-2] + "fe"] if stem.endswith("ve") else [stem]
    return [stem, stem[:-1] + "y"] if stem.endswith("i") else [stem]


def _is_graded(base: str) -> bool:
    """Whether ``base`` is an adjective or adverb with a comparative and a superlative of its own."""
    forms = _forms(base)
    return any(form.endswith("er") for form in forms) and any(form.endswith("est") for form in forms)


def _forms(base: str) -> frozenset[str]:
    return english_forms().get(base, frozenset())


def _is_verb(base: str) -> bool:
    return any(form.endswith("ing") for form in _forms(base))


def _restored(stem: str) -> list[str]:
    """What ``stem`` may be as a word of its own: itself, with ``e``, ``y`` for ``i``, without a doubled consonant."""
    words = [stem, stem + "e"]
    if stem.endswith("i"):
        words.append(stem[:-1] + "y")
    if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in _VOWELS:
        words.append(stem[:-1])
    return words


def _stem(stem: str, depth: int) -> list[tuple[str, MorphemeKind]]:
    """Prefixes, roots and suffixes of a stem, cut as the word it is spelled for (``retir`` as *retire*)."""
    if depth > 6 or len(stem) < 4 or _is_closed(stem):
        return [(stem, MorphemeKind.ROOT)]
    if not _is_word(stem):
        for word in _restored(stem)[1:]:
            if _is_word(word) and word != stem:
                return _respelled(_stem(word, depth + 1), stem)
    suffix = _last_suffix(stem)
    if suffix is not None:
        return [*_stem(stem[: -len(suffix)], depth + 1), (suffix, MorphemeKind.SUFFIX)]
    prefix = _first_prefix(stem)
    if prefix is not None:
        return [(prefix, MorphemeKind.PREFIX), *_stem(stem[len(prefix) :], depth + 1)]
    place = _compound(stem)
    if place:
        return [*_stem(stem[:place], depth + 1), *_stem(stem[place:], depth + 1)]
    return [(stem, MorphemeKind.ROOT)]


def _respelled(pieces: list[tuple[str, MorphemeKind]], stem: str) -> list[tuple[str, MorphemeKind]]:
    """The pieces of the full word with the spelling of ``stem``, which differs at its very end only."""
    *before, (_, kind) = pieces
    start = sum(len(text) for text, _ in before)
    if start >= len(stem):  # the dropped letter was a suffix of its own
        return [*before[:-1], (stem[start - len(before[-1][0]) :], before[-1][1])] if before else [(stem, kind)]
    return [*before, (stem[start:], kind)]


@lru_cache(maxsize=65_536)
def _last_suffix(stem: str) -> str | None:
    """The shortest suffix that leaves a known word, so that ``national|ize`` comes off before ``nation|al``."""
    for suffix in _SUFFIXES:
        base = stem[: -len(suffix)]
        if not stem.endswith(suffix) or len(base) < 3 or not _VOWELS & set(base):
            continue
        words = [word for word in _derivation_bases(base, suffix) if _is_word(word) and not _is_closed(word)]
        if suffix in ("er", "or", "ee", "able", "ible", "ment", "ing", "ed") or (len(base) == 3 and suffix in _WEAK):
            words = [word for word in words if _is_verb(word) or (suffix == "en" and _is_graded(word))]
        if suffix == "y" and _is_verb(stem):
            continue
        if words:
            return suffix
    return None


_WEAK = word_set("en al an ic age ant ent ure ion ate ity ous ive ory ese")
"""Suffixes that many short words only seem to end in."""


def _derivation_bases(base: str, suffix: str) -> list[str]:
    """Words ``base`` may stand for before ``suffix``."""
    if suffix in ("th", "ing", "ed", "ty", "most", "fold", "y"):
        return [base, base + "e"] if suffix == "y" else [base]
    words = [word for word in _restored(base) if word + suffix != base]
    if suffix in ("ion", "ive", "or", "ory", "ure"):
        words.append(base + "e")
        if base.endswith("s"):  # collision: collide; extension: extend; permission: permit
            words.extend(base.rstrip("s") + ending for ending in ("d", "de", "t"))
        if base.endswith("ut"):  # solution: solve
            words.append(base[:-2] + "ve")
        for latin, endings in _IRREGULAR_STEMS.items():
            if base.endswith(latin):
                words.extend(base[: -len(latin)] + ending for ending in endings)
    if suffix in ("ation", "ative", "able", "ance", "ant", "ic", "al", "ize", "ise", "ist", "ism", "ify", "ity", "ous"):
        words.extend([base + "y", base + "e", base + "ate"])
    if suffix in ("ly",) and base.endswith("b"):
        words.append(base + "le")
    if suffix in ("ity",) and base.endswith(("abil", "ibil")):
        words.append(base[:-2] + "le")
    if suffix in ("ce", "cy", "ence", "ance", "ency", "ancy"):
        words.extend([base + suffix[:-2] + "t", base + "e", base])
    if suffix in ("an", "ian"):
        words.extend([base + "a", base + "ia", base + "e", base + "y"])
    return words


def _first_prefix(stem: str) -> str | None:
    for prefix in _PREFIXES:
        rest = stem[len(prefix) :]
        least = 3 if prefix in _OPEN_PREFIXES else 4
        if prefix == "a":
            least = 4
        if stem.startswith(prefix) and len(rest) >= least and any(_is_word(word) for word in (rest, rest + "e")):
            return prefix
    return None


_SHORT_PARTS = word_set(
    "sun man men day way out off sea eye air car boy bed box sky ice bar any one how end top pot tea fly bag ear arm",
    "war law net web hot red dry low six ten two all fog gun cup hat dog cow pig egg",
)


def _compound(stem: str) -> int:
    """Where a compound of two words joins (three letters only for the commonest), or 0."""
    for place in sorted(range(3, len(stem) - 2), key=lambda place: abs(2 * place - len(stem))):
        parts = stem[:place], stem[place:]
        if all(_is_word(part) and (len(part) > 3 or part in _SHORT_PARTS) for part in parts):
            return place
    return 0


_ADJECTIVE = regex.compile(r".{3,}(?:ous|ful|less|able|ible|al|ive|ic|ish|ary|ory|ent|ant|ate|ar|some|like)$")


_FUNCTION_WORDS = word_set(
    "about after again any before both down every from here in into more never none off one other out over self some",
    "there through under up all how upon what when where which who with within without even ever",
)
"""Those that compounds are made of (``without``, ``however``)."""


@lru_cache(maxsize=65_536)
def _is_word(word: str) -> bool:
    """Whether ``word`` is a dictionary word: one with other forms, an adjective by its look, or a function word.

    The dictionary's many rare entries without any other form are left out: they would vouch for wrong cuts.
    """
    if len(word) < 3:
        return False
    forms = _forms(word)
    return len(forms) > 1 or (bool(forms) and _ADJECTIVE.match(word) is not None) or word in _FUNCTION_WORDS


@lru_cache(maxsize=65_536)
def _is_closed(word: str) -> bool:
    return word_info(word).is_function
