"""Sources as compact caches: within their bytes, the same after saving, and refused by name where they cannot be."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperscene_plugin import LocalModel, Message
from hyperscene_plugin.demo_model.world import exact_match
from hyperscene_plugin.errors import (
    BudgetError,
    FingerprintMismatchError,
    HypercodeNotFoundError,
    InputError,
    UnsupportedModelError,
)
from hyperscene_plugin.kv.layout import CompactCache, bytes_of
from hyperscene_plugin.model import hypercode as module
from hyperscene_plugin.model.prefill import prefill_source
from tests.model.caches import SHORT, STORY, demo, demo_cache, questions, right, scenes_of, tiny, world_text

ARCHITECTURES = ["llama-llama3", "qwen2-window", "qwen2-yarn", "qwen3", "mistral", "gemma3", "phi3", "phi3-partial"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def global_bytes(cache: CompactCache) -> int:
    return sum(layer.nbytes for layer in cache.layers if layer.window is None)


def same(one: CompactCache, other: CompactCache) -> bool:
    names = ("keys", "values", "bias", "offsets", "source_index")
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one.layers, other.layers, strict=True)
        for name in names
    ) and (one.zoom_bytes, one.zoom_units, one.routing) == (other.zoom_bytes, other.zoom_units, other.routing)


@pytest.mark.parametrize("quality", ["fast", "balanced"])
@pytest.mark.parametrize("ratio", [2.0, 6.5, 16.0, 64.0])
def test_slots_and_zoom_fit_the_bytes_of_the_ratio(ratio: float, quality: str) -> None:
    cache = demo_cache(1, ratio, quality)
    assert cache.full_nbytes == demo().kv_bytes_per_token * cache.num_source_tokens
    assert cache.nbytes + cache.zoom_bytes <= cache.full_nbytes / ratio
    assert cache.nbytes + cache.zoom_bytes > 0.95 * cache.full_nbytes / ratio - 1000
    assert (cache.compaction_ratio, cache.quality, cache.source_id) == (ratio, quality, "text-1")
    assert "".join(scene.text for scene in cache.scenes) == world_text().text
    assert [scene.start for scene in cache.scenes[1:]] == [scene.end for scene in cache.scenes[:-1]]
    assert [a for a, _ in cache.zoom_units[1:]] == [b for _, b in cache.zoom_units[:-1]]


def test_the_best_quality_fits_them_too() -> None:
    cache = demo().compact(scenes_of(*STORY[:2]), 4.0, quality="best")
    assert cache.nbytes + cache.zoom_bytes <= cache.full_nbytes / 4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_compacts_saves_and_answers(name: str, tmp_path: Path) -> None:
    local = tiny(tmp_path / "model", name)
    cache = local.compact(scenes_of(*STORY[:2]), 4.0)
    windowed = sum(bytes_of(layer.keys, layer.values) for layer in cache.layers if layer.window is not None)
    assert global_bytes(cache) + cache.zoom_bytes <= (cache.full_nbytes - windowed) / 4
    loaded = local.load_compact(cache.save(tmp_path / "kv"))
    assert same(loaded, cache)
    answers = [local.generate("Who?", SHORT, caches=[made]).text for made in (cache, loaded)]
    assert answers[0] == answers[1]
    plan = local.plan_caches("Who?", [cache])
    assert plan.nbytes < plan.full_nbytes


@pytest.mark.parametrize("name", ["mistral-window", "phi3-window"])
def test_a_model_of_windows_alone_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"every layer of .* sliding window"):
        tiny(tmp_path, name).compact(scenes_of(*STORY))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"compaction_ratio": 1.9}, InputError, "between 2 and 64; got 1.9"),
        ({"compaction_ratio": 65.0}, InputError, "between 2 and 64; got 65"),
        ({"compaction_ratio": float("nan")}, InputError, "between 2 and 64"),
        ({"quality": "perfect"}, InputError, "fast, balanced, best; got 'perfect'"),
        ({"zoom_share": 1.0}, InputError, "zoom_share"),
        ({"zoom_share": -0.1}, InputError, "zoom_share"),
        ({"max_bytes": 100}, BudgetError, "hold no slot"),
        ({"max_slots": 0}, InputError, "max_slots must be at least 1; got 0"),
        ({"max_bytes": -5}, InputError, "max_bytes must be at least 1; got -5"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        demo().compact(world_text().text, **options)


@pytest.mark.parametrize("source", ["", "  \n\n ", [], scenes_of("", " \n")])
def test_nothing_to_compact_is_refused(source: Any) -> None:
    with pytest.raises(InputError):
        demo().compact(source)
    with pytest.raises(InputError, match="no words to ask about"):
        demo().compact("!!! ... ???")


def test_absolute_budgets_hold() -> None:
    text = world_text().text
    for most in (40_000, 150_000):
        cache = demo().compact(text, max_bytes=most, quality="fast")
        assert 0.9 * most < cache.nbytes + cache.zoom_bytes <= most
    for most in (3, 20):
        cache = demo().compact(text, max_slots=most, zoom_share=0.0, quality="fast")
        heads = sum(layer.num_heads for layer in cache.layers)
        assert most * heads - 1 <= cache.num_slots <= most * heads
        assert (cache.zoom_bytes, cache.verbatim) == (0, None)


def test_the_seed_words_the_questions() -> None:
    made = [demo().compact(world_text().text, 8.0, quality="fast", seed=seed) for seed in (0, 0, 5)]
    assert same(made[0], made[1])
    assert not same(made[0], made[2])


def test_saved_and_loaded_it_answers_the_same(tmp_path: Path) -> None:
    cache = demo_cache()
    loaded = demo().load_compact(cache.save(tmp_path / "kv"))
    assert same(loaded, cache)
    for text, _ in questions(count=4):
        one, two = (demo().generate(text, SHORT, caches=[made]) for made in (cache, loaded))
        assert one.text == two.text
        assert one.caches == two.caches
    with pytest.raises(HypercodeNotFoundError):
        demo().load_compact(tmp_path / "none")


def test_a_cache_of_another_model_or_prefix_lists_what_differs(tmp_path: Path) -> None:
    cache = demo_cache()
    folder = cache.save(tmp_path / "kv")
    with pytest.raises(FingerprintMismatchError) as raised:
        demo().load_compact(folder, instructions="Answer in French.")
    assert [name for name, _, _ in raised.value.differences] == ["prefix"]
    with pytest.raises(FingerprintMismatchError, match="text-1"):
        demo().generate("Where?", SHORT, caches=[cache], instructions="Answer in French.")
    with pytest.raises(FingerprintMismatchError):
        demo().generate("Where?", SHORT, caches=[cache], chat=False)
    other = tiny(tmp_path / "model")
    with pytest.raises(FingerprintMismatchError) as raised:
        other.load_compact(folder)
    assert {"config", "weights", "tokenizer", "rope", "prefix"} <= {name for name, _, _ in raised.value.differences}


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    local = tiny(tmp_path / "model")
    cache = local.compact(scenes_of(*STORY[:2]), 4.0, quality="fast")
    with torch.no_grad():
        local.model.lm_head.weight.mul_(1.01)
    changed = LocalModel(local.model, local.tokenizer, name=local.name)
    with pytest.raises(FingerprintMismatchError) as raised:
        changed.generate("Who?", SHORT, caches=[cache])
    assert [name for name, _, _ in raised.value.differences] == ["weights"]


def test_raw_prompts_and_instructions_have_caches_of_their_own() -> None:
    text = world_text().text
    raw = demo().compact(text, 4.0, chat=False, quality="fast")
    assert demo().generate("\nAnna", SHORT, caches=[raw], chat=False).usage.prompt_tokens > raw.num_source_tokens
    told = demo().compact(text, 4.0, instructions="Answer from the notes.")
    assert right(demo(), count=4, caches=[told], instructions="Answer from the notes.") >= 3
    assert told.fingerprint["prefix"] != raw.fingerprint["prefix"] != demo_cache().fingerprint["prefix"]


# a source longer than the window, and checkpoints


def test_a_window_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="window leaves no room"):
        tiny(tmp_path / "small", window=256).compact(scenes_of(*STORY))
    with pytest.raises(InputError, match="scene 0 has"):
        tiny(tmp_path / "long", window=380).compact(scenes_of("".join(STORY)))


def test_a_source_longer_than_the_window_is_cut_and_still_answers(tmp_path: Path) -> None:
    local = tiny(tmp_path / "model", window=380)
    cache = local.compact(scenes_of(*STORY * 2), 4.0)
    assert len(cache.block_starts) > 2
    assert cache.num_source_tokens > 380
    assert cache.nbytes + cache.zoom_bytes <= cache.full_nbytes / 4
    assert set(cache.block_starts) <= {scene.start for scene in cache.scenes}
    assert cache.verbatim is not None
    assert cache.verbatim.num_tokens == cache.num_source_tokens
    for folder in (None, tmp_path / "kv"):
        used = cache if folder is None else local.load_compact(cache.save(folder))
        result = local.generate("Who keeps a parrot?", SHORT, caches=[used])
        assert result.usage.total_tokens <= 380
        assert any("scenes of 'doc' fit the window" in note for note in result.notes)
    for zoom in (True, False):
        plan = local.plan_caches("Who keeps a parrot?", [cache], zoom=zoom, reserve=10)
        assert plan.num_positions <= 380 - 10
        assert bool(plan.caches[0].zoomed) == zoom
    with pytest.raises(BudgetError, match="gate=True"):
        local.generate("Who keeps a parrot?", SHORT, caches=[cache], gate=False)


def test_an_interrupted_call_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tiny(tmp_path / "model", window=380)
    scenes, folder = scenes_of(*STORY), tmp_path / "checkpoint"
    local.hypercode.prefix(local.hypercode.template())
    prefilled: list[int] = []
    plain = prefill_source

    def counted(model: Any, prefix: Any, ids: list[int], *rest: Any) -> Any:
        prefilled.append(len(ids))
        return plain(model, prefix, ids, *rest)

    monkeypatch.setattr(module, "prefill_source", counted)
    seen: list[tuple[str, int, int]] = []
    whole = local.compact(scenes, 4.0, progress=lambda *step: seen.append(step))
    blocks = len(prefilled)
    assert blocks == len(whole.block_starts) > 1
    assert {total for _, _, total in seen} == {whole.num_source_tokens}
    assert seen[-1] == ("compact", whole.num_source_tokens, whole.num_source_tokens)
    assert {stage for stage, _, _ in seen} == {"prefill", "compact"}

    def stop(stage: str, done: int, _: int) -> None:
        if stage == "compact" and done > whole.block_starts[1]:
            raise KeyboardInterrupt

    prefilled.clear()
    with pytest.raises(KeyboardInterrupt):
        local.compact(scenes, 4.0, checkpoint=folder, progress=stop)
    assert len(prefilled) == 2
    assert [path.name for path in folder.iterdir()] == ["block-00000"]
    prefilled.clear()
    resumed = local.compact(scenes, 4.0, checkpoint=folder)
    assert len(prefilled) == blocks - 1
    assert same(resumed, whole)
    assert (resumed.scenes, resumed.block_starts) == (whole.scenes, whole.block_starts)
    assert resumed.fidelity == pytest.approx(whole.fidelity)
    assert resumed.verbatim is not None
    assert whole.verbatim is not None
    assert torch.equal(resumed.verbatim.read(1, 0, 30)[0], whole.verbatim.read(1, 0, 30)[0])
    answers = [local.generate("Who?", SHORT, caches=[made]).text for made in (whole, resumed)]
    assert answers[0] == answers[1]
    prefilled.clear()
    local.compact(scenes, 4.0, checkpoint=folder)
    assert prefilled == []
    for other in ({"seed": 1}, {"quality": "fast"}, {"compaction_ratio": 5.0}):  # nothing of other settings is used
        prefilled.clear()
        local.compact(scenes, checkpoint=folder, **{"compaction_ratio": 4.0, **other})  # type: ignore[arg-type]
        assert len(prefilled) == blocks


def test_messages_stand_behind_a_cache() -> None:
    asked, good = questions(count=6), 0
    for (first, said), (second, answer) in pairwise(asked):
        turns = [Message("user", first), Message("assistant", said), Message("user", second)]
        told = demo().generate(turns, SHORT, caches=[demo_cache()])
        single = demo().generate([Message("user", second)], SHORT, caches=[demo_cache()])
        assert single.text == demo().generate(second, SHORT, caches=[demo_cache()]).text
        assert told.usage.prompt_tokens > single.usage.prompt_tokens
        good += exact_match(told.text, answer)
    assert good >= 3
