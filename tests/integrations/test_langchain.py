"""``HypersceneCompressor`` in a real ``ContextualCompressionRetriever``, sync and async, and in a real chain."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from hyperscene_plugin import CompressionResult, Encoder, load_encoder, token_counter
from hyperscene_plugin.errors import BudgetError
from langchain_hyperscene import COMPRESSION_EVENT, HypersceneCompressor

from .conftest import CORPUS, WaitingEncoder, set_soon

if TYPE_CHECKING:
    from collections.abc import Sequence


QUESTION = "Who repaired the lamp of the lighthouse?"
ANSWER = "Maria Oliveira repaired the lamp"
COUNTER = token_counter("cl100k_base")


class MiniLMEmbeddings(Embeddings):
    """A real embedding model behind LangChain's interface."""

    model_name = "minilm"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float(value) for value in row] for row in self._encoder.encode(texts)]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture(scope="module")
def embeddings(minilm: Encoder) -> MiniLMEmbeddings:
    return MiniLMEmbeddings(minilm)


@pytest.fixture(scope="module")
def retriever(embeddings: MiniLMEmbeddings) -> BaseRetriever:
    store = InMemoryVectorStore(embeddings)
    store.add_documents(documents())
    return store.as_retriever(search_kwargs={"k": 4})


def documents() -> list[Document]:
    return [
        Document(page_content=text, id=name, metadata={"title": name, "pages": [1, 2]}) for name, text in CORPUS.items()
    ]


def compressor(max_tokens: int = 150, **fields: Any) -> HypersceneCompressor:
    return HypersceneCompressor(max_tokens=max_tokens, **{"tokenizer": "cl100k_base", "encoder": None, **fields})


def shown(found: Sequence[Document]) -> str:
    return "\n\n".join(document.page_content for document in found)


def reconstructed(document: Document, source: str) -> str:
    spans = [span.split("-") for span in document.metadata["hyperscene_spans"].split(",")]
    return "\n".join(source[int(start) : int(end)] for start, end in spans)


def test_the_retriever_returns_the_kept_scenes(retriever: BaseRetriever, minilm: Encoder) -> None:
    compressing = ContextualCompressionRetriever(base_compressor=compressor(encoder=minilm), base_retriever=retriever)
    retrieved, found = retriever.invoke(QUESTION), compressing.invoke(QUESTION)
    assert COUNTER.count(shown(found)) <= 150 < COUNTER.count(shown(retrieved))
    assert ANSWER in shown(found)
    order = [document.id for document in retrieved]
    assert [document.id for document in found] == [name for name in order if name in {item.id for item in found}]
    for document in found:
        assert document.id is not None
        source = CORPUS[document.id]
        assert document.page_content == reconstructed(document, source)
        assert document.metadata["hyperscene_tokens_before"] == COUNTER.count(source)
        assert document.metadata["hyperscene_tokens_after"] == COUNTER.count(document.page_content)
        assert (document.metadata["title"], document.metadata["pages"]) == (document.id, [1, 2])


async def test_the_retriever_does_so_asynchronously(retriever: BaseRetriever, minilm: Encoder) -> None:
    compressing = ContextualCompressionRetriever(base_compressor=compressor(encoder=minilm), base_retriever=retriever)
    assert await compressing.ainvoke(QUESTION) == compressing.invoke(QUESTION)


def test_another_question_keeps_something_else(retriever: BaseRetriever) -> None:
    compressing = ContextualCompressionRetriever(base_compressor=compressor(), base_retriever=retriever)
    found = compressing.invoke("Who tested the viaduct by standing under it?")
    assert "Tomas Halek" in shown(found)
    assert ANSWER not in shown(found)


