"""Sentence boundaries: the hand-marked text, tiling of any text, and cuts of overlong sentences."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperscene_plugin.bench.sentences import joined, read_marked
from hyperscene_plugin.text.sentences import cut_long, sentence_ends

MARKED = read_marked()


@pytest.mark.parametrize("code", sorted(MARKED))
def test_the_hand_marked_sentences_are_found(code: str) -> None:
    wrong = 0
    total = 0
    for paragraph in MARKED[code]:
        text, starts = joined(paragraph)
        wrong += len(set(sentence_ends(text)[:-1]) ^ starts)
        total += len(starts)
    assert wrong <= 0.03 * total


def test_splitting_at_every_full_stop_would_fail_the_marked_text() -> None:
    wrong = 0
    for paragraph in MARKED["en"]:
        text, starts = joined(paragraph)
        naive = {place + 2 for place in range(len(text) - 2) if text[place] in ".!?" and text[place + 1] == " "}
        wrong += len(naive ^ starts)
    assert wrong > 20


@given(st.text(st.sampled_from(list("aAБб1.!?…。 \n\t\"»)—-'")), max_size=60))
@settings(max_examples=300, deadline=None)
def test_ends_rise_and_reach_the_end(text: str) -> None:
    ends = sentence_ends(text)
    assert ends[-1] == len(text)
    assert all(a < b for a, b in pairwise(ends))


@given(st.text(min_size=1, max_size=200), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_cuts_rise_and_reach_the_end(text: str, pieces: int) -> None:
    ends = cut_long(text, 0, len(text), pieces)
    assert ends[-1] == len(text)
    assert len(ends) <= pieces
    assert all(a < b for a, b in pairwise(ends))


def test_cuts_fall_at_clauses_then_words_and_never_in_a_grapheme() -> None:
    clause = "one two three four five, six seven eight nine ten"
    assert clause[: cut_long(clause, 0, len(clause), 2)[0]].endswith("five, ")
    words = "alpha beta gamma delta epsilon zeta eta theta"
    assert all(words[end - 1] == " " for end in cut_long(words, 0, len(words), 3)[:-1])
    accents = "e\u0301" * 30
    assert all(end % 2 == 0 for end in cut_long(accents, 0, len(accents), 4))
