"""A folder of evaluation sets (``*.jsonl.xz``) → cases: what to compress, the question, and what must survive."""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.types import Document, Message

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Case", "Corpus", "load_corpora"]


@dataclass(frozen=True)
class Case:
    """One question on a corpus. ``needed`` are message ids (chats) or texts (documents) that should survive."""

    question: str
    needed: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class Corpus:
    """What is compressed, and the questions asked of it.

    ``sentences`` are the documents' sentences where the set has them, for baselines that work on sentences.
    """

    source: tuple[Message, ...] | tuple[Document, ...]
    cases: tuple[Case, ...]
    sentences: tuple[tuple[str, ...], ...] = ()

    @property
    def is_chat(self) -> bool:
        """Whether ``source`` holds messages."""
        return isinstance(self.source[0], Message)


def load_corpora(name: str, folder: Path, limit: int | None = None) -> list[Corpus]:
    """Read the set called ``name``: locomo, qmsum, hotpotqa, 2wiki, squad2, covidqa or xquad_ru.

    ``limit`` keeps the first so many rows of the file (for ``xquad_ru``, articles).

    Raises:
        InputError: no such set, or its file is not in ``folder``.
    """
    if name not in _FILES:
        raise InputError(f"no evaluation set {name!r}; known: {', '.join(_FILES)}")
    path = folder / _FILES[name]
    if not path.exists():
        raise InputError(f"evaluation set {name!r}: no file {path}")
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    if name in ("locomo", "qmsum"):
        return [_chat(row, name) for row in rows[:limit]]
    if name == "xquad_ru":
        return list(_articles(rows))[:limit]
    corpora = [corpus for row in rows if (corpus := _documents(row, name))]
    return corpora[:limit]


_FILES = {
    "locomo": "locomo.jsonl.xz",
    "hotpotqa": "hotpotqa.jsonl.xz",
    "2wiki": "2wiki_train500.jsonl.xz",
    "xquad_ru": "xquad_ru_a.jsonl.xz",
    "qmsum": "qmsum_val.jsonl.xz",
    "squad2": "squad2_devhalf.jsonl.xz",
    "covidqa": "covidqa_chunks1000.jsonl.xz",
}
_UNANSWERABLE = 5


def _chat(row: dict[str, Any], name: str) -> Corpus:
    messages = tuple(
        Message("user", turn["text"], name=turn["speaker"], id=turn["id"], created_at=turn["date"])
        for turn in row["turns"]
    )
    cases = tuple(
        Case(entry["question"], tuple(dict.fromkeys(entry["evidence"])), str(entry["category"]))
        for entry in row["qa"]
        if entry["evidence"] and not (name == "locomo" and entry["category"] == _UNANSWERABLE)
    )
    return Corpus(messages, cases)


def _documents(row: dict[str, Any], name: str) -> Corpus | None:
    source = tuple(
        Document(doc["text"], id=f"d{place}", title=doc["title"] or None) for place, doc in enumerate(row["docs"])
    )
    if name in ("hotpotqa", "2wiki"):
        needed = [
            doc["sents"][place] for doc in row["docs"] for place in doc["gold_sents"] if place < len(doc["sents"])
        ]
    else:
        answers = [answer for answer in row["answers"] if any(answer in doc["text"] for doc in row["docs"])]
        needed = answers[:1]
    needed = [text for text in needed if text.strip()]
    if not needed:
        return None
    sentences = tuple(tuple(doc.get("sents") or ()) for doc in row["docs"])
    return Corpus(source, (Case(row["question"], tuple(needed), str(row.get("type") or "")),), sentences)


def _articles(rows: list[dict[str, Any]]) -> Iterator[Corpus]:
    """Pool the paragraphs of each article (documents with the same title) and ask its questions over the pool."""
    paragraphs: dict[str, dict[str, None]] = {}
    cases: dict[str, list[Case]] = {}
    for row in rows:
        for doc in row["docs"]:
            paragraphs.setdefault(doc["title"], {})[doc["text"]] = None
            if doc["gold"] and row["answers"]:
                cases.setdefault(doc["title"], []).append(Case(row["question"], tuple(row["answers"][:1])))
    for title, asked in cases.items():
        source = tuple(Document(text, id=f"d{place}", title=title) for place, text in enumerate(paragraphs[title]))
        yield Corpus(source, tuple(asked))
