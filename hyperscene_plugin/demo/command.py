"""``hyperscene demo``: the main job on a real book and a chat, with what was done shown at every step."""

from __future__ import annotations

import json as json_module
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from hyperscene_plugin.demo.compare import Comparison, compare
from hyperscene_plugin.demo.report import print_compacted, print_comparisons, print_memory, print_model, print_plan
from hyperscene_plugin.engine import Engine, RememberReport
from hyperscene_plugin.hypercode_tier import StoredCache
from hyperscene_plugin.model import hide_library_bars
from hyperscene_plugin.text.reading import read_text_file
from hyperscene_plugin.types import Scope, Source

__all__ = ["register"]

SAMPLES = Path(__file__).parent / "samples"
BOOK = SAMPLES / "the-time-machine.en.md"
CHAT = SAMPLES / "house-chat.jsonl"


@dataclass(frozen=True, slots=True)
class _Remembered:
    name: str
    scope: Scope
    report: RememberReport
    seconds: float


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(demo)


def demo(
    model: Annotated[str, typer.Option("--model", help="Local model: demo, a folder, or a hub id.")] = "demo",
    encoder: Annotated[
        str, typer.Option("--encoder", help="Sentence encoder: auto, none, minilm, a folder, or a hub id.")
    ] = "minilm",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=32, help="Token budget of recalled scenes.")] = 256,
    store: Annotated[
        str | None, typer.Option("--store", help="Keep the store at this path (default: a temporary one).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, nothing else.")] = False,
) -> None:
    """Remember a book and a chat, answer questions from them, and compare with the full context. Works offline.

    Example: `hyperscene demo --max-tokens 400`
    """
    console = Console(stderr=json, highlight=False)
    if not console.is_terminal:
        console.width = 150
    with tempfile.TemporaryDirectory() if store is None else nullcontext(store) as place:
        path = str(Path(place) / "scenes.db") if store is None else place
        with console.status("loading the model and the encoder…"):
            engine = _open(path, model, encoder)
        with engine:
            if not json:
                print_model(console, engine)
            remembered = _remember(engine, console)
            if not json:
                print_memory(console, {item.name: (item.report, item.seconds) for item in remembered}, engine)
            name, stored, seconds = _compact(engine, remembered[0], console)
            if not json:
                print_compacted(console, name, stored, seconds)
            comparisons = _ask(engine, {item.name: item.scope for item in remembered}, max_tokens, console)
    if json:
        typer.echo(json_module.dumps([asdict(item) for item in comparisons], ensure_ascii=False, default=str))
        return
    print_plan(console, comparisons[0])
    print_comparisons(console, comparisons)


def _open(path: str, model: str, encoder: str) -> Engine:
    from hyperscene_plugin.model import LocalModel

    hide_library_bars()
    local = LocalModel.load(model)
    local.generate("warm up")  # the first call pays for set-up that later ones do not
    return Engine(path, local, None if encoder == "none" else encoder)


def _remember(engine: Engine, console: Console) -> list[_Remembered]:
    sources: dict[str, Source] = {
        "chat": [json_module.loads(line) for line in CHAT.read_text(encoding="utf-8").splitlines()],
        "book": read_text_file(BOOK),
    }
    done = []
    with Progress(console=console, transient=True) as bar:
        for name, source in sources.items():
            scope = Scope(user_id="demo", session_id=name)
            started = time.perf_counter()
            report = engine.remember(source, scope=scope, source_id=name, progress=_reporter(bar, name))
            done.append(_Remembered(name, scope, report, time.perf_counter() - started))
    return done


def _compact(engine: Engine, item: _Remembered, console: Console) -> tuple[str, StoredCache, float]:
    """Turn the chat into hypercode; the book would take minutes on a processor."""
    started = time.perf_counter()
    with Progress(console=console, transient=True) as bar:
        stored = engine.compact(
            item.name, scope=item.scope, compaction_ratio=12, quality="best", progress=_reporter(bar, item.name)
        )
    return item.name, stored, time.perf_counter() - started


def _reporter(bar: Progress, name: str) -> Callable[[str, int, int], None]:
    tasks: dict[str, Any] = {}

    def report(stage: str, finished: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(f"{name}: {stage}", total=total)
        bar.update(tasks[stage], completed=finished)

    return report


def _ask(engine: Engine, scopes: dict[str, Scope], max_tokens: int, console: Console) -> list[Comparison]:
    questions = json_module.loads((SAMPLES / "questions.json").read_text(encoding="utf-8"))
    comparisons = []
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("asking, with the full context and with scenes", total=len(questions))
        for item in questions:
            comparisons.append(
                compare(
                    engine,
                    scopes[item["source"]],
                    source=item["source"],
                    question=item["question"],
                    expected=item["expected"],
                    max_tokens=max_tokens,
                )
            )
            bar.advance(task)
    return comparisons
