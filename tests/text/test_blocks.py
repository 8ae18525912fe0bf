"""Markdown and plain text → blocks: what is code, a table, a list, a heading, and what only looks like one."""

from __future__ import annotations

import pytest

from hyperscene_plugin.text.markdown import split_blocks
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.types import SceneKind

PROSE, CODE, TABLE, LIST, HEADING = SceneKind.PROSE, SceneKind.CODE, SceneKind.TABLE, SceneKind.LIST, SceneKind.HEADING


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("# A\n\ntext\n", [HEADING, PROSE]),
        ("Title\n=====\n\ntext\n", [HEADING, PROSE]),
        ("CHAPTER IV\n\nText goes on here.\n", [HEADING, PROSE]),
        ("Глава первая\n\nТекст.\n", [HEADING, PROSE]),
        ("Part of me wanted to go\n\nText.\n", [PROSE, PROSE]),
        ("```py\nx = 1\n\ny = 2\n```\nafter\n", [CODE, PROSE]),
        ("~~~\nnever closed\n\nstill code\n", [CODE]),
        ("text:\n\n    x = f(1)\n    return x\n\nmore\n", [PROSE, CODE, PROSE]),
        ("    It was a dark night, and the first line\n    is indented as in old books.\n", [PROSE]),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n\nafter\n", [TABLE, PROSE]),
        ("a | b\n--- | ---\n1 | 2\n", [TABLE]),
        ("either this | or that, he said\nand went\n", [PROSE]),
        ("- milk\n- eggs\n  and flour\n- salt\n", [LIST]),
        ("1. one\n2. two\n\n3. three\n\nafter\n", [LIST, PROSE]),
        ("Buy:\n- milk\n- eggs\n", [PROSE, LIST]),
        ("- Ты откуда?\n\n- Из Твери.\n\n- Ну и ну!\n", [PROSE, PROSE, PROSE]),
        ("— Да! — сказал он.\n— Нет.\n", [PROSE]),
        ("- молоко\n- хлеб\n- соль\n", [LIST]),
        ("- only one item\n", [PROSE]),
    ],
)
def test_blocks_have_their_kind(text: str, kinds: list[SceneKind]) -> None:
    blocks = split_blocks(text)
    assert [block.kind for block in blocks] == kinds
    assert "".join(text[block.start : block.end] for block in blocks) == text


def test_titles_are_the_path_of_headings() -> None:
    blocks = split_blocks("# A\n\n## B\n\none\n\n### C\n\ntwo\n\n## D\n\nthree\n")
    assert [block.title for block in blocks if block.kind is PROSE] == ["A > B", "A > B > C", "A > D"]


def test_long_code_stays_whole_and_huge_code_is_cut_between_lines() -> None:
    code = "```\n" + "".join(f"value_{i} = compute({i})\n" for i in range(150)) + "```\n"
    scenes = segment(f"Before.\n\n{code}\nAfter.\n")
    assert [scene.kind for scene in scenes] == [PROSE, CODE, PROSE]
    cut = segment(code, max_whole_tokens=200)
    assert len(cut) > 3
    assert all(scene.text.endswith("\n") for scene in cut)


def test_no_scene_breaks_inside_a_sentence_that_fits() -> None:
    text = " ".join(f"Sentence number {i} speaks of the same small town by the sea." for i in range(60))
    for scene in segment(text):
        assert scene.text.startswith("Sentence")
        assert scene.text.rstrip().endswith(".")


@pytest.mark.parametrize(
    "line",
    [
        "- a?\n\n",
        "    word word\n\n",
        "<table>\n",
        "| x\n",
        "- да, - сказал он\n",
        "`" * 3 + "\n",
        "x\n---\n",
        "a" * 40,
    ],
)
def test_scanning_is_linear(line: str) -> None:
    """Eight thousand repeats of each construct finish quickly (quadratic scanning would take minutes)."""
    import time

    started = time.process_time()
    blocks = split_blocks(line * 8_000)
    assert blocks[-1].end == len(line) * 8_000
    assert time.process_time() - started < 8
