"""A context of all keys is the text itself: same logits and same generations, in every supported architecture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hyperscene_plugin.errors import InputError, ModelError
from hyperscene_plugin.kv.layout import AssembledContext
from hyperscene_plugin.kv.rope import rotate, unrotate
from hyperscene_plugin.model.cache_bridge import (
    NAME,
    HyperCache,
    record_attention,
    register,
    use_compact_attention,
)
from hyperscene_plugin.model.rope_of import ModelRope
from tests.model.tiny_architectures import MODELS, full_context, tiny_model, tokens

T, N = 20, 12  # longer than every window, so that windows cut both the context and the live tokens


def close(ours, expected):
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(params=MODELS)
def model(request):
    made = tiny_model(request.param)
    register()
    made.set_attn_implementation(NAME)
    return made


def hyper_model(name="llama", **fields):
    made = tiny_model(name, **fields)
    register()
    made.set_attn_implementation(NAME)
    return made


@torch.no_grad()
def logits(model, ids, cache=None, **more):
    if cache is not None and "position_ids" not in more:
        more["position_ids"] = cache.position_ids(ids.shape[1])
    return model(input_ids=ids, past_key_values=cache, **more).logits


def generate(model, ids, cache=None, **more):
    options = {"max_new_tokens": 10, "do_sample": False, **more}
    options.setdefault("attention_mask", torch.ones_like(ids))
    if cache is not None:
        options.setdefault("position_ids", cache.position_ids(ids.shape[1], 0))
    return model.generate(input_ids=ids, past_key_values=cache, **options)


def over_heads(layer, change):
    """Apply ``change(head, keys, values, bias, positions)`` to each head's rows."""
    parts = []
    for head in range(len(layer.offsets) - 1):
        own = layer.head(head)
        parts.append(change(head, layer.keys[own], layer.values[own], layer.bias[own], layer.positions[own]))
    keys, values, bias, positions = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    return replace(layer, keys=keys, values=values, bias=bias, positions=positions)


def changed(context, change):
    return replace(context, layers=tuple(over_heads(layer, change) for layer in context.layers))


def test_all_keys_of_a_text_stand_for_the_text(model):
    prefix, live = tokens(1, T), tokens(1, N, seed=2)
    whole = logits(model, torch.cat((prefix, live), 1))[:, T:]
    cache = HyperCache(model.config, [full_context(model, prefix)])
    close(logits(model, live, cache), whole)
    assert cache.get_seq_length() == N
    assert cache.logical_start == (T,)


def test_decoding_token_by_token_gives_the_same(model):
    prefix, live = tokens(1, T), tokens(1, N, seed=2)
    whole = logits(model, torch.cat((prefix, live), 1))[:, T:]
    cache = HyperCache(model.config, [full_context(model, prefix)])
    steps = [logits(model, live[:, :3], cache)]
    steps += [logits(model, live[:, at : at + 1], cache) for at in range(3, 6)]
    steps += [logits(model, live[:, 6:], cache)]  # and several tokens on a grown cache
    close(torch.cat(steps, 1), whole)


def test_greedy_generation_is_the_same(model):
    prefix, live = tokens(1, T), tokens(1, 4, seed=2)
    whole = generate(model, torch.cat((prefix, live), 1))[:, T:]
    assert torch.equal(generate(model, live, HyperCache(model.config, [full_context(model, prefix)])), whole)


def test_the_order_of_slots_is_free(model):
    prefix, live = tokens(1, T), tokens(1, N, seed=2)
    context = full_context(model, prefix)
    order = torch.randperm(T, generator=torch.Generator().manual_seed(3))
    mixed = changed(context, lambda head, k, v, b, p: (k[order], v[order], b[order], p[order]))
    close(
        logits(model, live, HyperCache(model.config, [mixed])),
        logits(model, live, HyperCache(model.config, [context])),
    )


