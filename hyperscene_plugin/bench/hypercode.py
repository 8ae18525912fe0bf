"""Hypercode beside its peers on the demo model: exact answers at 4×, 12×, 20×, 50× bytes, composition, off-topic.

Same model, same questions, same bytes, one run. ``--kvpress`` adds NVIDIA's kvpress in an environment of its own
(made on the first run); ``--plot DIR`` draws accuracy against ratio. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hyperscene_plugin.bench.cache_baselines import BASELINES, Repeat, no_context
from hyperscene_plugin.bench.hypercode_cases import Case, answer_batch, full_source, judge, make_cases
from hyperscene_plugin.bench.hypercode_extras import composition, off_topic
from hyperscene_plugin.kv.layout import CompactCache
from hyperscene_plugin.model.compactor import full_global_bytes
from hyperscene_plugin.model.composition import ContextPart, assemble_context
from hyperscene_plugin.model.hf import LocalModel
from hyperscene_plugin.model.prefill import SourceKV
from hyperscene_plugin.model.references import ReferenceBatch

RATIOS = (4.0, 12.0, 20.0, 50.0)
ABLATED = (12.0, 20.0)
PEERS = (
    "StreamingLLMPress",
    "SnapKVPress",
    "ExpectedAttentionPress(64 positions, epsilon .01)",
    "KVzipPress",
    "KVzipPress, chat replay",
    "KVComposePress(unstructured), chat replay",
    "KVComposePress, chat replay",
)


class Tally:
    """Right answers by (length, method, ratio), with the largest share of the full bytes that was held."""

    def __init__(self) -> None:
        self.hits: dict[tuple[str, str, float], list[bool]] = {}
        self.bytes: dict[tuple[str, str, float], float] = {}

    def add(self, length: str, method: str, ratio: float, hits: list[bool], share: float = 0.0) -> None:
        """Add the answers of one context."""
        key = (length, method, ratio)
        self.hits.setdefault(key, []).extend(hits)
        self.bytes[key] = max(self.bytes.get(key, 0.0), share)

    def exact(self, length: str, method: str, ratio: float) -> float | None:
        """Return the share of right answers; ``None`` where the method was not run."""
        hits = self.hits.get((length, method, ratio))
        return sum(hits) / len(hits) if hits else None


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m hyperscene_plugin.bench.hypercode", description=__doc__)
    parser.add_argument("--contexts", type=int, nargs=2, default=(7, 4), help="contexts of 1,000 and of 2,000 tokens")
    parser.add_argument("--questions", type=int, nargs=2, default=(46, 80), help="questions for each context")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--quality", default="best", choices=("fast", "balanced", "best"))
    parser.add_argument("--kvpress", action="store_true", help="run kvpress too (makes an environment of its own)")
    parser.add_argument("--no-ablations", action="store_true")
    parser.add_argument("--no-extras", action="store_true", help="leave out composition and off-topic")
    parser.add_argument("--plot", type=Path, help="folder for accuracy.png")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    args = parser.parse_args(argv)
    from hyperscene_plugin.model import hide_library_bars

    hide_library_bars()
    model = LocalModel.load("demo", device_map="cpu")
    model.hypercode.keep_scores = True
    started = time.perf_counter()
    tally = Tally()
    lengths = {
        "1,000 tokens": make_cases(args.contexts[0], 25, args.questions[0], args.seed),
        "2,000 tokens": make_cases(args.contexts[1], 50, args.questions[1], args.seed + 1),
    }
    for length, cases in lengths.items():
        for number, case in enumerate(cases):
            _say(f"{length}: context {number + 1}/{len(cases)}, {time.perf_counter() - started:.0f} s")
            run_case(
                model, tally, length, case, args.quality, ablations=not args.no_ablations and length.startswith("1")
            )
    if args.kvpress:
        _run_kvpress(model, tally, lengths)
    extras: dict[str, Any] = {}
    if not args.no_extras:
        _say("composition and off-topic")
        extras = {"composition": composition(model, args.seed + 2), "off_topic": off_topic(model, args.seed + 3)}
    report = _report(tally, lengths, extras, args)
    report["seconds"] = round(time.perf_counter() - started, 1)
    if not args.json:
        _print(tally, lengths, extras)
    if args.plot:
        from hyperscene_plugin.bench.hypercode_plot import plot_accuracy

        plot_accuracy(report, args.plot)
    print(json.dumps(report))


def run_case(model: LocalModel, tally: Tally, length: str, case: Case, quality: str, *, ablations: bool) -> None:
    """Answer one context's questions in every way, and add the answers to the tally."""
    hypercode = model.hypercode
    template = hypercode.template()
    batch = answer_batch(template, case.questions)
    source = full_source(hypercode, case.text)
    full_bytes = full_global_bytes(source)
    tally.add(length, "full context", 1.0, judge(model.model, batch, source.context()), 1.0)
    tally.add(length, "no context", math.inf, judge(model.model, batch, no_context(source)))
    from hyperscene_plugin.text.segment import segment

    ids, _, _ = hypercode.tokens_of(segment(case.text), template)
    repeat = Repeat(hypercode, source, ids)
    for ratio in RATIOS:
        for name, baseline in BASELINES.items():
            context = baseline(hypercode, source, repeat, int(full_bytes / ratio))
            tally.add(length, name, ratio, judge(model.model, batch, context), _share(context.nbytes, source))
        _alone(model, tally, length, "hypercode", ratio, case, batch, source, quality=quality)
        _zoomed(model, tally, length, ratio, case, batch, source, quality)
        if ablations and ratio in ABLATED:
            _ablate(model, tally, length, ratio, case, batch, source)


