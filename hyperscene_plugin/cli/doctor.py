"""``doctor``: what works here, what is missing and what to do about it; ``config``: the settings in force."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import typer
from rich.markup import escape
from rich.table import Table

from hyperscene_plugin import __version__
from hyperscene_plugin.cli.common import (
    EncoderOption,
    JsonOption,
    ModelOption,
    StoreOption,
    console,
    encoder_setting,
    print_json,
    settings,
)
from hyperscene_plugin.config import Settings, config_file
from hyperscene_plugin.errors import HypersceneError, MissingPackageError

__all__ = ["register"]

_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "sentence-transformers",
    "llama-index-core",
    "langchain-core",
    "tiktoken",
    "bitsandbytes",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: ``status`` is ``ok``, ``off`` (optional, not there) or ``fail``."""

    name: str
    status: str
    detail: str


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(doctor)
    app.command()(config)


def doctor(
    store: StoreOption = None, model: ModelOption = None, encoder: EncoderOption = None, json: JsonOption = False
) -> None:
    """Check the installation, the store, the encoder and the model; exit 1 if something is broken."""
    chosen = settings(store=store, model=model, encoder=encoder)
    checks = [
        Check("hyperscene-plugin", "ok", f"{__version__}, Python {platform.python_version()}, {sys.platform}"),
        *(_package(name) for name in _PACKAGES),
        _tried("store", lambda: _store(chosen)),
        _tried("encoder", lambda: _encoder(chosen)),
        _tried("model", lambda: _model(chosen)),
    ]
    if json:
        print_json([asdict(check) for check in checks])
    else:
        table = Table("what", "status", "detail", box=None)
        colours = {"ok": "green", "off": "yellow", "fail": "red"}
        for check in checks:
            table.add_row(check.name, f"[{colours[check.status]}]{check.status}[/]", escape(check.detail))
        console().print(table, highlight=False)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


def config(json: JsonOption = False) -> None:
    """Print the settings in force, where they come from, and what each means."""
    chosen = settings()
    path = config_file()
    if json:
        print_json({"file": str(path) if path else None, "settings": chosen.model_dump()})
        return
    typer.echo(f"# file: {path or 'none (hyperscene.toml here or in the user configuration folder)'}")
    for name, field in Settings.model_fields.items():
        typer.echo(f"{name} = {getattr(chosen, name)!r}  # {field.description}")


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "off", "not installed (optional)")


def _tried(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except MissingPackageError as error:
        return Check(name, "off", str(error))
    except HypersceneError as error:
        return Check(name, "fail", str(error))


def _store(chosen: Settings) -> Check:
    from hyperscene_plugin.store import SceneStore

    with SceneStore.open(chosen.store) as opened:
        report = opened.doctor()
    status = "ok" if report.healthy else "fail"
    problems = f"; {'; '.join(report.problems)}" if report.problems else ""
    return Check(
        "store", status, f"{chosen.store}: {report.scenes_checked} scenes, schema {report.schema_version}{problems}"
    )


def _encoder(chosen: Settings) -> Check:
    from hyperscene_plugin.text.auto_encoder import resolve_encoder

    loaded, notes = resolve_encoder(encoder_setting(chosen))
    if loaded is None:
        return Check("encoder", "off", "; ".join(notes) or "none: lexical scores only, on purpose")
    return Check("encoder", "ok", "; ".join((f"{loaded.name}, {loaded.encode(['a']).shape[1]} dimensions", *notes)))


def _model(chosen: Settings) -> Check:
    from hyperscene_plugin.model import LocalModel

    loaded = LocalModel.load(
        chosen.model, device_map=chosen.device_map, dtype=chosen.dtype, quantization=chosen.quantization
    )
    return Check(
        "model",
        "ok",
        f"{loaded.name}: {loaded.weight_bytes / 1024**2:.0f} MiB of weights, window {loaded.context_window} tokens, "
        f"{loaded.kv_bytes_per_token / 1024:.1f} KiB of KV cache per token",
    )
