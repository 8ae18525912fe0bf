"""A Russian word (lower-case letters) → its morphemes, by pymorphy3's grammar and rules of word formation.

First the ending, from the closed list of endings of the word's part of speech; then postfix, prefixes and suffixes,
each taken off only where what remains occurs as the beginning of dictionary words.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from hyperscene_plugin.text.morphology import MorphemeKind
from hyperscene_plugin.text.word_classes import parse_russian, russian_analyzer
from hyperscene_plugin.text.word_lists import longest_first

__all__ = ["split_russian"]

_VOWELS = frozenset("аеёиоуыэюя")

_NOUN_ENDINGS: dict[tuple[str, str], str] = {
    ("nomn", "sing"): "а я о е ё ь",
    ("gent", "sing"): "а я ы и у ю",
    ("datv", "sing"): "у ю е и",
    ("accs", "sing"): "у ю о е ё а я ь",
    ("ablt", "sing"): "ом ем ём ой ей ёй ою ею ёю ью",
    ("loct", "sing"): "е и у ю",
    ("nomn", "plur"): "ы и а я е",
    ("gent", "plur"): "ов ев ёв ей ь",
    ("datv", "plur"): "ам ям",
    ("accs", "plur"): "ы и а я ов ев ёв ей ь е",
    ("ablt", "plur"): "ами ями ьми",
    ("loct", "plur"): "ах ях",
    ("gen2", "sing"): "у ю",
    ("loc2", "sing"): "у ю и",
    ("voct", "sing"): "",
}
_ADJECTIVE_ENDINGS = "ый ий ой ая яя ое ее ёе ые ие ого его ёго ому ему ёму ым им ую юю ою ею ом ем ём ых их ыми ими"
_VERB_ENDINGS = {
    "INFN": "ть ти",
    "past": "а о и",
    "pres": "у ю ешь ёшь ишь ет ёт ит ем ём им ете ёте ите ут ют ат ят",
    "impr": "ите йте ьте и й ь",
}

_PREFIXES = longest_first(
    "сверх супер контр противо микро макро мульти псевдо экстра ультра гипер транс пост анти архи дез интер суб вице",
    "обез обес недо пред пере подо надо разо рас раз ото без бес воз вос изо низ нис пре при про под над вз вс взо вы",
    "до за из ис на не об обо о от по с со у в во роз рос де ре ко экс",
)
_THEMES = longest_first("ова ева ёва ыва ива ва ну а я и е о у ю")
"""What stands between a verb's root and its ending."""
_VERB_SUFFIXES = longest_first("ир из изм ств еств нич ич ифиц к н")
_NOUN_SUFFIXES = longest_first(
    "ост ест ств еств тельств ени ни ти аци яци иц ниц щиц чиц льщик овщик щик чик ник ик ек ёк ок тел тель ист изм из",
    "аж ант ент ор ер ёр атор итор ур ец ц ич ович евич овн евн ушк юшк ышк ишк очк ечк оньк еньк инк онк ёнк енк к ин",
    "изн отн от б щин овк ёвк евк лк льник льн ун ыр ар як ак чак ач ыш ёныш онок ёнок ят ищ зн ир ал",
)
_ADJECTIVE_SUFFIXES = longest_first(
    "ическ еск ск ческ альн ональн тельн льн енн онн янн ян ан ин н ов ев ёв ив лив чив ист ат чат аст оват еват оньк",
    "еньк ешн айш ейш ич уч юч яч ал ен",
)
_NOUN_FROM_ADJECTIVE = longest_first(
    "ическ еск ск ческ альн ональн тельн льн енн онн н ов ев ив лив чив ист ат ин им ем нн"
)
_PARTICIPLE_SUFFIXES = longest_first("ущ ющ ащ ящ вш ш енн ённ нн н т ем ём им ом ен ён")
_GERUND_SUFFIXES = longest_first("вши ши в а я учи ючи")


def split_russian(word: str) -> list[tuple[str, MorphemeKind]]:
    """Return (text, kind) of the morphemes of ``word`` (lower case, letters only); the texts tile it."""
    parse = parse_russian(word)[0]
    pos = str(parse.tag.POS)
    stem, postfix = word, ""
    if pos in ("VERB", "INFN", "GRND", "PRTF") and word.endswith(("ся", "сь")) and len(word) > 4:
        stem, postfix = word[:-2], word[-2:]
    stem, ending = _without_ending(stem, pos, parse.tag, parse)
    pieces = list(_stem_pieces(stem, pos, ending))
    if ending:
        pieces.append((ending, MorphemeKind.ENDING))
    if postfix:
        pieces.append((postfix, MorphemeKind.POSTFIX))
    return pieces


def _without_ending(word: str, pos: str, tag: Any, parse: Any) -> tuple[str, str]:
    for ending in sorted(_endings(pos, tag), key=len, reverse=True):
        stem = word[: -len(ending)]
        if word.endswith(ending) and len(stem) >= 2 - (pos == "NPRO") and _is_stem(stem, ending, pos):
            return stem, ending
    return word, ""


