"""``HyperscenePostprocessor`` in real query engines: every response mode, sync and async, budgets, spans, events."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms.mock import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler
from pydantic import PrivateAttr, ValidationError

from hyperscene_plugin import CompressionResult, Encoder, token_counter
from hyperscene_plugin.errors import BudgetError
from llama_index.postprocessor.hyperscene import HypersceneEndEvent, HyperscenePostprocessor, HypersceneStartEvent

from .conftest import CORPUS, WaitingEncoder, set_soon

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llama_index_instrumentation.base import BaseEvent

QUESTION = "Who repaired the lamp of the lighthouse?"
ANSWER = "Maria Oliveira repaired the lamp"
COUNTER = token_counter("cl100k_base")


class MiniLMEmbedding(BaseEmbedding):
    """A real embedding model behind LlamaIndex's interface."""

    _encoder: Encoder = PrivateAttr()

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(model_name=encoder.name)
        self._encoder = encoder

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(value) for value in self._encoder.encode([text])[0]]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@pytest.fixture(scope="module")
def embedding(minilm: Encoder) -> MiniLMEmbedding:
    return MiniLMEmbedding(minilm)


@pytest.fixture(scope="module")
def index(embedding: MiniLMEmbedding) -> VectorStoreIndex:
    return VectorStoreIndex(text_nodes(), embed_model=embedding)


@pytest.fixture
def events() -> Iterator[list[BaseEvent]]:
    seen: list[BaseEvent] = []

    class Collector(BaseEventHandler):
        def handle(self, event: BaseEvent, **kwargs: Any) -> None:
            seen.append(event)

    root, collector = get_dispatcher(), Collector()
    root.add_event_handler(collector)
    yield seen
    root.event_handlers.remove(collector)


def text_nodes() -> list[TextNode]:
    return [TextNode(text=text, id_=name, metadata={"title": name, "page": 7}) for name, text in CORPUS.items()]


def scored(nodes: Sequence[BaseNode]) -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=1 - place / 10) for place, node in enumerate(nodes)]


def shown(nodes: Sequence[NodeWithScore]) -> str:
    return "\n\n".join(item.get_content(MetadataMode.LLM) for item in nodes)


def spans(node: BaseNode) -> list[tuple[int, int]]:
    written = node.metadata["hyperscene_spans"]
    return [(int(start), int(end)) for start, end in (span.split("-") for span in written.split(","))]


def reconstructed(node: BaseNode, source: str) -> str:
    return "\n".join(source[start:end] for start, end in spans(node))


@pytest.mark.parametrize("mode", list(ResponseMode))
def test_a_query_engine_answers_from_the_kept_scenes(
    mode: ResponseMode, index: VectorStoreIndex, minilm: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", MockLLM())  # two modes look there and not at llm=
    engine = RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=4),
        llm=MockLLM(),
        response_mode=mode,
        node_postprocessors=[HyperscenePostprocessor(max_tokens=200, encoder=minilm)],
    )
    if mode is ResponseMode.GENERATION:
        assert QUESTION in str(engine.query(QUESTION))  # this mode answers without any node
        return
    response = engine.query(QUESTION)
    assert COUNTER.count(shown(response.source_nodes)) <= 200
    assert ANSWER in shown(response.source_nodes)
    for item in response.source_nodes:
        assert item.node.get_content() == reconstructed(item.node, CORPUS[item.node_id])
    if mode is not ResponseMode.NO_TEXT:  # the mock model echoes its prompt
        assert ANSWER in str(response)
        assert "hyperscene" not in str(response)
        assert "rails were lifted" not in str(response)


@pytest.mark.parametrize("mode", [ResponseMode.COMPACT, ResponseMode.TREE_SUMMARIZE, ResponseMode.ACCUMULATE])
async def test_a_query_engine_answers_asynchronously(
    mode: ResponseMode, index: VectorStoreIndex, minilm: Encoder
) -> None:
    engine = RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=4),
        llm=MockLLM(),
        response_mode=mode,
        use_async=True,
        node_postprocessors=[HyperscenePostprocessor(max_tokens=200, encoder=minilm)],
    )
    response = await engine.aquery(QUESTION)
    assert ANSWER in str(response)
    assert [item.node_id for item in response.source_nodes] == [
        item.node_id for item in engine.query(QUESTION).source_nodes
    ]


def test_without_it_the_prompt_holds_everything(index: VectorStoreIndex) -> None:
    engine = RetrieverQueryEngine.from_args(index.as_retriever(similarity_top_k=4), llm=MockLLM())
    response = engine.query(QUESTION)
    assert COUNTER.count(shown(response.source_nodes)) > 600
    assert "rails were lifted" in str(response)


