"""Hypercode in the engine: planned, answered from, stale or foreign caches go in as text with the reason."""

from __future__ import annotations

import asyncio
import random

import pytest

from hyperscene_plugin import Engine, LocalModel, Message, Scope
from hyperscene_plugin.demo_model.world import World, exact_match
from hyperscene_plugin.errors import InputError, ModelError, StoreError
from hyperscene_plugin.model import HypercodeModel
from tests.tiny_model import save_tiny_model

ANNA, BORIS = Scope(user_id="anna"), Scope(user_id="boris")


@pytest.fixture(scope="module")
def demo():
    return LocalModel.load("demo", device_map="cpu")


@pytest.fixture(scope="module")
def context():
    return World(0).make_context(random.Random(5), 8, 4, held_out=True)


@pytest.fixture
def engine(tmp_path, demo):
    with Engine(tmp_path / "scenes.db", demo, None) as engine:
        yield engine


def test_a_local_model_is_a_hypercode_model(demo):
    assert isinstance(demo, HypercodeModel)


def test_answers_come_from_hypercode_and_the_plan_says_so(engine, context):
    engine.remember(context.text, scope=ANNA, source_id="notes")
    stored = engine.compact("notes", scope=ANNA, compaction_ratio=8, quality="best")
    assert stored.cache.nbytes + stored.cache.zoom_bytes <= stored.cache.full_nbytes / 8
    world, rng = World(0), random.Random(1)
    right = 0
    for fact in context.facts[:12]:
        question = world.ask(fact, rng)
        reply = engine.generate(question.text, scope=ANNA)
        right += exact_match(reply.text, question.answer)
        assert {a.tier for a in reply.plan.activations} <= {"hypercode", "zoom"}
        assert any(a.tier == "zoom" for a in reply.plan.activations)
        assert reply.plan.kv_bytes_after < reply.plan.kv_bytes_before / 4
        assert reply.result.caches[0].active
    assert right >= 11
    assert "[zoom]" in str(reply.plan)
    assert reply.plan.to_dict()["cache_keys"] == [stored.key]


def test_the_text_tier_is_used_when_asked(engine, context):
    engine.remember(context.text, scope=ANNA, source_id="notes")
    engine.compact("notes", scope=ANNA, compaction_ratio=8)
    plan = engine.plan("Who lives in Oslo?", scope=ANNA, hypercode=False)
    assert {a.tier for a in plan.activations} == {"text"}
    assert not plan.cache_keys


def test_other_sources_stand_beside_it_as_text(engine, context):
    engine.remember(context.text, scope=ANNA, source_id="notes")
    engine.compact("notes", scope=ANNA, compaction_ratio=8)
    engine.remember("Zed lives in Quito.", scope=ANNA, source_id="more")
    plan = engine.plan("Where does Zed live?", scope=ANNA)
    assert {a.scene.source_id for a in plan.activations if a.tier == "text"} == {"more"}
    assert {a.scene.source_id for a in plan.activations if a.tier != "text"} == {"notes"}


def test_another_scope_sees_nothing_of_it(engine, context):
    engine.remember(context.text, scope=ANNA, source_id="notes")
    engine.compact("notes", scope=ANNA, compaction_ratio=8)
    plan = engine.plan("Who lives in Oslo?", scope=BORIS)
    assert not plan.activations
    assert not plan.cache_keys
    with pytest.raises(InputError, match="no source 'notes'"):
        engine.compact("notes", scope=BORIS)


def test_it_survives_reopening_and_streams(tmp_path, demo, context):
    with Engine(tmp_path / "scenes.db", demo, None) as engine:
        engine.remember(context.text, scope=ANNA, source_id="notes")
        engine.compact("notes", scope=ANNA, compaction_ratio=8, quality="best")
    question = World(0).ask(context.facts[0], random.Random(2)).text
    with Engine(tmp_path / "scenes.db", demo, None) as again:
        chunks = list(again.stream(question, scope=ANNA))
        assert chunks[-1].reply is not None
        assert chunks[-1].reply.plan.cache_keys
        whole = again.generate(question, scope=ANNA)
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert asyncio.run(again.agenerate(question, scope=ANNA)).text == whole.text


