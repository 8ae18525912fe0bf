"""TextAssembler: pieces join to the text cut at the first stop string, whatever the token boundaries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hyperscene_plugin.model.streaming import TextAssembler


def decode(ids):
    return bytes(ids).decode("utf-8", errors="replace")


def assemble(text, stop):
    assembler = TextAssembler(decode, stop)
    pieces = []
    for token in text.encode():
        pieces.append(assembler.push(token))
        if assembler.stopped:
            break
    pieces.append(assembler.finish())
    return pieces, assembler


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_pieces_join_to_the_text_before_the_first_stop(text, stop):
    pieces, assembler = assemble(text, tuple(stop))
    ends = [text.find(word) for word in stop if word in text]
    # the stop that completes first wins; the text is cut where it begins
    prefixes = (text[:length] for length in range(len(text) + 1))
    first = next((p for p in prefixes if any(word in p for word in stop)), None)
    expected = text if first is None else first[: min(first.find(word) for word in stop if word in first)]
    assert "".join(pieces) == assembler.text == expected
    assert assembler.stopped == bool(ends)


def test_a_cut_character_is_never_shown():
    pieces, _ = assemble("é€𝄞", ())
    assert [piece for piece in pieces if piece] == ["é", "€", "𝄞"]


def test_a_possible_stop_is_held_back_until_it_is_none():
    pieces, _ = assemble("ab<c", ("<|",))
    assert pieces == ["a", "b", "", "<c", ""]


def test_invalid_bytes_at_the_end_are_shown_as_replacement():
    assembler = TextAssembler(decode)
    assert assembler.push(0xE2) == ""
    assert assembler.finish() == "\ufffd"