@pytest.mark.parametrize("max_tokens", [60, 100, 180, 350, 600])
@pytest.mark.parametrize("tokenizer", ["cl100k_base", len, None])
def test_the_budget_is_hard(max_tokens: int, tokenizer: Any) -> None:
    budget = max_tokens * (5 if tokenizer is len else 1)
    kept = HyperscenePostprocessor(max_tokens=budget, tokenizer=tokenizer, encoder=None).postprocess_nodes(
        scored(text_nodes()), query_str=QUESTION
    )
    count = len if tokenizer is len else COUNTER.count
    assert 0.5 * budget < count(shown(kept)) <= budget
    assert sum(count(item.get_content(MetadataMode.LLM)) for item in kept) <= budget


def test_metadata_the_model_sees_is_paid_for_and_excluded_metadata_is_not() -> None:
    heavy = {"note": "word " * 40}
    seen = [TextNode(text=text, id_=name, metadata=heavy) for name, text in CORPUS.items()]
    hidden = [
        TextNode(text=text, id_=name, metadata=heavy, excluded_llm_metadata_keys=["note"])
        for name, text in CORPUS.items()
    ]
    postprocessor = HyperscenePostprocessor(max_tokens=220, encoder=None)
    with_note = postprocessor.postprocess_nodes(scored(seen), query_str=QUESTION)
    without_note = postprocessor.postprocess_nodes(scored(hidden), query_str=QUESTION)
    assert COUNTER.count(shown(with_note)) <= 220
    assert COUNTER.count(shown(without_note)) <= 220
    assert sum(len(item.text) for item in with_note) < sum(len(item.text) for item in without_note)
    with pytest.raises(BudgetError, match="max_tokens=45"):
        HyperscenePostprocessor(max_tokens=45, encoder=None).postprocess_nodes(scored(seen), query_str=QUESTION)


def test_nodes_keep_all_but_their_text_and_are_never_changed() -> None:
    nodes: list[BaseNode] = [
        TextNode(
            text=CORPUS["lighthouse"],
            id_="a",
            metadata={"title": "Lighthouse", "tags": "x"},
            embedding=[0.5, 0.25],
            start_char_idx=100,
            end_char_idx=900,
            excluded_llm_metadata_keys=["tags"],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book", metadata={"k": 1})},
        ),
        Document(text=CORPUS["railway"], id_="b", metadata={"file_name": "railway.md"}),
    ]
    items = scored(nodes)
    before = [item.model_dump_json() for item in items]
    kept = HyperscenePostprocessor(max_tokens=230, encoder=None).postprocess_nodes(
        items, query_str="Lamp viaduct engineer"
    )
    assert [item.model_dump_json() for item in items] == before
    assert [(item.node_id, item.score) for item in kept] == [("a", 1.0), ("b", 0.9)]
    assert [type(item.node) for item in kept] == [TextNode, Document]
    first = kept[0].node
    assert isinstance(first, TextNode)
    assert (first.embedding, first.start_char_idx, first.end_char_idx) == ([0.5, 0.25], 100, 900)
    assert first.relationships == nodes[0].relationships
    for item, node in zip(kept, nodes, strict=True):
        assert node.metadata.items() <= item.metadata.items()
        source = node.get_content(MetadataMode.NONE)
        assert item.get_content() == reconstructed(item.node, source) != source
        assert item.metadata["hyperscene_tokens_before"] == COUNTER.count(source)
        assert item.metadata["hyperscene_tokens_after"] == COUNTER.count(item.get_content())
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert "hyperscene" not in item.get_content(mode)
    first.metadata["title"] = "changed"
    first.relationships.clear()
    first.excluded_llm_metadata_keys.clear()
    assert [item.model_dump_json() for item in items] == before


def test_the_retrievers_order_is_kept_and_empty_handed_nodes_are_left_out() -> None:
    nodes = text_nodes()[::-1]
    kept = HyperscenePostprocessor(max_tokens=160, encoder=None).postprocess_nodes(scored(nodes), query_str=QUESTION)
    order = [item.node_id for item in kept]
    assert "lighthouse" in order
    assert order == [node.node_id for node in nodes if node.node_id in order]
    assert len(order) < len(nodes)
    starts = [[start for start, _ in spans(item.node)] for item in kept]
    assert starts == [sorted(found) for found in starts]


def test_everything_that_fits_stays_as_it_is() -> None:
    nodes = scored(text_nodes())
    kept = HyperscenePostprocessor(max_tokens=5000, encoder="minilm").postprocess_nodes(nodes, query_str=QUESTION)
    assert [item.text for item in kept] == [item.text for item in nodes]
    assert [spans(item.node) for item in kept] == [[(0, len(item.text))] for item in nodes]