@pytest.mark.parametrize("max_tokens", [60, 100, 180, 350, 600])
@pytest.mark.parametrize("tokenizer", ["cl100k_base", len])
@pytest.mark.parametrize("query", [QUESTION, ""])
def test_the_budget_is_hard(max_tokens: int, tokenizer: Any, query: str) -> None:
    budget = max_tokens * (5 if tokenizer is len else 1)
    found = compressor(budget, tokenizer=tokenizer).compress_documents(documents(), query)
    count = len if tokenizer is len else COUNTER.count
    assert 0.5 * budget < count(shown(found)) <= budget


def test_the_budget_counts_what_the_chain_shows() -> None:
    """A stuff chain with its own document prompt and separator: its whole context stays under the budget."""
    prompt = PromptTemplate.from_template("Source {title} ({pages}):\n{page_content}\nEnd of source.")
    separator = "\n-----\n"
    found = compressor(200, document_prompt=prompt, document_separator=separator).compress_documents(
        documents(), QUESTION
    )
    contexts: list[str] = []

    class Prompts(BaseCallbackHandler):
        def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
            contexts.append(messages[0][0].content)

    chain = create_stuff_documents_chain(
        FakeListChatModel(responses=["Maria Oliveira"]),
        ChatPromptTemplate.from_messages([("human", "{context}")]),
        document_prompt=prompt,
        document_separator=separator,
    )
    assert chain.invoke({"context": found}, config={"callbacks": [Prompts()]}) == "Maria Oliveira"
    (context,) = contexts
    assert ANSWER in context
    assert "Source lighthouse" in context
    assert COUNTER.count(context) <= 200
    blind = compressor(200).compress_documents(documents(), QUESTION)
    assert (
        COUNTER.count(separator.join(prompt.format(**{**d.metadata, "page_content": d.page_content}) for d in blind))
        > 200
    )


def test_documents_are_never_changed() -> None:
    given = documents()
    before = [document.model_dump_json() for document in given]
    found = compressor().compress_documents(given, QUESTION)
    assert [document.model_dump_json() for document in given] == before
    found[0].metadata["title"] = "changed"
    assert [document.model_dump_json() for document in given] == before


def test_everything_that_fits_stays_as_it_is() -> None:
    found = compressor(5000).compress_documents(documents(), QUESTION)
    assert [document.page_content for document in found] == list(CORPUS.values())


def test_blank_documents_pass_through() -> None:
    blank = Document(page_content=" ", metadata={"kind": "image"})
    found = compressor().compress_documents([blank, *documents()], QUESTION)
    assert found[0] is blank
    assert ANSWER in shown(found)


def test_no_documents_are_no_documents() -> None:
    assert compressor().compress_documents([], QUESTION) == []
    assert asyncio.run(compressor().acompress_documents([], QUESTION)) == []


def test_a_budget_below_the_smallest_scene_is_an_error() -> None:
    with pytest.raises(BudgetError, match="max_tokens=3"):
        compressor(3).compress_documents(documents(), QUESTION)


def test_an_embedding_model_of_the_app_serves_as_encoder(embeddings: MiniLMEmbeddings, minilm: Encoder) -> None:
    theirs = compressor(encoder=embeddings).explain(documents(), QUESTION)
    ours = compressor(encoder=minilm).explain(documents(), QUESTION)
    assert theirs.text == ours.text


def test_it_works_in_a_pipeline() -> None:
    pipeline = DocumentCompressorPipeline(transformers=[compressor(300), compressor(100)])
    found = pipeline.compress_documents(documents(), QUESTION)
    assert COUNTER.count(shown(found)) <= 100
    for document in found:  # the spans are those of the first text, not of what the first compressor left
        assert document.page_content == reconstructed(document, CORPUS[document.id or ""])
        assert document.metadata["hyperscene_tokens_before"] == COUNTER.count(CORPUS[document.id or ""])


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.results: list[CompressionResult] = []
        self.runs: list[str] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.runs.append(f"start {kwargs['name']}")

    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.runs.append(f"end {len(outputs['documents'])}")

    def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        self.runs.append(type(error).__name__)

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        assert name == COMPRESSION_EVENT
        self.results.append(data)