def _endings(pos: str, tag: Any) -> list[str]:
    if "Fixd" in tag:
        return []
    if pos == "NOUN":
        return _NOUN_ENDINGS.get((str(tag.case), str(tag.number)), "").split()
    if pos in ("ADJF", "PRTF"):
        return _ADJECTIVE_ENDINGS.split()
    if pos in ("ADJS", "PRTS"):
        return ["а", "я", "о", "е", "ы", "и"]
    if pos == "INFN":
        return _VERB_ENDINGS["INFN"].split()
    if pos == "VERB":
        kind = "impr" if tag.mood == "impr" else "past" if tag.tense == "past" else "pres"
        return _VERB_ENDINGS[kind].split()
    if pos == "NUMR":
        return ["а", "я", "у", "ю", "и", "ь", "ью", "ух", "ум", "умя", "ёх", "ём", "емя"]
    if pos == "NPRO":
        return ["я", "е", "ё", "и", "у", "ю", "его", "ему", "им", "ем", "ём", "ом", "ими", "их", "ой", "ей", "ою", "ею"]
    return []


def _is_stem(stem: str, ending: str, pos: str) -> bool:
    """Whether a stem can be one: it has a vowel, or the ending opens with one."""
    return any(letter in _VOWELS for letter in stem) or (ending[0] in _VOWELS and len(stem) >= 2)


def _stem_pieces(stem: str, pos: str, ending: str) -> list[tuple[str, MorphemeKind]]:
    """Prefixes, root (or roots with a linking vowel) and suffixes of a stem."""
    rest, suffixes = _without_suffixes(stem, pos)
    prefixes, root = _without_prefixes(rest, stem[len(rest) :] + ending)
    pieces = [(prefix, MorphemeKind.PREFIX) for prefix in prefixes]
    pieces.extend(_roots(root))
    pieces.extend((suffix, MorphemeKind.SUFFIX) for suffix in suffixes)
    return pieces


def _without_suffixes(stem: str, pos: str) -> tuple[str, list[str]]:
    """What is left of a stem, and the suffixes taken off it, in the order they stand."""
    if pos in ("VERB", "INFN"):
        rest, past = _cut(stem, _plain(stem, ("л",)) if pos == "VERB" else None)
        rest, inner = _without_theme(rest)
        return rest, [*inner, *past]
    if pos in ("PRTF", "PRTS", "GRND"):
        group = _GERUND_SUFFIXES if pos == "GRND" else _PARTICIPLE_SUFFIXES
        rest, outer = _cut(stem, _plain(stem, group))
        rest, inner = _without_theme(rest)
        return rest, [*inner, *outer]
    if pos == "NOUN":
        rest, suffixes = _derived(stem, _NOUN_SUFFIXES, 3)
        rest, more = _derived(rest, _NOUN_FROM_ADJECTIVE, 2)
        rest, inner = _without_theme(rest) if [*more, *suffixes][:1] in _AFTER_THEME else (rest, [])
        return rest, [*inner, *more, *suffixes]
    if pos in ("ADJF", "ADJS", "COMP", "ADVB"):
        rest, outer = _cut(stem, _plain(stem, ("о", "е", "и"))) if pos == "ADVB" else (stem, [])
        rest, suffixes = _derived(rest, _ADJECTIVE_SUFFIXES, 2)
        rest, more = _derived(rest, _NOUN_SUFFIXES, 2) if suffixes else (rest, [])
        rest, inner = _without_theme(rest) if [*more, *suffixes][:1] in _AFTER_THEME else (rest, [])
        return rest, [*inner, *more, *suffixes, *outer]
    return stem, []


_AFTER_THEME = [
    ["ни"],
    ["тел"],
    ["тель"],
    ["тельн"],
    ["тельств"],
    ["лк"],
    ["льник"],
    ["льн"],
    ["льщик"],
    ["нн"],
    ["ти"],
]


def _cut(stem: str, suffix: str | None) -> tuple[str, list[str]]:
    return (stem[: -len(suffix)], [suffix]) if suffix else (stem, [])


def _plain(stem: str, group: tuple[str, ...]) -> str | None:
    """The longest suffix of ``group`` that leaves a possible stem; grammar alone vouches for it."""
    for suffix in group:
        base = stem[: -len(suffix)]
        if stem.endswith(suffix) and len(base) >= 2 and any(letter in _VOWELS for letter in base):
            return suffix
    return None


def _without_theme(stem: str) -> tuple[str, list[str]]:
    """Take off a verb's thematic suffix (and a derivational one before it) where a root with a vowel remains."""
    for theme in _THEMES:
        base = stem[: -len(theme)]
        if not stem.endswith(theme) or len(base) < 2:
            continue
        core = _bare(base)
        if len(theme) > 1 and not any(letter in _VOWELS for letter in core):
            continue
        if not any(letter in _VOWELS for letter in core) and len(core) < 2:
            continue
        if base[-1] in _VOWELS and theme not in ("ва",):
            continue
        for suffix in _VERB_SUFFIXES:
            root = base[: -len(suffix)]
            if base.endswith(suffix) and len(_bare(root)) >= 2 and _is_base(root, base):
                deeper, inner = (root, []) if suffix != "ир" else _cut(root, _checked(root, ("из", "ифиц")))
                return deeper, [*inner, suffix, theme]
        return base, [theme]
    return stem, []


