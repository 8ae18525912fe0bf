"""Chosen scenes → the text a model reads: source order, speakers, dates once a day, titles once a document."""

from __future__ import annotations

from typing import TYPE_CHECKING

import regex

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hyperscene_plugin.types import Scene

__all__ = ["body", "day", "header", "render"]

_DAY = regex.compile(
    r"\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{4}/\d{1,2}/\d{1,2}"
    r"|\d{1,2}(?:st|nd|rd|th)?\s+\p{L}{3,}\.?,?\s+\d{4}|\p{L}{3,}\.?\s+\d{1,2}(?:st|nd|rd|th)?,?\s+\d{4}"
)


def day(created_at: str | None) -> str | None:
    """Return the day in a time as written (``2023-05-08``, ``8 May, 2023``), or all of it if none is seen."""
    if not created_at:
        return None
    match = _DAY.search(created_at)
    return match.group() if match else created_at.strip()


def header(scene: Scene) -> str | None:
    """Return the line that a scene's run starts with: its day in brackets, its title, or nothing."""
    date = day(scene.created_at)
    title = scene.title
    if title and " ".join(title.split()).casefold() in " ".join(scene.text.split()).casefold():
        title = None
    if date and title:
        return f"[{date}] {title}"
    return f"[{date}]" if date else title


def body(scene: Scene, previous: Scene | None = None) -> str:
    """Return a scene's text, with its speaker in front unless ``previous`` is the same message's scene before it."""
    text = scene.text.strip()
    same_message = previous is not None and scene.message_ids == previous.message_ids
    if not scene.speaker or (same_message and previous is not None and previous.source_id == scene.source_id):
        return text
    return f"{scene.speaker}: {text}"


def render(scenes: Sequence[Scene]) -> str:
    """Return the text of ``scenes`` (in source order); of a scene's own text only the outer blanks change."""
    return "".join(_pieces(scenes))


def _pieces(scenes: Sequence[Scene]) -> Iterator[str]:
    previous: Scene | None = None
    for scene in scenes:
        if previous is None or _run(scene) != _run(previous):
            line = header(scene)
            if previous is not None:
                yield "\n"
            if line:
                yield f"{line}\n"
        else:
            yield _gap(previous, scene)
        yield body(scene, previous)
        previous = scene


def _run(scene: Scene) -> tuple[str, str | None, str | None]:
    return scene.source_id, day(scene.created_at), scene.title


def _gap(previous: Scene, scene: Scene) -> str:
    """What stands between two scenes of one run: the source's own blanks when they touch, else a newline."""
    if scene.message_ids == previous.message_ids and scene.start == previous.end:
        blanks = previous.text[len(previous.text.rstrip()) :] + scene.text[: len(scene.text) - len(scene.text.lstrip())]
        return blanks or ("" if previous.text.strip() else "\n")
    return "\n"