def _alone(
    model: LocalModel,
    tally: Tally,
    length: str,
    name: str,
    ratio: float,
    case: Case,
    batch: ReferenceBatch,
    source: SourceKV,
    *,
    quality: str,
    int8: bool = False,
) -> CompactCache:
    code = model.compact(case.text, ratio, quality=quality, zoom_share=0.0)
    share = code.nbytes / full_global_bytes(source)
    if int8:
        with tempfile.TemporaryDirectory() as folder:
            code = model.load_compact(code.save(Path(folder) / "code", storage="int8"))
    hypercode = model.hypercode
    context = assemble_context(
        hypercode.prefix(hypercode.template()), [ContextPart(code)], hypercode.rope, hypercode.window
    )
    tally.add(length, name, ratio, judge(model.model, batch, context), share)
    return code


def _zoomed(
    model: LocalModel,
    tally: Tally,
    length: str,
    ratio: float,
    case: Case,
    batch: ReferenceBatch,
    source: SourceKV,
    quality: str,
) -> None:
    code = model.compact(case.text, ratio, quality=quality)
    for number, question in enumerate(case.questions):
        _, plan = model.hypercode.prepare(question.text, [code], reserve=32)
        hits = judge(model.model, batch.rows(torch.tensor([number])), plan.context)
        tally.add(length, "hypercode + zoom", ratio, hits, _share(plan.nbytes, source))


def _ablate(
    model: LocalModel, tally: Tally, length: str, ratio: float, case: Case, batch: ReferenceBatch, source: SourceKV
) -> None:
    for quality in ("fast", "balanced"):
        _alone(model, tally, length, f"hypercode, {quality}", ratio, case, batch, source, quality=quality)
    _alone(model, tally, length, "hypercode, int8 on top", ratio, case, batch, source, quality="best", int8=True)
    profile, model.hypercode.profile = model.hypercode.profile, None
    try:
        _alone(model, tally, length, "hypercode, no head profile", ratio, case, batch, source, quality="best")
    finally:
        model.hypercode.profile = profile


def _share(num_bytes: int, source: SourceKV) -> float:
    """Return bytes held behind the prefix ÷ bytes of the full cache behind the prefix."""
    prefix = source.context(prefix_only=True).nbytes
    return (num_bytes - prefix) / full_global_bytes(source)


def _run_kvpress(model: LocalModel, tally: Tally, lengths: dict[str, list[Case]]) -> None:
    from hyperscene_plugin.bench.kvpress_peer import run_peers
    from hyperscene_plugin.text.segment import segment

    template = model.hypercode.template()
    for length, cases in lengths.items():
        _say(f"kvpress at {length}")
        with tempfile.TemporaryDirectory() as folder:
            file, out = Path(folder) / "cases.jsonl", Path(folder) / "peers.json"
            rows = []
            for number, case in enumerate(cases):
                ids, _, _ = model.hypercode.tokens_of(segment(case.text), template)
                pairs = [template.reply_ids(q.text, q.answer) for q in case.questions]
                questions = [{"ids": asked, "answer_ids": told} for asked, told in pairs]
                asked, _ = template.reply_ids("Repeat the text.", "x")
                rows.append(
                    {
                        "id": str(number),
                        "prefix_ids": list(template.prefix_ids),
                        "context_ids": ids,
                        "questions": questions,
                        "repeat_ids": asked,
                    }
                )
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            result = run_peers(file, out, list(RATIOS), list(PEERS), Path(".cache/kvpress-venv"))
        for row in result["rows"]:
            if row.get("error"):
                _say(f"kvpress {row['method']} at {row['ratio']}: {row['error']}")
                continue
            hits = [hit == "1" for answers in row["hits"].values() for hit in answers]
            tally.add(length, f"kvpress {row['method']}", row["ratio"], hits, row["kept_bytes"] / row["full_bytes"])


def _report(
    tally: Tally, lengths: dict[str, list[Case]], extras: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    rows = []
    for (length, method, ratio), hits in tally.hits.items():
        full = tally.exact(length, "full context", 1.0) or 1.0
        rows.append(
            {
                "length": length,
                "method": method,
                "ratio": None if math.isinf(ratio) else ratio,
                "exact": round(sum(hits) / len(hits), 4),
                "relative": round(sum(hits) / len(hits) / full, 4),
                "questions": len(hits),
                "share_of_full_bytes": round(tally.bytes[length, method, ratio], 5),
            }
        )
    return {"seed": args.seed, "quality": args.quality, "rows": rows, **extras}


def _print(tally: Tally, lengths: dict[str, list[Case]], extras: dict[str, Any]) -> None:
    console = Console(width=140, highlight=False)
    for length in lengths:
        full = tally.exact(length, "full context", 1.0) or 1.0
        count = len(tally.hits[length, "full context", 1.0])
        table = Table(
            "method", *(f"{r:g}× bytes" for r in RATIOS), title=f"{length}, {count} questions, full context {full:.3f}"
        )
        methods = dict.fromkeys(m for ln, m, r in tally.hits if ln == length and r in RATIOS)
        for method in methods:
            cells = [tally.exact(length, method, ratio) for ratio in RATIOS]
            table.add_row(method, *("" if c is None else f"{c / full:.3f}" for c in cells))
        console.print(
            table, f"relative to the full context; no context {tally.exact(length, 'no context', math.inf):.3f}"
        )
    for name, value in extras.items():
        console.print(name, value)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