def test_without_a_query_the_selection_is_another_one() -> None:
    postprocessor = HyperscenePostprocessor(max_tokens=120, encoder=None)
    asked = postprocessor.postprocess_nodes(scored(text_nodes()), query_str="Who gave the atlas? Анна Вершинина, атлас")
    unasked = postprocessor.postprocess_nodes(scored(text_nodes()))
    assert "Анна Вершинина" in shown(asked)
    assert unasked
    assert shown(unasked) != shown(asked)
    assert COUNTER.count(shown(unasked)) <= 120
    assert shown(unasked) == shown(postprocessor.postprocess_nodes(scored(text_nodes()), query_str="  "))


def test_images_and_blank_nodes_pass_through_and_count() -> None:
    image = ImageNode(text="A photograph of the tower", image_url="https://example.org/tower.png", id_="image")
    blank = TextNode(text=" \n", id_="blank")
    items = scored([image, *text_nodes(), blank])
    kept = HyperscenePostprocessor(max_tokens=150, encoder=None).postprocess_nodes(items, query_str=QUESTION)
    assert kept[0] is items[0]
    assert kept[-1] is items[-1]
    assert ANSWER in shown(kept)
    assert COUNTER.count(shown(kept)) <= 150
    with pytest.raises(BudgetError, match="kept whole"):
        HyperscenePostprocessor(max_tokens=4, encoder=None).postprocess_nodes(items, query_str=QUESTION)


def test_a_document_with_an_image_passes_through_and_an_index_node_keeps_its_object() -> None:
    picture = Document(text=CORPUS["garden"][:90], image_resource=MediaResource(path=Path("garden.png")), id_="picture")
    target = object()
    pointer = IndexNode(text=CORPUS["lighthouse"], index_id="other", obj=target, id_="pointer")
    items = scored([picture, pointer])
    kept = HyperscenePostprocessor(max_tokens=100, encoder=None).postprocess_nodes(items, query_str=QUESTION)
    assert kept[0] is items[0]
    pointing = kept[1].node
    assert isinstance(pointing, IndexNode)
    assert (pointing.obj, pointing.index_id) == (target, "other")
    assert ANSWER in pointing.text != pointer.text


def test_no_nodes_are_no_nodes() -> None:
    assert HyperscenePostprocessor(max_tokens=10).postprocess_nodes([], query_str=QUESTION) == []


def test_nodes_of_one_id_are_told_apart() -> None:
    items = scored([TextNode(text=text, id_="same") for text in CORPUS.values()])
    kept = HyperscenePostprocessor(max_tokens=160, encoder=None).postprocess_nodes(items, query_str=QUESTION)
    sources = {item.score: item.text for item in items}
    assert [item.text for item in kept] == [reconstructed(item.node, sources[item.score]) for item in kept]


def test_it_works_after_another_postprocessor(index: VectorStoreIndex) -> None:
    engine = RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=4),
        llm=MockLLM(),
        node_postprocessors=[
            SimilarityPostprocessor(similarity_cutoff=0.3),
            HyperscenePostprocessor(max_tokens=100, encoder=None),
        ],
    )
    assert [item.node_id for item in engine.query(QUESTION).source_nodes] == ["lighthouse"]


def test_an_embedding_model_of_the_app_serves_as_encoder(embedding: MiniLMEmbedding, minilm: Encoder) -> None:
    theirs = HyperscenePostprocessor(max_tokens=150, encoder=embedding).explain(scored(text_nodes()), QUESTION)
    ours = HyperscenePostprocessor(max_tokens=150, encoder=minilm).explain(scored(text_nodes()), QUESTION)
    assert theirs.text == ours.text
    assert theirs.notes == ()


def test_events_and_explain_give_the_whole_account(events: list[BaseEvent]) -> None:
    items = scored(text_nodes())
    postprocessor = HyperscenePostprocessor(max_tokens=150, encoder=None)
    kept = postprocessor.postprocess_nodes(items, query_str=QUESTION)
    start, end = (event for event in events if isinstance(event, HypersceneStartEvent | HypersceneEndEvent))
    assert isinstance(start, HypersceneStartEvent)
    assert (start.query, start.max_tokens, len(start.nodes)) == (QUESTION, 150, 4)
    assert isinstance(end, HypersceneEndEvent)
    assert isinstance(end.result, CompressionResult)
    assert end.result == postprocessor.explain(items, QUESTION)
    assert end.result.text == shown(kept) == shown(end.nodes)
    assert end.result.tokens_after <= 150 < end.result.tokens_before
    assert end.result.dropped
    assert all(item.reason for item in end.result.dropped)
    json.dumps(end.model_dump(mode="json"))


