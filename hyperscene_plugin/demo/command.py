"""``hyperscene demo``: the main job on a real book and a chat, with what was done shown at every step."""

from __future__ import annotations

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
