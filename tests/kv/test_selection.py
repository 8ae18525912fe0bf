"""Which keys are kept: loops over every query and key say the same, and near-copies give way to other keys."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.kv.selection import key_scores, matching_pursuit, skip_near_duplicates, top_keys

SCALING = 0.37


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 9), (3000, 4), (7, 1)])
def test_scores_are_what_loops_give(queries: int, keys: int) -> None:
    q, k = noise(queries, 6), noise(keys, 6, seed=1)
    weights = noise(queries, seed=2).clamp_min(0)
    total = (q @ k.T * SCALING).logsumexp(-1) + 0.5
    scores = key_scores(q, weights, total, k, SCALING)
    some = range(min(queries, 40)) if queries < 100 else range(queries)
    for key in range(keys):
        best = 0.0
        for query in some:
            dot = sum(float(a) * float(b) for a, b in zip(q[query], k[key], strict=True))
            best = max(best, float(weights[query]) * math.exp(dot * SCALING - float(total[query])))
        assert float(scores[key]) == pytest.approx(best, rel=1e-4, abs=1e-7)


def test_scores_of_no_query_are_zero_and_weight_zero_is_not_looked_at() -> None:
    q, k = noise(3, 4), noise(5, 4)
    q[1] = math.inf
    total = torch.zeros(3)
    scores = key_scores(q, torch.tensor([1.0, 0.0, 2.0]), total, k, SCALING)
    assert torch.equal(scores, key_scores(q[[0, 2]], torch.tensor([1.0, 2.0]), total[:2], k, SCALING))
    assert torch.equal(key_scores(q, torch.zeros(3), total, k, SCALING), torch.zeros(5))


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30, unique=True), st.integers(0, 40), st.data())
def test_top_keys_are_the_best_and_protected_ones_go_first(
    scores: list[float], count: int, data: st.DataObject
) -> None:
    protected = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    chosen = top_keys(torch.tensor(scores), count, torch.tensor(protected)).tolist()
    wanted = sorted(range(len(scores)), key=lambda place: (not protected[place], -scores[place]))[:count]
    assert chosen == sorted(chosen)
    guarded = {place for place in wanted if protected[place]}
    assert {place for place in chosen if protected[place]} == guarded
    assert sorted(scores[place] for place in chosen if not protected[place]) == pytest.approx(
        sorted(scores[place] for place in wanted if not protected[place]), abs=1e-6
    )
    assert len(top_keys(torch.tensor(scores), count)) == min(count, len(scores))


def test_a_negative_number_of_keys_is_refused() -> None:
    with pytest.raises(InputError, match="-1"):
        top_keys(torch.ones(3), -1)


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


def slow_pursuit(mass: Tensor, candidates: list[int], count: int, weights: Tensor) -> list[int]:
    chosen: list[int] = []
    rest = mass.double().sum(1) * weights.double().sqrt()
    columns = {c: mass[:, c].double() * weights.double().sqrt() for c in candidates}
    while len(chosen) < min(count, len(candidates)):
        gains = {c: float(columns[c] @ rest / columns[c].norm()) for c in candidates if c not in chosen}
        best = max(gains, key=lambda c: gains[c])
        if gains[best] <= 0:
            best = max(gains, key=lambda c: float(columns[c].norm()))
        chosen.append(best)
        rest = rest - max(0.0, float(columns[best] @ rest / columns[best].norm() ** 2)) * columns[best]
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_matching_pursuit_is_what_the_loop_gives(seed: int) -> None:
    mass, weights = noise(20, 9, seed=seed).exp(), noise(20, seed=seed + 50).abs()
    candidates = [0, 2, 3, 5, 6, 8]
    for count in (0, 1, 4, 9):
        chosen = matching_pursuit(mass, candidates, count, weights)
        assert chosen == slow_pursuit(mass, candidates, count, weights)
        assert len(set(chosen)) == min(count, 6)


def test_matching_pursuit_finds_the_key_that_has_all_the_mass() -> None:
    mass = torch.full((8, 5), 1e-4)
    mass[:, 3] = 1.0
    assert matching_pursuit(mass, range(5), 1, torch.ones(8)) == [3]
    assert matching_pursuit(mass, [0, 1], 1, torch.ones(8)) in ([0], [1])
