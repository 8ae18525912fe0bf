"""Fits of kept keys: other solvers find the same, nothing dropped is nothing lost, and a worse fit is not shipped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import lsq_linear, nnls
from torch import Tensor

from hyperscene_plugin.kv.fitting import HeadFit, fit_bias, fit_head, fit_values, padded_groups

LOW, HIGH = math.exp(-3.0), math.exp(3.0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Head:
    """One head: queries over a prefix key, scenes of keys, and some mass that stays outside."""

    def __init__(self, seed: int, sizes: tuple[int, ...] = (9, 0, 14, 7), rows: int = 120, dim: int = 5) -> None:
        keys = noise(sum(sizes), dim, seed=seed)
        scores = noise(rows, dim, seed=seed + 1) @ keys.T
        self.mass = (scores - torch.logaddexp(scores.logsumexp(-1), noise(rows, seed=seed + 2))[:, None]).exp()
        self.values = noise(sum(sizes), dim, seed=seed + 3)
        self.weights = noise(rows, seed=seed + 4).abs()
        self.scene_of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        self.num_scenes = len(sizes)
        self.held_out = torch.arange(rows) % 4 == 3

    def fit(self, kept: Tensor) -> HeadFit:
        return fit_head(self.mass, self.weights, self.values, kept, self.scene_of, self.num_scenes, self.held_out)

    def scene_mass(self) -> Tensor:
        return torch.stack([self.mass[:, self.scene_of == s].sum(1) for s in range(self.num_scenes)], 1)

    def error(self, kept: Tensor, bias: Tensor, values: Tensor) -> float:
        """Relative error of the head's output on held-out queries, query by query in float64."""
        lost = whole = 0.0
        for row in self.held_out.nonzero().flatten().tolist():
            own = self.mass[row].double()
            outside = max(0.0, 1.0 - float(own.sum()))
            small = own[kept] * bias.double().exp()
            share = (float(own.sum()) + outside) / (float(small.sum()) + outside)
            exact = own @ self.values.double()
            weight = float(self.weights[row])
            lost += weight * float(((small @ values.double()) * share - exact).square().sum())
            whole += weight * float(exact.square().sum())
        return math.sqrt(lost / whole)


@given(st.lists(st.integers(0, 4), max_size=20))
def test_padded_groups_list_the_members_of_each_group(groups: list[int]) -> None:
    index, valid = padded_groups(torch.tensor(groups, dtype=torch.int64), 5)
    for group in range(5):
        members = index[group][valid[group]].tolist()
        assert members == [place for place, owner in enumerate(groups) if owner == group]


@pytest.mark.parametrize("seed", range(4))
def test_the_bias_is_what_bounded_least_squares_finds(seed: int) -> None:
    head = Head(seed)
    kept = torch.tensor([0, 3, 8, 9, 12, 15, 20, 24, 29])
    groups, strength = head.scene_of[kept], 1e-2
    prior = torch.full((len(kept),), 3.0)
    bias = fit_bias(head.mass[:, kept], head.scene_mass(), groups, prior, strength)
    for scene in (0, 2, 3):
        own = (groups == scene).nonzero().flatten()
        left = head.mass[:, kept[own]].double().numpy()
        right = head.scene_mass()[:, scene].double().numpy()
        ridge = strength * np.square(left).sum() / len(own)
        stacked = np.vstack([left, math.sqrt(ridge) * np.eye(len(own))])
        wanted = np.concatenate([right, math.sqrt(ridge) * prior[own].numpy()])
        exact = lsq_linear(stacked, wanted, (LOW, HIGH), tol=1e-12).x
        found = bias[own].exp().double().numpy()
        cost, best = (float(np.square(stacked @ w - wanted).sum()) for w in (found, exact))
        assert cost <= best * 1.001 + 1e-9
        np.testing.assert_allclose(found, exact, rtol=0.02, atol=0.02)


def test_without_pull_and_inside_the_bounds_it_is_nnls() -> None:
    draw = np.random.default_rng(0)
    left = draw.random((50, 4))
    right = left @ np.array([0.5, 1.0, 2.0, 3.0]) + 0.01 * draw.standard_normal(50)
    exact, _ = nnls(left, right)
    bias = fit_bias(
        torch.tensor(left).float(), torch.tensor(right).float()[:, None], torch.zeros(4).long(), torch.ones(4), 1e-7
    )
    np.testing.assert_allclose(bias.exp().numpy(), exact, rtol=0.03)


def test_the_bias_stays_within_its_bounds() -> None:
    mass = torch.rand(30, 3) + 0.1
    for factor, bound in ((1e4, 3.0), (1e-6, -3.0)):
        total = mass.sum(1, keepdim=True) * factor
        bias = fit_bias(mass, total, torch.zeros(3).long(), torch.ones(3), 1e-6)
        assert bias.tolist() == pytest.approx([bound] * 3, abs=1e-4)


@pytest.mark.parametrize(("seed", "ridge"), [(0, 1e-3), (1, 1e-1), (2, 1.0)])
def test_values_are_what_stacked_least_squares_finds(seed: int, ridge: float) -> None:
    head = Head(seed)
    kept = torch.tensor([1, 2, 8, 10, 14, 19, 22, 25])
    groups = head.scene_of[kept]
    target = torch.stack(
        [head.mass[:, head.scene_of == s] @ head.values[head.scene_of == s] for s in range(head.num_scenes)], 1
    )
    fitted = fit_values(head.mass[:, kept], target, groups, head.values[kept], ridge, head.num_scenes)
    for scene in (0, 2, 3):
        own = (groups == scene).nonzero().flatten()
        left = head.mass[:, kept[own]].double().numpy()
        pull = math.sqrt(ridge * np.square(left).sum() / len(own))
        stacked = np.vstack([left, pull * np.eye(len(own))])
        wanted = np.vstack([target[:, scene].double().numpy(), pull * head.values[kept[own]].double().numpy()])
        exact = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
        np.testing.assert_allclose(fitted[own].double().numpy(), exact, atol=2e-3)


