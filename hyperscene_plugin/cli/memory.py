"""``remember``, ``ask``, ``explain``: put sources into memory, answer from it, show what an answer would see."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hyperscene_plugin.cli.common import (
    AgentOption,
    EncoderOption,
    JsonOption,
    MaxTokensOption,
    ModelOption,
    SessionOption,
    StoreOption,
    UserOption,
    console,
    open_engine,
    print_json,
    progress_bar,
    read_source,
    scope_of,
    settings,
)
from hyperscene_plugin.engine import EngineReply
from hyperscene_plugin.model.port import GenerationOptions

__all__ = ["register"]

NewTokensOption = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest reply, in tokens.")]
TemperatureOption = Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy and repeatable.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Makes sampling repeatable.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(remember)
    app.command()(ask)
    app.command()(explain)


def remember(
    file: Annotated[str, typer.Argument(help="Text or Markdown; .json/.jsonl of chat messages; - for standard input.")],
    source_id: Annotated[
        str | None, typer.Option("--source-id", help="Name of the source (default: file name).")
    ] = None,
    ttl: Annotated[float | None, typer.Option("--ttl", min=1, help="Forget by itself after so many seconds.")] = None,
    store: StoreOption = None,
    encoder: EncoderOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    json: JsonOption = False,
) -> None:
    """Cut a file into scenes and store them. Doing it again changes nothing.

    Example: `hyperscene remember book.md --user anna`
    """
    chosen = settings(store=store, encoder=encoder, user_id=user, agent_id=agent, session_id=session)
    source = read_source(file)
    name = source_id or (None if file == "-" else Path(file).name)
    with open_engine(chosen, with_model=False) as engine, progress_bar(quiet=json) as report:
        result = engine.remember(source, scope=scope_of(chosen), source_id=name, ttl=ttl, progress=report)
    if json:
        print_json(asdict(result))
        return
    typer.echo(
        f"{result.added} scenes stored, {result.existing} were there already ({', '.join(result.source_ids[:3])})"
    )
    _print_notes(result.notes)


def ask(
    question: Annotated[str, typer.Argument(help="What to answer from memory.")],
    max_tokens: MaxTokensOption = None,
    max_new_tokens: NewTokensOption = 256,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = None,
    store: StoreOption = None,
    model: ModelOption = None,
    encoder: EncoderOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question with the local model from the scenes that matter, with citations.

    Example: `hyperscene ask "Where does the Time Traveller live?"`
    """
    chosen = settings(
        store=store,
        model=model,
        encoder=encoder,
        user_id=user,
        agent_id=agent,
        session_id=session,
        max_tokens=max_tokens,
    )
    options = GenerationOptions(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    with open_engine(chosen) as engine:
        reply: EngineReply | None = None
        for chunk in engine.stream(question, scope=scope_of(chosen), max_tokens=chosen.max_tokens, options=options):
            reply = chunk.reply or reply
            if not json:
                typer.echo(chunk.text, nl=False)
    if reply is None:
        raise AssertionError("a finished stream ends with its reply")
    if json:
        print_json(
            {
                "answer": reply.text,
                "finish_reason": reply.result.finish_reason,
                "usage": asdict(reply.result.usage),
                "citations": [asdict(citation) for citation in reply.citations],
                "plan": reply.plan.to_dict(),
                "notes": list(reply.notes),
            }
        )
        return
    typer.echo("")
    for citation in reply.citations:
        place = " ".join([citation.source_id, *citation.message_ids, f"{citation.start}–{citation.end}"])
        console().print(f"  {place}: “{' '.join(citation.quote.split())}”", style="dim", markup=False, highlight=False)
    plan, usage = reply.plan, reply.result.usage
    console().print(
        f"[dim]{len(plan.activations)} scenes, {plan.tokens_before} → {plan.tokens_after} tokens, "
        f"first token after {usage.seconds_to_first_token:.2f} s[/]",
        highlight=False,
    )
    _print_notes(reply.notes)


def explain(
    question: Annotated[str, typer.Argument(help="The question to plan for.")],
    max_tokens: MaxTokensOption = None,
    every: Annotated[bool, typer.Option("--all", help="List every scene left out, with its reason.")] = False,
    store: StoreOption = None,
    model: ModelOption = None,
    encoder: EncoderOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    json: JsonOption = False,
) -> None:
    """Show what the model would see for a question, what was left out, and why. Nothing is generated.

    Example: `hyperscene explain "Who is Weena?" --max-tokens 400`
    """
    chosen = settings(
        store=store,
        model=model,
        encoder=encoder,
        user_id=user,
        agent_id=agent,
        session_id=session,
        max_tokens=max_tokens,
    )
    with open_engine(chosen) as engine:
        plan = engine.plan(question, scope=scope_of(chosen), max_tokens=chosen.max_tokens)
    if json:
        print_json(plan.to_dict())
        return
    typer.echo(str(plan))
    if every:
        for dropped in plan.left_out:
            typer.echo(f"  – {dropped.scene.id} score {dropped.score:.3f}: {dropped.reason}")


def _print_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        console().print(f"note: {note}", style="yellow", markup=False, highlight=False)
