"""``python -m hyperscene_plugin.bench.text_tier --data DIR``: what survives compression, beside what is used today.

Chats (``locomo``, ``qmsum``): the share of a question's evidence turns kept when a chat is cut to 1/ratio of its tokens
(``speaker: text`` lines; the result's date headers and speakers count against the budget). Documents (``hotpotqa``,
``2wiki``): the share of gold sentences whose text stands in the result; (``xquad_ru``, ``squad2``, ``covidqa``): the
share of questions whose answer string does. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hyperscene_plugin.bench.cached_encoder import CachedEncoder
from hyperscene_plugin.bench.datasets import Case, Corpus, load_corpora
from hyperscene_plugin.bench.text_baselines import chat_rankers, document_rankers, fill
from hyperscene_plugin.encoder import load_encoder
from hyperscene_plugin.errors import BudgetError
from hyperscene_plugin.text.compress import compress_scenes, cut
from hyperscene_plugin.text.index import SceneIndex
from hyperscene_plugin.tokens import token_counter
from hyperscene_plugin.types import Encoder, Scene, TokenCounter

__all__ = ["main"]

RATIOS = {"locomo": (12, 20), "qmsum": (4, 8), "hotpotqa": (4, 8), "2wiki": (4, 8)}
DEFAULT_RATIOS = (4, 8)
BARS = {
    ("locomo", 12): 0.88,
    ("locomo", 20): 0.84,
    ("hotpotqa", 4): 0.88,
    ("hotpotqa", 8): 0.75,
    ("2wiki", 4): 0.88,
    ("2wiki", 8): 0.75,
    ("xquad_ru", 8): 0.95,
}
OURS = "this package"
OURS_LEXICAL = "this package, lexical only"


@dataclass
class Scores:
    """Per method and ratio, one share of what was needed per question."""

    shares: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    over_budget: int = 0

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return one row per method and ratio: the mean, the means of the two halves of the questions, the bar."""
        rows = []
        for (method, ratio), shares in self.shares.items():
            halves = [round(statistics.mean(half), 3) for half in (shares[::2], shares[1::2]) if half]
            row = {"set": name, "method": method, "ratio": ratio, "kept": round(statistics.mean(shares), 4)}
            bar = BARS.get((name, ratio)) if method.startswith(OURS) else None
            rows.append(row | {"halves": halves, "questions": len(shares), "bar": bar})
        return rows


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hyperscene_plugin.bench.text_tier", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the *.jsonl.xz sets")
    parser.add_argument("--only", nargs="+", default=["locomo", "hotpotqa", "2wiki", "xquad_ru"], metavar="SET")
    parser.add_argument("--limit", type=int, help="only the first rows of each set")
    parser.add_argument("--encoder", default="minilm", help="sentence encoder, or 'none' for lexical scores only")
    parser.add_argument("--tokenizer", default="cl100k_base")
    parser.add_argument("--cache", type=Path, help="folder that keeps sentence vectors between runs")
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--no-speed", action="store_true")
    options = parser.parse_args(argv)
    counter = token_counter(options.tokenizer)
    encoder: Encoder | None = None if options.encoder == "none" else load_encoder(options.encoder)
    cached = CachedEncoder(encoder, options.cache) if encoder is not None and options.cache is not None else None
    rows: list[dict[str, Any]] = []
    for name in options.only:
        scores = Scores()
        for corpus in load_corpora(name, options.data, options.limit):
            _measure(corpus, RATIOS.get(name, DEFAULT_RATIOS), cached or encoder, counter, scores, options)
        if cached is not None:
            cached.save()
        rows += scores.table(name)
        _print_table(scores.table(name), scores.over_budget)
    speed = {} if options.no_speed else measure_speed()
    print(f"\n1,000 scenes, milliseconds: {speed}")
    print(json.dumps({"rows": rows, "speed_ms": speed, "encoder": options.encoder, "tokenizer": options.tokenizer}))
    return 0


