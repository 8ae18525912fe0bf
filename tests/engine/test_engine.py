"""The engine on a real store and a tiny real model: plans are exact accounts, replies come from the plan."""

from __future__ import annotations

import asyncio
import json
import threading
import zlib

import numpy as np
import pytest

from hyperscene_plugin import Engine, Message, Scope
from hyperscene_plugin.assemble import INSTRUCTIONS
from hyperscene_plugin.errors import BudgetError, InputError, ModelError
from hyperscene_plugin.model import GenerationOptions

ANNA = Scope(user_id="anna")
BORIS = Scope(user_id="boris")
PLACES = ["Oslo", "Lima", "Cairo", "Quito", "Hanoi", "Turin", "Perth", "Delhi", "Kyoto", "Basel"]
NAMES = ["Ada", "Ben", "Cleo", "Dora", "Emil", "Finn", "Gwen", "Hugo", "Iris", "Jan"]
WARES = [
    "bread",
    "tea",
    "ink",
    "rope",
    "lamps",
    "hats",
    "boots",
    "nails",
    "soap",
    "salt",
    "figs",
    "wool",
    "tin",
    "glass",
    "maps",
    "drums",
    "bells",
    "cards",
    "paint",
    "glue",
]


def _fact(index: int) -> str:
    """A paragraph long enough to be a scene of its own, unlike the others."""
    wares = ", ".join(WARES[(3 * index + 7 * step) % len(WARES)] for step in range(12 + index))
    return f"{NAMES[index]} moved to {PLACES[index]} and keeps a small shop there. On its shelves are {wares} and dust."


FACTS = [_fact(index) for index in range(len(NAMES))]
TEXT = "\n\n".join(FACTS) + "\n"
SHORT = GenerationOptions(max_new_tokens=8)


@pytest.fixture
def engine(tmp_path, tiny_model_folder):
    from hyperscene_plugin import LocalModel
    from tests.tiny_model import save_tiny_model

    model = LocalModel.load(str(save_tiny_model(tmp_path / "model", window=4096)), device_map="cpu")
    with Engine(tmp_path / "scenes.db", model, encoder=None) as opened:
        yield opened


def test_remember_twice_changes_nothing(engine):
    first = engine.remember(TEXT, scope=ANNA, source_id="places")
    second = engine.remember(TEXT, scope=ANNA, source_id="places")
    assert first.added == len(first.scene_ids) > 1
    assert (second.added, second.existing, second.scene_ids) == (0, first.added, first.scene_ids)
    assert first.source_ids == ("places",)


def test_the_plan_holds_the_scene_that_answers_and_accounts_for_every_scene(engine):
    stored = engine.remember(TEXT, scope=ANNA, source_id="places").scene_ids
    plan = engine.plan("Where did Cleo move?", scope=ANNA, max_tokens=400, options=SHORT)
    assert any("Cairo" in activation.scene.text for activation in plan.activations)
    assert {a.scene.id for a in plan.activations} | {d.scene.id for d in plan.left_out} == set(stored)
    assert len(plan.activations) + len(plan.left_out) == len(stored)
    assert plan.left_out


def test_another_question_calls_another_scene(engine):
    engine.remember(TEXT, scope=ANNA, source_id="places")
    plan = engine.plan("Where did Hugo move?", scope=ANNA, max_tokens=400, options=SHORT)
    text = plan.messages[0].content
    assert "Delhi" in text
    assert "Cairo" not in text


@pytest.mark.parametrize("budget", [250, 400, 700, 10_000])
def test_budgets_are_hard_and_the_prompt_is_counted_exactly(engine, budget):
    engine.remember(TEXT, scope=ANNA, source_id="places")
    plan = engine.plan("Where did Finn move?", scope=ANNA, max_tokens=budget, options=SHORT)
    assert plan.tokens_after <= plan.budget.max_scene_tokens <= budget
    assert plan.budget.prompt_tokens == engine.model.count_prompt_tokens(plan.messages)
    assert plan.budget.prompt_tokens + plan.budget.reserved_for_reply <= engine.model.context_window
    assert plan.kv_bytes_after == plan.tokens_after * engine.model.kv_bytes_per_token


