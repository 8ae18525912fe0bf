"""Slots shared among heads: they add up, fit their bytes, and go to the best keys wherever those are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperscene_plugin.errors import BudgetError
from hyperscene_plugin.kv.budgets import bytes_per_slot, share_slots, slots_within
from hyperscene_plugin.kv.layout import LayerSlots

HEADS = st.lists(st.lists(st.floats(0, 1, width=32), max_size=12), min_size=1, max_size=6)


def slow_share(scores: list[list[float]], total: int) -> list[int]:
    """Sort all keys of all heads and count whose the best are."""
    ranked = sorted(((score, head) for head, keys in enumerate(scores) for score in keys), reverse=True)
    return [sum(owner == head for _, owner in ranked[:total]) for head in range(len(scores))]


@given(HEADS, st.integers(0, 80), st.floats(0, 0.9), st.none() | st.floats(1, 5))
def test_shares_add_up_and_never_exceed_a_head_s_keys(
    scores: list[list[float]], total: int, floor: float, cap: float | None
) -> None:
    counts = share_slots([torch.tensor(head) for head in scores], total, floor=floor, cap=cap)
    sizes = [len(head) for head in scores]
    assert sum(counts) == min(total, sum(sizes))
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    even = min(total, sum(sizes)) / len(scores)
    limits = [size if cap is None else min(size, max(1, int(cap * even))) for size in sizes]
    least = [min(size, int(floor * even)) for size in sizes]
    if sum(limits) >= sum(counts):
        assert all(count <= limit for count, limit in zip(counts, limits, strict=True))
    assert all(count >= low for count, low in zip(counts, least, strict=True))


@given(st.integers(0, 10_000), st.integers(0, 40))
def test_without_limits_the_best_keys_win_wherever_they_are(seed: int, total: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(0, 10, (4,), generator=draw).tolist()
    order = torch.randperm(sum(sizes), generator=draw) / 100.0  # no ties
    heads = list(order.split(sizes))
    assert share_slots(heads, total) == slow_share([head.tolist() for head in heads], total)


def test_floor_and_cap_bound_a_head_that_would_take_all_or_nothing() -> None:
    scores = [torch.full((20,), 1.0), torch.full((20,), 0.5), torch.full((20,), 0.1), torch.full((20,), 0.01)]
    assert share_slots(scores, 16) == [16, 0, 0, 0]
    assert share_slots(scores, 16, floor=0.5) == [10, 2, 2, 2]
    assert share_slots(scores, 16, cap=2.0) == [8, 8, 0, 0]
    assert share_slots(scores, 16, floor=0.25, cap=2.0) == [8, 6, 1, 1]
    assert share_slots(scores, 1000) == [20, 20, 20, 20]
    assert share_slots(scores, 0) == [0, 0, 0, 0]


def test_a_cap_that_leaves_slots_over_gives_way() -> None:
    best, worst = torch.arange(20) + 2.0, torch.zeros(1)
    assert share_slots([best, worst + 100, worst], 12, cap=1.0) == [11, 1, 0]


@given(
    st.integers(0, 200_000),
    st.sampled_from([8, 64, 128]),
    st.sampled_from([2, 4]),
    st.lists(st.integers(1, 8), min_size=1, max_size=6),
)
def test_the_bytes_are_never_exceeded_and_no_slot_is_left_over(
    num_bytes: int, head_dim: int, itemsize: int, heads: list[int]
) -> None:
    offsets = sum(4 * (count + 1) for count in heads)
    slot = bytes_per_slot(head_dim, itemsize)
    if num_bytes < offsets + slot:
        with pytest.raises(BudgetError, match=rf"{num_bytes} bytes hold no slot: offsets alone take {offsets}"):
            slots_within(num_bytes, head_dim, itemsize, heads)
        return
    slots = slots_within(num_bytes, head_dim, itemsize, heads)
    assert offsets + slots * slot <= num_bytes < offsets + (slots + 1) * slot


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slot_is_counted_as_the_layer_counts_it(dtype: torch.dtype) -> None:
    rows = torch.zeros(7, 16, dtype=dtype)
    offsets = torch.tensor([0, 3, 3, 7], dtype=torch.int32)
    layer = LayerSlots(rows, rows, torch.zeros(7), offsets, torch.zeros(7, dtype=torch.int32))
    assert layer.nbytes == 7 * bytes_per_slot(16, dtype.itemsize) + 4 * 4
    assert slots_within(layer.nbytes, 16, dtype.itemsize, [3]) == 7
    assert slots_within(layer.nbytes - 1, 16, dtype.itemsize, [3]) == 6
