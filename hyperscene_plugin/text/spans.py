"""Character spans of a document ↔ the text cut out of it and the scalar metadata that carries them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import regex

from hyperscene_plugin.types import Scalar

__all__ = [
    "METADATA_KEYS",
    "SPANS_KEY",
    "SPAN_SEPARATOR",
    "TOKENS_AFTER_KEY",
    "TOKENS_BEFORE_KEY",
    "Spans",
    "cut",
    "span_metadata",
    "trim",
]

Spans = tuple[tuple[int, int], ...]

SPAN_SEPARATOR = "\n"
"""What stands in a cut text where something of the document was left out."""

SPANS_KEY = "hyperscene_spans"
TOKENS_BEFORE_KEY = "hyperscene_tokens_before"
TOKENS_AFTER_KEY = "hyperscene_tokens_after"
METADATA_KEYS = (SPANS_KEY, TOKENS_BEFORE_KEY, TOKENS_AFTER_KEY)

_WRITTEN = regex.compile(r"\d+-\d+(?:,\d+-\d+)*")


def cut(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return the spans of ``text`` joined by ``SPAN_SEPARATOR``."""
    return SPAN_SEPARATOR.join(text[start:end] for start, end in spans)


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without its outer blanks."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))


def span_metadata(
    spans: Spans, tokens_before: int, tokens_after: int, text: str, metadata: Mapping[str, object]
) -> dict[str, Scalar]:
    """Return the metadata that says which ``spans`` of ``text`` were kept.

    Where ``metadata`` shows that ``text`` was itself cut before, the spans are those of the first text, and so is
    the number of tokens before.
    """
    earlier = _earlier(text, metadata)
    if earlier is not None:
        spans = _through(earlier, spans)
        first = metadata.get(TOKENS_BEFORE_KEY)
        tokens_before = first if isinstance(first, int) else tokens_before
    return {
        SPANS_KEY: ",".join(f"{start}-{end}" for start, end in spans),
        TOKENS_BEFORE_KEY: tokens_before,
        TOKENS_AFTER_KEY: tokens_after,
    }


def _earlier(text: str, metadata: Mapping[str, object]) -> Spans | None:
    """The spans that ``metadata`` records, if they can be those of ``text``."""
    written = metadata.get(SPANS_KEY)
    if not isinstance(written, str) or not _WRITTEN.fullmatch(written):
        return None
    pairs = (span.split("-") for span in written.split(","))
    spans = tuple((int(start), int(end)) for start, end in pairs)
    ordered = all(start < end for start, end in spans) and all(left[1] <= right[0] for left, right in pairwise(spans))
    length = sum(end - start for start, end in spans) + len(SPAN_SEPARATOR) * (len(spans) - 1)
    return spans if ordered and length == len(text) else None


def _through(earlier: Spans, spans: Spans) -> Spans:
    """Spans of a text that was cut along ``earlier`` → spans of the text that it was cut from."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        place = 0
        for first, last in earlier:
            low, high = max(start, place), min(end, place + last - first)
            if low < high:
                found.append((first + low - place, first + high - place))
            place += last - first + len(SPAN_SEPARATOR)
    return tuple(found)
