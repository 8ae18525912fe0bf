"""``HyperscenePostprocessor``: nodes and a query in, the nodes' scenes that matter out, under one token budget."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, field_serializer, field_validator
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.settings import Settings
from llama_index_instrumentation import get_dispatcher

from hyperscene_plugin import CompressionResult, Document, Encoder, TokenCounter, token_counter
from hyperscene_plugin.text.excerpts import Excerpts, excerpt_documents
from llama_index.postprocessor.hyperscene.events import HypersceneEndEvent, HypersceneStartEvent
from llama_index.postprocessor.hyperscene.nodes import node_text, with_excerpt, with_text

__all__ = ["HyperscenePostprocessor"]

dispatcher = get_dispatcher(__name__)


class HyperscenePostprocessor(BaseNodePostprocessor):
    """Cuts retrieved nodes down to the scenes that matter for the query, all together under ``max_tokens``.

    The budget is hard and counts what the model will read: each node's text with its metadata lines
    (``MetadataMode.LLM``), joined by blank lines. Nodes keep their order, id, score, metadata and relationships;
    a node of which nothing was kept is left out. Images, other media and blank nodes pass through untouched and
    their text counts. Without a query the nodes are summed up. If everything fits, no text is changed.

    Each node's metadata gains ``hyperscene_spans`` (``"0-120,340-400"``: the characters of the node's own text that
    were kept), ``hyperscene_tokens_before`` and ``hyperscene_tokens_after``, none of which the model or an embedding
    sees. The nodes handed in are never changed. The full account is in ``HypersceneEndEvent`` and ``explain``.

    Raises:
        ValidationError: when it is made: ``max_tokens`` is not a positive whole number, the tokenizer is unknown, or a
            field is.
        MissingPackageError: the package that the tokenizer or the encoder named needs is not installed.
        BudgetError: the budget cannot hold one scene with its node's metadata.
        EncoderError: the encoder named cannot be loaded.
        InputError: a text cannot be read.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    max_tokens: int = Field(description="Hard budget in tokens for all nodes together, metadata lines included.")
    tokenizer: Any = Field(
        default=None,
        description="Whose tokens: a tokenizer's name, path or object, or a function text -> int. "
        "None is LlamaIndex's own (Settings.tokenizer). Objects are serialised by name.",
    )
    encoder: Any = Field(
        default="auto",
        description="Sentence encoder: 'auto', a model's name or path, an Encoder, a LlamaIndex embedding model, "
        "or None for lexical scores only. Objects are serialised by name.",
    )
    title_key: str | None = Field(
        default="title", description="Metadata key of a node's title, which helps scoring; None uses no titles."
    )

    def model_post_init(self, context: Any, /) -> None:
        """Check the tokenizer at once; the encoder is loaded on first use."""
        super().model_post_init(context)
        self._counter()

    @field_validator("max_tokens", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"max_tokens must be a whole number of tokens, at least 1; got {value!r}")
        return value

    @field_serializer("tokenizer", "encoder")
    def _by_name(self, value: Any) -> str | None:
        return None if value is None else _name(value)

    @classmethod
    def class_name(cls) -> str:
        return "HyperscenePostprocessor"

    def explain(self, nodes: Sequence[NodeWithScore], query_str: str | None = None) -> CompressionResult:
        """Return what would be kept and dropped of ``nodes``, and why; errors as above.

        A scene's ``source_id`` is its node's place in ``nodes``; its span is in that node's text.
        """
        return self._excerpts(nodes, query_str).result

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        query = query_bundle.query_str if query_bundle else None
        dispatcher.event(HypersceneStartEvent(query=query, nodes=nodes, max_tokens=self.max_tokens))
        return self._finish(nodes, self._excerpts(nodes, query))

    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Compress in a worker thread; events are sent from the event loop."""
        if not nodes:
            return []
        query = query_bundle.query_str if query_bundle else None
        dispatcher.event(HypersceneStartEvent(query=query, nodes=nodes, max_tokens=self.max_tokens))
        return self._finish(nodes, await asyncio.to_thread(self._excerpts, nodes, query))

    def _excerpts(self, nodes: Sequence[NodeWithScore], query: str | None) -> Excerpts:
        texts = [node_text(item.node) for item in nodes]
        documents = [
            Document(item.node.get_content(MetadataMode.NONE) if text is None else text, title=self._title(item))
            for item, text in zip(nodes, texts, strict=True)
        ]

        def show(place: int, text: str) -> str:
            node = nodes[place].node
            return (node if texts[place] is None else with_text(node, text)).get_content(MetadataMode.LLM)

        return excerpt_documents(
            documents,
            query,
            max_tokens=self.max_tokens,
            tokenizer=self._counter(),
            encoder=_encoder(self.encoder),
            show=show,
            fixed=[place for place, text in enumerate(texts) if text is None],
        )

    def _finish(self, nodes: list[NodeWithScore], excerpts: Excerpts) -> list[NodeWithScore]:
        kept = [
            item if node_text(item.node) is None else with_excerpt(item, excerpt)
            for item, excerpt in zip(nodes, excerpts.excerpts, strict=True)
            if excerpt.spans or node_text(item.node) is None
        ]
        dispatcher.event(HypersceneEndEvent(nodes=kept, result=excerpts.result))
        return kept

    def _counter(self) -> TokenCounter:
        return token_counter(llama_index_tokenizer if self.tokenizer is None else self.tokenizer)

    def _title(self, item: NodeWithScore) -> str | None:
        title = item.node.metadata.get(self.title_key) if self.title_key else None
        return title if isinstance(title, str) and title.strip() else None


class _EmbeddingEncoder:
    """A LlamaIndex embedding model as an ``Encoder``."""

    def __init__(self, model: BaseEmbedding) -> None:
        self._model = model

    @property
    def name(self) -> str:
        return _name(self._model)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.asarray(self._model.get_text_embedding_batch(list(texts)), dtype=np.float32)
        vectors = vectors.reshape(len(texts), -1)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)


def _encoder(encoder: Any) -> Encoder | str | None:
    if isinstance(encoder, BaseEmbedding):
        return _EmbeddingEncoder(encoder)
    return encoder  # type: ignore[no-any-return]  # what it may be is checked where it is loaded


def llama_index_tokenizer(text: str) -> int:
    """Count as LlamaIndex does: by the tokenizer in ``Settings``, looked up at every call."""
    return len(Settings.tokenizer(text))


def _name(value: Any) -> str:
    if isinstance(value, str | Path):
        return str(value)
    known = ("name_or_path", "model_name", "name", "__name__")
    found = next((name for key in known if isinstance(name := getattr(value, key, None), str) and name), None)
    return found or type(value).__name__
