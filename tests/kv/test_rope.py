"""Rotation and its inverse: identity, additivity, partial dimensions, a scale, and shapes that do not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.kv.rope import rotate, unrotate


def angles(positions: torch.Tensor, rotary: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = 1.0 / 10_000.0 ** (torch.arange(0, rotary, 2) / rotary)
    turned = torch.cat([positions[:, None].double() * frequencies] * 2, dim=-1)
    return (turned.cos() * scale).float(), (turned.sin() * scale).float()


@settings(deadline=None, max_examples=40)
@given(
    start=st.integers(0, 100_000),
    n=st.integers(0, 9),
    rotary=st.sampled_from([2, 4, 8]),
    scale=st.sampled_from([1.0, 1.2079]),
    seed=st.integers(0, 99),
)
def test_unrotate_takes_back_what_rotate_did(start, n, rotary, scale, seed):
    x = torch.randn(3, n, 8, generator=torch.Generator().manual_seed(seed))
    cos, sin = angles(torch.arange(start, start + n), rotary, scale)
    turned = rotate(x, cos, sin)
    torch.testing.assert_close(unrotate(turned, cos, sin), x, atol=2e-6, rtol=2e-6)
    assert torch.equal(turned[..., rotary:], x[..., rotary:])  # partial rotary leaves the rest alone
    if scale == 1.0:
        torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


@settings(deadline=None, max_examples=40)
@given(a=st.integers(0, 5000), b=st.integers(0, 5000), seed=st.integers(0, 99))
def test_rotating_by_a_then_b_is_rotating_by_their_sum(a, b, seed):
    x = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))
    steps = rotate(rotate(x, *angles(torch.tensor([a]), 8)), *angles(torch.tensor([b]), 8))
    torch.testing.assert_close(steps, rotate(x, *angles(torch.tensor([a + b]), 8)), atol=5e-6, rtol=1e-5)


def test_scores_depend_on_distance_only():
    query, key = torch.randn(2, 1, 8)
    near = rotate(query, *angles(torch.tensor([9]), 8)) @ rotate(key, *angles(torch.tensor([4]), 8)).T
    far = rotate(query, *angles(torch.tensor([509]), 8)) @ rotate(key, *angles(torch.tensor([504]), 8)).T
    other = rotate(query, *angles(torch.tensor([509]), 8)) @ rotate(key, *angles(torch.tensor([4]), 8)).T
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(near, other, atol=1e-2)


def test_half_precision_is_rounded_once():
    x = torch.randn(5, 8).bfloat16()
    cos, sin = angles(torch.arange(5), 8)
    assert torch.equal(rotate(x, cos, sin), rotate(x.float(), cos, sin).bfloat16())


@pytest.mark.parametrize(
    ("x", "cos", "sin"),
    [
        ((4, 8), (3, 8), (3, 8)),
        ((4, 8), (4, 8), (4, 6)),
        ((4, 8), (4, 10), (4, 10)),
        ((4, 8), (4, 3), (4, 3)),
        ((8,), (1, 8), (1, 8)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x, cos, sin):
    with pytest.raises(InputError, match="rotary"):
        rotate(torch.zeros(x), torch.zeros(cos), torch.zeros(sin))