def test_keys_unrotated_and_rotated_again_give_the_same(model):
    prefix, live = tokens(1, T), tokens(1, N, seed=2)
    context, rope = full_context(model, prefix), ModelRope(model)
    layers = []
    for index, layer in enumerate(context.layers):
        cos, sin = rope.cos_sin(layer.positions, index)
        layers.append(replace(layer, keys=rotate(unrotate(layer.keys, cos, sin), cos, sin)))
    again = AssembledContext(tuple(layers), T)
    close(
        logits(model, live, HyperCache(model.config, [again])),
        logits(model, live, HyperCache(model.config, [context])),
    )


def test_rope_moves_a_context_as_the_model_itself_would(model):
    prefix, offset = tokens(1, T), 37
    rope = ModelRope(model)
    here = record_attention(model, prefix, torch.arange(T)[None])
    there = record_attention(model, prefix, torch.arange(offset, offset + T)[None])
    for index in (0, 1):
        plain = unrotate(here[index].key, *rope.cos_sin(torch.arange(T), index))
        moved = rotate(plain, *rope.cos_sin(torch.arange(offset, offset + T), index))
        close(moved, there[index].key)


def test_without_a_context_it_is_sdpa_bit_for_bit(model):
    ids = tokens(2, N)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    ours = [logits(model, ids), logits(model, ids, HyperCache(model.config)), logits(model, ids, attention_mask=mask)]
    said = generate(model, ids, attention_mask=mask)
    model.set_attn_implementation("sdpa")
    theirs = [logits(model, ids), logits(model, ids), logits(model, ids, attention_mask=mask)]
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert torch.equal(said, generate(model, ids, attention_mask=mask))


def test_wrong_positions_and_another_bias_change_the_logits(model):
    prefix, live = tokens(1, T), tokens(1, N, seed=2)
    context = full_context(model, prefix)
    right = logits(model, live, HyperCache(model.config, [context]))
    wrong = logits(model, live, HyperCache(model.config, [context]), position_ids=torch.arange(N)[None])
    # one slot of every head four times as heavy
    heavy = changed(context, lambda head, k, v, b, p: (k, v, b + (p == T - 2) * 1.4, p))
    biased = logits(model, live, HyperCache(model.config, [heavy]))
    assert not torch.allclose(wrong, right, atol=1e-2)
    assert not torch.allclose(biased, right, atol=1e-2)


def test_two_slots_with_halved_mass_stand_for_one_key(model):
    prefix, live = tokens(1, T), tokens(1, N, seed=2)
    context = full_context(model, prefix)
    half = torch.tensor(0.5).log()

    def double(head, k, v, b, p):
        return torch.cat((k, k)), torch.cat((v, v)), torch.cat((b, b)) + half, torch.cat((p, p))

    twice = replace(
        changed(context, double),
        layers=tuple(
            replace(layer, offsets=tuple(2 * end for end in layer.offsets)) for layer in changed(context, double).layers
        ),
    )
    close(
        logits(model, live, HyperCache(model.config, [twice])),
        logits(model, live, HyperCache(model.config, [context])),
    )


def test_rows_with_their_own_contexts_and_left_padding_equal_single_runs(model):
    prefixes = [tokens(1, T, seed=3), tokens(1, T - 6, seed=4)]
    lives = [tokens(1, 9, seed=5), tokens(1, 6, seed=6)]
    contexts = [full_context(model, prefix) for prefix in prefixes]
    ids = torch.cat((lives[0], torch.cat((torch.zeros(1, 3, dtype=torch.int64), lives[1]), 1)))
    mask = (ids != 0).long()
    cache = HyperCache(model.config, contexts)
    batch = logits(model, ids, cache, position_ids=cache.position_ids(9, attention_mask=mask), attention_mask=mask)
    assert torch.isfinite(batch).all()
    for row, live in enumerate(lives):
        alone = logits(model, live, HyperCache(model.config, [contexts[row]]))
        close(batch[row : row + 1, -live.shape[1] :], alone)
    cache = HyperCache(model.config, contexts)
    said = generate(model, ids, cache, attention_mask=mask, position_ids=cache.position_ids(9, 0, mask))
    for row, live in enumerate(lives):
        alone = generate(model, live, HyperCache(model.config, [contexts[row]]))
        assert torch.equal(said[row : row + 1, 9:], alone[:, live.shape[1] :])


