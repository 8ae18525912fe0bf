"""Cues ask for what a passage says: the answer is left out, whole, from the right scene, and the same each time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperscene_plugin.text.cues import make_cues
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.text.word_classes import word_info
from hyperscene_plugin.types import Scene

ENGLISH = (
    "Anna Berg moved to Oslo on 12 March 1998. She keeps a grey parrot, and the parrot sleeps in the kitchen.",
    "The bridge is 340 metres long. Locker number 7661 belongs to Ivan.",
    "It was not there. Oscar repairs old clocks in Lima.",
)
RUSSIAN = (
    "Анна Берг переехала в Осло 12 марта 1998 года. У неё живёт серый попугай, и попугай спит на кухне.",
    "Мост имеет длину 340 метров. Шкафчик номер 7661 принадлежит Ивану.",
)


def scenes_of(texts: tuple[str, ...]) -> list[Scene]:
    scenes, at = [], 0
    for number, text in enumerate(texts):
        scenes.append(Scene(text, "doc", at, at + len(text), number))
        at += len(text)
    return scenes


@pytest.mark.parametrize("texts", [ENGLISH, RUSSIAN])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_answer_is_of_the_scene_and_not_in_the_question(texts: tuple[str, ...], seed: int) -> None:
    scenes = scenes_of(texts)
    cues = make_cues(scenes, seed=seed)
    assert {cue.scene for cue in cues} == set(range(len(texts)))
    for cue in cues:
        assert cue.answer in scenes[cue.scene].text
        words = cue.question.rstrip("?").split()[1:]
        spoken = scenes[cue.scene].text
        assert words, cue
        assert all(word in spoken for word in words), cue
        # a word may stand twice in a sentence: then the question keeps the other one
        assert spoken.count(cue.answer) > 1 or f" {cue.answer} " not in f" {' '.join(words)} ", cue
        assert cue.question.endswith("?")


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (ENGLISH, ("12 March 1998", "340 metres", "7661", "Oslo", "Oscar", "Lima")),
        (RUSSIAN, ("12 марта 1998 года", "340 метров", "7661", "Анна Берг", "Осло", "Ивану")),
    ],
)
def test_dates_numbers_and_names_are_whole_answers(texts: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    answers = [cue.answer for cue in make_cues(scenes_of(texts))]
    for answer in wanted:
        assert any(answer in found for found in answers), answers
    for digits in ("1998", "340", "12"):
        assert digits not in answers


def test_question_words_are_of_the_text_s_script() -> None:
    for texts, known in ((ENGLISH, {"What", "Who", "Where", "When", "Which"}), (RUSSIAN, {"Что", "Кто", "Где"})):
        first = {cue.question.split()[0] for seed in range(4) for cue in make_cues(scenes_of(texts), seed=seed)}
        assert known <= first
        assert len(first) == 5


@pytest.mark.parametrize("texts", [ENGLISH, RUSSIAN])
def test_function_words_are_never_asked_for(texts: tuple[str, ...]) -> None:
    for cue in make_cues(scenes_of(texts)):
        assert not all(word_info(word.casefold()).is_function for word in cue.answer.split()), cue


def test_the_same_seed_gives_the_same_and_another_one_another() -> None:
    scenes = scenes_of(ENGLISH)
    assert make_cues(scenes, seed=3) == make_cues(scenes, seed=3)
    assert make_cues(scenes, seed=3) != make_cues(scenes, seed=4)
    assert {c.answer for c in make_cues(scenes, seed=3)} == {c.answer for c in make_cues(scenes, seed=4)}


def test_a_few_cues_cover_every_sentence_with_what_is_surest_first() -> None:
    scenes = scenes_of(ENGLISH)
    whole = make_cues(scenes)
    for most in range(len(whole) + 2):
        assert make_cues(scenes, most=most) == whole[:most]
    first = whole[:6]  # six sentences, "It was not there." has nothing to ask for
    assert [cue.scene for cue in sorted(first[:5], key=lambda cue: cue.scene)] == [0, 0, 1, 1, 2]
    assert any(cue.answer in ("12 March 1998", "Anna Berg", "Oslo") for cue in first[:5])
    assert any(cue.answer in ("340 metres", "340 metres long") for cue in first[:5])


def test_other_clauses_are_left_out_but_for_the_subject() -> None:
    scenes = scenes_of(("Boris Lund moved to Rome, bought seven boats and painted them green.",))
    cue = next(cue for cue in make_cues(scenes) if "green" in cue.answer)
    assert "Boris Lund" in cue.question
    assert "boats" not in cue.question


def test_nothing_to_ask_gives_no_cues() -> None:
    assert make_cues([]) == []
    for text in ("", "   \n\n", "!!! ... ---", "It was.", "Oslo.", "и не"):
        assert make_cues([Scene(text, "doc", 0, len(text), 0)]) == []


@given(st.text(max_size=120), st.integers(0, 5))
def test_any_text_gives_cues_that_hold(text: str, most: int) -> None:
    scenes = segment(text) if text.strip() else []
    cues = make_cues(scenes, most=most)
    assert len(cues) <= most
    for cue in cues:
        assert cue.answer.strip()
        assert cue.answer in scenes[cue.scene].text
        assert len(cue.question.split()) > 1
