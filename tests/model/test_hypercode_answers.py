"""Answers from compact caches: right where the text is, unmoved where it is not, alike however they are asked for."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from hyperscene_plugin import Message
from hyperscene_plugin.demo_model.world import exact_match
from hyperscene_plugin.kv.layout import bytes_of
from hyperscene_plugin.model import GenerationOptions
from hyperscene_plugin.model.cache_bridge import HyperCache
from hyperscene_plugin.model.composition import ContextPart, assemble_context
from tests.model.caches import SHORT, demo, demo_cache, questions, right, world_text

COUNT = 8


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def logits_behind(parts: list[ContextPart], question: str) -> torch.Tensor:
    engine = demo().hypercode
    template = engine.template()
    context = assemble_context(engine.prefix(template), parts, engine.rope, 3000)
    cache, live = HyperCache(engine.model.config, [context]), torch.tensor([template.suffix_ids(question)])
    with torch.no_grad():
        out = engine.model(live, past_key_values=cache, position_ids=cache.position_ids(live.shape[1]))
    logits: torch.Tensor = out.logits[0]
    return logits


def test_a_compact_cache_answers_and_none_or_another_does_not() -> None:
    full = sum(
        exact_match(demo().generate([Message("system", world_text().text), Message("user", text)], SHORT).text, answer)
        for text, answer in questions(count=COUNT)
    )
    assert full >= COUNT - 1
    assert right(demo(), count=COUNT, caches=[demo_cache()]) >= full - 2
    assert right(demo(), count=COUNT, caches=[demo_cache(2)]) <= 2  # controls: another text, no text
    nothing = [demo().generate([Message("user", text)], SHORT).text for text, _ in questions(count=COUNT)]
    assert sum(exact_match(told, answer) for told, (_, answer) in zip(nothing, questions(), strict=True)) <= 2


def test_everything_read_verbatim_is_the_full_text() -> None:
    """Nothing dropped is nothing lost, with slots from compaction and the rest from the verbatim copy."""
    cache, (question, _) = demo_cache(), questions()[0]
    whole = ContextPart(cache, zoomed=((0, cache.num_source_tokens),))
    template = demo().hypercode.template()
    ids = [*template.prefix_ids, *cache.token_ids.tolist(), *template.suffix_ids(question)]
    with torch.no_grad():
        plain = demo().model(torch.tensor([ids])).logits[0, len(template.prefix_ids) + cache.num_source_tokens :]
    torch.testing.assert_close(logits_behind([whole], question), plain, atol=1e-2, rtol=1e-3)
    compact = logits_behind([ContextPart(cache)], question)
    assert not torch.allclose(compact, plain, atol=1e-1)  # the control: compaction drops something


def test_the_gate_drops_what_is_off_topic_and_order_hardly_matters() -> None:
    mine, other = demo_cache(1), demo_cache(2)
    for caches in ([mine, other], [other, mine]):
        plans = [plan for text, _ in questions(count=COUNT) for plan in demo().plan_caches(text, caches).caches]
        dropped = [plan for plan in plans if not plan.active]
        wrongly = [plan for plan in dropped if plan.source_id == "text-1"]
        assert len(dropped) >= COUNT / 2
        assert len(wrongly) <= 1
        assert all("gate: pointed at" in plan.reason and plan.zoomed == () for plan in dropped)
    assert right(demo(), count=COUNT, caches=[other, mine]) >= right(demo(), count=COUNT, caches=[mine]) - 2
    everyone = demo().generate(questions()[0][0], SHORT, caches=[mine, other], gate=False)
    assert all(plan.active for plan in everyone.caches)


def test_an_unrelated_cache_leaves_answers_from_the_prompt_s_own_text_alone() -> None:
    changed = 0
    for text, answer in questions(count=6):
        asked = [Message("user", f"{world_text().text}\n\n{text}")]
        alone = demo().generate(asked, SHORT).text
        behind = demo().generate(asked, SHORT, caches=[demo_cache(2)]).text
        changed += exact_match(alone, answer) and not exact_match(behind, answer)
    assert changed <= 1


def test_zoom_stays_within_its_bytes_and_reads_whole_sentences() -> None:
    cache = demo_cache(1, 8.0)
    assert cache.verbatim is not None
    for text, _ in questions(count=COUNT):
        plan = demo().plan_caches(text, [cache]).caches[0]
        assert plan.zoomed
        assert set(plan.zoomed) <= set(cache.zoom_units)
        taken = sum(
            bytes_of(*cache.verbatim.read(layer, a, b)) for a, b in plan.zoomed for layer in range(len(cache.layers))
        )
        assert taken <= cache.zoom_bytes
        assert len(plan.zoomed_text) == len(plan.zoomed)
        for said in plan.zoomed_text:
            assert said.strip() in world_text().text
    hits = sum(
        answer.rstrip(".") in " ".join(demo().plan_caches(text, [cache]).caches[0].zoomed_text)
        for text, answer in questions(count=COUNT)
    )
    assert hits >= COUNT - 3
    without = demo().plan_caches(questions()[0][0], [cache], zoom=False)
    assert without.caches[0].zoomed == ()
    assert without.nbytes < demo().plan_caches(questions()[0][0], [cache]).nbytes


def test_a_scene_left_out_is_as_if_it_had_never_been_there() -> None:
    cache, (question, _) = demo_cache(), questions()[0]
    count = len(cache.scenes)
    assert count > 1
    some = tuple(range(count))[1:]
    start = cache.scenes[0].end
    removed = replace(
        cache, layers=tuple(layer.only(layer.source_index >= start) for layer in cache.layers), verbatim=None
    )
    left_out = logits_behind([ContextPart(cache, some)], question)
    assert torch.equal(left_out, logits_behind([ContextPart(removed)], question))
    assert torch.equal(left_out, logits_behind([ContextPart(cache, some[::-1])], question))
    assert not torch.allclose(left_out, logits_behind([ContextPart(cache)], question), atol=1e-3)


def test_two_caches_stand_at_consecutive_positions() -> None:
    one, two = demo_cache(1), demo_cache(2)
    engine = demo().hypercode
    prefix = engine.prefix(engine.template())
    both = assemble_context(prefix, [ContextPart(one), ContextPart(two)], engine.rope, 3000)
    assert both.num_positions == prefix.num_prefix + one.num_source_tokens + two.num_source_tokens
    first = assemble_context(prefix, [ContextPart(one)], engine.rope, 3000)
    shift = prefix.num_prefix + one.num_source_tokens
    for layer, mine in zip(both.layers, first.layers, strict=True):
        for head in range(len(mine.offsets) - 1):
            rows = layer.head(head)
            own = mine.keys[mine.head(head)]
            torch.testing.assert_close(layer.keys[rows][: len(own)], own)
            assert bool((layer.positions[rows][len(own) :] >= shift).all())
    assert right(demo(), 1, 4, caches=[one, two], gate=False) >= 2
    assert right(demo(), 2, 4, caches=[one, two], gate=False) >= 2


def test_a_stream_is_the_whole_reply_and_a_second_the_same() -> None:
    caches, text = [demo_cache()], questions()[1][0]
    before = [[layer.keys.clone(), layer.bias.clone()] for layer in caches[0].layers]
    whole = demo().generate(text, SHORT, caches=caches)
    chunks = list(demo().stream(text, SHORT, caches=caches))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].result is not None
    assert chunks[-1].result.caches == whole.caches
    assert demo().generate(text, SHORT, caches=caches).text == whole.text
    for layer, (keys, bias) in zip(caches[0].layers, before, strict=True):  # a cache is read, never changed
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.bias, bias)
    assert demo().generate([Message("user", text)], SHORT).caches == ()


def test_threads_do_not_mix_their_caches() -> None:
    asked = [(questions(seed)[n][0], [demo_cache(seed)]) for n in range(3) for seed in (1, 2)]
    alone = [demo().generate(text, SHORT, caches=caches).text for text, caches in asked]
    together: dict[int, str] = {}

    def generate(place: int) -> None:
        text, caches = asked[place]
        together[place] = demo().generate(text, SHORT, caches=caches).text

    workers = [threading.Thread(target=generate, args=(place,)) for place in range(len(asked))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [together[place] for place in range(len(asked))] == alone


def test_a_seed_repeats_a_sample_behind_a_cache() -> None:
    hot = GenerationOptions(max_new_tokens=12, temperature=3.0, seed=1)
    text = questions()[0][0]
    one, two, other = (demo().generate(text, replace(hot, seed=seed), caches=[demo_cache()]).text for seed in (1, 1, 2))
    assert one == two != other


def test_what_is_reported_is_what_is_held() -> None:
    cache, text = demo_cache(), questions()[0][0]
    plan = demo().plan_caches(text, [cache])
    assert plan.full_nbytes > plan.nbytes
    usage = demo().generate(text, SHORT, caches=[cache]).usage
    template = demo().hypercode.template()
    live = len(template.suffix_ids(text))
    assert usage.prompt_tokens == len(template.prefix_ids) + cache.num_source_tokens + live
    assert usage.kv_cache_bytes == plan.nbytes + demo().kv_bytes_per_token * (live + usage.completion_tokens - 1)