def _bare(stem: str) -> str:
    """The stem without what looks like its longest prefix."""
    for prefix in _PREFIXES:
        if stem.startswith(prefix) and len(stem) - len(prefix) >= 2:
            return stem[len(prefix) :]
    return stem


def _derived(stem: str, group: tuple[str, ...], most: int) -> tuple[str, list[str]]:
    suffixes: list[str] = []
    while len(suffixes) < most:
        suffix = _checked(stem, group)
        if suffix is None:
            break
        suffixes.insert(0, suffix)
        stem = stem[: -len(suffix)]
    return stem, suffixes


def _checked(stem: str, group: tuple[str, ...]) -> str | None:
    """The longest suffix of ``group`` that ends ``stem`` and leaves a base that other dictionary words have."""
    for suffix in group:
        base = stem[: -len(suffix)]
        if not stem.endswith(suffix) or len(base) < 3 or not any(letter in _VOWELS for letter in base):
            continue
        if base[-1] in "ьъ" and not _known_word(base):
            continue
        if _is_base(base, stem):
            return suffix
    return None


_BASE_ENDINGS = (
    "", "а", "я", "о", "е", "ь", "ы", "и", "ый", "ий", "ой", "ать", "ять", "ить", "еть", "ти", "ок", "ка", "ец", "ия",
    "ие", "ный", "ский", "овый", "нуть", "ывать", "ивать", "овать", "й",
)  # fmt: skip


@lru_cache(maxsize=65_536)
def _is_base(base: str, stem: str) -> bool:
    """Whether ``base`` with some ending is a dictionary word that does not merely continue as ``stem`` does."""
    known = russian_analyzer().word_is_known
    for variant in _variants(base):
        for ending in _BASE_ENDINGS:
            candidate = variant + ending
            if len(candidate) >= 3 and not candidate.startswith(stem) and known(candidate):
                return True
    return False


_SOFTENED = {"ч": "кц", "ж": "гдз", "ш": "хс", "щ": "ст", "ц": "к", "з": "г"}


def _variants(base: str) -> list[str]:
    """The base as it is, and with the commonest alternations of its last consonant undone."""
    variants = [base]
    variants.extend(base[:-1] + letter for letter in _SOFTENED.get(base[-1], ""))
    if base.endswith("щ"):
        variants.append(base[:-1] + "ст")
    if base.endswith(("бл", "пл", "вл", "мл", "фл")):
        variants.append(base[:-1])
    return variants


def _without_prefixes(rest: str, tail: str) -> tuple[list[str], str]:
    prefixes: list[str] = []
    while len(prefixes) < 3:
        prefix = _first_prefix(rest, tail)
        if prefix is None:
            break
        prefixes.append(prefix)
        rest = rest[len(prefix) :]
    return prefixes, rest


@lru_cache(maxsize=65_536)
def _first_prefix(rest: str, tail: str) -> str | None:
    """The longest prefix whose remainder is a word of its own or takes other prefixes too."""
    for prefix in _PREFIXES:
        if rest.startswith(prefix + "ъ"):  # the hard sign only separates: «подъ|езд»
            prefix += "ъ"
        root = rest[len(prefix) :]
        if not rest.startswith(prefix) or len(root) < 2 or not _can_be_root(root, bool(tail)):
            continue
        word = root + tail
        if root[0] == "ы":
            word = "и" + word[1:]
        needed = 2 if len(prefix) <= 2 else 1
        if (len(prefix) > 2 and _known_word(word)) or _known_word(word) + _num_prefixed(word, prefix) >= needed:
            return prefix
    return None


@lru_cache(maxsize=65_536)
def _num_prefixed(word: str, but: str) -> int:
    """How many other prefixes (three at most are looked for) make dictionary words with ``word``."""
    found = 0
    for prefix in _PREFIXES:
        if prefix != but and len(prefix) <= 4 and _known_word(prefix + word):
            found += 1
            if found == 3:
                break
    return found


def _can_be_root(root: str, has_tail: bool) -> bool:
    return any(letter not in _VOWELS and letter not in "ьъй" for letter in root) and (
        has_tail or any(letter in _VOWELS for letter in root)
    )


@lru_cache(maxsize=65_536)
def _known_word(word: str) -> bool:
    return len(word) >= 3 and bool(russian_analyzer().word_is_known(word))


def _roots(root: str) -> list[tuple[str, MorphemeKind]]:
    """One root, or two joined by a linking vowel where both occur in the dictionary."""
    if len(root) >= 7:
        for place in range(3, len(root) - 3):
            first, link, second = root[:place], root[place], root[place + 1 :]
            possible = link in "ое" and first[-1] not in _VOWELS and second[0] not in "ьъ"
            if possible and _is_base(first, root) and _is_base(second, root):
                return [(first, MorphemeKind.ROOT), (link, MorphemeKind.LINK), (second, MorphemeKind.ROOT)]
    return [(root, MorphemeKind.ROOT)] if root else []