class AsyncRecorder(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.results: list[CompressionResult] = []

    async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.results.append(data)


def test_callbacks_and_explain_give_the_whole_account(retriever: BaseRetriever) -> None:
    recorder = Recorder()
    compressing = ContextualCompressionRetriever(base_compressor=compressor(), base_retriever=retriever)
    found = compressing.invoke(QUESTION, config={"callbacks": [recorder]})
    (result,) = recorder.results
    assert result.text == shown(found)
    assert result == compressor().explain(retriever.invoke(QUESTION), QUESTION)
    assert all(item.reason for item in result.dropped)
    assert recorder.runs == ["start HypersceneCompressor", f"end {len(found)}"]


async def test_callbacks_run_asynchronously_too(retriever: BaseRetriever) -> None:
    recorder, asynchronous = Recorder(), AsyncRecorder()
    compressing = ContextualCompressionRetriever(base_compressor=compressor(), base_retriever=retriever)
    found = await compressing.ainvoke(QUESTION, config={"callbacks": [recorder, asynchronous]})
    assert [result.text for result in (*recorder.results, *asynchronous.results)] == [shown(found)] * 2


async def test_errors_reach_the_callbacks() -> None:
    recorder = Recorder()
    with pytest.raises(BudgetError):
        compressor(3).compress_documents(documents(), QUESTION, callbacks=[recorder])
    with pytest.raises(BudgetError):
        await compressor(3).acompress_documents(documents(), QUESTION, callbacks=[recorder])
    assert recorder.runs == ["start HypersceneCompressor", "BudgetError"] * 2


async def test_the_event_loop_runs_while_documents_are_compressed(minilm: Encoder) -> None:
    encoder = WaitingEncoder(minilm, timeout=30)
    other = asyncio.create_task(set_soon(encoder.loop_ran))
    await compressor(encoder=encoder).acompress_documents(documents(), QUESTION)
    await other
    assert encoder.waits
    assert all(encoder.waits)


async def test_the_sync_call_would_block_the_event_loop(minilm: Encoder) -> None:
    encoder = WaitingEncoder(minilm, timeout=0.3)
    other = asyncio.create_task(set_soon(encoder.loop_ran))
    compressor(encoder=encoder).compress_documents(documents(), QUESTION)
    assert not encoder.waits[0]
    await other


def test_it_survives_serialisation(embeddings: MiniLMEmbeddings) -> None:
    original = HypersceneCompressor(max_tokens=64, tokenizer="cl100k_base", encoder="minilm", title_key=None)
    assert HypersceneCompressor.model_validate_json(original.model_dump_json()) == original
    data = json.loads(compressor(encoder=embeddings, tokenizer=COUNTER).model_dump_json())
    assert (data["tokenizer"], data["encoder"]) == ("cl100k_base", "minilm")


@pytest.mark.parametrize("max_tokens", [0, -5, True, 1.5, "100", None])
def test_a_budget_that_is_none_is_refused(max_tokens: Any) -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        compressor(max_tokens)


def test_wrong_settings_are_refused_at_once() -> None:
    with pytest.raises(ValidationError, match=r"no-such-tokenizer.*cl100k_base"):
        compressor(tokenizer="no-such-tokenizer")
    with pytest.raises(ValidationError, match="max_token"):
        compressor(max_token=5)


class CompressedCorpus(ContextualCompressionRetriever):
    """What LangChain's suite needs: a retriever that takes ``k``, here through the compressor."""

    def __init__(self, k: int = 2, **fields: Any) -> None:
        store = InMemoryVectorStore(MiniLMEmbeddings(load_encoder("minilm")))
        store.add_documents(documents())
        retriever = store.as_retriever(search_kwargs={"k": k})
        super().__init__(base_compressor=compressor(450), base_retriever=retriever, **fields)


class TestLangChainsOwnSuite(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return CompressedCorpus

    @property
    def retriever_query_example(self) -> str:
        return QUESTION
