"""A hub id → why it cannot be had here, or ``None``. One short look instead of the hub client's minutes of retries."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

__all__ = ["why_unavailable"]

_SECONDS = 3.0


def why_unavailable(model: str) -> str | None:
    """Return ``None`` if ``model`` is a folder here, is in the hub's cache, or the hub answers; else the reason."""
    if Path(model).expanduser().exists():
        return None
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    snapshots = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model") / "snapshots"
    if snapshots.is_dir() and any(snapshots.iterdir()):
        return None
    if constants.is_offline_mode():
        return "it is not in the hub's cache here and HF_HUB_OFFLINE is set"
    failure = _hub_failure(os.environ.get("HF_ENDPOINT", constants.ENDPOINT))
    return None if failure is None else f"it is not in the hub's cache here and the hub cannot be reached ({failure})"


@cache
def _hub_failure(endpoint: str) -> str | None:
    """Ask the hub for one answer (through the user's proxy settings); any answer will do."""
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=_SECONDS)
    except Exception as error:  # the HTTP client's own errors, whichever client this version uses
        return f"{type(error).__name__}: {error}"
    return None
