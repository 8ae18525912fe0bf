"""What the demo measured → tables and plain sentences on a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hyperscene_plugin.demo.compare import Comparison
from hyperscene_plugin.engine import Engine, RememberReport
from hyperscene_plugin.hypercode_tier import StoredCache

__all__ = ["print_compacted", "print_comparisons", "print_memory", "print_model", "print_plan"]

_DEMO_MODEL = (
    "The bundled demo model is a few million parameters, trained by this project on a small made-up world. "
    "It [bold]can[/] read short facts in its context (who lives where, works as what, locker numbers, birthdays …) and "
    "say when it does not know. It [bold]cannot[/] converse, reason or understand a novel: on the book the table shows "
    "which scenes would reach a model and what they cost, not how well a real model would answer. "
    "Use --model with a folder or hub id for that."
)


def print_model(console: Console, engine: Engine) -> None:
    """Say which model and encoder run, and what the demo model can and cannot do."""
    model = engine.model
    assert model is not None
    encoder = engine.encoder.name if engine.encoder else "none (lexical)"
    console.print(
        f"[bold]model[/] {escape(model.name)}: window {model.context_window} tokens, "
        f"{model.kv_bytes_per_token / 1024:.1f} KiB of KV cache per token   [bold]encoder[/] {escape(encoder)}"
    )
    if model.name == "demo":
        console.print(_DEMO_MODEL, style="dim")


def print_memory(console: Console, remembered: Mapping[str, tuple[RememberReport, float]], engine: Engine) -> None:
    """Say what was stored."""
    table = Table("source", "scenes", "tokens", "full KV cache", "seconds to store", title="remembered")
    assert engine.model is not None
    for name, (report, seconds) in remembered.items():
        kv = report.num_tokens * engine.model.kv_bytes_per_token
        table.add_row(name, str(len(report.scene_ids)), f"{report.num_tokens:,}", _mib(kv), f"{seconds:.1f}")
    console.print(table)


def print_plan(console: Console, comparison: Comparison) -> None:
    """Show one plan whole: which scenes, why, what was left out."""
    console.print("[bold]one plan in full[/] (hyperscene explain shows this for any question)")
    console.print(escape(str(comparison.planned.reply.plan)), style="dim")


def print_comparisons(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Show every question both ways, then the totals."""
    answers = Table(
        "", "question", "full context", "scenes", "cited from, or best scene", title="answers", show_lines=True
    )
    costs = Table(
        "",
        "question",
        "tokens",
        "KV cache",
        "first token, s",
        "of which planning",
        "faster",
        title="cost: full context → scenes",
    )
    for item in comparisons:
        full, planned = item.full, item.planned
        outside = "" if full.fits else " *"
        answers.add_row(
            item.source,
            escape(item.question),
            _answer(item, full.answer) + outside,
            _answer(item, planned.reply.text),
            escape(_evidence(item)),
        )
        costs.add_row(
            item.source,
            escape(item.question),
            f"{full.prompt_tokens:,} → {planned.prompt_tokens:,} ({full.prompt_tokens / planned.prompt_tokens:.0f}×)",
            f"{_mib(full.kv_bytes_whole)} → {_mib(planned.kv_bytes)}",
            f"{full.seconds_to_first_token:.3f}{outside} → {planned.seconds_to_first_token:.3f}",
            f"{planned.seconds_to_plan:.3f}",
            f"{full.seconds_to_first_token / planned.seconds_to_first_token:.1f}×",
        )
    console.print(answers)
    console.print(costs)
    if any(not item.full.fits for item in comparisons):
        console.print(
            "* the whole source is longer than the model's window: the full-context run saw only the beginning that "
            "fits, so its answer and time are those of the part; the tokens and the KV cache are of the whole.",
            style="dim",
        )
    _print_totals(console, comparisons)
    _print_hypercode(console, [item for item in comparisons if item.hypercode is not None])


