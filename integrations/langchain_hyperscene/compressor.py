"""``HypersceneCompressor``: documents and a query in, the documents' scenes that matter out, under one token budget."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.prompts import BasePromptTemplate, format_document
from pydantic import ConfigDict, Field, field_serializer, field_validator

from hyperscene_plugin import CompressionResult, token_counter
from hyperscene_plugin import Document as SourceDocument
from hyperscene_plugin.text.excerpts import Excerpt, Excerpts, excerpt_documents
from hyperscene_plugin.text.spans import span_metadata

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks

__all__ = ["COMPRESSION_EVENT", "HypersceneCompressor"]

COMPRESSION_EVENT = "hyperscene_compression"
"""Name of the custom event whose data is the ``CompressionResult``."""


class HypersceneCompressor(BaseDocumentCompressor):
    """Cuts retrieved documents down to the scenes that matter for the query, all together under ``max_tokens``.

    The budget is hard and counts the documents as the prompt shows them: each through ``document_prompt``, joined by
    ``document_separator``. Documents keep their order, id and metadata; one of which nothing was kept is left out;
    a blank one passes through. With a blank query the documents are summed up. If everything fits, no text is changed.

    The documents handed in are never changed. Each one returned is a copy whose metadata gains ``hyperscene_spans``
    (``"0-120,340-400"``: the characters of the page content that were kept), ``hyperscene_tokens_before`` and
    ``hyperscene_tokens_after``. The full account goes to callbacks as the custom event ``hyperscene_compression``
    and is what ``explain`` returns.

    Raises:
        ValidationError: when it is made: ``max_tokens`` is not a positive whole number, the tokenizer is unknown, or a
            field is.
        MissingPackageError: the package that the tokenizer or the encoder named needs is not installed.
        BudgetError: the budget cannot hold one scene with what the prompt shows around it.
        EncoderError: the encoder named cannot be loaded.
        InputError: a text cannot be read.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    max_tokens: int = Field(description="Hard budget in tokens for all documents together.")
    tokenizer: Any = Field(
        default=None,
        description="Whose tokens: a tokenizer's name, path or object, or a function text -> int; name the model's "
        "own. None is the bundled demo model's. Objects are serialised by name.",
    )
    encoder: Any = Field(
        default="auto",
        description="Sentence encoder: 'auto', a model's name or path, an Encoder, a LangChain Embeddings, "
        "or None for lexical scores only. Objects are serialised by name.",
    )
    title_key: str | None = Field(
        default="title", description="Metadata key of a document's title, which helps scoring; None uses no titles."
    )
    document_prompt: BasePromptTemplate[str] | None = Field(
        default=None, exclude=True, description="How the chain shows a document; None shows its page content alone."
    )
    document_separator: str = Field(default="\n\n", description="What the chain puts between two documents.")

    def model_post_init(self, context: Any, /) -> None:
        """Check the tokenizer at once; the encoder is loaded on first use."""
        super().model_post_init(context)
        token_counter(self.tokenizer)

    @field_validator("max_tokens", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"max_tokens must be a whole number of tokens, at least 1; got {value!r}")
        return value

    @field_serializer("tokenizer", "encoder")
    def _by_name(self, value: Any) -> str | None:
        return None if value is None else _name(value)

    def explain(self, documents: Sequence[Document], query: str | None = None) -> CompressionResult:
        """Return what would be kept and dropped of ``documents``, and why; errors as above.

        A scene's ``source_id`` is its document's place in ``documents``; its span is in that page content.
        """
        return self._excerpts(documents, query).result

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return the documents' excerpts for ``query``."""
        if not documents:
            return []
        manager = CallbackManager.configure(inheritable_callbacks=callbacks)
        run = manager.on_chain_start(None, {"documents": documents, "query": query}, name=type(self).__name__)
        try:
            excerpts = self._excerpts(documents, query)
        except BaseException as error:
            run.on_chain_error(error)
            raise
        compressed = _finish(documents, excerpts)
        manager.on_custom_event(COMPRESSION_EVENT, excerpts.result, run_id=run.run_id)
        run.on_chain_end({"documents": compressed})
        return compressed

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """As ``compress_documents``; the work is done in a worker thread, callbacks run on the event loop."""
        if not documents:
            return []
        manager = AsyncCallbackManager.configure(inheritable_callbacks=callbacks)
        run = await manager.on_chain_start(None, {"documents": documents, "query": query}, name=type(self).__name__)
        try:
            excerpts = await asyncio.to_thread(self._excerpts, documents, query)
        except BaseException as error:
            await run.on_chain_error(error)
            raise
        compressed = _finish(documents, excerpts)
        await manager.on_custom_event(COMPRESSION_EVENT, excerpts.result, run_id=run.run_id)
        await run.on_chain_end({"documents": compressed})
        return compressed

    def _excerpts(self, documents: Sequence[Document], query: str | None) -> Excerpts:
        prompt = self.document_prompt

        def show(place: int, text: str) -> str:
            if prompt is None:
                return text
            return format_document(documents[place].model_copy(update={"page_content": text}), prompt)

        return excerpt_documents(
            [SourceDocument(document.page_content, title=self._title(document)) for document in documents],
            query,
            max_tokens=self.max_tokens,
            tokenizer=self.tokenizer,
            encoder=_EmbeddingsEncoder(self.encoder) if isinstance(self.encoder, Embeddings) else self.encoder,
            show=show,
            fixed=[place for place, document in enumerate(documents) if not document.page_content.strip()],
            separator=self.document_separator,
        )

    def _title(self, document: Document) -> str | None:
        title = document.metadata.get(self.title_key) if self.title_key else None
        return title if isinstance(title, str) and title.strip() else None


def _finish(documents: Sequence[Document], excerpts: Excerpts) -> list[Document]:
    pairs = zip(documents, excerpts.excerpts, strict=True)
    return [
        _with_excerpt(document, excerpt) if document.page_content.strip() else document
        for document, excerpt in pairs
        if excerpt.spans or not document.page_content.strip()
    ]


def _with_excerpt(document: Document, excerpt: Excerpt) -> Document:
    spans = span_metadata(
        excerpt.spans, excerpt.tokens_before, excerpt.tokens_after, document.page_content, document.metadata
    )
    return document.model_copy(update={"page_content": excerpt.text, "metadata": {**document.metadata, **spans}})


class _EmbeddingsEncoder:
    """A LangChain embedding model as an ``Encoder``."""

    def __init__(self, model: Embeddings) -> None:
        self._model = model

    @property
    def name(self) -> str:
        return _name(self._model)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.asarray(self._model.embed_documents(list(texts)), dtype=np.float32).reshape(len(texts), -1)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)


def _name(value: Any) -> str:
    if isinstance(value, str | Path):
        return str(value)
    known = ("name_or_path", "model_name", "model", "name", "__name__")
    found = next((name for key in known if isinstance(name := getattr(value, key, None), str) and name), None)
    return found or type(value).__name__
