"""Local language models: the light protocol in ``port``, the transformers/accelerate one in ``hf``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hyperscene_plugin.model.port import GenerationOptions, GenerationResult, LanguageModel, TextChunk, Usage

if TYPE_CHECKING:
    from hyperscene_plugin.model.hf import LocalModel

__all__ = ["GenerationOptions", "GenerationResult", "LanguageModel", "LocalModel", "TextChunk", "Usage"]


def __getattr__(name: str) -> Any:
    if name == "LocalModel":
        return import_module("hyperscene_plugin.model.hf").LocalModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
