"""What the commands share: their options, reading input, opening the engine, printing, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hyperscene_plugin.config import Settings, load_settings
from hyperscene_plugin.errors import InputError
from hyperscene_plugin.text.reading import read_text_file
from hyperscene_plugin.types import Scope, Source

if TYPE_CHECKING:
    from hyperscene_plugin.engine import Engine

__all__ = [
    "AgentOption",
    "EncoderOption",
    "JsonOption",
    "MaxTokensOption",
    "ModelOption",
    "SessionOption",
    "StoreOption",
    "TokenizerOption",
    "UserOption",
    "console",
    "encoder_setting",
    "open_engine",
    "print_json",
    "progress_bar",
    "read_source",
    "scope_of",
    "settings",
]

DEFAULT_USER = "local"

StoreOption = Annotated[str | None, typer.Option("--store", help="Scene store: a file or a database URL.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Local model: demo, a folder, or a hub id.")]
EncoderOption = Annotated[
    str | None, typer.Option("--encoder", help="Sentence encoder: auto, none, minilm, a folder, or a hub id.")
]
TokenizerOption = Annotated[
    str | None,
    typer.Option("--tokenizer", help="Who counts tokens: demo, a tokenizer.json, a model folder, or e.g. cl100k_base."),
]
UserOption = Annotated[str | None, typer.Option("--user", help=f"Whose memory (default: {DEFAULT_USER}).")]
AgentOption = Annotated[str | None, typer.Option("--agent", help="Narrow the memory to one agent.")]
SessionOption = Annotated[str | None, typer.Option("--session", help="Narrow the memory to one session.")]
MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Hard token budget (default: a quarter of the window).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, nothing else.")]

_CHAT_SUFFIXES = (".json", ".jsonl")


def console() -> Console:
    """Return a console on standard error: progress and remarks never mix with results."""
    return Console(stderr=True)


def settings(**flags: Any) -> Settings:
    """Return the settings in force with these flags on top (``None`` = flag not given)."""
    return load_settings(**flags)


def scope_of(chosen: Settings) -> Scope:
    """Return the scope the settings name; the user ``local`` when they name none."""
    user = chosen.user_id
    if user is None and chosen.agent_id is None and chosen.session_id is None:
        user = DEFAULT_USER
    return Scope(user_id=user, agent_id=chosen.agent_id, session_id=chosen.session_id)


def encoder_setting(chosen: Settings) -> str | None:
    """Return the encoder's name for the library: ``none`` means lexical on purpose."""
    return None if chosen.encoder in (None, "none", "") else chosen.encoder


def open_engine(chosen: Settings, *, with_model: bool = True) -> Engine:
    """Open the store and, if wanted, load the model; a note on standard error while that takes time."""
    from hyperscene_plugin.engine import Engine
    from hyperscene_plugin.model import LocalModel, hide_library_bars
    from hyperscene_plugin.store import SceneStore

    store = SceneStore.open(chosen.store)
    try:
        with console().status("loading the model and the encoder…"):
            if with_model or encoder_setting(chosen) is not None:
                hide_library_bars()
            model = (
                LocalModel.load(
                    chosen.model,
                    device_map=chosen.device_map,
                    dtype=chosen.dtype,
                    quantization=chosen.quantization,
                )
                if with_model
                else None
            )
            return Engine(store, model, encoder_setting(chosen))
    except BaseException:
        store.close()
        raise


def read_source(path: str) -> Source:
    """Read a file (``-`` is standard input): a chat from JSON or JSON Lines of messages, else text.

    Raises:
        InputError: no such file, binary content, or JSON that is not a list of messages.
    """
    if path == "-":
        text = sys.stdin.read()
        if not text.strip():
            raise InputError("standard input is empty; pipe some text in, or name a file")
        return text
    text = read_text_file(path)
    if Path(path).suffix.lower() not in _CHAT_SUFFIXES:
        return text
    try:
        if Path(path).suffix.lower() == ".jsonl":
            messages = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            messages = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error}); rename it to .txt to take it as plain text") from error
    if not isinstance(messages, list) or not all(isinstance(item, dict) and "content" in item for item in messages):
        raise InputError(
            f'{path}: expected a list of messages like {{"role": "user", "content": "…"}}; '
            "rename it to .txt to take it as plain text"
        )
    return messages


def print_json(value: object) -> None:
    """Print one JSON value to standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar on standard error; yields ``report(stage, done, total)``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True, disable=quiet) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield report
