"""A paragraph → the offsets at which its sentences end, in any language, by punctuation and abbreviation rules.

English and Russian have abbreviation lists, initials, dialogue dashes and speech tags; German, French, Spanish and
Italian the commonest abbreviations; Chinese, Japanese, Hindi, Arabic, Armenian, Burmese and others their own stops.
``python -m hyperscene_plugin.bench.sentences`` compares it with splitters from PyPI.
"""

from __future__ import annotations

import regex

from hyperscene_plugin.text.word_lists import word_set

__all__ = ["cut_long", "sentence_ends"]

_CLOSERS = "\"'”’»›)\\]}*_`"
_STOP = regex.compile(
    r"[。！？｡．]+[」』）】〉》”’\"']*\s*"
    rf"|(?P<stop>[.!?…‽؟۔।॥։።။។]+)(?P<close>[^\S\n]»|(?:[{_CLOSERS}]|\[\d{{1,3}}\]|\d{{1,2}}(?=\s+\p{{Lu}}))*)"
    r"(?:(?P<gap>\s+)|(?=[-–—]\s?\p{Lu}))"
    r"|(?<=[^\s\p{P}])\s*\n(?=[^\n:]{1,30}:\s)"
)
_OPENERS = regex.compile(r"[\"'“„‘«‹(\[{*_`¿¡\s]*(?P<dash>[-–—]+\s*)?[\"'“„‘«‹(\[{*_¿¡]*")
_AFTER_SENTENCE = regex.compile(r"[!?…:]$|\p{L}{4,}\.$")
_LAST_WORD = regex.compile(r"[\p{L}\p{M}\p{N}.\-'’]+$")
_NEVER_LAST = word_set(
    # titles and forms of address
    "mr mrs ms messrs mme mlle dr prof st sr jr gen col maj capt cpt lt sgt cmdr adm gov sen rep rev hon pres",
    "fr br supt insp det sec treas msgr pvt cpl",
    # references, always before what they refer to
    "vs v cf viz al eg ie e.g i.e i.a op vol vols fig figs eq eqs ch chap sect art ed eds trans ref refs ca approx",
    # addresses and places
    "mt ft ave blvd rd",
    # Russian: titles, places, references
    "г-н г-жа гг гр тов проф акад доц ген полк кап ред им ул пр просп пер пл наб бул ш обл респ пос дер см ср напр",
    "рис табл илл гл стр изд св лат англ фр нем греч букв собств т.е т.н т.к т.о и.о в.и о-в р-н",
    # German, French, Spanish, Italian
    "z.b d.h u.a bzw ggf evtl vgl hr nr str bspw sog inkl zzgl m.e s.o",
    "m mm cie env av sra srta dña d ud uds sig sigg dott ing avv",
    # months
    "jan feb apr aug sept oct nov dec янв февр авг сент окт нояб дек",
)
_BEFORE_DIGIT = word_set("no nos nr p pp pt art par § № с стр п пп ст гл рис табл т тт вып ок")
_AFTER_DIGIT = word_set(
    "г гг в вв руб коп тыс млн млрд трлн кг км см мм м ч мин сек экз чел шт р л лет h hrs min kg km cm mm lb lbs oz"
)
_MAY_END = word_set("etc usw u.s.w ecc т.д т.п т.ч др пр проч")
"""Ends a sentence where a capital follows."""
_ENDS_BEFORE_STARTER = word_set(
    "inc ltd co corp bros a.m p.m am pm u.s u.k u.n e.u d.c b.c a.d ph.d b.a m.a m.d jr esq"
)
"""Ends a sentence only where one of ``_STARTERS`` follows: «the U.S. Senate», «in the U.S. He»."""
_STARTERS = word_set(
    "the a an this that these those he she it they we i you his her its their our my your in on at but and so then",
    "there when while after before if as no not what who why how where for with from by to once now here yet however",
)
_MONTHS = word_set("januar februar märz april mai juni juli august september oktober november dezember jahrhundert jh")
_ONE_LETTER_WORDS = frozenset("я")


def sentence_ends(text: str, start: int = 0, end: int | None = None) -> list[int]:
    """Return the end offset of every sentence in ``text[start:end]``; the last is ``end``.

    Whitespace after a sentence belongs to it, so the sentences tile the span.
    """
    end = len(text) if end is None else end
    ends: list[int] = []
    for match in _STOP.finditer(text, start, end):
        if match.end() < end and (not match.group("stop") or _ends_sentence(text, match, start, end)):
            ends.append(match.end())
    if not ends or ends[-1] < end:
        ends.append(end)
    return ends


