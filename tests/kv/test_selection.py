"""Near-duplicate keys wait for the others: held to a loop that does the same one key at a time."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hyperscene_plugin.kv.selection import skip_near_duplicates


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_skip(keys: Tensor, values: Tensor, ranked: list[int], count: int) -> list[int]:
    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    candidates = ranked[: 2 * count]
    plain: list[int] = []
    copies: list[int] = []
    for place, key in enumerate(candidates):
        better = candidates[:place]
        copy = any(cosine(keys[key], keys[b]) > 0.98 and cosine(values[key], values[b]) > 0.98 for b in better)
        (copies if copy else plain).append(key)
    return (plain + copies)[:count]


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_near_duplicates_wait_for_the_others(seed: int, count: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    base_keys, base_values = noise(6, 5, seed=seed), noise(6, 3, seed=seed + 1)
    owner = torch.randint(0, 6, (14,), generator=draw)
    other = torch.randint(0, 6, (14,), generator=draw)
    keys = base_keys[owner] + 1e-3 * noise(14, 5, seed=seed + 2)
    values = base_values[other] + 1e-3 * noise(14, 3, seed=seed + 3)
    ranked = torch.randperm(14, generator=draw)
    chosen = skip_near_duplicates(keys, values, ranked, count)
    assert chosen.tolist() == slow_skip(keys, values, ranked.tolist(), count)
    assert len(set(chosen.tolist())) == min(count, 14)


def test_equal_keys_with_other_values_are_both_kept() -> None:
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.001], [0.0, 1.0]])
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    ranked = torch.arange(4)
    assert skip_near_duplicates(keys, values, ranked, 3).tolist() == [0, 1, 3]
    assert skip_near_duplicates(keys, values, ranked, 4).tolist() == [0, 1, 3, 2]  # free places are filled
    assert skip_near_duplicates(keys, values, ranked, 0).tolist() == []
    assert skip_near_duplicates(torch.zeros(3, 2), torch.zeros(3, 2), torch.arange(3), 2).tolist() == [0, 1]
