"""``hyperscene scenes …``: list, show, search, forget, export and import what is stored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hyperscene_plugin.cli.common import (
    AgentOption,
    EncoderOption,
    JsonOption,
    SessionOption,
    StoreOption,
    UserOption,
    encoder_setting,
    print_json,
    scope_of,
    settings,
)
from hyperscene_plugin.config import Settings
from hyperscene_plugin.errors import ConfigError
from hyperscene_plugin.model import hide_library_bars
from hyperscene_plugin.store import SceneStore
from hyperscene_plugin.store.base import SceneFilter
from hyperscene_plugin.types import Scene, Scope

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command group to ``app``."""
    group = typer.Typer(no_args_is_help=True, help="List, show, search, forget, export and import stored scenes.")
    for command in (sources, show, search, forget, export):
        group.command()(command)
    group.command("list")(list_scenes)
    group.command("import")(import_file)
    app.add_typer(group, name="scenes")


def list_scenes(
    source: Annotated[str | None, typer.Option("--source", help="Only this source.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Skip so many.")] = 0,
    store: StoreOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    json: JsonOption = False,
) -> None:
    """List stored scenes in source order."""
    chosen, scope = _chosen(store, user, agent, session)
    where = SceneFilter(source_id=source) if source else None
    with SceneStore.open(chosen.store) as opened:
        total = opened.count(scope, where)
        found = opened.list(scope, where, limit=limit, offset=offset, order="source")
    if json:
        print_json({"total": total, "scenes": [asdict(scene) for scene in found]})
        return
    for scene in found:
        _print_scene(scene)
    typer.echo(f"{len(found)} of {total} scenes")


def sources(
    store: StoreOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    json: JsonOption = False,
) -> None:
    """List the sources in memory and how many scenes each has."""
    chosen, scope = _chosen(store, user, agent, session)
    with SceneStore.open(chosen.store) as opened:
        found = opened.sources(scope)
    if json:
        print_json([asdict(source) for source in found])
        return
    for source in found:
        typer.echo(f"{source.source_id}  {source.num_scenes} scenes  {source.title or ''}".rstrip())
    if not found:
        typer.echo("nothing is stored in this scope")


def show(
    scene_id: Annotated[str, typer.Argument(help="A scene's id (hs_…).")],
    store: StoreOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    json: JsonOption = False,
) -> None:
    """Show one scene whole, with its source span."""
    chosen, scope = _chosen(store, user, agent, session)
    with SceneStore.open(chosen.store) as opened:
        scene = opened.get(scene_id, scope)
    if json:
        print_json(asdict(scene))
        return
    typer.echo(f"{scene.id}  {scene.key}  {scene.kind}  {scene.speaker or ''} {scene.created_at or ''}".rstrip())
    typer.echo(scene.text)


def search(
    query: Annotated[str, typer.Argument(help="Words to look for, in any inflected form.")],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="At most so many.")] = 10,
    store: StoreOption = None,
    encoder: EncoderOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    json: JsonOption = False,
) -> None:
    """Search stored scenes by words and, with an encoder, by meaning."""
    from hyperscene_plugin.text.auto_encoder import resolve_encoder

    chosen, scope = _chosen(store, user, agent, session, encoder=encoder)
    if encoder_setting(chosen) is not None:
        hide_library_bars()
    loaded, notes = resolve_encoder(encoder_setting(chosen))
    vector = loaded.encode([query])[0] if loaded is not None else None
    with SceneStore.open(chosen.store) as opened:
        result = opened.search(query, scope, vector=vector, encoder_name=loaded.name if loaded else None, top_k=top_k)
    if json:
        hits = [asdict(hit) | {"components": dict(hit.components)} for hit in result.hits]
        print_json({"mode": result.mode, "hits": hits, "notes": [*notes, *result.notes]})
        return
    for hit in result.hits:
        typer.echo(f"{hit.score:.3f}  ", nl=False)
        _print_scene(hit.scene)
    for note in (*notes, *result.notes):
        typer.echo(f"note: {note}", err=True)


def forget(
    scene_ids: Annotated[list[str] | None, typer.Argument(help="Ids of scenes to forget.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="Forget everything from this source.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Forget all that this scope holds.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    json: JsonOption = False,
) -> None:
    """Forget scenes for good: text, index, vectors and files; nothing stays on disk."""
    chosen, scope = _chosen(store, user, agent, session)
    if sum((bool(scene_ids), source is not None, everything)) != 1:
        raise ConfigError("say what to forget: scene ids, or --source NAME, or --everything; exactly one of these")
    if not yes and not json:
        typer.confirm("This cannot be undone. Forget?", abort=True)
    with SceneStore.open(chosen.store) as opened:
        report = opened.forget(scope, ids=scene_ids or None, source_id=source, everything=everything)
    if json:
        print_json(asdict(report))
        return
    typer.echo(f"{report.removed} scenes forgotten, {report.remaining} of them remain")


def export(
    path: Annotated[str, typer.Argument(help="File to write.")],
    store: StoreOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    json: JsonOption = False,
) -> None:
    """Write all scenes of the scope, with vectors and files, into one file."""
    chosen, scope = _chosen(store, user, agent, session)
    with SceneStore.open(chosen.store) as opened:
        count = opened.export(path, scope)
    if json:
        print_json({"path": path, "scenes": count})
        return
    typer.echo(f"{count} scenes written to {path}")


def import_file(
    path: Annotated[str, typer.Argument(help="File that `scenes export` wrote.")],
    rescope: Annotated[
        bool, typer.Option("--rescope", help="Put the scenes into the scope named here instead of their own.")
    ] = False,
    store: StoreOption = None,
    user: UserOption = None,
    agent: AgentOption = None,
    session: SessionOption = None,
    json: JsonOption = False,
) -> None:
    """Read an exported file back; hashes are checked first, and either all of it goes in or nothing."""
    chosen, scope = _chosen(store, user, agent, session)
    with SceneStore.open(chosen.store) as opened:
        report = opened.import_file(path, scope, rescope=rescope)
    if json:
        print_json(asdict(report))
        return
    typer.echo(f"{report.added} scenes imported, {report.existing} were there already")


def _chosen(
    store: str | None, user: str | None, agent: str | None, session: str | None, *, encoder: str | None = None
) -> tuple[Settings, Scope]:
    chosen = settings(store=store, user_id=user, agent_id=agent, session_id=session, encoder=encoder)
    return chosen, scope_of(chosen)


def _print_scene(scene: Scene) -> None:
    flat = " ".join(scene.text.split())
    who = f"{scene.speaker}: " if scene.speaker else ""
    typer.echo(f"{scene.id}  {scene.key}  {who}{flat[:100]}{'…' if len(flat) > 100 else ''}")