def _ends_sentence(text: str, match: regex.Match[str], start: int, end: int) -> bool:
    stop, close = match.group("stop"), match.group("close")
    opening = _OPENERS.match(text, match.end(), end)
    place = opening.end() if opening else match.end()
    following = text[place : place + 1] if place < end else ""
    if not following:
        return True
    if opening and opening.group("dash") and following.islower():
        return False  # «— Да! — сказал он.»: the words of the author go on
    if following.islower():
        return False
    if stop != ".":
        return not (stop.startswith("..") or stop == "…") or not following.isdigit() or bool(close)
    if close:
        return True
    return not _is_abbreviation(text, match.start(), start, place, following)


def _is_abbreviation(text: str, dot: int, start: int, place: int, following: str) -> bool:
    """Whether the full stop at ``dot`` belongs to the word before it and not to the sentence."""
    found = _LAST_WORD.search(text, max(start, dot - 24), dot)
    if found is None:
        return False
    word = found.group().lstrip("'’-.")
    folded = word.casefold()
    before = text[max(start, found.start() - 12) : found.start()].rstrip(" \t'’-.")
    opens = text[max(start, found.start() - 12) : found.start()].rstrip()
    if not word:
        return False
    if word.isdigit():
        if not opens or _AFTER_SENTENCE.search(opens):
            return len(word) <= 3  # «1. Item»
        return len(word) <= 2 and _word_at(text, place) in _MONTHS
    if folded in _AFTER_DIGIT and (before[-1:].isdigit() or _is_roman(before)):
        return following.isdigit() or folded in ("тыс", "млн", "млрд", "трлн", "руб")
    if folded in _MAY_END:
        return following.isdigit() and folded in ("др", "пр")
    if folded in _ENDS_BEFORE_STARTER:
        return _word_at(text, place) not in _STARTERS
    if folded in _NEVER_LAST:
        return True
    if len(word) == 1 and word.isupper():
        return True  # an initial
    if folded in _BEFORE_DIGIT:
        return following.isdigit() or _is_roman(text[place : place + 4]) or (len(word) == 1 and word.islower())
    if "." in word and len(folded.rpartition(".")[2]) == 1:
        return len(word) <= 3  # «J.R. Smith» against «made in the U.S.S.R. Then»
    return len(word) == 1 and word.isalpha() and folded not in _ONE_LETTER_WORDS


def _word_at(text: str, place: int) -> str:
    end = place
    while end < len(text) and end - place < 24 and text[end].isalpha():
        end += 1
    return text[place:end].casefold()


def _is_roman(text: str) -> bool:
    last = text.split()[-1:] or [""]
    return bool(last[0]) and all(char in "IVXLCХ" for char in last[0].strip(".,"))


_CLAUSE = regex.compile(r"[;:,，、；：]+[\"'”’»)\]]*\s+|[，、；：]|\s[-–—]+\s|(?<=\p{L})--+(?=\p{L})|\n")
_SPACE = regex.compile(r"\s+")
_CLUSTER = regex.compile(r"\X")


def cut_long(text: str, start: int, end: int, pieces: int) -> list[int]:
    """Return ``pieces`` end offsets (fewer where impossible) that cut ``text[start:end]`` into like-sized parts.

    Cuts fall after the clause mark nearest the even place, else after a space, else between two grapheme clusters.
    """
    ends: list[int] = []
    left = start
    for remaining in range(pieces, 1, -1):
        size = (end - left) / remaining
        ideal = left + size
        low, high = max(left + 1, int(ideal - 0.35 * size)), min(end - 1, int(ideal + 0.25 * size))
        cut = _nearest(_CLAUSE, text, low, high, ideal) or _nearest(_SPACE, text, low, high, ideal)
        cut = cut or _cluster_cut(text, left, end, int(ideal))
        if cut is None or cut >= end:
            break
        ends.append(cut)
        left = cut
    ends.append(end)
    return ends


def _nearest(pattern: regex.Pattern[str], text: str, low: int, high: int, ideal: float) -> int | None:
    places = [match.end() for match in pattern.finditer(text, low, high) if match.end() <= high]
    return min(places, key=lambda place: abs(place - ideal)) if places else None


def _cluster_cut(text: str, left: int, end: int, ideal: int) -> int | None:
    """The first boundary of a grapheme cluster at or after ``ideal``, looking back a little for where one starts."""
    place = max(left, ideal - 16)
    while place < end:
        match = _CLUSTER.match(text, place, end)
        place = match.end() if match else place + 1
        if place >= ideal:
            return place
    return None
