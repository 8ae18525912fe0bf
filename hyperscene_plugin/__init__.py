"""hyperscene-plugin: memory and context compression for the LLM stack you already run.

The public names below load on first use: importing the package costs milliseconds and pulls in neither
torch nor a framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hyperscene_plugin.errors import HypersceneError
from hyperscene_plugin.types import (
    CompressionResult,
    Document,
    DroppedScene,
    Encoder,
    KeptScene,
    Message,
    Scene,
    SceneKind,
    Scope,
    TokenCounter,
)

if TYPE_CHECKING:
    from hyperscene_plugin.encoder import SentenceTransformerEncoder, load_encoder
    from hyperscene_plugin.engine import Engine
    from hyperscene_plugin.model import LocalModel
    from hyperscene_plugin.store import SceneStore
    from hyperscene_plugin.text.analysis import analyse
    from hyperscene_plugin.text.compress import compress
    from hyperscene_plugin.text.excerpts import Excerpt, Excerpts, excerpt_documents
    from hyperscene_plugin.text.segment import segment
    from hyperscene_plugin.tokens import token_counter

__version__ = "0.1.0"

__all__ = [
    "CompressionResult",
    "Document",
    "DroppedScene",
    "Encoder",
    "Engine",
    "Excerpt",
    "Excerpts",
    "HypersceneError",
    "KeptScene",
    "LocalModel",
    "Message",
    "Scene",
    "SceneKind",
    "SceneStore",
    "Scope",
    "SentenceTransformerEncoder",
    "TokenCounter",
    "analyse",
    "compress",
    "excerpt_documents",
    "load_encoder",
    "segment",
    "token_counter",
]

_LAZY = {
    "Engine": "hyperscene_plugin.engine",
    "Excerpt": "hyperscene_plugin.text.excerpts",
    "Excerpts": "hyperscene_plugin.text.excerpts",
    "LocalModel": "hyperscene_plugin.model",
    "SceneStore": "hyperscene_plugin.store",
    "SentenceTransformerEncoder": "hyperscene_plugin.encoder",
    "analyse": "hyperscene_plugin.text.analysis",
    "compress": "hyperscene_plugin.text.compress",
    "excerpt_documents": "hyperscene_plugin.text.excerpts",
    "load_encoder": "hyperscene_plugin.encoder",
    "segment": "hyperscene_plugin.text.segment",
    "token_counter": "hyperscene_plugin.tokens",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