def test_the_async_events_are_the_same(events: list[BaseEvent]) -> None:
    postprocessor = HyperscenePostprocessor(max_tokens=150, encoder=None)
    asyncio.run(postprocessor.apostprocess_nodes(scored(text_nodes()), query_str=QUESTION))
    names = [event.class_name() for event in events if event.class_name().startswith("Hyperscene")]
    assert names == ["HypersceneStartEvent", "HypersceneEndEvent"]


async def test_the_event_loop_runs_while_nodes_are_compressed(minilm: Encoder) -> None:
    encoder = WaitingEncoder(minilm, timeout=30)
    postprocessor = HyperscenePostprocessor(max_tokens=150, encoder=encoder)
    other = asyncio.create_task(set_soon(encoder.loop_ran))
    kept = await postprocessor.apostprocess_nodes(scored(text_nodes()), QueryBundle(QUESTION))
    await other
    assert encoder.waits
    assert all(encoder.waits)
    plain = HyperscenePostprocessor(max_tokens=150, encoder=minilm)
    assert shown(kept) == shown(plain.postprocess_nodes(scored(text_nodes()), query_str=QUESTION))


async def test_the_sync_call_would_block_the_event_loop(minilm: Encoder) -> None:
    encoder = WaitingEncoder(minilm, timeout=0.3)
    postprocessor = HyperscenePostprocessor(max_tokens=150, encoder=encoder)
    other = asyncio.create_task(set_soon(encoder.loop_ran))
    postprocessor.postprocess_nodes(scored(text_nodes()), QueryBundle(QUESTION))
    assert not encoder.waits[0]
    await other


def test_concurrent_queries_do_not_mix(minilm: Encoder) -> None:
    postprocessor = HyperscenePostprocessor(max_tokens=150, encoder=minilm)
    questions = [QUESTION, "Who tested the viaduct?", "Who waters the cycad?"]

    async def ask() -> list[str]:
        calls = [postprocessor.apostprocess_nodes(scored(text_nodes()), query_str=question) for question in questions]
        return [shown(kept) for kept in await asyncio.gather(*calls)]

    alone = [shown(postprocessor.postprocess_nodes(scored(text_nodes()), query_str=question)) for question in questions]
    assert asyncio.run(ask()) == alone
    assert len(set(alone)) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 100},
        {"max_tokens": 64, "tokenizer": "cl100k_base", "encoder": "minilm", "title_key": None},
        {"max_tokens": 64, "encoder": None},
    ],
)
def test_it_survives_serialisation(fields: dict[str, Any]) -> None:
    original = HyperscenePostprocessor(**fields)
    data = original.to_dict()
    assert data["class_name"] == HyperscenePostprocessor.class_name() == "HyperscenePostprocessor"
    for copy in (HyperscenePostprocessor.from_dict(data), HyperscenePostprocessor.from_json(original.to_json())):
        assert copy.to_dict() == data
        assert {name: getattr(copy, name) for name in fields} == fields
    assert "callback_manager" not in data


def test_objects_are_serialised_by_name(embedding: MiniLMEmbedding) -> None:
    data = json.loads(HyperscenePostprocessor(max_tokens=64, tokenizer=COUNTER, encoder=embedding).to_json())
    assert (data["tokenizer"], data["encoder"]) == ("cl100k_base", "minilm")
    assert HyperscenePostprocessor.from_dict(data).postprocess_nodes(scored(text_nodes()), query_str=QUESTION)


@pytest.mark.parametrize("max_tokens", [0, -5, True, 1.5, "100", None])
def test_a_budget_that_is_none_is_refused(max_tokens: Any) -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        HyperscenePostprocessor(max_tokens=max_tokens)


def test_wrong_settings_are_refused_at_once() -> None:
    with pytest.raises(ValidationError, match=r"no-such-tokenizer.*cl100k_base"):
        HyperscenePostprocessor(max_tokens=10, tokenizer="no-such-tokenizer")
    with pytest.raises(ValidationError, match="max_token"):
        HyperscenePostprocessor(max_tokens=10, max_token=5)  # type: ignore[call-arg]


def test_the_default_tokenizer_is_the_one_llama_index_counts_with(monkeypatch: pytest.MonkeyPatch) -> None:
    postprocessor = HyperscenePostprocessor(max_tokens=300, encoder=None)
    by_default = postprocessor.explain(scored(text_nodes()), QUESTION)
    monkeypatch.setattr("llama_index.core.global_tokenizer", list)
    assert Settings.tokenizer is list
    by_characters = postprocessor.explain(scored(text_nodes()), QUESTION)
    assert by_characters.tokens_after == len(by_characters.text) <= 300
    assert by_default.tokens_after == COUNTER.count(by_default.text) <= 300
