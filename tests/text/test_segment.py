"""Sources of every kind → scenes that tile them; blocks stay whole, messages are never joined."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperscene_plugin.demo
from hyperscene_plugin.errors import InputError
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.types import Document, Message, Scene, SceneKind

SAMPLE = Path(hyperscene_plugin.demo.__file__).parent / "samples" / "the-time-machine.en.md"

anything = st.text(st.characters(exclude_categories=["Cs"]))
lines = st.lists(
    st.sampled_from(
        ["# Head", "## Two", "", "", "- item", "* item", "1. one", "2. two", "```", "~~~py", "| a | b |", "|---|---|",
         "    code()", "\tx = 1", "Hello. World!", "— Да! — сказал он. — Иду.", "- А?", "Mr. X. Y. Ran.", "---", "===",
         "<table>", "</table>", "中文。还有！", "\0\0", "  ", "a\u2028b", "é́́", "word " * 60, "x" * 300]
    )
)  # fmt: skip


def tiles(scenes: list[Scene], text: str) -> None:
    assert "".join(scene.text for scene in scenes) == text
    assert [scene.start for scene in scenes] == [0, *(scene.end for scene in scenes[:-1])]
    assert all(scene.text == text[scene.start : scene.end] for scene in scenes)
    assert [scene.index for scene in scenes] == list(range(len(scenes)))


@given(anything.filter(str.strip))
@settings(max_examples=300, deadline=None)
def test_scenes_of_any_text_concatenate_to_it(text: str) -> None:
    tiles(segment(text), text)


@given(lines, st.sampled_from(["\n", "\r\n", "\r"]))
@settings(max_examples=120, deadline=None)
def test_scenes_of_any_markdown_concatenate_to_it(parts: list[str], newline: str) -> None:
    text = newline.join(parts)
    if text.strip():
        tiles(segment(text), text)
        tiles(segment(text, max_tokens_per_scene=5, target_tokens=4, max_whole_tokens=8), text)


@given(st.lists(anything, max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_scene_never_spans_two_messages(contents: list[str]) -> None:
    scenes = segment([Message("user", content) for content in contents])
    for place, content in enumerate(contents):
        own = [scene for scene in scenes if scene.message_ids == (f"m{place}",)]
        if content.strip():
            tiles(own, content)
        else:
            assert own == []


def test_a_book_gives_a_thousand_scenes_in_60k_tokens() -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    scenes = segment(text)
    tiles(scenes, text)
    assert 800 <= len(scenes) * 60_000 / 40_000 <= 1_400
    assert "Time Machine" in str(scenes[40].title)


def test_lone_surrogates_and_bytes_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"character 2 is the lone surrogate U\+D800"):
        segment("ab\ud800")
    with pytest.raises(InputError, match="bytes"):
        segment(b"abc")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="blank"):
        segment(" \n ")
    with pytest.raises(InputError, match="cannot read a float"):
        segment(1.5)  # type: ignore[arg-type]
    assert segment([]) == []


def test_message_forms_meet() -> None:
    class ChatMessage:
        role = "assistant"
        content = "Hi."

    scenes = segment(
        [
            Message("user", "Hello.", name="Ann", id="a7", created_at="2024-05-01"),
            {"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "image_url"}],
             "timestamp": datetime(2024, 5, 2, tzinfo=UTC)},
            ChatMessage(),  # type: ignore[list-item]
            {"role": "tool", "content": "line. one\n\nline. two\n" * 40, "id": 5},
        ],
        source_id="chat",
    )  # fmt: skip
    assert [scene.message_ids for scene in scenes] == [("a7",), ("m1",), ("m2",), ("5",)]
    assert [scene.speaker for scene in scenes] == ["Ann", "user", "assistant", "tool"]
    assert scenes[0].created_at == "2024-05-01"
    assert scenes[1].created_at == "2024-05-02T00:00:00+00:00"
    assert scenes[1].metadata["omitted_parts"] == 1
    assert scenes[3].kind is SceneKind.TOOL
    assert {scene.source_id for scene in scenes} == {"chat"}


def test_document_forms_meet() -> None:
    class Node:
        metadata = {"title": "T", "pages": [1, 2]}  # noqa: RUF012
        node_id = "n1"

        def get_content(self) -> str:
            return "# Part\n\nText."

    nodes = [Node(), {"page_content": "Second."}, Document("Third.", id="d3"), Document("Again.", id="d3")]
    scenes = segment(nodes)  # type: ignore[arg-type]
    assert [scene.source_id for scene in scenes[:2]] == ["n1", "n1"]
    assert scenes[1].title == "T > Part"
    assert scenes[1].metadata == {"title": "T", "pages": "[1, 2]"}
    assert [scene.source_id for scene in scenes[3:]] == ["d3", "d3~2"]
    assert len({scene.key for scene in scenes}) == len(scenes)