def test_an_endless_ridge_leaves_the_values_as_they_are() -> None:
    head = Head(3)
    kept = torch.arange(0, 30, 3)
    target = torch.zeros(len(head.mass), head.num_scenes, 5)
    fitted = fit_values(head.mass[:, kept], target, head.scene_of[kept], head.values[kept], 1e9, head.num_scenes)
    torch.testing.assert_close(fitted, head.values[kept], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_all_keys_kept_is_full_attention(seed: int) -> None:
    head = Head(seed)
    kept = torch.arange(30)
    fit = head.fit(kept)
    assert fit.output_error < 1e-5
    assert fit.mass_error < 1e-5
    assert fit.eviction_error < 1e-5
    assert head.error(kept, fit.bias, fit.values) < 1e-5
    torch.testing.assert_close(fit.bias, torch.zeros(30), atol=1e-4, rtol=0)
    torch.testing.assert_close(fit.values, head.values, atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", range(6))
def test_what_ships_is_never_worse_than_eviction_and_says_its_own_error(seed: int) -> None:
    head = Head(seed)
    kept = torch.randperm(30, generator=torch.Generator().manual_seed(seed))[:9].sort().values
    fit = head.fit(kept)
    assert fit.output_error <= fit.eviction_error
    assert fit.output_error == pytest.approx(head.error(kept, fit.bias, fit.values), rel=1e-3)
    assert fit.eviction_error == pytest.approx(head.error(kept, torch.zeros(9), head.values[kept]), rel=1e-3)


def test_fitting_helps_where_scenes_repeat_themselves() -> None:
    base = Head(5, sizes=(6, 6))
    head = Head(5, sizes=(24, 24))
    spread = torch.arange(48) // 4
    head.mass = base.mass[:, spread] / 4
    head.values = base.values[spread]
    fit = head.fit(torch.arange(0, 48, 4))
    assert fit.choice in ("bias", "fitted")
    assert fit.mass_error < 0.05
    assert fit.output_error < 0.2 * max(fit.eviction_error, 1e-3) + 1e-3
    assert fit.bias.tolist() == pytest.approx([math.log(4)] * 12, abs=0.1)


def test_a_fit_to_queries_that_mislead_ships_eviction() -> None:
    """Negative control: the held-out queries look at the kept keys alone, the others only at what is dropped."""
    head = Head(7, sizes=(10,), rows=40)
    kept = torch.arange(3)
    head.mass = torch.full((40, 10), 1e-6)
    head.mass[~head.held_out, 3:] = 0.1
    head.mass[:, :3] = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) * 0.05 + 0.01
    fit = head.fit(kept)
    assert fit.choice == "eviction"
    assert torch.equal(fit.bias, torch.zeros(3))
    assert torch.equal(fit.values, head.values[kept])
    assert fit.output_error == fit.eviction_error


@pytest.mark.parametrize("copies", [2, 9])
def test_duplicated_keys_stay_finite(copies: int) -> None:
    head = Head(2, sizes=(3 * copies, 2 * copies))
    base = Head(2, sizes=(3, 2))
    spread = torch.arange(5 * copies) // copies
    head.mass, head.values = base.mass[:, spread] / copies, base.values[spread]
    for kept in (torch.arange(5 * copies), torch.arange(0, 5 * copies, 2)):
        fit = head.fit(kept)
        assert torch.isfinite(fit.bias).all()
        assert torch.isfinite(fit.values).all()
        assert fit.output_error <= fit.eviction_error


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12])
def test_queries_that_look_elsewhere_stay_finite(size: float) -> None:
    head = Head(4)
    head.mass = head.mass * size
    fit = head.fit(torch.tensor([0, 9, 25]))
    assert torch.isfinite(fit.bias).all()
    assert torch.isfinite(fit.values).all()
    assert all(map(math.isfinite, (fit.output_error, fit.mass_error, fit.eviction_error)))


def test_scenes_without_slots_and_scenes_without_keys_are_no_trouble() -> None:
    head = Head(6)
    fit = head.fit(torch.tensor([10, 12]))
    assert fit.bias.shape == (2,)
    assert fit.values.shape == (2, 5)
    none = fit_values(torch.zeros(4, 0), torch.zeros(4, 2, 5), torch.zeros(0).long(), torch.zeros(0, 5), 1.0, 2)
    assert none.shape == (0, 5)
    assert fit_bias(torch.zeros(4, 0), torch.zeros(4, 2), torch.zeros(0).long(), torch.zeros(0)).shape == (0,)


def test_scenes_are_fitted_apart() -> None:
    """A scene's slots do not depend on the other scenes' slots, so any subset of scenes can be used."""
    head = Head(8)
    both, alone = torch.tensor([0, 4, 11, 16, 22]), torch.tensor([11, 16, 22])
    prior = torch.full((5,), 2.0)
    whole = fit_bias(head.mass[:, both], head.scene_mass(), head.scene_of[both], prior)
    part = fit_bias(head.mass[:, alone], head.scene_mass(), head.scene_of[alone], prior[2:])
    torch.testing.assert_close(whole[2:], part, atol=1e-3, rtol=0)
