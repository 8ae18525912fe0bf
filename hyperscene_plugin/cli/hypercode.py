"""``hypercode``: compact a text or a stored source, ask behind it, look at what was kept, calibrate a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from hyperscene_plugin.cli.common import (
    AgentOption,
    JsonOption,
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
from hyperscene_plugin.errors import InputError
from hyperscene_plugin.model.port import GenerationOptions, GenerationResult
from hyperscene_plugin.text.reading import read_text_file

if TYPE_CHECKING:
    from hyperscene_plugin.config import Settings
    from hyperscene_plugin.model.hf import LocalModel

__all__ = ["register"]

RatioOption = Annotated[float, typer.Option("--ratio", help="Bytes of the full cache ÷ bytes kept, 2 to 64.")]
QualityOption = Annotated[
    str, typer.Option("--quality", help="fast, balanced or best (more questions asked of the text).")
]
ZoomOption = Annotated[
    float | None,
    typer.Option(
        "--zoom-share", help="Part of the bytes kept for sentences read verbatim (default: by ratio; 0: none)."
    ),
]

_group = typer.Typer(
    help="Compact key/value caches: a text is read once, kept as a fraction of its cache, and asked many times.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    app.add_typer(_group, name="hypercode")


@_group.command()
def compact(
    file: Annotated[str, typer.Argument(help="Text or Markdown; .json/.jsonl of chat messages; - for standard input.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the cache to.")],
    ratio: RatioOption = 12.0,
    quality: QualityOption = "balanced",
    zoom_share: ZoomOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Folder for finished blocks; the same command goes on from them."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Store keys and values in int8.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a cache that is there.")] = False,
    model: ModelOption = None,
    json: JsonOption = False,
) -> None:
    """Compact a file into a folder that any later prompt can stand behind.

    Example: `hyperscene hypercode compact book.md --out book.hyper --ratio 12`
    """
    source = read_source(file)
    local = _load(settings(model=model))
    with progress_bar(quiet=json) as report:
        code = local.compact(
            source,
            ratio,
            quality=quality,
            zoom_share=zoom_share,
            source_id=None if file == "-" else Path(file).name,
            checkpoint=checkpoint,
            progress=report,
        )
    folder = code.save(out, storage="int8" if int8 else "same", overwrite=overwrite)
    facts: dict[str, Any] = {
        "folder": str(folder),
        "source_tokens": code.num_source_tokens,
        "scenes": len(code.scenes),
        "text_only_scenes": sum(bool(scene.text_only) for scene in code.scenes),
        "slots": code.num_slots,
        "bytes": code.nbytes,
        "zoom_bytes": code.zoom_bytes,
        "full_bytes": code.full_nbytes,
        "tokens_per_hypertoken": round(code.tokens_per_hypertoken, 1),
        "fidelity": dict(code.fidelity),
        "notes": list(code.notes),
    }
    if json:
        print_json(facts)
        return
    typer.echo(
        f"{code.num_source_tokens} tokens in {len(code.scenes)} scenes: full cache {_mib(code.full_nbytes)} → slots "
        f"{_mib(code.nbytes)} + zoom {_mib(code.zoom_bytes)}; {code.tokens_per_hypertoken:.0f} tokens a hypertoken"
    )
    if code.fidelity:
        typer.echo(
            f"held-out questions: top choice kept {code.fidelity.get('top1_agreement', 0):.1%}, "
            f"KL to the full context {code.fidelity.get('kl', 0):.3f} nats; "
            f"{facts['text_only_scenes']} scenes marked text-only"
        )
    for note in code.notes:
        console().print(f"note: {note}", style="yellow", markup=False, highlight=False)


@_group.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to answer.")],
    folders: Annotated[list[Path], typer.Argument(help="Folders of compact caches, in the order of their positions.")],
    zoom: Annotated[bool, typer.Option("--zoom/--no-zoom", help="Read the sentences pointed at verbatim.")] = True,
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="Leave out caches that are not pointed at.")] = True,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 128,
    model: ModelOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question behind one or more compact caches, and show what was read verbatim.

    Example: `hyperscene hypercode ask "Where does Anna live?" notes.hyper chat.hyper`
    """
    local = _load(settings(model=model))
    codes = [local.load_compact(folder) for folder in folders]
    result: GenerationResult | None = None
    options = GenerationOptions(max_new_tokens=max_new_tokens)
    for chunk in local.stream(question, options, caches=codes, zoom=zoom, gate=gate):
        result = chunk.result or result
        if not json:
            typer.echo(chunk.text, nl=False)
    assert result is not None
    if json:
        print_json(asdict(result))
        return
    typer.echo("")
    for planned in result.caches:
        state = "in" if planned.active else f"left out ({planned.reason})"
        console().print(f"  {planned.source_id}: {state}", style="dim", markup=False, highlight=False)
        for text in planned.zoomed_text:
            console().print(f"    zoomed: “{' '.join(text.split())}”", style="dim", markup=False, highlight=False)
    usage = result.usage
    console().print(
        f"[dim]{usage.prompt_tokens} tokens stood for, {_mib(usage.kv_cache_bytes)} of cache held, first token after "
        f"{usage.seconds_to_first_token:.2f} s[/]",
        highlight=False,
    )


