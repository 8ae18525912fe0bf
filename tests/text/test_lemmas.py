"""Inflected forms meet; scripts without spaces become bigrams; offsets point into the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperscene_plugin.text.lemmas import content_lemmas, iter_words, lemma, lemmatize


@pytest.mark.parametrize(
    ("form", "other"),
    [("ships", "ship"), ("Анной", "Анна"), ("книгами", "книга"), ("Caroline's", "caroline"), ("went", "go")],
)
def test_inflected_forms_share_a_lemma(form: str, other: str) -> None:
    assert lemma(form) == lemma(other)


def test_different_words_keep_different_lemmas() -> None:
    assert len({lemma(word) for word in ("ship", "sheep", "Анна", "Иван")}) == 4


def test_unspaced_scripts_become_bigrams() -> None:
    assert lemmatize("東京都") == ["東京", "京都"]


@given(st.text(max_size=200))
def test_offsets_point_at_the_words(text: str) -> None:
    for word, start, end in iter_words(text):
        assert text[start:end] == word


@given(st.text(max_size=200))
def test_lemmatize_agrees_with_word_by_word(text: str) -> None:
    spaced = [word for word, _, _ in iter_words(text)]
    if all(char.isascii() for char in text):
        assert lemmatize(text) == [lemma(word) for word in spaced]


def test_function_words_do_not_ask_for_anything() -> None:
    assert content_lemmas("What did the captains do in Oslo?") == ["captain", "oslo"]
    assert content_lemmas("Где была книга?") == ["книга"]
    assert content_lemmas("Who is he?") == lemmatize("Who is he?")