def test_a_plan_prints_and_is_json(engine):
    engine.remember(TEXT, scope=ANNA, source_id="places")
    plan = engine.plan("Where did Finn move?", scope=ANNA, max_tokens=400, options=SHORT)
    assert "left out:" in str(plan)
    assert "× budget" in str(plan)
    again = json.loads(json.dumps(plan.to_dict()))
    assert again["activations"][0]["scene"]["source_id"] == "places"
    assert sum(again["left_out_by_reason"].values()) == len(plan.left_out)


def test_the_reply_is_the_models_own_on_the_planned_messages(engine):
    engine.remember(TEXT, scope=ANNA, source_id="places")
    reply = engine.generate("Where did Finn move?", scope=ANNA, max_tokens=400, options=SHORT)
    assert reply.text == engine.model.generate(reply.plan.messages, SHORT).text
    assert reply.result.usage.prompt_tokens == reply.plan.budget.prompt_tokens


def test_streamed_and_async_replies_are_the_same(engine):
    engine.remember(TEXT, scope=ANNA, source_id="places")
    arguments = {"scope": ANNA, "max_tokens": 400, "options": SHORT}
    whole = engine.generate("Where did Finn move?", **arguments).text
    chunks = list(engine.stream("Where did Finn move?", **arguments))
    assert "".join(chunk.text for chunk in chunks) == whole
    assert chunks[-1].reply.text == whole

    async def both():
        pieces = [chunk.text async for chunk in engine.astream("Where did Finn move?", **arguments)]
        return "".join(pieces), (await engine.agenerate("Where did Finn move?", **arguments)).text

    assert asyncio.run(both()) == (whole, whole)


async def test_the_event_loop_keeps_running_while_a_reply_is_made(engine):
    engine.remember(TEXT, scope=ANNA, source_id="places")
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await engine.agenerate("Where?", scope=ANNA, options=GenerationOptions(max_new_tokens=30))
    ticker.cancel()
    assert ticks > 5


async def test_cancelling_a_reply_ends_the_generation(engine):
    threads = {thread.name for thread in threading.enumerate()}
    long = GenerationOptions(max_new_tokens=1500)
    task = asyncio.create_task(engine.agenerate("Where?", scope=ANNA, options=long))
    await asyncio.sleep(0.3)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = [t for t in threading.enumerate() if t.name not in threads and "asyncio" not in t.name]
    assert left == []
    assert (await engine.agenerate("Where?", scope=ANNA, options=SHORT)).result.usage.seconds < 5  # the model is free


def test_memories_of_two_users_never_meet(engine):
    engine.remember("The code of the vault is 7741.", scope=ANNA, source_id="secret")
    engine.remember("The garden is green.", scope=BORIS, source_id="garden")
    theirs = engine.plan("What is the code of the vault?", scope=BORIS, options=SHORT)
    assert "7741" not in str(theirs.to_dict())
    mine = engine.plan("What is the code of the vault?", scope=ANNA, options=SHORT)
    assert "7741" in mine.messages[0].content


def test_an_empty_scope_is_said_not_silent(engine):
    plan = engine.plan("Anything?", scope=BORIS, options=SHORT)
    assert plan.activations == ()
    assert any("holds no scenes" in note for note in plan.notes)
    assert [message.role for message in plan.messages] == ["system", "user"]
    assert plan.messages[0].content == INSTRUCTIONS


def test_what_is_forgotten_is_in_no_plan(engine):
    engine.remember(TEXT, scope=ANNA, source_id="places")
    engine.plan("Where did Cleo move?", scope=ANNA, max_tokens=400, options=SHORT)  # fills the index cache
    report = engine.forget(ANNA, source_id="places")
    assert report.removed > 0
    assert engine.plan("Where did Cleo move?", scope=ANNA, max_tokens=400, options=SHORT).activations == ()


def test_what_is_added_later_is_found(engine):
    engine.remember(TEXT, scope=ANNA, source_id="places")
    engine.plan("Where did Zoe move?", scope=ANNA, max_tokens=400, options=SHORT)
    engine.remember("Zoe moved to Nairobi.", scope=ANNA, source_id="more")
    assert (
        "Nairobi" in engine.plan("Where did Zoe move?", scope=ANNA, max_tokens=400, options=SHORT).messages[0].content
    )


