"""compress: the budget is hard, scenes stay whole and in order, every one is accounted for, fallbacks are said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from hyperscene_plugin.errors import BudgetError, EncoderError, InputError
from hyperscene_plugin.text import auto_encoder
from hyperscene_plugin.text.compress import compress, compress_scenes, cut
from hyperscene_plugin.text.index import SceneIndex
from hyperscene_plugin.text.render import render
from hyperscene_plugin.tokens import token_counter
from hyperscene_plugin.types import Document, Message

if TYPE_CHECKING:
    from collections.abc import Sequence

BOOK = "\n\n".join(
    f"Chapter {number} began quietly. The captain of ship {number} counted {number * 7} barrels. "
    f"Nobody on board number {number} slept well. The harbour of Port{number} lay ahead."
    for number in range(30)
)
CHAT = [
    Message("system", "You are a careful assistant.", id="sys"),
    *(
        Message(
            "user",
            f"On trip {number} I bought {number + 3} lamps in Town{number}.",
            name="Nora" if number % 2 else "Liam",
            id=f"m{number}",
            created_at=f"9:15 am on {1 + number // 4} May, 2023",
        )
        for number in range(24)
    ),
]


def _chars(text: str) -> int:
    return len(text)


def _words(text: str) -> int:
    return len(text.split())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 900),
    st.sampled_from([None, "Which ship had 49 barrels?", "Nora lamps Town7", "!!!"]),
    st.sampled_from(["book", "chat", "documents"]),
    st.sampled_from([_chars, _words, "demo"]),
)
def test_never_one_token_over(budget: int, query: str | None, kind: str, tokenizer: object) -> None:
    source = {"book": BOOK, "chat": CHAT, "documents": [Document(BOOK[:900], title="Ships"), Document(BOOK[900:1800])]}
    counter = token_counter(tokenizer)
    try:
        result = compress(source[kind], query, max_tokens=budget, tokenizer=tokenizer, encoder=None)  # type: ignore[arg-type]
    except BudgetError:
        smallest = min(counter.count(render([scene])) for scene in cut(source[kind], tokenizer=counter))  # type: ignore[arg-type]
        event(f"too small, smallest scene fits: {smallest <= budget}")
        assume(smallest > budget)
        return
    assert counter.count(result.text) == result.tokens_after <= budget
    scenes = cut(source[kind], tokenizer=counter)  # type: ignore[arg-type]
    assert len(result.kept) + len(result.dropped) == len(scenes)
    assert all(dropped.reason for dropped in result.dropped)
    order = {scene.key: place for place, scene in enumerate(scenes)}
    places = [order[kept.scene.key] for kept in result.kept]
    assert places == sorted(places)
    assert all(kept.scene.text.strip() in result.text for kept in result.kept)


def test_the_question_decides_what_is_kept() -> None:
    for number in (5, 11, 23):
        result = compress(BOOK, f"Who counted barrels on ship {number}?", max_tokens=60, encoder=None)
        assert f"ship {number} counted" in result.text


def test_everything_fits_so_nothing_is_touched() -> None:
    result = compress(BOOK, "barrels", max_tokens=100_000, encoder=None)
    assert result.text == BOOK
    assert not result.dropped
    assert result.tokens_before == result.tokens_after


def test_the_same_call_gives_the_same_text() -> None:
    first, second = (compress(CHAT, "lamps of Nora", max_tokens=90, encoder=None) for _ in range(2))
    assert first == second


def test_speakers_and_days_are_kept_and_days_shown_once() -> None:
    result = compress(CHAT, "What did Nora buy in Town5 and Town7?", max_tokens=120, encoder=None)
    assert "Nora: On trip 5" in result.text
    assert result.text.count("2 May, 2023") <= 1
    assert "[" in result.text


def test_system_messages_stay_first() -> None:
    result = compress(CHAT, "lamps", max_tokens=40, encoder=None)
    assert "careful assistant" in result.text.splitlines()[0]


def test_tool_output_is_whole_or_absent() -> None:
    output = "\n".join(f"row {number}: {number * number}" for number in range(12))
    chat = [*CHAT[1:8], Message("tool", output, id="tool"), *CHAT[8:16]]
    seen = set()
    for budget in (40, 80, 160, 240):
        text = compress(chat, "row 11 of the table", max_tokens=budget, encoder=None).text
        assert output in text or "row 3: 9" not in text
        seen.add(output in text)
    assert seen == {True, False}


def test_repeated_scenes_are_paid_once() -> None:
    chat = [Message("user", "The code of the gate is 4711.", name="Ann", id=f"m{n}") for n in range(4)]
    chat += [
        Message("user", f"Something else entirely, number {n}, was said.", name="Ann", id=f"x{n}") for n in range(9)
    ]
    result = compress(chat, "What is the code of the gate?", max_tokens=60, encoder=None)
    assert result.text.count("4711") == 1
    assert sum("near-duplicate" in dropped.reason for dropped in result.dropped) == 3


def test_without_a_query_the_selection_is_spread() -> None:
    text = "The river floods every spring near the mill. " * 8 + "Taxes paid for the new bridge in the town. " + BOOK
    result = compress(text, max_tokens=150, encoder=None)
    assert result.text.count("The river floods") <= 1
    assert result.kept


@pytest.mark.parametrize("budget", [0, -3, True, 2.5])
def test_a_budget_that_is_none_is_refused(budget: object) -> None:
    with pytest.raises(BudgetError, match="max_tokens"):
        compress(BOOK, max_tokens=budget, encoder=None)  # type: ignore[arg-type]


def test_a_budget_below_the_smallest_scene_names_its_size() -> None:
    with pytest.raises(BudgetError, match="smaller than the smallest"):
        compress(BOOK, "barrels", max_tokens=2, encoder=None)


def test_nothing_to_compress_is_an_input_error() -> None:
    with pytest.raises(InputError):
        compress("   ", max_tokens=10, encoder=None)
    with pytest.raises(InputError, match="nothing to compress"):
        compress_scenes([], "q", max_tokens=10, encoder=None)


class _Flat:
    name = "flat"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.full((len(texts), 4), 0.5, dtype=np.float32)


def test_a_ready_index_of_another_encoder_is_refused() -> None:
    index = SceneIndex.build(cut(BOOK), encoder=_Flat())
    other = _Flat()
    other.name = "other"
    with pytest.raises(EncoderError, match=r"'flat'.*'other'"):
        compress_scenes(index, "barrels", max_tokens=80, encoder=other)


def test_an_index_without_vectors_says_so() -> None:
    result = compress_scenes(SceneIndex.build(cut(BOOK)), "barrels", max_tokens=80, encoder=_Flat())
    assert any("semantic scores off" in note for note in result.notes)
    assert not compress_scenes(SceneIndex.build(cut(BOOK)), "barrels", max_tokens=80, encoder=None).notes


def test_a_model_that_cannot_be_loaded_is_noted_once_or_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(name: str = "default") -> object:
        raise EncoderError(f"no model {name!r} here. Try another")

    monkeypatch.setattr(auto_encoder, "load_encoder", refuse)
    auto_encoder._automatic.cache_clear()
    try:
        results = [compress(BOOK, "barrels", max_tokens=80) for _ in range(2)]
        with pytest.raises(EncoderError, match="no model 'nowhere'"):
            compress(BOOK, "barrels", max_tokens=80, encoder="nowhere")
    finally:
        auto_encoder._automatic.cache_clear()
    assert all("lexical only" in result.notes[0] for result in results)
    assert sum("lexical only" in record.message for record in caplog.records) == 1
    assert results[0].text == compress(BOOK, "barrels", max_tokens=80, encoder=None).text


def test_a_title_is_shown_only_where_the_text_lacks_it() -> None:
    named = cut([Document("Marta Kell was a director.", title="Marta Kell"), Document("It rains.", title="Weather")])
    assert render(named) == "Marta Kell was a director.\nWeather\nIt rains."


class _LatinOnly:
    name = "latin"
    latin_only = True

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.calls += 1
        return np.ones((len(texts), 4), dtype=np.float32) / 2


def test_an_english_encoder_is_left_out_on_other_scripts_and_that_is_noted() -> None:
    russian = "Анна живёт в Москве и держит кошку. Борис уехал в Казань учиться. Вера поёт в хоре по субботам."
    english = "Anna lives in Moscow and keeps a cat. Boris went to study in Kazan. Vera sings in a choir."
    encoder = _LatinOnly()
    result = compress(russian, "Где живёт Анна?", max_tokens=28, tokenizer="cl100k_base", encoder=encoder)
    assert encoder.calls == 0
    assert any("is English and the text is not" in note for note in result.notes)
    assert "Москве" in result.text
    used = compress(english, "Where does Anna live?", max_tokens=12, tokenizer="cl100k_base", encoder=encoder)
    assert encoder.calls > 0
    assert not used.notes
