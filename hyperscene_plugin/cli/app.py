"""All commands put together, and every error turned into one line and an exit code."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from hyperscene_plugin import __version__
from hyperscene_plugin.cli import doctor, forecast, hypercode, memory, scenes, text
from hyperscene_plugin.demo import command as demo
from hyperscene_plugin.errors import ConfigError, HypersceneError

__all__ = ["app", "run"]

_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, wherever this typer keeps click

app = typer.Typer(
    name="hyperscene",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Memory and context compression for local language models.\n\n"
        "A text or chat becomes **scenes**; scenes are stored; "
        "a question calls the ones that matter into the prompt.\n\n"
        "Start with `hyperscene demo`. Then: `hyperscene remember book.md`, `hyperscene ask 'Who …?'`, "
        "`hyperscene explain 'Who …?'` shows what the model would see and why.\n\n"
        "Settings come from hyperscene.toml, then HYPERSCENE_… variables, then flags. "
        "Exit codes: 0 done, 1 the work failed, 2 wrong usage or settings, 130 interrupted."
    ),
)
demo.register(app)
text.register(app)
memory.register(app)
hypercode.register(app)
scenes.register(app)
forecast.register(app)
doctor.register(app)


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"hyperscene-plugin {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code. Errors go to standard error (as JSON when ``--json`` is given)."""
    logging.getLogger("hyperscene_plugin").addHandler(logging.NullHandler())  # its warnings are printed as notes
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to fail
    try:
        code = app(args=list(arguments), prog_name="hyperscene", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except _UsageError as error:
        # a group without a command has shown its help by now and has no message
        return _fail(arguments, "UsageError", error.format_message(), 2) if error.format_message() else 2
    except (typer.Abort, KeyboardInterrupt):
        return _fail(arguments, "Interrupted", "interrupted; what was stored before stays stored", 130)
    except ConfigError as error:
        return _fail(arguments, "ConfigError", str(error), 2)
    except HypersceneError as error:
        return _fail(arguments, type(error).__name__, str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _fail(arguments: Sequence[str], kind: str, message: str, code: int) -> int:
    if "--json" in arguments:
        typer.echo(json.dumps({"error": {"type": kind, "message": message}}, ensure_ascii=False), err=True)
    else:
        Console(stderr=True).print(f"[bold red]{kind}[/]: ", end="")
        typer.echo(message, err=True)
    return code
