"""Words → morphemes: known words by hand, tiling of any word, and the bench's alignment."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperscene_plugin.bench.morphology import align
from hyperscene_plugin.text.morphology import detect_language, split_word


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("walked", "walk|ed"),
        ("Houses", "House|s"),
        ("boxes", "box|es"),
        ("stopped", "stopp|ed"),
        ("happiness", "happi|ness"),
        ("nationalization", "nation|al|iz|ation"),
        ("unbelievable", "un|believ|able"),
        ("manhunt", "man|hunt"),
        ("biggest", "bigg|est"),
        ("series", "series"),
        ("was", "was"),
        ("water", "water"),
    ],
)
def test_english_words(word: str, expected: str) -> None:
    assert str(split_word(word, "en")) == expected


@pytest.mark.parametrize(
    ("word", "expected", "marked"),
    [
        ("книгами", "книг|ами", "книг·ами"),
        ("Переплывавшийся", "Пере|плы|ва|вш|ий|ся", "Переплывавш·ийся"),
        ("подъезд", "подъ|езд", "подъезд"),
        ("учительница", "уч|и|тель|ниц|а", "учительниц·а"),
        ("необходимость", "необход|им|ост|ь", "необходимост·ь"),
        ("столами", "стол|ами", "стол·ами"),
        ("водопровод", "вод|о|провод", "водопровод"),
        ("пальто", "пальто", "пальто"),
        ("читаю", "чит|а|ю", "чита·ю"),
    ],
)
def test_russian_words(word: str, expected: str, marked: str) -> None:
    found = split_word(word, "ru")
    assert str(found) == expected
    assert found.marked == marked


def test_other_languages_lose_only_their_ending() -> None:
    assert split_word("Häuser", "de").texts in (("Häuser",), ("Häus", "er"))
    assert split_word("hablamos", "es").ending == "mos"
    assert split_word("слово", "und").texts == ("слово",)


@given(st.text(max_size=14), st.sampled_from(["en", "ru", "de", "und"]))
@settings(max_examples=150, deadline=None)
def test_the_morphemes_of_any_string_tile_it(word: str, language: str) -> None:
    found = split_word(word, language)
    assert "".join(found.texts) == word
    assert all(part.start < part.end for part in found.parts)


@given(st.text(st.sampled_from("аеиоубвгдклмнпрстчшщьъйяю"), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_the_morphemes_of_any_russian_letters_tile_them(word: str) -> None:
    assert "".join(split_word(word, "ru").texts) == word


def test_languages_are_told_apart() -> None:
    assert detect_language("It was the best of times, it was the worst of times, and it was late.") == "en"
    assert detect_language("Все счастливые семьи похожи друг на друга, и это не так уж плохо.") == "ru"
    assert detect_language("Der Mann ging in das Haus und er war nicht allein mit dem Hund.") == "de"
    assert detect_language("12345 !!!") == "und"


def test_alignment_finds_surface_boundaries_of_canonical_morphemes() -> None:
    assert align("nominated", ["nominate", "ed"]) == (7,)
    assert align("stories", ["story", "s"]) == (5,)
    assert align("retiring", ["re", "tire", "ing"]) == (2, 5)
    assert align("walk", ["walk"]) == ()
    assert align("went", ["go", "ed"]) is None