def _print_totals(console: Console, comparisons: Sequence[Comparison]) -> None:
    known = [item for item in comparisons if item.expected is not None]
    right_full = sum(item.correct(item.full.answer) is True for item in known)
    right_planned = sum(item.correct(item.planned.reply.text) is True for item in known)
    fitting = [item for item in comparisons if item.full.fits]
    console.print(
        f"[bold]right answers[/] full context {right_full}/{len(known)}, scenes {right_planned}/{len(known)} "
        "(questions with a known answer)"
    )
    if fitting:
        tokens = statistics.median(item.full.prompt_tokens / item.planned.prompt_tokens for item in fitting)
        faster = statistics.median(
            item.full.seconds_to_first_token / item.planned.seconds_to_first_token for item in fitting
        )
        console.print(
            f"[bold]where the full context fits[/] median {tokens:.1f}× fewer tokens and KV bytes, "
            f"{faster:.1f}× faster to the first token, planning included"
        )
    notes = dict.fromkeys(note for item in comparisons for note in item.planned.reply.notes)
    for note in notes:
        console.print(f"[yellow]note:[/] {escape(note)}")


def print_compacted(console: Console, name: str, stored: StoredCache, seconds: float) -> None:
    """Say what was turned into hypercode."""
    code = stored.cache
    console.print(
        f"[bold]hypercode[/] {escape(name)}: {code.num_source_tokens:,} tokens, {code.tokens_per_hypertoken:.0f} to a "
        f"hypertoken; full cache {_mib(code.full_nbytes)} → slots {_mib(code.nbytes)} + room for verbatim sentences "
        f"{_mib(code.zoom_bytes)}; made in {seconds:.1f} s, then stored"
    )


def _print_hypercode(console: Console, items: Sequence[Comparison]) -> None:
    """Show full context against stored hypercode, question by question."""
    if not items:
        return
    table = Table(
        "question", "full context", "hypercode", "KV held", "first token, s", "faster", "read verbatim (zoom)"
    )
    table.title = "full context → hypercode"
    for item in items:
        run, full = item.hypercode, item.full
        assert run is not None
        table.add_row(
            escape(item.question),
            _answer(item, full.answer),
            _answer(item, run.answer),
            f"{_mib(full.kv_bytes)} → {_mib(run.kv_bytes)}",
            f"{full.seconds_to_first_token:.3f} → {run.seconds_to_first_token:.3f}",
            f"{full.seconds_to_first_token / run.seconds_to_first_token:.1f}×",
            escape(_flat(" / ".join(run.zoomed), 70)),
        )
    console.print(table)
    known = [item for item in items if item.expected is not None]
    right = sum(item.hypercode is not None and item.correct(item.hypercode.answer) is True for item in known)
    full_right = sum(item.correct(item.full.answer) is True for item in known)
    smaller = statistics.median(item.full.kv_bytes / item.hypercode.kv_bytes for item in items if item.hypercode)
    faster = statistics.median(
        item.full.seconds_to_first_token / item.hypercode.seconds_to_first_token for item in items if item.hypercode
    )
    console.print(
        f"[bold]hypercode[/] right answers {right}/{len(known)} (full context {full_right}/{len(known)}), median "
        f"{smaller:.1f}× less KV held, question and reply included, {faster:.1f}× faster to the first token, planning "
        "included. A small model pays little for a full prefill: docs/hypercode-speed.md has real sizes."
    )


def _evidence(item: Comparison) -> str:
    """Return the sentence that holds the answer, or else the best-scored scene the model was given."""
    reply = item.planned.reply
    if reply.citations:
        cited = reply.citations[0]
        place, quote = "+".join(cited.message_ids) or cited.source_id, cited.quote
        return f"{place} {cited.start}–{cited.end}: “{_flat(quote, 90)}”"
    if not reply.plan.activations:
        return "–"
    best = max(reply.plan.activations, key=lambda activation: activation.score).scene
    place = "+".join(best.message_ids) or best.source_id
    return f"best scene {place} {best.start}–{best.end}: “{_flat(best.text, 150)}”"


def _flat(text: str, length: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else f"{flat[: length - 1]}…"


def _answer(item: Comparison, answer: str) -> str:
    colour = {True: "green", False: "red", None: "default"}[item.correct(answer)]
    return f"[{colour}]{escape(_flat(answer, 120))}[/]"


def _mib(count: int) -> str:
    return f"{count / 1024**2:.2f} MiB"
