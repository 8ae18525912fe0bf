"""What the pages show runs: each page's Python blocks in order, in one namespace, and its links lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import regex

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("**/*.md")])
WITH_CODE = [page for page in PAGES if "```python\n" in page.read_text(encoding="utf-8")]
BLOCK = regex.compile(r"^```python\n(.*?)^```$", regex.MULTILINE | regex.DOTALL)
LINK = regex.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def run_page(page: Path) -> None:
    """Run the page's blocks; a failing one is reported by the page's own file name and line."""
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        blank_lines = "\n" * text[: block.start(1)].count("\n")
        # Safe: the text is this repository's own pages, reviewed like its code; nothing from outside reaches this line.
        exec(compile(blank_lines + block.group(1), str(page), "exec"), namespace)  # noqa: S102


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYPERSCENE_STORE", str(tmp_path / "scenes.db"))
    run_page(page)


def test_the_pages_of_the_doors_have_code() -> None:
    assert {"docs/langchain.md", "docs/llama-index.md"} <= {name(page) for page in WITH_CODE}


def test_code_that_does_not_run_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n\n```python\nvalue = 1\n```\n\n```text\nnot code\n```\n\n```python\nassert value == 2\n```\n"
    )
    with pytest.raises(AssertionError) as failure:
        run_page(page)
    assert failure.traceback[-1].lineno == 11  # counted from 0: the page's twelfth line
    assert str(failure.traceback[-1].path) == str(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert not broken