@_group.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Folder of a compact cache.")],
    scenes: Annotated[bool, typer.Option("--scenes", help="List every scene.")] = False,
    json: JsonOption = False,
) -> None:
    """Show a cache's manifest: what it stands for, its bytes, its fidelity, the model it belongs to.

    Example: `hyperscene hypercode show book.hyper`
    """
    from hyperscene_plugin.kv.storage import inspect_compact

    manifest = inspect_compact(folder)
    if json:
        print_json(manifest)
        return
    table = Table("", "", title=str(folder), show_header=False)
    for key in ("source_id", "created_at", "num_source_tokens", "num_slots", "compaction_ratio", "quality", "storage"):
        table.add_row(key, str(manifest[key]))
    for key in ("bytes_in_memory", "zoom_bytes", "full_cache_bytes", "bytes_on_disk"):
        table.add_row(key, _mib(int(manifest[key])))
    for key, value in manifest["fidelity"].items():
        table.add_row(f"fidelity: {key}", f"{value:.4g}" if isinstance(value, int | float) else str(value))
    for key, value in manifest["fingerprint"].items():
        table.add_row(f"model: {key}", str(value)[:60])
    console().print(table)
    if scenes:
        for scene in manifest["scenes"]:
            typer.echo(f"{scene['start']}–{scene['end']} {scene['key']} {scene['text_only']}".rstrip())


@_group.command()
def store(
    source_id: Annotated[str, typer.Argument(help="A source that was remembered (hyperscene scenes list).")],
    ratio: RatioOption = 12.0,
    quality: QualityOption = "balanced",
    zoom_share: ZoomOption = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the source's hypercode; its scenes stay.")] = False,
    store_: StoreOption = None,
    model: ModelOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    json: JsonOption = False,
) -> None:
    """Keep a remembered source as hypercode in the store; `hyperscene ask` then answers from it.

    Example: `hyperscene hypercode store book.md --ratio 12`
    """
    chosen = settings(store=store_, model=model, encoder="none", user_id=user, agent_id=agent, session_id=session)
    with open_engine(chosen, with_model=not remove) as engine, progress_bar(quiet=json) as report:
        if remove:
            there = engine.uncompact(source_id, scope=scope_of(chosen))
            facts: dict[str, Any] = {"source_id": source_id, "removed": there}
            text = "hypercode deleted; the scenes stay" if there else f"{source_id} has no hypercode"
        else:
            stored = engine.compact(
                source_id,
                scope=scope_of(chosen),
                compaction_ratio=ratio,
                quality=quality,
                zoom_share=zoom_share,
                progress=report,
            )
            cache = stored.cache
            facts = {
                "source_id": source_id,
                "bytes": cache.nbytes,
                "full_bytes": cache.full_nbytes,
                "sha256": stored.key,
            }
            text = f"{source_id}: {_mib(cache.full_nbytes)} → {_mib(cache.nbytes)} + zoom {_mib(cache.zoom_bytes)}"
    if json:
        print_json(facts)
    else:
        typer.echo(text)


@_group.command()
def calibrate(
    files: Annotated[list[str], typer.Argument(help="A few texts of the kind that will be compacted.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write head_profile.json (default: into the model's folder).")
    ] = None,
    model: ModelOption = None,
    json: JsonOption = False,
) -> None:
    """Learn once which heads of a model earn their slots; compaction gets better for every text.

    Example: `hyperscene hypercode calibrate notes.md minutes.md --model ./my-model`
    """
    from hyperscene_plugin.model.calibration import calibrate as run
    from hyperscene_plugin.model.head_profile import FILE_NAME

    chosen = settings(model=model)
    folder = Path(str(chosen.model)).expanduser()
    if out is None and not folder.is_dir():
        raise InputError(f"{chosen.model} is not a folder to write a profile into; name a file with --out")
    texts = [read_text_file(file) for file in files]
    local = _load(chosen)
    with progress_bar(quiet=json) as report:
        profile = run(local.hypercode, texts, progress=report)
    target = out or folder / FILE_NAME
    profile.save(target)
    if json:
        print_json({"file": str(target), **profile.report})
    else:
        typer.echo(f"{target}: {profile.report}")


def _load(chosen: Settings) -> LocalModel:
    from hyperscene_plugin.model import LocalModel, hide_library_bars

    with console().status("loading the model…"):
        hide_library_bars()
        return LocalModel.load(
            chosen.model, device_map=chosen.device_map, dtype=chosen.dtype, quantization=chosen.quantization
        )


def _mib(count: int) -> str:
    return f"{count / 1024**2:.2f} MiB"
