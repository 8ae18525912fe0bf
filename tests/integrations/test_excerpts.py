"""Excerpts under one budget: hard for any metadata and separator, spans that reconstruct, identity when all fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperscene_plugin import Document
from hyperscene_plugin.errors import BudgetError, InputError
from hyperscene_plugin.text.excerpts import Excerpts, excerpt_documents
from hyperscene_plugin.text.spans import cut, span_metadata

LIGHTHOUSE = (
    "The storm of 1893 broke the lamp of the lighthouse. Maria Oliveira repaired it with glass from Lisbon. She was "
    "not paid for it, and asked only for her name over the door."
)
FISH = (
    "Fish were plentiful in those years, and the village grew quickly. Three families of net makers settled there. "
    "The price of bread was fixed every autumn by a council of nine, which led to long quarrels among the bakers."
)
SENTENCES = st.sampled_from(
    [LIGHTHOUSE, FISH, "Short one.", "Атлас хранится в железном шкафу.", "| a | b |\n|---|---|"]
)
TEXTS = st.lists(SENTENCES, min_size=0, max_size=4).map("\n\n".join)
DOCUMENTS = st.lists(st.tuples(TEXTS, st.text("ab \n", max_size=40), st.booleans()), min_size=1, max_size=6)


def words(text: str) -> int:
    return len(text.split())


def characters(text: str) -> int:
    return len(text)


@given(
    DOCUMENTS,
    st.integers(1, 400),
    st.sampled_from([words, characters]),
    st.sampled_from(["\n\n", " --- ", ""]),
    st.sampled_from([None, "Who repaired the lamp?"]),
)
def test_the_budget_holds_and_spans_reconstruct(
    rows: list[tuple[str, str, bool]], max_tokens: int, tokenizer: object, separator: str, query: str | None
) -> None:
    documents = [Document(text, title="Lamp" if titled else None) for text, _, titled in rows]
    fixed = [place for place, (text, _, _) in enumerate(rows) if not text.strip()]

    def show(place: int, text: str) -> str:
        return f"{rows[place][1]}\n{text}"

    assert callable(tokenizer)
    try:
        found = excerpt_documents(
            documents,
            query,
            max_tokens=max_tokens,
            tokenizer=tokenizer,
            encoder=None,
            show=show,
            fixed=fixed,
            separator=separator,
        )
    except BudgetError:
        # Only a budget that the fixed documents and the smallest scene overflow may be refused.
        assert tokenizer(separator.join(show(place, rows[place][0]) for place in range(len(rows)))) > max_tokens
        return
    shown = [
        (place, show(place, excerpt.text))
        for place, excerpt in enumerate(found.excerpts)
        if excerpt.spans or place in fixed
    ]
    text = separator.join(part for _, part in shown)
    assert found.result.text == text
    assert tokenizer(text) <= max_tokens
    assert sum(tokenizer(part) for _, part in shown) <= max_tokens
    assert found.result.tokens_after <= max_tokens == found.result.max_tokens
    for document, excerpt in zip(documents, found.excerpts, strict=True):
        assert excerpt.text == "\n".join(document.text[start:end] for start, end in excerpt.spans)
        assert list(excerpt.spans) == sorted(excerpt.spans)
        assert excerpt.tokens_after == tokenizer(excerpt.text)
        assert excerpt.tokens_before == tokenizer(document.text)
    if tokenizer(separator.join(show(place, rows[place][0]) for place in range(len(rows)))) <= max_tokens // 2:
        assert [excerpt.text for excerpt in found.excerpts] == [row[0] for row in rows]


def excerpts(max_tokens: int, query: str | None = "Who repaired the lamp?", padding: str = "") -> Excerpts:
    documents = [Document(FISH), Document(LIGHTHOUSE), Document(FISH.replace("Fish", "Crabs"))]
    return excerpt_documents(
        documents,
        query,
        max_tokens=max_tokens,
        tokenizer=words,
        encoder=None,
        show=lambda place, text: f"{padding}{text}",
    )


def test_everything_that_fits_is_kept_to_the_character() -> None:
    found = excerpt_documents(
        [Document(f"  {FISH}\n\n"), Document(" \n"), Document(LIGHTHOUSE)],
        max_tokens=500,
        tokenizer=words,
        encoder=None,
    )
    assert [excerpt.text for excerpt in found.excerpts] == [f"  {FISH}\n\n", " \n", LIGHTHOUSE]
    assert found.result.tokens_after == found.result.tokens_before
    assert not found.result.dropped


def test_what_the_query_asks_for_is_kept() -> None:
    found = excerpts(40)
    assert "Maria Oliveira" in found.result.text
    assert found.excerpts[0].spans == ()
    assert {item.scene.source_id for item in found.result.kept} == {"1"}


def test_another_query_keeps_something_else() -> None:
    assert "Maria Oliveira" not in excerpts(40, "Who fixed the price of bread?").result.text


def test_what_is_shown_around_a_document_is_paid_for() -> None:
    bare, padded = excerpts(85), excerpts(85, padding="word " * 30)
    assert sum(bool(excerpt.spans) for excerpt in bare.excerpts) > sum(
        bool(excerpt.spans) for excerpt in padded.excerpts
    )
    assert "Maria Oliveira" in padded.result.text


def test_every_scene_is_accounted_for() -> None:
    found = excerpts(40)
    scenes = [item.scene for item in found.result.kept] + [item.scene for item in found.result.dropped]
    covered = sorted((scene.source_id, scene.start, scene.end) for scene in scenes)
    for place, text in enumerate([FISH, LIGHTHOUSE, FISH.replace("Fish", "Crabs")]):
        spans = [(start, end) for source, start, end in covered if source == str(place)]
        assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
        assert spans[-1][1] == len(text)


def test_metadata_that_leaves_no_room_is_an_error() -> None:
    with pytest.raises(BudgetError, match="max_tokens=40"):
        excerpts(40, padding="word " * 60)


def test_fixed_documents_that_leave_no_room_are_an_error() -> None:
    with pytest.raises(BudgetError, match=r"kept whole.*take 39 tokens"):
        excerpt_documents(
            [Document(FISH), Document(LIGHTHOUSE)], max_tokens=20, tokenizer=words, encoder=None, fixed=[0]
        )


def test_no_documents_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one document"):
        excerpt_documents([], max_tokens=20, tokenizer=words, encoder=None)


@given(st.text("abc \n", min_size=1, max_size=40), st.data())
def test_spans_of_a_cut_text_lead_back_to_the_first_text(text: str, data: st.DataObject) -> None:
    def draw(length: int) -> tuple[tuple[int, int], ...]:
        edges = sorted(data.draw(st.sets(st.integers(0, length), min_size=2, max_size=6)))
        return tuple(zip(edges[0::2], edges[1::2], strict=False))

    once = draw(len(text))
    first = cut(text, once)
    metadata = span_metadata(once, 9, 8, text, {})
    twice = draw(len(first))
    again = span_metadata(twice, 8, 5, first, metadata)
    written = str(again["hyperscene_spans"])
    spans = [(int(low), int(high)) for low, high in (span.split("-") for span in written.split(",") if span)]
    joined = "".join(text[low:high] for low, high in spans)
    separators = {place for place, (low, _) in enumerate(once) if place}  # each is one newline of the cut text
    places, place = set(), -1
    for number, (low, high) in enumerate(once):
        if number in separators:
            places.add(place)
        place += high - low + 1
    expected = "".join(first[spot] for low, high in twice for spot in range(low, high) if spot not in places)
    assert joined == expected
    assert (again["hyperscene_tokens_before"], again["hyperscene_tokens_after"]) == (9, 5)


@pytest.mark.parametrize("written", ["0-3", "3-0,4-9", "x", "", "0-2,1-9", 7, "0-99999"])
def test_spans_that_cannot_be_the_texts_are_not_believed(written: object) -> None:
    found = span_metadata(((1, 4),), 9, 5, "some text", {"hyperscene_spans": written, "hyperscene_tokens_before": 70})
    assert found == {"hyperscene_spans": "1-4", "hyperscene_tokens_before": 9, "hyperscene_tokens_after": 5}