def _measure(
    corpus: Corpus,
    ratios: tuple[int, ...],
    encoder: Encoder | None,
    counter: TokenCounter,
    scores: Scores,
    options: argparse.Namespace,
) -> None:
    scenes = cut(list(corpus.source), tokenizer=counter)
    index = SceneIndex.build(scenes, encoder=encoder)
    lexical = SceneIndex(index.scenes)
    total = sum(counter.count_many(_lines(corpus)))
    for case in corpus.cases:
        for ratio in ratios:
            budget = max(1, total // ratio)
            for method, used, with_encoder in ((OURS, index, encoder), (OURS_LEXICAL, lexical, None)):
                if method == OURS and encoder is None:
                    continue
                kept, text, tokens = _compressed(used, case, budget, counter, with_encoder)
                scores.over_budget += tokens > budget
                scores.shares[method, ratio].append(_share(case, corpus, kept, text))
    if not options.no_baselines:
        _measure_baselines(corpus, index, ratios, total, encoder, counter, scores)


def _compressed(
    index: SceneIndex, case: Case, budget: int, counter: TokenCounter, encoder: Encoder | None
) -> tuple[list[Scene], str, int]:
    try:
        result = compress_scenes(index, case.question, max_tokens=budget, tokenizer=counter, encoder=encoder)
    except BudgetError:
        return [], "", 0
    return [kept.scene for kept in result.kept], result.text, counter.count(result.text)


def _measure_baselines(
    corpus: Corpus,
    index: SceneIndex,
    ratios: tuple[int, ...],
    total: int,
    encoder: Encoder | None,
    counter: TokenCounter,
    scores: Scores,
) -> None:
    if corpus.is_chat:
        lines = [f"{scene.speaker}: {scene.text}\n" for scene in index.scenes]
        costs = np.asarray(counter.count_many(lines))
        rankers = {name: (lines, costs, ranker) for name, ranker in chat_rankers(index, encoder).items()}
    else:
        documents = [item for item in corpus.source if not hasattr(item, "role")]
        rankers = document_rankers(documents, index.scenes, encoder, counter)
    for case in corpus.cases:
        for name, (texts, costs, ranker) in rankers.items():
            ranked = ranker(case.question)
            for ratio in ratios:
                chosen = fill(ranked, costs, max(1, total // ratio))
                kept = [index.scenes[place] for place in chosen] if corpus.is_chat else []
                text = " ".join(texts[place] for place in chosen)
                scores.shares[name, ratio].append(_share(case, corpus, kept, text))


def _share(case: Case, corpus: Corpus, kept: list[Scene], text: str) -> float:
    if corpus.is_chat:
        ids = {identifier for scene in kept for identifier in scene.message_ids}
        return sum(identifier in ids for identifier in case.needed) / len(case.needed)
    plain = " ".join(text.split())
    return sum(" ".join(needed.split()) in plain for needed in case.needed) / len(case.needed)


def _lines(corpus: Corpus) -> list[str]:
    lines = []
    for item in corpus.source:
        head = getattr(item, "name", None) or getattr(item, "title", None)
        text = getattr(item, "content", None) or getattr(item, "text", "")
        lines.append((f"{head}: {text}" if corpus.is_chat else f"{head}\n{text}") + "\n" if head else f"{text}\n")
    return lines


def measure_speed(number: int = 1000, words: int = 45, repeats: int = 20) -> dict[str, float]:
    """Milliseconds (median of ``repeats``) to build the index of ``number`` scenes and to score and select from it."""
    rng = np.random.default_rng(0)
    vocabulary = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(3, 9))) for _ in range(6000)]
    weights = 1.0 / np.arange(1, len(vocabulary) + 1)
    drawn = rng.choice(len(vocabulary), size=(number, words), p=weights / weights.sum())
    texts = [" ".join(vocabulary[word] for word in row) + "." for row in drawn]
    scenes = [
        Scene(text, f"s{place // 50}", 0, len(text), index=place, title=f"Title {vocabulary[place // 50]}")
        for place, text in enumerate(texts)
    ]
    counter = token_counter(len)
    query = " ".join(vocabulary[100 + 7 * step] for step in range(10))
    timings: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        start = time.perf_counter()
        index = SceneIndex.build(scenes)
        compress_scenes(index, query, max_tokens=20_000, tokenizer=counter, encoder=None)
        middle = time.perf_counter()
        compress_scenes(index, query, max_tokens=20_000, tokenizer=counter, encoder=None)
        timings["index, score and select"].append(middle - start)
        timings["score and select"].append(time.perf_counter() - middle)
    return {name: round(1000 * statistics.median(values), 1) for name, values in timings.items()}


def _print_table(rows: list[dict[str, Any]], over_budget: int) -> None:
    print(f"\n{rows[0]['set']} ({rows[0]['questions']} questions; results over budget: {over_budget})")
    ratios = sorted({row["ratio"] for row in rows})
    print(f"  {'method':34s}" + "".join(f"{f'{ratio}×':>8s}{'halves':>16s}{'bar':>6s}" for ratio in ratios))
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = ""
        for ratio in ratios:
            row = next(row for row in rows if row["method"] == method and row["ratio"] == ratio)
            bar = f"{row['bar']:.2f}" if row["bar"] else ""
            cells += f"{row['kept']:8.3f}{'/'.join(f'{half:.3f}' for half in row['halves']):>16s}{bar:>6s}"
        print(f"  {method:34s}{cells}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