def test_changed_sources_go_in_as_text(engine, context):
    engine.remember(context.text, scope=ANNA, source_id="notes")
    engine.compact("notes", scope=ANNA, compaction_ratio=8)
    scenes = engine.store.list(ANNA, limit=100, order="source")
    engine.forget(ANNA, ids=[scenes[-1].id])
    plan = engine.plan("Who lives in Oslo?", scope=ANNA)
    assert {a.tier for a in plan.activations} == {"text"}
    assert any("its scenes have changed" in note for note in plan.notes)


def test_forgetting_the_source_forgets_its_hypercode(engine, context):
    engine.remember(context.text, scope=ANNA, source_id="notes")
    engine.compact("notes", scope=ANNA, compaction_ratio=8)
    report = engine.forget(ANNA, source_id="notes")
    assert report.blobs_removed == 1
    assert engine.store.stats(ANNA).blobs == 0


def test_uncompact_keeps_the_scenes(engine, context):
    engine.remember(context.text, scope=ANNA, source_id="notes")
    engine.compact("notes", scope=ANNA, compaction_ratio=8)
    assert engine.uncompact("notes", scope=ANNA)
    assert not engine.uncompact("notes", scope=ANNA)
    assert {a.tier for a in engine.plan("Who lives in Oslo?", scope=ANNA).activations} == {"text"}


def test_another_model_falls_back_to_text_and_lists_the_differences(tmp_path, demo, context):
    with Engine(tmp_path / "scenes.db", demo, None) as engine:
        engine.remember(context.text, scope=ANNA, source_id="notes")
        engine.compact("notes", scope=ANNA, compaction_ratio=8)
    folder = save_tiny_model(tmp_path / "tiny", window=1024)
    other = LocalModel.load(str(folder), device_map="cpu")
    with Engine(tmp_path / "scenes.db", other, None) as engine:
        plan = engine.plan("Who lives in Oslo?", scope=ANNA, max_tokens=300)
    assert {a.tier for a in plan.activations} == {"text"}
    note = next(note for note in plan.notes if "goes in as text" in note)
    assert "tokenizer" in note
    assert "weights" in note


def test_history_and_instructions_reach_the_model(tmp_path, demo, context):
    with Engine(tmp_path / "scenes.db", demo, None, instructions="Answer.") as engine:
        engine.remember(context.text, scope=ANNA, source_id="notes")
        engine.compact("notes", scope=ANNA, compaction_ratio=4)
        plan = engine.plan("And Anna?", scope=ANNA, history=[Message("user", "Hello"), Message("assistant", "Hi.")])
        assert [m.role for m in plan.messages] == ["user", "assistant", "user"]
        assert engine.run(plan).result.usage.completion_tokens > 0


def test_an_old_plan_says_so(engine, context):
    engine.remember(context.text, scope=ANNA, source_id="notes")
    engine.compact("notes", scope=ANNA, compaction_ratio=8)
    plan = engine.plan("Who lives in Oslo?", scope=ANNA)
    engine._hypercode._open.clear()
    with pytest.raises(StoreError, match="make a new plan"):
        engine.run(plan)


def test_without_a_model_there_is_no_hypercode(tmp_path):
    with Engine(tmp_path / "scenes.db", None, None) as engine:
        engine.remember("Anna lives in Oslo.", scope=ANNA, source_id="notes")
        with pytest.raises(ModelError, match="needs a local model"):
            engine.compact("notes", scope=ANNA)


def test_a_chat_keeps_its_speakers(engine):
    said = {
        "Nora": "Geneva",
        "Felix": "Lisbon",
        "Irene": "Athens",
        "Oscar": "Prague",
        "Clara": "Riga",
        "Victor": "Oslo",
    }
    chat = [Message("user", f"I live in {city}.", name=name, id=name) for name, city in said.items()]
    engine.remember(chat, scope=ANNA, source_id="chat")
    engine.compact("chat", scope=ANNA, compaction_ratio=3, quality="best")
    answers = {name: engine.generate(f"Where does {name} live?", scope=ANNA).text.strip(" .") for name in said}
    assert answers == said
