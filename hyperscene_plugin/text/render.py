"""Chosen scenes → the text a model reads: source order, speakers, dates once a day, titles where they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import regex

from hyperscene_plugin.text.lemmas import iter_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hyperscene_plugin.types import Scene

__all__ = ["body", "day", "header", "render", "render_pieces"]

_DAY = regex.compile(
    r"\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{4}/\d{1,2}/\d{1,2}"
    r"|\d{1,2}(?:st|nd|rd|th)?\s+\p{L}{3,}\.?,?\s+\d{4}|\p{L}{3,}\.?\s+\d{1,2}(?:st|nd|rd|th)?,?\s+\d{4}"
)
_YEAR_LAST = regex.compile(r"(.*\p{L}.*?)[,\s]+(\d{4})")
_PARENTHESES = regex.compile(r"\s*\([^)]*\)")
_SIGNS = regex.compile(r"[^\p{L}\p{M}\p{N}'’ʼ_.\-]+")
_PATH = " > "
_NAMED_SHARE = 0.5
"""A passage that holds this share of its title's words tells the reader by itself what it is about."""


def day(created_at: str | None) -> str | None:
    """Return the day in a time as written (``2023-05-08``, ``8 May, 2023``), or all of it if none is seen."""
    if not created_at:
        return None
    match = _DAY.search(created_at)
    return match.group() if match else created_at.strip()


def header(scene: Scene, previous: Scene | None = None) -> str | None:
    """Return the line that a run of scenes starts with when ``scene`` is its first: its day, its title, or nothing.

    A year or an upper part of a title path that the header of ``previous`` has shown already is left out; so is a
    title of which the scene's own text has at least half the words.
    """
    date = day(scene.created_at)
    if date and previous is not None:
        date = _shorter_day(date, day(previous.created_at))
    title = _shown_title(scene, previous)
    if date:
        return f"[{date}] {title}" if title else f"[{date}]"
    return title


def body(scene: Scene, previous: Scene | None = None) -> str:
    """Return a scene's text, with its speaker in front unless ``previous`` is of the same message."""
    text = scene.text.strip()
    if not scene.speaker or (previous is not None and _message(previous) == _message(scene)):
        return text
    return f"{scene.speaker}: {text}"


def render(scenes: Sequence[Scene]) -> str:
    """Return the text of ``scenes`` (in source order); of a scene's own text only the outer blanks change."""
    return "".join(render_pieces(scenes))


def render_pieces(scenes: Sequence[Scene]) -> list[str]:
    """Return what ``render`` writes for each scene: what parts it from the last, header and speaker, its text."""
    return list(_pieces(scenes))


def _pieces(scenes: Sequence[Scene]) -> Iterator[str]:
    previous: Scene | None = None
    for scene in scenes:
        if previous is None or _run(scene) != _run(previous):
            line = header(scene, previous)
            start = "" if previous is None else "\n"
            yield f"{start}{line}\n{body(scene)}" if line else start + body(scene)
        else:
            yield _gap(previous, scene) + body(scene, previous)
        previous = scene


def _run(scene: Scene) -> tuple[str, str | None, str | None]:
    return scene.source_id, day(scene.created_at), scene.title


def _message(scene: Scene) -> tuple[str, tuple[str, ...], int]:
    """What tells messages apart; a scene without message ids is a message of its own."""
    return scene.source_id, scene.message_ids, 0 if scene.message_ids else scene.index


def _gap(previous: Scene, scene: Scene) -> str:
    """What stands between two scenes of one run: the source's own blanks when they touch, else a newline."""
    if scene.message_ids == previous.message_ids and scene.start == previous.end:
        own = previous.text[len(previous.text.rstrip()) :]
        return own + scene.text[: len(scene.text) - len(scene.text.lstrip())]
    return "\n"


def _shorter_day(date: str, shown: str | None) -> str:
    match, before = _YEAR_LAST.fullmatch(date), _YEAR_LAST.fullmatch(shown or "")
    return match.group(1) if match and before and match.group(2) == before.group(2) else date


def _shown_title(scene: Scene, previous: Scene | None) -> str | None:
    title = scene.title
    if not title or scene.text.strip() == title:
        return None
    path = title.split(_PATH)
    if previous is not None and previous.source_id == scene.source_id and previous.title:
        before = previous.title.split(_PATH)
        same = 0
        while same < min(len(path) - 1, len(before)) and path[same] == before[same]:
            same += 1
        path = path[same:]
    elif len(path) == 1 and _names_itself(title, scene.text):
        return None
    return _PATH.join(path)


def _names_itself(title: str, text: str) -> bool:
    words = [word.casefold() for word, _, _ in iter_words(_PARENTHESES.sub("", title) or title)]
    held = " " + " ".join(_SIGNS.sub(" ", text.casefold()).split())
    return sum(f" {word}" in held for word in words) >= _NAMED_SHARE * max(len(words), 1)
