"""A text, Markdown or plain → blocks that tile it: headings, paragraphs, code, tables, lists.

A line scanner for what matters to scenes, not a Markdown renderer: it keeps every character (blank lines belong to
the block before them) and leaves inline markup alone. Plain-text books work too: dialogue that opens with a dash is
prose and no list, and ``CHAPTER IV`` or a bare ``IV`` between blank lines is a heading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import regex

from hyperscene_plugin.types import SceneKind

__all__ = ["Block", "split_blocks"]

_FENCE = regex.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = regex.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?[ \t]*#*[ \t]*$")
_SETEXT = regex.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_RULE = regex.compile(r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$")
_NUMERAL = (
    r"(?:№?\s*\d{1,4}|(?-i:[IVXLC]{1,8})|(?:the\s+)?(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"thir|fif|twen|first|second|third|last)\w*|(?:перв|втор|трет|четв|пят|шест|седьм|восьм|девят|десят|один|две|"
    r"двен|три|посл)\w*)"
)
_CHAPTER = regex.compile(
    r"\s{0,40}((?:chapter|book|part|section|act|scene|глава|часть|книга|том|раздел|действие)\s+"
    + _NUMERAL
    + r"\b[^\n]{0,60}|(?:prologue|epilogue|preface|introduction|пролог|эпилог|предисловие|введение)\.?"
    r"|(?-i:[IVXLC]{1,8})\.?)\s*$",
    regex.IGNORECASE,
)
_BULLET = regex.compile(r"( {0,3})(?:([-*+•–—])|(\d{1,3})[.)])[ \t]+\S")
_NESTED = regex.compile(r"(?: {2,}|\t)\S")
_INDENTED = regex.compile(r"(?: {4}|\t)\s*\S")
_CODE_LIKE = regex.compile(r"[{}();=<>_$\\`]|^\s*(?:#|//|def |class |import |from |return\b|if |for |while |[$>] )")
_TABLE_RULE = regex.compile(r"\s*\|?\s*:?-{1,}:?\s*(?:\|\s*:?-{1,}:?\s*)*\|?\s*$")
_SPEECH_TAG = regex.compile(r"[,.!?…][ ]?[-–—]\s|[!?…][»”\"]?\s*$")
_CYRILLIC = regex.compile(r"\p{Cyrillic}")
_LOOK_AHEAD = 12
"""Lines (or items) looked at to tell code from indented prose and a list from dialogue; keeps scanning linear."""


@dataclass(frozen=True, slots=True)
class Block:
    """``text[start:end]`` is one block; ``title`` is the path of headings above it (its own for a heading)."""

    start: int
    end: int
    kind: SceneKind
    title: str | None = None


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a text without their ends, and where each starts (one more start than lines)."""

    lines: list[str]
    starts: list[int]

    def blank(self, i: int) -> bool:
        return i >= len(self.lines) or not self.lines[i].strip()


def split_blocks(text: str) -> list[Block]:
    """Return the blocks of ``text`` in order; their spans tile it."""
    view = _lines(text)
    blocks: list[Block] = []
    path: list[tuple[int, str]] = []
    i, count = _skip_blank(view, 0), len(view.lines)
    start = 0
    while i < count:
        kind, end, heading = _next_block(view, i)
        end = _skip_blank(view, end)
        if heading is not None:
            level, words = heading
            path = [(depth, name) for depth, name in path if depth < level]
            if words:
                path.append((level, words))
        title = " > ".join(name for _, name in path) or None
        blocks.append(Block(start, view.starts[end], kind, title))
        start, i = view.starts[end], end
    return blocks


