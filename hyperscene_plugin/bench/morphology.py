"""Annotated words → precision, recall and F1 of morpheme and ending boundaries, ours beside the libraries' (JSON last).

    python -m hyperscene_plugin.bench.morphology --data DIR

``DIR`` holds ``morphemes.en.sentences.dev.tsv`` (SIGMORPHON 2022: a sentence and its canonical morphemes, ``@@``
joining them) and ``morphemes.ru.words.dev.txt`` (words with typed morphemes, ``END`` is the ending). Baselines:
Morfessor 2 trained on the dictionaries the rules use, the Snowball stemmers, and the lemma (simplemma, pymorphy3) as
the stem. Morfessor and Snowball are needed for the comparison only: ``pip install morfessor snowballstemmer``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.text.lemmas import lemma
from hyperscene_plugin.text.morphology import MorphemeKind, Morphemes, split_word
from hyperscene_plugin.text.word_classes import english_forms, parse_russian, russian_analyzer

__all__ = ["Cut", "align", "main", "read_english", "read_russian"]

_ENGLISH_ENDINGS = frozenset({"s", "ed", "ing", "est", "es"})
_MORFESSOR_WORDS = 6_000


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a word is cut: all inner boundaries, and the one its ending starts at (``None``: it has none)."""

    boundaries: frozenset[int]
    ending: int | None


Splitter = Callable[[str], Cut]


