"""``forecast``: memory and work of a context before anything is run, with the arithmetic shown."""

from __future__ import annotations

from typing import Annotated

import typer

from hyperscene_plugin.cli.common import JsonOption, print_json
from hyperscene_plugin.errors import ConfigError
from hyperscene_plugin.forecast import Request, reference_names
from hyperscene_plugin.forecast import forecast as compute
from hyperscene_plugin.forecast.fits import CARDS_GIB, RESERVE_GIB
from hyperscene_plugin.forecast.references import REFERENCES

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(forecast)


def forecast(
    model: Annotated[
        str | None,
        typer.Option("--model", help="demo, a folder or its config.json, a built-in name (--list), or a hub id."),
    ] = None,
    context: Annotated[int | None, typer.Option("--context", min=1, help="Tokens of the text to remember.")] = None,
    ratio: Annotated[
        float, typer.Option("--ratio", min=1.0, help="Bytes of the full cache ÷ bytes of the hypercode.")
    ] = 12.0,
    question_tokens: Annotated[int, typer.Option("--question-tokens", min=1, help="Tokens of the question.")] = 64,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, help="Tokens of the reply.")] = 256,
    prefill_chunk: Annotated[
        int | None, typer.Option("--prefill-chunk", min=1, help="Tokens prefilled at once (default: all of them).")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16 (default: what the configuration names)."),
    ] = None,
    quantization: Annotated[
        str | None, typer.Option("--quantization", help="8bit or 4bit weights (bitsandbytes); the cache keeps --dtype.")
    ] = None,
    card: Annotated[
        list[float] | None, typer.Option("--card", help="GB of a card to try; give it again for more (4, 8, 12, 24).")
    ] = None,
    reserve: Annotated[
        float, typer.Option("--reserve", min=0.0, help="GB of each card that are not for the model.")
    ] = RESERVE_GIB,
    names: Annotated[bool, typer.Option("--list", help="List the built-in configurations and leave.")] = False,
    json: JsonOption = False,
) -> None:
    """Say what a long context costs, in full and as hypercode: memory, work, which card holds it. Nothing is run.

    Example: `hyperscene forecast --model llama-3.1-8b --context 60000 --ratio 12`
    """
    if names:
        listed = {name: str(REFERENCES[name]["_name_or_path"]) for name in reference_names()}
        if json:
            print_json(listed)
        else:
            for name, hub_id in listed.items():
                typer.echo(f"{name:14} {hub_id}")
        return
    if model is None or context is None:
        raise ConfigError("say --model NAME and --context TOKENS; `hyperscene forecast --list` shows built-in models")
    found = compute(
        model,
        Request(
            context=context,
            ratio=ratio,
            question_tokens=question_tokens,
            new_tokens=new_tokens,
            prefill_chunk=prefill_chunk,
            dtype=dtype,
            quantization=quantization,
        ),
        cards_gib=tuple(card) if card else CARDS_GIB,
        reserve_gib=reserve,
    )
    if json:
        print_json(found.to_dict())
    else:
        typer.echo(str(found))