def test_a_shared_context_serves_samples_and_beams(model):
    prefix, live = tokens(1, T), tokens(1, 4, seed=2)
    context = full_context(model, prefix)
    for options in ({"do_sample": True, "num_return_sequences": 3, "top_k": 0}, {"num_beams": 3}):
        torch.manual_seed(7)
        whole = generate(model, torch.cat((prefix, live), 1), **options)[:, T:]
        torch.manual_seed(7)
        ours = generate(model, live, HyperCache(model.config, [context]), **options)
        assert torch.equal(ours, whole)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_beams_over_rows_with_their_own_contexts(name):
    model = hyper_model(name)
    contexts = [full_context(model, tokens(1, T, seed=seed)) for seed in (3, 4)]
    live = tokens(2, 4, seed=5)
    cache = HyperCache(model.config, contexts)
    with pytest.raises(InputError, match="batch_repeat_interleave"):
        generate(model, live, cache, num_beams=3)
    cache = HyperCache(model.config, contexts)
    held = cache.nbytes
    cache.batch_repeat_interleave(3)
    assert cache.nbytes == held
    said = generate(model, live, cache, num_beams=3, position_ids=cache.position_ids(4, 0)[::3])
    for row in (0, 1):
        alone = generate(model, live[row : row + 1], HyperCache(model.config, [contexts[row]]), num_beams=3)
        assert torch.equal(said[row : row + 1], alone)


def test_several_turns_on_one_cache(model):
    prefix, first, second = tokens(1, T), tokens(1, 4, seed=2), tokens(1, 5, seed=8)
    cache = HyperCache(model.config, [full_context(model, prefix)])
    said = generate(model, first, cache)
    turn = torch.cat((said, second), 1)
    again = generate(model, turn, cache)
    assert torch.equal(again, generate(model, torch.cat((prefix, turn), 1))[:, T:])


def test_cropped_live_tokens_can_be_said_otherwise(model):
    context = full_context(model, tokens(1, T))
    live, other = tokens(1, 4, seed=2), tokens(1, 2, seed=9)
    cache = HyperCache(model.config, [context])
    logits(model, live, cache)
    cache.crop(-2)
    ours = logits(model, other, cache)
    fresh = logits(model, torch.cat((live[:, :2], other), 1), HyperCache(model.config, [context]))
    close(ours, fresh[:, 2:])
    for wrong in (-99, 3):
        with pytest.raises(InputError):
            cache.crop(wrong)


def test_rows_can_be_reordered_and_selected():
    model = hyper_model()
    contexts = [full_context(model, tokens(1, T, seed=seed)) for seed in (3, 4, 5)]
    live, after = tokens(3, 4), tokens(3, 2, seed=6)
    plain = HyperCache(model.config, contexts)
    logits(model, live, plain)
    wanted = logits(model, after, plain)
    mixed = HyperCache(model.config, contexts)
    logits(model, live, mixed)
    order = torch.tensor([2, 0, 1])
    mixed.reorder_cache(order)
    close(logits(model, after[order], mixed), wanted[order])
    mixed.crop(-2)
    mixed.batch_select_indices(torch.tensor([1]))
    close(logits(model, after[:1], mixed), wanted[:1])


def test_repeated_rows_stay_next_to_each_other():
    model = hyper_model()
    contexts = [full_context(model, tokens(1, T, seed=seed)) for seed in (3, 4)]
    live = tokens(2, 4)
    single, repeated = HyperCache(model.config, contexts), HyperCache(model.config, contexts)
    wanted = logits(model, live, single)
    repeated.batch_repeat_interleave(3)
    close(logits(model, live.repeat_interleave(3, 0), repeated), wanted.repeat_interleave(3, 0))


