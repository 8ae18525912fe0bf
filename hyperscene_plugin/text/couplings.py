"""Scenes → couplings: the words of each scene grouped into units of meaning of one to six words.

Dates and numbers with units come from patterns, entities from capitals, collocations from the statistics of the
text itself, verb + object and adjective + noun from word classes. Where two overlap, the surer kind wins; every word
is in exactly one coupling (a word that joins no other is a coupling of one).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import regex

from hyperscene_plugin.text.collocations import find_collocations
from hyperscene_plugin.text.lemmas import iter_words
from hyperscene_plugin.text.quantities import date_spans, quantity_spans
from hyperscene_plugin.text.word_classes import WordInfo, parse_russian, word_info
from hyperscene_plugin.text.word_lists import word_set
from hyperscene_plugin.types import Scene, SceneKind

__all__ = ["MAX_WORDS", "Coupling", "CouplingKind", "find_couplings"]

MAX_WORDS = 6

_JOINING_GAP = regex.compile(r"[\s_*]+|\s?[-‐‑]\s?|\.\s+|['’]")
_TITLE = word_set("mr mrs ms dr prof st sir lord lady capt col gen г-н г-жа князь граф")
_LINK = word_set("of the de la von van der den du da di del фон де ван")
_NO_OBJECT = word_set(
    "be seem become appear look remain stand sit lie go come get grow keep say reply answer cry ask exclaim whisper",
    "shout быть стать становиться",
)
"""Verbs whose next noun phrase is a complement or, after speech, the speaker."""


class CouplingKind(StrEnum):
    """Why the words belong together, the surest first."""

    DATE = "date"
    NUMBER_UNIT = "number_unit"
    ENTITY = "entity"
    COLLOCATION = "collocation"
    VERB_OBJECT = "verb_object"
    NOUN_PHRASE = "noun_phrase"
    WORD = "word"


@dataclass(frozen=True, slots=True)
class Coupling:
    """``scene.text[start:end]`` is one unit of meaning of ``num_words`` words; ``key`` is its lemmas."""

    start: int
    end: int
    kind: CouplingKind
    num_words: int
    key: str


@dataclass(frozen=True, slots=True)
class _Token:
    start: int
    end: int
    info: WordInfo
    opens: bool
    """Whether a sentence or line may start here, so that a capital says little."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    first: int
    last: int
    kind: CouplingKind
    score: float = 0.0


def find_couplings(scenes: Sequence[Scene]) -> list[list[Coupling]]:
    """Return each scene's couplings in order: they do not overlap and every word is in one.

    Collocations are learned over all ``scenes`` together, so hand in a whole text at once.
    """
    tokens = [_tokens(scene.text) for scene in scenes]
    stretches = [_stretches(scene.text, scene_tokens) for scene, scene_tokens in zip(scenes, tokens, strict=True)]
    names = _names(tokens)
    found: list[list[_Candidate]] = [[] for _ in scenes]
    for place, spans in enumerate(stretches):
        found[place].extend(_pattern_candidates(scenes[place].text, tokens[place]))
        if scenes[place].kind is SceneKind.CODE:
            continue
        for first, last in spans:
            found[place].extend(_entities(scenes[place].text, tokens[place], first, last, names))
            found[place].extend(_phrases(tokens[place], first, last))
    for place, candidate in _collocations(tokens, stretches):
        found[place].append(candidate)
    return [_cover(scene_tokens, candidates) for scene_tokens, candidates in zip(tokens, found, strict=True)]


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    before = 0
    for word, start, end in iter_words(text):
        gap = text[before:start]
        opens = not tokens or any(mark in gap for mark in '.!?…:\n"“«—–') or gap.strip() in ("-", "--")
        tokens.append(_Token(start, end, word_info(word), opens))
        before = end
    return tokens


def _stretches(text: str, tokens: list[_Token]) -> list[tuple[int, int]]:
    """Runs of tokens (first, last) with nothing between them but blanks, hyphens and the dots of initials."""
    spans: list[tuple[int, int]] = []
    first = 0
    for place in range(1, len(tokens) + 1):
        if place < len(tokens):
            before = tokens[place - 1]
            gap = text[before.end : tokens[place].start]
            if "\n\n" not in gap and _JOINING_GAP.fullmatch(gap) and ("." not in gap or _takes_dot(before.info)):
                continue
        if place > first:
            spans.append((first, place))
        first = place
    return spans


