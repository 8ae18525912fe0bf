"""``compress`` and ``analyze``: text in, a shorter text or the counts of every stage out. Nothing is stored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from hyperscene_plugin.cli.common import (
    EncoderOption,
    JsonOption,
    TokenizerOption,
    console,
    encoder_setting,
    print_json,
    read_source,
    settings,
)
from hyperscene_plugin.errors import ConfigError
from hyperscene_plugin.text.analysis import Analysis, analyse
from hyperscene_plugin.text.compress import compress as compress_source
from hyperscene_plugin.tokens import token_counter

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(compress)
    app.command()(analyze)


def compress(
    file: Annotated[str, typer.Argument(help="Text or Markdown; .json/.jsonl of chat messages; - for standard input.")],
    query: Annotated[str | None, typer.Option("--query", "-q", help="What the text will be used to answer.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Hard token budget.")] = None,
    ratio: Annotated[
        float | None, typer.Option("--ratio", min=1.0, help="Instead: tokens before ÷ tokens after, e.g. 8.")
    ] = None,
    tokenizer: TokenizerOption = None,
    encoder: EncoderOption = None,
    json: JsonOption = False,
) -> None:
    """Keep the scenes that matter for a query (or sum the text up) in a hard token budget; any model can read it.

    Example: `hyperscene compress meeting.txt -q "What was decided?" --max-tokens 500 --tokenizer cl100k_base`
    """
    if (max_tokens is None) == (ratio is None):
        raise ConfigError("give the budget either as --max-tokens N or as --ratio R")
    chosen = settings(tokenizer=tokenizer, encoder=encoder)
    counter = token_counter(chosen.tokenizer)
    source = read_source(file)
    if ratio is not None:
        pieces = [source] if isinstance(source, str) else [str(item["content"]) for item in source]  # type: ignore[index, union-attr]
        max_tokens = max(1, int(sum(counter.count_many(pieces)) / ratio))
    assert max_tokens is not None
    with console().status("compressing…"):
        result = compress_source(
            source, query, max_tokens=max_tokens, tokenizer=counter, encoder=encoder_setting(chosen)
        )
    if json:
        print_json(asdict(result) | {"token_ratio": result.token_ratio})
        return
    typer.echo(result.text)
    console().print(
        f"[dim]{len(result.kept)} scenes kept, {len(result.dropped)} left out; {result.tokens_before} → "
        f"{result.tokens_after} tokens ({result.tokenizer}), budget {result.max_tokens}[/]",
        highlight=False,
    )
    for note in result.notes:
        console().print(f"note: {note}", style="yellow", markup=False, highlight=False)


def analyze(
    file: Annotated[str, typer.Argument(help="Text or Markdown; .json/.jsonl of chat messages; - for standard input.")],
    tokenizer: TokenizerOption = None,
    language: Annotated[str | None, typer.Option("--language", help="ISO code: en, ru … (default: detected).")] = None,
    details: Annotated[
        bool, typer.Option("--details", help="With --json: every word's morphemes, every scene's couplings and groups.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the theme clustering.")] = 0,
    json: JsonOption = False,
) -> None:
    """Count the stages of a text: tokens, words, morphemes, endings, couplings, hypertokens, scenes, themes.

    Says what each stage saves against tokens, also where it saves nothing.

    Example: `hyperscene analyze book.md --tokenizer cl100k_base`
    """
    chosen = settings(tokenizer=tokenizer)
    source = read_source(file)
    with console().status("analysing…") as status:
        analysis = analyse(
            source,
            tokenizer=chosen.tokenizer,
            language=language,
            seed=seed,
            progress=lambda stage: status.update(f"analysing: {stage}…"),
        )
    if json:
        print_json(analysis.to_dict(details=details))
        return
    _print_analysis(analysis)


def _print_analysis(analysis: Analysis) -> None:
    typer.echo(str(analysis))
    largest = analysis.themes.themes[:5]
    table = Table("largest themes", "scenes", "words", box=None)
    for place, theme in enumerate(largest, 1):
        table.add_row(str(place), str(len(theme.scenes)), ", ".join(theme.terms))
    if largest:
        console().print(table, highlight=False)