def test_recording_gives_what_the_model_computed(model):
    prefix, live = tokens(1, T), tokens(1, N, seed=2)
    whole = record_attention(model, torch.cat((prefix, live), 1), torch.arange(T + N)[None])
    cache = HyperCache(model.config, [full_context(model, prefix)])
    on_top = record_attention(model, live, cache.position_ids(N), cache)
    assert list(whole) == list(on_top) == [0, 1, 2]
    assert cache.get_seq_length() == N
    for index, record in on_top.items():
        for field in ("query", "key", "value"):
            expected = getattr(whole[index], field)[:, :, T:]
            close(getattr(record, field), expected)
    ordinary = HyperCache(model.config)
    logits(model, torch.cat((prefix, live), 1), ordinary)
    stored, _, window = list(ordinary)[1]
    if window is None:
        assert torch.equal(whole[1].key, stored)


def test_recording_layer_by_layer_keeps_nothing():
    model = hyper_model()
    seen = []
    cache = HyperCache(model.config, [full_context(model, tokens(1, T))], keep_live=False)
    kept = record_attention(
        model, tokens(1, N), cache.position_ids(N), cache, [2], lambda layer, record: seen.append((layer, record))
    )
    assert not kept
    assert [layer for layer, _ in seen] == [2]
    assert seen[0][1].query.shape == (1, 4, N, 8)
    assert seen[0][1].key.shape == (1, 2, N, 8)
    assert cache.get_seq_length() == 0
    assert cache.recorder is None


def test_a_failing_forward_pass_is_a_model_error():
    model = hyper_model()
    with pytest.raises(ModelError, match="IndexError"):
        record_attention(model, torch.tensor([[10_000]]), torch.tensor([[0]]))


def test_bytes_count_each_context_once_and_the_live_part():
    model = hyper_model()
    context = full_context(model, tokens(1, T))
    slots = 3 * 2 * T * (2 * 8 * 4 + 4)  # layers · heads · tokens · (key and value, bias)
    shared, twice = HyperCache(model.config, [context]), HyperCache(model.config, [context, context])
    assert shared.nbytes == twice.nbytes == context.nbytes == slots
    logits(model, tokens(2, N), twice)
    assert twice.nbytes == slots + 3 * 2 * 2 * N * 2 * 8 * 4


def test_half_precision_stays_near_float32():
    ids, prefix = tokens(1, N, seed=2), tokens(1, T)
    full, half = hyper_model(), hyper_model().bfloat16()
    context = full_context(full, prefix)
    exact = logits(full, ids, HyperCache(full.config, [context]))
    rough = logits(half, ids, HyperCache(half.config, [context]))  # the slots take the model's dtype
    plain = logits(half, torch.cat((prefix, ids), 1))[:, T:]
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().mean() < 1.5 * (plain.float() - exact).abs().mean()


def test_a_model_on_other_attention_is_refused_instead_of_ignoring_the_context():
    model = hyper_model()
    context = full_context(model, tokens(1, T))
    model.set_attn_implementation("sdpa")
    with pytest.raises(ModelError, match="set_attn_implementation"):
        logits(model, tokens(1, N), HyperCache(model.config, [context]))
    with use_compact_attention(model):
        logits(model, tokens(1, N), HyperCache(model.config, [context]))
    assert model.config._attn_implementation == "sdpa"


def test_what_does_not_fit_is_refused():
    model, other = hyper_model(), hyper_model("mistral-window")
    context = full_context(model, tokens(1, T))
    with pytest.raises(InputError, match="windows"):
        HyperCache(other.config, [context])
    with pytest.raises(InputError, match="contexts for 2"):
        logits(model, tokens(3, N), HyperCache(model.config, [context, context]), position_ids=torch.arange(N)[None])
    with pytest.raises(InputError, match="attention mask"):
        HyperCache(model.config, [context]).position_ids(3, 0, torch.ones(1, 4))