def _takes_dot(info: WordInfo) -> bool:
    return (len(info.form) == 1 and info.is_capitalised) or info.form.casefold() in _TITLE


def _pattern_candidates(text: str, tokens: list[_Token]) -> Iterable[_Candidate]:
    starts = {token.start: place for place, token in enumerate(tokens)}
    for kind, spans in ((CouplingKind.DATE, date_spans(text)), (CouplingKind.NUMBER_UNIT, quantity_spans(text))):
        for start, end in spans:
            first = starts.get(start)
            if first is None:
                continue
            last = first + 1
            while last < len(tokens) and tokens[last].end <= end:
                last += 1
            if last - first <= MAX_WORDS and tokens[last - 1].end <= end and last - first > 1:
                yield _Candidate(first, last, kind, last - first)


def _names(tokens: list[list[_Token]]) -> frozenset[str]:
    """Forms written with a capital inside sentences, and mostly so."""
    capital: Counter[str] = Counter()
    small: Counter[str] = Counter()
    for scene in tokens:
        for token in scene:
            if token.info.form.islower():
                small[token.info.form] += 1
            elif token.info.is_capitalised and not token.opens:
                capital[token.info.form.casefold()] += 1
    return frozenset(form for form, count in capital.items() if count > small[form])


def _entities(text: str, tokens: list[_Token], first: int, last: int, names: frozenset[str]) -> Iterable[_Candidate]:
    """Runs of capitalised words, joined by links (``of``, ``de``…) and led by titles."""
    place = first
    while place < last:
        if not _is_name(tokens[place], names):
            place += 1
            continue
        end = place + 1
        while end < last and end - place < MAX_WORDS:
            if _is_name(tokens[end], names, inside=True):
                end += 1
                continue
            linked = end + 1
            while linked < last and linked - end < 2 and tokens[linked].info.form in _LINK:
                linked += 1
            if (
                (linked == end + 1 and tokens[end].info.form not in _LINK)
                or linked >= last
                or linked - place >= MAX_WORDS
            ):
                break
            if not _is_name(tokens[linked], names, inside=True):
                break
            end = linked + 1
        if end - place > 1:
            yield _Candidate(place, end, CouplingKind.ENTITY, end - place)
        place = end


def _is_name(token: _Token, names: frozenset[str], *, inside: bool = False) -> bool:
    form = token.info.form
    if not token.info.is_capitalised or form == "I":
        return False
    if token.info.is_function and form.casefold() not in names:
        return False
    known = form.casefold() in names or form.casefold() in _TITLE
    return inside or not token.opens or known or (_is_cyrillic(form) and _is_russian_name(form))


def _is_russian_name(form: str) -> bool:
    """Whether pymorphy3's likeliest reading is a first name, patronymic, surname or place."""
    tag = parse_russian(form)[0].tag
    return any(name in tag for name in ("Name", "Patr", "Surn", "Geox"))


def _phrases(tokens: list[_Token], first: int, last: int) -> Iterable[_Candidate]:
    """Verb + object and adjective + noun, read off the word classes."""
    for place in range(first, last):
        info = tokens[place].info
        if "verb" in info.classes and info.lemma not in _NO_OBJECT and _is_verb_here(tokens, place, first):
            end = _object_end(tokens, place + 1, last)
            if end is not None:
                yield _Candidate(place, end, CouplingKind.VERB_OBJECT, end - place)
        if "adj" in info.classes and _is_adjective_here(tokens, place, first):
            end = _noun_end(tokens, place, last)
            if end is not None and end - place > 1:
                yield _Candidate(place, end, CouplingKind.NOUN_PHRASE, end - place)


