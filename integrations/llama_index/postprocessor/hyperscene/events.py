"""What the postprocessor reports through LlamaIndex's instrumentation: one event before, one after."""

from __future__ import annotations

from llama_index.core.schema import NodeWithScore
from llama_index_instrumentation.base import BaseEvent

from hyperscene_plugin import CompressionResult

__all__ = ["HypersceneEndEvent", "HypersceneStartEvent"]


class HypersceneStartEvent(BaseEvent):
    """Nodes are about to be compressed; ``query`` is ``None`` when there is none to select for."""

    query: str | None
    nodes: list[NodeWithScore]
    max_tokens: int

    @classmethod
    def class_name(cls) -> str:
        return "HypersceneStartEvent"


class HypersceneEndEvent(BaseEvent):
    """Nodes have been compressed; ``result`` accounts for every scene, kept or dropped."""

    nodes: list[NodeWithScore]
    result: CompressionResult

    @classmethod
    def class_name(cls) -> str:
        return "HypersceneEndEvent"
