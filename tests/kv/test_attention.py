"""The fast path against the eager oracle, and the oracle against torch's own attention."""

from __future__ import annotations

import itertools

import pytest
import torch

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.kv import attention
from hyperscene_plugin.kv.attention import compact_attention, reference_attention
from hyperscene_plugin.kv.layout import AssembledLayer

DIM = 8


def layer(counts, seed=0, window=None, dtype=torch.float32):
    """A layer with ``counts`` slots per head at ascending positions 0, 1, …"""
    generator = torch.Generator().manual_seed(seed)
    offsets = tuple(itertools.accumulate(counts, initial=0))
    slots = offsets[-1]
    return AssembledLayer(
        torch.randn(slots, DIM, generator=generator).to(dtype),
        torch.randn(slots, DIM, generator=generator).to(dtype),
        torch.randn(slots, generator=generator),
        offsets,
        torch.cat([torch.arange(count) for count in counts]),
        window,
    )


def live(batch, heads, kv_heads, n, m, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, heads, n, DIM), (batch, kv_heads, m, DIM), (batch, kv_heads, m, DIM))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def padded(batch, n, m):
    """Causal and, in row i, the first i keys are padding."""
    causal = torch.arange(m)[None] <= torch.arange(n)[:, None] + m - n
    real = torch.arange(m)[None] >= torch.arange(batch)[:, None]
    return (causal[None] & real[:, None])[:, None]


def agree(*arguments, atol=2e-6):
    fast, slow = compact_attention(*arguments), reference_attention(*arguments)
    assert fast.shape == slow.shape
    assert fast.dtype == slow.dtype == arguments[0].dtype
    assert fast.is_contiguous()
    assert torch.isfinite(fast).all()
    torch.testing.assert_close(fast, slow, atol=atol, rtol=1e-5 if fast.dtype == torch.float32 else 1e-2)
    return fast


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 6), (5, 5), (5, 9)])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("rows", ["shared", "per row", "repeated"])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("masked", [False, True])
def test_the_fast_path_equals_the_oracle(dtype, n, m, heads, rows, window, masked):
    batch, (query_heads, kv_heads) = 3, heads
    one, two = (layer([5, 0, 9, 2][-kv_heads:], seed, window, dtype) for seed in (1, 2))
    compact = {
        "shared": [one],
        "per row": [one, two, layer([0] * kv_heads, 3, window, dtype)],
        "repeated": [two, one, two],
    }
    query, key, value = live(batch, query_heads, kv_heads, n, m, dtype=dtype)
    mask = padded(batch, n, m) if masked else None
    positions = 9 + torch.arange(m - n, m)[None] - (torch.arange(batch)[:, None] if masked else 0)
    agree(query, key, value, mask, 0.3, compact[rows], positions, atol=2e-6 if dtype == torch.float32 else 1e-2)


def test_an_additive_mask_and_one_per_head():
    query, key, value = live(2, 4, 2, 5, 5)
    allowed = padded(2, 5, 5).expand(2, 4, 5, 5).clone()
    allowed[:, 1, :, 2] = False
    added = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    boolean = agree(query, key, value, allowed, 0.3, [layer([3, 4])])
    torch.testing.assert_close(agree(query, key, value, added, 0.3, [layer([3, 4])]), boolean)


def test_the_oracle_is_torchs_attention_over_the_concatenation():
    query, key, value = live(2, 4, 2, 5, 5)
    slots = layer([3, 3])
    before_k, before_v = (x.view(2, 3, DIM).expand(2, 2, 3, DIM) for x in (slots.keys, slots.values))
    bias = torch.cat((slots.bias.view(1, 2, 1, 3).expand(1, 2, 5, 3), torch.zeros(1, 2, 5, 5)), -1)
    bias = bias.masked_fill(torch.arange(8) > torch.arange(5)[:, None] + 3, -torch.inf).repeat_interleave(2, 1)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query,
        torch.cat((before_k, key), 2),
        torch.cat((before_v, value), 2),
        attn_mask=bias,
        scale=0.3,
        enable_gqa=True,
    )
    torch.testing.assert_close(reference_attention(query, key, value, None, 0.3, [slots]), expected.transpose(1, 2))


@pytest.mark.parametrize("compact", [[], [layer([0, 0])]])
def test_nothing_compact_is_plain_attention(compact):
    query, key, value = live(2, 4, 2, 5, 5)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(agree(query, key, value, None, 0.3, compact), expected.transpose(1, 2))


def test_slots_alone_without_any_live_key():
    query, key, value = live(1, 4, 2, 3, 0)
    agree(query, key, value, torch.ones(1, 1, 3, 0, dtype=torch.bool), 0.3, [layer([4, 2])])


def test_a_query_that_sees_nothing_gets_finite_numbers():
    query, key, value = live(1, 4, 2, 4, 4)
    mask = padded(1, 4, 4)
    mask[:, :, 0] = False
    out = agree(query, key, value, mask, 0.3, [layer([0, 3], window=1)], torch.arange(50, 54)[None])
    assert not out[:, 0].any()


def test_chunks_of_rows_and_the_loop_over_heads_change_nothing(monkeypatch):
    wanted = []
    for n in (1, 7):
        query, key, value = live(2, 4, 2, n, 9)
        arguments = (query, key, value, padded(2, n, 9), 0.3, [layer([5, 2], window=6)], torch.arange(8, 8 + n)[None])
        wanted.append((arguments, compact_attention(*arguments)))
    monkeypatch.setattr(attention, "_MAX_SCORES", 100)
    for arguments, before in wanted:
        torch.testing.assert_close(agree(*arguments), before, atol=2e-6, rtol=1e-5)


def test_large_scores_and_duplicated_keys_stay_finite():
    query, key, value = live(1, 4, 2, 3, 3)
    slots = layer([4, 4])
    slots.keys[1:4] = slots.keys[0]
    agree(query * 100, key * 100, value, None, 1.0, [slots])


def test_bias_and_window_matter():
    query, key, value = live(1, 4, 2, 1, 3)
    plain, tight = layer([4, 4]), layer([4, 4], window=5)
    louder = AssembledLayer(plain.keys, plain.values, plain.bias + 2, plain.offsets, plain.positions)
    at = torch.tensor([[6]])
    outs = [compact_attention(query, key, value, None, 0.3, [one], at) for one in (plain, louder, tight)]
    for one, other in itertools.combinations(outs, 2):
        assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(
    ("compact", "positions", "message"),
    [
        ([layer([1, 1])] * 2, None, "rows"),
        ([layer([1, 1, 1])], None, "heads"),
        ([layer([1, 1], window=4)], None, "position_ids"),
        ([layer([1, 1])], torch.zeros(2, 2), "positions"),
    ],
)
def test_what_does_not_fit_is_refused(compact, positions, message):
    query, key, value = live(3, 4, 2, 2, 2)
    with pytest.raises(InputError, match=message):
        compact_attention(query, key, value, None, 0.3, compact, positions)


def test_keys_of_another_shape_are_refused():
    query, key, value = live(3, 4, 2, 2, 2)
    with pytest.raises(InputError, match="Hkv"):
        compact_attention(query, key[:, :, :, :4], value, None, 0.3, [])