def test_a_follow_up_uses_the_message_before_it(engine):
    engine.remember(TEXT, scope=ANNA, source_id="places")
    history = [Message("user", "Tell me about Iris."), Message("assistant", "What about her?")]
    with_history = engine.plan("Where did she move?", scope=ANNA, history=history, max_tokens=400, options=SHORT)
    assert "Kyoto" in with_history.messages[0].content
    assert with_history.messages[1:3] == tuple(history)
    without = engine.plan("Where did she move?", scope=ANNA, max_tokens=400, options=SHORT)
    assert "Kyoto" not in without.messages[0].content


def test_chat_messages_keep_speaker_and_date(engine):
    chat = [
        {"role": "user", "name": "Mila", "content": "I adopted a parrot.", "id": "m1", "created_at": "2024-03-01"},
        {
            "role": "user",
            "name": "Omar",
            "content": "Lovely, what is it called?",
            "id": "m2",
            "created_at": "2024-03-01",
        },
    ]
    engine.remember(chat, scope=ANNA, source_id="chat")
    plan = engine.plan("Who adopted a parrot?", scope=ANNA, options=SHORT)
    assert "Mila: I adopted a parrot." in plan.messages[0].content
    assert "2024-03-01" in plan.messages[0].content
    assert plan.activations[0].scene.message_ids == ("m1",)


def test_errors_say_what_to_do(engine, tmp_path):
    with pytest.raises(InputError, match="blank"):
        engine.plan("  ", scope=ANNA)
    with pytest.raises(InputError, match=r"nothing to remember|empty|blank"):
        engine.remember("   ", scope=ANNA)
    with pytest.raises(BudgetError, match="no room"):
        engine.plan("word " * 5000, scope=ANNA)
    with Engine(tmp_path / "other.db", None, encoder=None) as no_model, pytest.raises(ModelError, match="no model"):
        no_model.plan("Anything?", scope=ANNA)


def test_more_scenes_than_can_be_ranked_go_through_search_and_are_noted(engine, monkeypatch):
    monkeypatch.setattr("hyperscene_plugin.recall._MOST_RANKED", 4)
    engine.remember(TEXT, scope=ANNA, source_id="places")
    plan = engine.plan("Where did Gwen move?", scope=ANNA, max_tokens=400, options=SHORT)
    assert "Perth" in plan.messages[0].content
    assert any("found by search" in note for note in plan.notes)


class CountingEncoder:
    """Random but fixed vectors by text; counts what it is asked to encode."""

    name = "counting"

    def __init__(self):
        self.encoded = []

    def encode(self, texts):
        self.encoded += texts
        rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(16) for text in texts]
        return np.asarray([row / np.linalg.norm(row) for row in rows], dtype=np.float32)


def test_a_chat_sent_again_whole_encodes_only_what_is_new(tmp_path):
    chat = [{"role": "user", "content": f"Message number {n} about {WARES[n]}.", "id": f"m{n}"} for n in range(10)]
    encoder = CountingEncoder()
    with Engine(tmp_path / "scenes.db", None, encoder) as engine:
        engine.remember(chat[:8], scope=ANNA, source_id="chat")
        assert len(encoder.encoded) == 8
        again = engine.remember(chat, scope=ANNA, source_id="chat")
        assert (again.added, again.existing) == (2, 8)
        assert len(encoder.encoded) == 10
        stored = engine.store.get_vectors(again.scene_ids, ANNA, "counting")
        assert stored is not None
        assert np.allclose(stored, CountingEncoder().encode(encoder.encoded), atol=2e-3)  # float16 rows


def test_both_ways_of_storing_keep_the_same_vectors(tmp_path, monkeypatch):
    stored = []
    for most in (20_000, 1):
        monkeypatch.setattr("hyperscene_plugin.engine._ALL_AT_ONCE", most)
        with Engine(tmp_path / f"{most}.db", None, CountingEncoder()) as engine:
            ids = engine.remember(TEXT, scope=ANNA, source_id="places").scene_ids
            stored.append(engine.store.get_vectors(ids, ANNA, "counting"))
    assert stored[0] is not None
    assert stored[1] is not None
    assert np.array_equal(stored[0], stored[1])