def _lines(text: str) -> _Lines:
    lines: list[str] = []
    starts = [0]
    for line in text.splitlines(keepends=True):
        lines.append(line.rstrip("\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))
        starts.append(starts[-1] + len(line))
    return _Lines(lines, starts)


def _skip_blank(view: _Lines, i: int) -> int:
    while i < len(view.lines) and view.blank(i):
        i += 1
    return i


def _next_block(view: _Lines, i: int) -> tuple[SceneKind, int, tuple[int, str] | None]:
    """Kind and end line of the block that starts at line ``i``, and (level, words) when it is a heading."""
    heading = _heading(view, i)
    if heading is not None:
        return SceneKind.HEADING, heading[0], (heading[1], heading[2])
    for kind, end_of in _WHOLE:
        end = end_of(view, i)
        if end is not None:
            return kind, end, None
    return SceneKind.PROSE, _paragraph_end(view, i), None


def _paragraph_end(view: _Lines, i: int) -> int:
    i += 1
    while not view.blank(i):
        line = view.lines[i]
        special = line[0] in "#`~|<" or line.startswith("   ") or "|" in line or _BULLET.match(line)
        if special and (_ATX.match(line) or any(end_of(view, i) is not None for _, end_of in _INTERRUPTING)):
            break
        i += 1
    return i


def _heading(view: _Lines, i: int) -> tuple[int, int, str] | None:
    """(end line, level, words) of the heading at line ``i``."""
    line = view.lines[i]
    if atx := _ATX.match(line):
        return i + 1, len(atx.group(1)), (atx.group(2) or "").strip()
    first = i == 0 or view.blank(i - 1)
    under = _SETEXT.match(view.lines[i + 1]) if first and i + 1 < len(view.lines) else None
    if under is not None and len(line) <= 120:
        return i + 2, 1 if under.group(1)[0] == "=" else 2, line.strip()
    alone = first and view.blank(i + 1)
    if alone and len(line) < 120 and (chapter := _CHAPTER.match(line)) and not line.strip().islower():
        return i + 1, 2, chapter.group(1).strip()
    return None


def _fence_end(view: _Lines, i: int) -> int | None:
    opening = _FENCE.match(view.lines[i])
    if opening is None:
        if i == 0 and view.lines[0] == "---":  # YAML front matter
            return next((j + 1 for j in range(1, min(len(view.lines), 200)) if view.lines[j] == "---"), None)
        return None
    mark = opening.group(1)
    for j in range(i + 1, len(view.lines)):
        line = view.lines[j].strip()
        if line.startswith(mark) and not line.strip(mark[0]):
            return j + 1
    return len(view.lines)


def _indented_code_end(view: _Lines, i: int) -> int | None:
    if not _INDENTED.match(view.lines[i]) or not (i == 0 or view.blank(i - 1)):
        return None
    end = j = i
    filled = code_like = 0
    while j < len(view.lines) and (view.blank(j) or _INDENTED.match(view.lines[j])):
        if not view.blank(j):
            end = j + 1
            if filled < _LOOK_AHEAD:
                filled += 1
                code_like += bool(_CODE_LIKE.search(view.lines[j]))
            elif code_like * 2 < filled:
                return None
        j += 1
    return end if view.blank(end) and code_like * 2 >= filled else None


def _table_end(view: _Lines, i: int) -> int | None:
    line = view.lines[i]
    if line.lstrip().lower().startswith("<table"):
        last = min(len(view.lines), i + 400)
        return next((j + 1 for j in range(i, last) if "</table>" in view.lines[j].lower()), None)
    if "|" not in line or i + 1 >= len(view.lines):
        return None
    following = view.lines[i + 1]
    ruled = "|" in following and "-" in following and _TABLE_RULE.match(following) is not None
    piped = line.lstrip().startswith("|") and following.lstrip().startswith("|")
    if not (ruled or piped):
        return None
    end = i + 1
    while end < len(view.lines) and "|" in view.lines[end]:
        end += 1
    return end


def _list_end(view: _Lines, i: int) -> int | None:
    """End of a list of two or more items; dialogue that opens with dashes is no list."""
    if not _BULLET.match(view.lines[i]) or _RULE.match(view.lines[i]):
        return None
    items: list[str] = []
    loose = False
    end = j = i
    while j < len(view.lines):
        line = view.lines[j]
        if view.blank(j):
            after = _skip_blank(view, j)
            goes_on = after < len(view.lines) and (
                _same_list(view.lines[i], view.lines[after]) or _NESTED.match(view.lines[after]) is not None
            )
            if not goes_on:
                break
            loose = loose or _BULLET.match(view.lines[after]) is not None
            j = after
            continue
        if _ATX.match(line) or _RULE.match(line) or _FENCE.match(line[:4]):
            break
        if _BULLET.match(line):
            items.append(line)
            if len(items) == _LOOK_AHEAD and _is_dialogue(items, loose):
                return None
        j += 1
        end = j
    return None if len(items) < 2 or _is_dialogue(items[:_LOOK_AHEAD], loose) else end


def _same_list(first: str, line: str) -> bool:
    a, b = _BULLET.match(first), _BULLET.match(line)
    return a is not None and b is not None and (a.group(2) == b.group(2)) and bool(a.group(3)) == bool(b.group(3))


def _is_dialogue(items: list[str], loose: bool) -> bool:
    marks = {match.group(2) for item in items if (match := _BULLET.match(item))}
    if not marks <= {"-", "–", "—"}:
        return False
    if marks & {"–", "—"}:
        return True
    cyrillic = any(_CYRILLIC.search(item) for item in items)
    return cyrillic and (loose or any(_SPEECH_TAG.search(item) for item in items))


_EndOf = Callable[[_Lines, int], int | None]
_INTERRUPTING: tuple[tuple[SceneKind, _EndOf], ...] = (
    (SceneKind.CODE, _fence_end),
    (SceneKind.TABLE, _table_end),
    (SceneKind.LIST, _list_end),
)
_WHOLE: tuple[tuple[SceneKind, _EndOf], ...] = (*_INTERRUPTING, (SceneKind.CODE, _indented_code_end))