def align(word: str, morphemes: list[str]) -> tuple[int, ...] | None:
    """Cut ``word`` into as many pieces as there are canonical morphemes, each as like its morpheme as can be.

    Least total edit distance, a change in a later morpheme (an affix) weighing a little more than one in the first;
    ``es`` counts as a spelling of ``s``.
    ``None`` where a piece would be empty or shares fewer than half its letters with its morpheme.
    """
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(0, 0): (0.0, ())}
    for index, morpheme in enumerate(morphemes):
        for end in range(1, len(word) + 1):
            options = [
                (best[index, start][0] + cost * (1 + 0.01 * index), (*best[index, start][1], end))
                for start in range(end)
                if (index, start) in best
                and (cost := _distance(word[start:end], morpheme)) <= max(1, len(morpheme) // 2)
                and cost < max(len(morpheme), end - start)
            ]
            if options:
                best[index + 1, end] = min(options)
    found = best.get((len(morphemes), len(word)))
    return found[1][:-1] if found is not None else None


def _distance(a: str, b: str) -> int:
    if (a, b) == ("es", "s"):
        return 0
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def read_english(path: Path) -> tuple[dict[tuple[str, Cut], None], int]:
    """Return the distinct (word, cut) pairs of the file, and how many words could not be aligned."""
    gold: dict[tuple[str, Cut], None] = {}
    skipped: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        sentence, canonical = line.split("\t")
        groups: list[list[str]] = []
        for piece in canonical.split(" "):
            if piece.startswith("@@") and groups:
                groups[-1].append(piece[2:])
            else:
                groups.append([piece])
        words = sentence.split(" ")
        if len(words) != len(groups):
            skipped.add(sentence)
            continue
        for word, morphemes in zip(words, groups, strict=True):
            if not (word.isascii() and word.isalpha() and len(word) > 1):
                continue
            cuts = align(word.lower(), [morpheme.lower() for morpheme in morphemes])
            if cuts is None or (len(morphemes) == 1 and word.lower() != morphemes[0].lower()):
                skipped.add(word)
                continue
            ending = cuts[-1] if cuts and morphemes[-1] in _ENGLISH_ENDINGS else None
            gold[word.lower(), Cut(frozenset(cuts), ending)] = None
    return gold, len(skipped)


def read_russian(path: Path) -> dict[tuple[str, Cut], None]:
    """Return the (word, cut) pairs of the file."""
    gold: dict[tuple[str, Cut], None] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        word, analysis = line.split("\t")[:2]
        place, ending, boundaries = 0, None, set()
        for piece in analysis.split("/"):
            text, kind = piece.split(":")
            boundaries.add(place)
            if kind == "END":
                ending = place
            place += len(text)
        if place == len(word):
            gold[word, Cut(frozenset(boundaries - {0}), ending)] = None
    return gold


def _ours(language: str) -> Splitter:
    def split(word: str) -> Cut:
        return _cut_of(split_word(word, language))

    return split


def _cut_of(morphemes: Morphemes) -> Cut:
    starts = frozenset(part.start for part in morphemes.parts if part.start)
    endings = [part.start for part in morphemes.parts if part.kind is MorphemeKind.ENDING and part.start]
    return Cut(starts, endings[-1] if endings else None)


def _snowball(language: str) -> Splitter:
    import snowballstemmer

    stemmer = snowballstemmer.stemmer(language)

    def split(word: str) -> Cut:
        return _prefix_cut(word, str(stemmer.stemWord(word)))

    return split


def _lemma_cut(word: str) -> Cut:
    return _prefix_cut(word, lemma(word))


def _paradigm_cut(word: str) -> Cut:
    """pymorphy3 alone: what all forms of the lexeme share is the stem."""
    forms = [form.word for form in parse_russian(word)[0].lexeme]
    shared = word
    for form in forms:
        shared = shared[: _shared(shared, form)]
    return _prefix_cut(word, shared)


def _prefix_cut(word: str, stem: str) -> Cut:
    shared = _shared(word, stem)
    return Cut(frozenset({shared}), shared) if 0 < shared < len(word) else Cut(frozenset(), None)


def _shared(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _morfessor(words: Iterable[str], count: int, seed: int) -> Splitter:
    """Morfessor 2 (recursive training) on a sample of the dictionary; its last piece stands for the ending."""
    import morfessor

    sample = sorted(words)
    random.Random(seed).shuffle(sample)
    model: Any = morfessor.BaselineModel(corpusweight=1.0)
    model.load_data([(1, word) for word in sample[:count]])
    random.seed(seed)
    model.train_batch(finish_threshold=0.01)

    def split(word: str) -> Cut:
        pieces = model.viterbi_segment(word)[0]
        places: list[int] = []
        for piece in pieces[:-1]:
            places.append((places[-1] if places else 0) + len(piece))
        return Cut(frozenset(places), places[-1] if places else None)

    return split


def _scores(gold: Iterable[tuple[str, Cut]], split: Splitter) -> dict[str, float]:
    right = found = wanted = ending_right = ending_found = ending_wanted = exact = count = 0
    for word, expected in gold:
        got = split(word)
        right += len(got.boundaries & expected.boundaries)
        found += len(got.boundaries)
        wanted += len(expected.boundaries)
        if not word.endswith("er"):  # the English data does not tell comparatives from agents
            ending_right += got.ending is not None and got.ending == expected.ending
            ending_found += got.ending is not None
            ending_wanted += expected.ending is not None
        exact += got.boundaries == expected.boundaries
        count += 1
    return {
        **_prf("", right, found, wanted),
        **_prf("ending_", ending_right, ending_found, ending_wanted),
        "words_exact": round(exact / max(1, count), 4),
    }


def _prf(prefix: str, right: int, found: int, wanted: int) -> dict[str, float]:
    precision, recall = right / max(1, found), right / max(1, wanted)
    f1 = 2 * precision * recall / max(1e-12, precision + recall)
    return {f"{prefix}precision": round(precision, 4), f"{prefix}recall": round(recall, 4), f"{prefix}f1": round(f1, 4)}


def main(arguments: list[str] | None = None) -> None:
    """Print the table and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with the two annotated files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--morfessor-words", type=int, default=_MORFESSOR_WORDS, help="dictionary words it learns from")
    parser.add_argument("--no-morfessor", action="store_true", help="skip the slowest baseline")
    options = parser.parse_args(arguments)
    english, russian = (
        options.data / name for name in ("morphemes.en.sentences.dev.tsv", "morphemes.ru.words.dev.txt")
    )
    for path in (english, russian):
        if not path.is_file():
            raise InputError(f"{path}: no such file; --data names the folder that holds it")
    english_gold, skipped = read_english(english)
    russian_gold = read_russian(russian)
    systems: list[tuple[str, str, Splitter]] = [
        ("en", "ours", _ours("en")),
        ("en", "simplemma lemma", _lemma_cut),
        ("en", "snowball", _snowball("english")),
        ("ru", "ours", _ours("ru")),
        ("ru", "pymorphy3 paradigm", _paradigm_cut),
        ("ru", "snowball", _snowball("russian")),
    ]
    if not options.no_morfessor:
        words = (form for forms in english_forms().values() for form in forms)
        systems.append(("en", "morfessor", _morfessor(words, options.morfessor_words, options.seed)))
        known = set(_russian_words(3 * options.morfessor_words, options.seed))
        systems.append(("ru", "morfessor", _morfessor(known, options.morfessor_words, options.seed)))
    print(f"en: {len(english_gold):,} distinct words, {skipped:,} left out (no alignment); ru: {len(russian_gold):,}")
    print(f"{'':24}{'boundaries  P / R / F1':>26}{'endings  P / R / F1':>26}{'exact':>8}")
    results: dict[str, dict[str, dict[str, float]]] = {"en": {}, "ru": {}}
    for language, name, split in sorted(systems, key=lambda system: system[0]):
        scores = _scores(english_gold if language == "en" else russian_gold, split)
        results[language][name] = scores
        columns = [scores[key] for key in ("precision", "recall", "f1")]
        endings = [scores[f"ending_{key}"] for key in ("precision", "recall", "f1")]
        print(
            f"{language} {name:21}{' / '.join(f'{x:.3f}' for x in columns):>26}"
            f"{' / '.join(f'{x:.3f}' for x in endings):>26}{scores['words_exact']:>8.3f}"
        )
    print(json.dumps({"bench": "morphology", "skipped_en": skipped, "results": results}, ensure_ascii=False))


def _russian_words(count: int, seed: int) -> list[str]:
    """Every so-manyeth word form of pymorphy3's dictionary, ``count`` in all, in a seeded order."""
    words: list[str] = []
    for place, parse in enumerate(russian_analyzer().iter_known_word_parses()):
        if place % 50 == seed % 50 and "-" not in parse.word:
            words.append(parse.word)
        if len(words) >= count:
            break
    random.Random(seed).shuffle(words)
    return words


if __name__ == "__main__":
    main()
