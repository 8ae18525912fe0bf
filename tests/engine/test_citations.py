"""Citations point at the sentence that holds the answer, by exact source span."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hyperscene_plugin.citations import cite
from hyperscene_plugin.text.segment import segment

TEXT = "Anna lives in Oslo. She has a grey cat. Boris lives in Lima. Anna was born in 1990."


def test_the_sentence_with_the_answer_is_cited_by_its_span():
    (first, *_) = cite("Oslo.", segment(TEXT), question="Where does Anna live?")
    assert first.quote == "Anna lives in Oslo."
    assert TEXT[first.start : first.end] == first.quote
    assert first.support == 1.0


def test_the_question_breaks_ties():
    scenes = segment("Boris likes red apples. Anna likes red plums.")
    assert cite("red", scenes, question="What does Anna like?")[0].quote == "Anna likes red plums."
    assert cite("red", scenes, question="What does Boris like?")[0].quote == "Boris likes red apples."


def test_an_answer_no_scene_holds_gets_no_citation():
    assert cite("Nairobi", segment(TEXT)) == ()
    assert cite("", segment(TEXT)) == ()


def test_the_speaker_counts_as_part_of_the_sentence():
    chat = [{"role": "user", "name": name, "content": "I drive a van."} for name in ("Oscar", "Nora")]
    assert cite("a van", segment(chat), question="What does Nora drive?")[0].message_ids == segment(chat)[1].message_ids


def test_an_answer_that_abstains_cites_nothing():
    scenes = segment("I do not know the way. Я не знаю дороги.")
    assert cite("I do not know.", scenes) == ()
    assert cite("Не знаю.", scenes) == ()


def test_inflected_answers_are_found_in_russian():
    scenes = segment("Анна живёт в Москве. Борис уехал в Казань.")
    assert cite("в Москву", scenes)[0].quote == "Анна живёт в Москве."


@given(
    st.lists(st.sampled_from(["Anna lives in Oslo. ", "Rain fell.\n\n", "«Да», — сказал он. ", "x " * 50]), min_size=1)
)
def test_every_quote_is_its_span(parts):
    text = "".join(parts)
    for citation in cite("Oslo rain да x", segment(text, source_id="s"), limit=10):
        assert text[citation.start : citation.end] == citation.quote
