"""A head profile comes back as it was saved, is interpolated between ratios, and the search finds what was planted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperscene_plugin.demo_model import weights_path
from hyperscene_plugin.errors import HypercodeCorruptError
from hyperscene_plugin.model.head_profile import FILE_NAME, HeadProfile, search_weights

PROFILE = HeadProfile(
    (8.0, 32.0), (torch.tensor([[0.0, 1.0], [-2.0, 0.5]]), torch.tensor([[4.0, 1.0], [2.0, 0.5]])), "m", {"kl": 0.25}
)


def test_round_trip(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / FILE_NAME)
    loaded = HeadProfile.load(tmp_path / FILE_NAME)
    assert (loaded.ratios, loaded.model, loaded.report) == (PROFILE.ratios, "m", {"kl": 0.25})
    assert all(torch.equal(a, b) for a, b in zip(loaded.weights, PROFILE.weights, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_factors_are_interpolated_in_the_ratio_s_logarithm() -> None:
    shuffled = HeadProfile((32.0, 8.0), PROFILE.weights[::-1], "m", {})
    for profile in (PROFILE, shuffled):
        torch.testing.assert_close(profile.at(8), PROFILE.weights[0])
        torch.testing.assert_close(profile.at(32), PROFILE.weights[1])
        torch.testing.assert_close(profile.at(16), (PROFILE.weights[0] + PROFILE.weights[1]) / 2)
        part = math.log(12 / 8) / math.log(4)
        expected = PROFILE.weights[0] * (1 - part) + PROFILE.weights[1] * part
        torch.testing.assert_close(profile.at(12), expected)
        torch.testing.assert_close(profile.at(2), PROFILE.weights[0])
        torch.testing.assert_close(profile.at(500), PROFILE.weights[1])
    single = HeadProfile((16.0,), PROFILE.weights[:1], "m", {})
    assert all(torch.equal(single.at(ratio), PROFILE.weights[0]) for ratio in (2.0, 16.0, 64.0))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"model": "m"}',
        json.dumps({"model": "m", "report": {}, "ratios": [], "weights": []}),
        json.dumps({"model": "m", "report": {}, "ratios": [8], "weights": []}),
        json.dumps({"model": "m", "report": {}, "ratios": [8, 16], "weights": [[[0.0]]]}),
        json.dumps({"model": "m", "report": {}, "ratios": [8], "weights": [[0.0, 1.0]]}),
        json.dumps({"model": "m", "report": {}, "ratios": ["x"], "weights": [[[0.0]]]}),
        json.dumps({"model": "m", "report": 3, "ratios": [8], "weights": [[[0.0]]]}),
        json.dumps({"model": "m", "report": {}, "ratios": [8], "weights": [[[0.0], [0.0, 1.0]]]}),
    ],
)
def test_a_file_that_is_no_profile_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(HypercodeCorruptError, match=r"head_profile\.json is not a head profile .*calibrate again"):
        HeadProfile.load(tmp_path / FILE_NAME)
    with pytest.raises(HypercodeCorruptError):
        HeadProfile.load(tmp_path / "none")


def test_the_search_finds_a_planted_optimum() -> None:
    planted = torch.tensor([[1.2, -0.6, 0.0], [2.1, 0.3, -1.8]])
    tried: list[Tensor] = []
    told: list[tuple[int, int, float]] = []

    def loss(factors: Tensor) -> float:
        tried.append(factors)
        return float((factors - planted).square().sum()) + 1.0

    best, lowest, first = search_weights(
        loss, (2, 3), progress=lambda done, total, cost: told.append((done, total, cost))
    )
    torch.testing.assert_close(best, planted, atol=0.16, rtol=0)
    assert lowest == pytest.approx(loss(best))
    assert first == pytest.approx(float(planted.square().sum()) + 1.0)
    assert [done for done, _, _ in told] == list(range(1, 19))
    assert {total for _, total, _ in told} == {18}
    costs = [cost for _, _, cost in told]
    assert costs == sorted(costs, reverse=True)
    again, _, _ = search_weights(loss, (2, 3))
    assert torch.equal(again, best)


def test_a_start_is_gone_on_from_and_not_changed() -> None:
    planted, start = torch.tensor([[1.0, 5.0]]), torch.tensor([[0.9, 5.1]])
    best, lowest, first = search_weights(lambda f: float((f - planted).square().sum()), (1, 2), start=start)
    assert lowest <= first == pytest.approx(0.02)
    assert torch.equal(start, torch.tensor([[0.9, 5.1]]))
    torch.testing.assert_close(best, planted, atol=0.2, rtol=0)


def test_where_nothing_helps_nothing_moves() -> None:
    """Negative control: a loss that ignores the factors, and one that any change makes worse."""
    for loss in (lambda _: 1.0, lambda factors: float(factors.abs().sum()), lambda f: -1e-5 * float(f.abs().sum())):
        best, lowest, first = search_weights(loss, (2, 2))
        assert torch.equal(best, torch.zeros(2, 2))
        assert lowest == first


def test_the_demo_model_s_profile_is_one() -> None:
    file = weights_path() / FILE_NAME
    if not file.is_file():
        pytest.skip("the demo model has no profile in this checkout")
    config = json.loads((weights_path() / "config.json").read_text())
    profile = HeadProfile.load(file)
    shape = (config["num_hidden_layers"], config["num_key_value_heads"])
    assert all(tuple(weights.shape) == shape for weights in profile.weights)
    for ratio in profile.ratios:
        assert profile.report[f"kl_at_{ratio:g}"] <= profile.report[f"kl_before_at_{ratio:g}"]
