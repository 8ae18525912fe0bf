"""Local language models: the light protocol in ``port``, the transformers/accelerate one in ``hf``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hyperscene_plugin.model.port import (
    CachePlan,
    GenerationOptions,
    GenerationResult,
    HypercodeModel,
    LanguageModel,
    PlannedCache,
    TextChunk,
    Usage,
)

if TYPE_CHECKING:
    from hyperscene_plugin.model.hf import LocalModel

__all__ = [
    "CachePlan",
    "GenerationOptions",
    "GenerationResult",
    "HypercodeModel",
    "LanguageModel",
    "LocalModel",
    "PlannedCache",
    "TextChunk",
    "Usage",
    "hide_library_bars",
]


def __getattr__(name: str) -> Any:
    if name == "LocalModel":
        return import_module("hyperscene_plugin.model.hf").LocalModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def hide_library_bars() -> None:
    """Turn off transformers' own progress bars in this process, for commands that show their own."""
    from importlib.util import find_spec

    if find_spec("transformers") is not None:
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