def _is_verb_here(tokens: list[_Token], place: int, first: int) -> bool:
    info = tokens[place].info
    if "noun" not in info.classes and "adj" not in info.classes:
        return True
    followed = place + 1 < len(tokens) and "det" in tokens[place + 1].info.classes
    if followed and "noun" not in info.classes:
        return True
    if place == first:
        return False
    before = tokens[place - 1].info
    return before.form.casefold() == "to" or bool(before.classes & {"pron", "aux", "adv"}) or before.is_capitalised


def _is_adjective_here(tokens: list[_Token], place: int, first: int) -> bool:
    """A form that may be a verb counts as an adjective only behind an article, a preposition or an adjective."""
    if "verb" not in tokens[place].info.classes:
        return True
    return place > first and bool(tokens[place - 1].info.classes & {"det", "prep", "adj", "num"})


def _object_end(tokens: list[_Token], place: int, last: int) -> int | None:
    """End of the noun phrase that starts at ``place`` and can be an object."""
    start = place
    while place < last and place - start < 2 and tokens[place].info.classes & {"det", "num"}:
        place += 1
    end = _noun_end(tokens, place, last)
    if end is None or end - start + 1 > MAX_WORDS:
        return None
    head = tokens[end - 1].info
    if _is_cyrillic(head.form):
        return end if _can_be_accusative(head.form) else None
    return end if place > start or head.classes == {"noun"} else None


def _can_be_accusative(noun: str) -> bool:
    """Whether a Russian noun form can be an object: not where it can as well be an animate subject."""
    tags = [parse.tag for parse in parse_russian(noun)]
    accusative = any(tag.case == "accs" for tag in tags)
    subject = any(tag.case == "nomn" and tag.animacy == "anim" for tag in tags)
    return accusative and not subject


def _noun_end(tokens: list[_Token], place: int, last: int) -> int | None:
    """End of (adjective)* noun at ``place``."""
    start = place
    while place < last and place - start < 3:
        info = tokens[place].info
        is_last = place + 1 >= last or "noun" not in tokens[place + 1].info.classes
        if "noun" in info.classes and ("adj" not in info.classes or is_last):
            return place + 1 if place == start or _agree(tokens[place - 1].info.form, info.form) else None
        if "adj" not in info.classes:
            return None
        place += 1
    return None


def _agree(adjective: str, noun: str) -> bool:
    if not (_is_cyrillic(adjective) and _is_cyrillic(noun)):
        return True
    cases = {parse.tag.case for parse in parse_russian(adjective)}
    return bool(cases & {parse.tag.case for parse in parse_russian(noun)} - {None})


def _is_cyrillic(form: str) -> bool:
    return "а" <= form[:1].casefold() <= "ё"


def _collocations(
    tokens: list[list[_Token]], stretches: list[list[tuple[int, int]]]
) -> Iterable[tuple[int, _Candidate]]:
    places: list[tuple[int, int]] = []
    sequences: list[list[tuple[str, bool]]] = []
    for scene, spans in enumerate(stretches):
        for first, last in spans:
            places.append((scene, first))
            sequences.append([(token.info.lemma, token.info.is_function) for token in tokens[scene][first:last]])
    for span in find_collocations(sequences, max_words=MAX_WORDS):
        scene, first = places[span.sequence]
        yield scene, _Candidate(first + span.first, first + span.last, CouplingKind.COLLOCATION, span.score)


def _cover(tokens: list[_Token], candidates: list[_Candidate]) -> list[Coupling]:
    """Take candidates, the surest kind and then the best score first, and fill the rest with single words."""
    order = {kind: place for place, kind in enumerate(CouplingKind)}
    taken: dict[int, _Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: (order[c.kind], -c.score, c.first)):
        if not any(place in taken for place in range(candidate.first, candidate.last)):
            taken.update(dict.fromkeys(range(candidate.first, candidate.last), candidate))
    couplings: list[Coupling] = []
    place = 0
    while place < len(tokens):
        chosen = taken.get(place, _Candidate(place, place + 1, CouplingKind.WORD))
        words = tokens[chosen.first : chosen.last]
        key = " ".join(word.info.lemma for word in words)
        couplings.append(Coupling(words[0].start, words[-1].end, chosen.kind, len(words), key))
        place = chosen.last
    return couplings
