"""Selection under a budget: never over it, best first, reasons for all the rest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hyperscene_plugin.text.costs import Costs
from hyperscene_plugin.text.select import Selection, select_by_score, select_with_novelty

_SCENES = st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=25)


def _costs(scenes: list[tuple[float, int, int]]) -> Costs:
    return Costs(
        np.asarray([cost for _, cost, _ in scenes]),
        np.asarray([run for _, _, run in scenes]),
        np.asarray([run + 1 for _, _, run in scenes]),
    )


def _spent(selection: Selection, scenes: list[tuple[float, int, int]]) -> int:
    return sum(scenes[place][1] for place in selection.chosen) + sum(
        run + 1 for run in {scenes[place][2] for place in selection.chosen}
    )


@given(_SCENES, st.integers(0, 120))
def test_the_budget_holds_and_every_scene_is_accounted_for(scenes: list[tuple[float, int, int]], budget: int) -> None:
    scores = np.asarray([score for score, _, _ in scenes])
    same = select_by_score(scores, _costs(scenes), budget, repeats={})
    novel = select_with_novelty(scores, lambda place: np.zeros(len(scenes)), _costs(scenes), budget)
    for selection in (same, novel):
        assert _spent(selection, scenes) <= budget
        assert set(selection.chosen) | set(selection.reasons) == set(range(len(scenes)))
        assert not set(selection.chosen) & set(selection.reasons)


@given(_SCENES)
def test_with_enough_budget_everything_is_taken_best_first(scenes: list[tuple[float, int, int]]) -> None:
    scores = np.asarray([score for score, _, _ in scenes])
    chosen = select_by_score(scores, _costs(scenes), 10_000, repeats={}).chosen
    assert chosen == sorted(range(len(scenes)), key=lambda place: (-scores[place], place))


def test_a_repeat_is_left_out_with_its_original_named() -> None:
    scenes = [(1.0, 5, 0), (3.0, 5, 0), (2.0, 5, 0)]
    selection = select_by_score(np.asarray([1.0, 3.0, 2.0]), _costs(scenes), 100, repeats={2: 0})
    assert selection.chosen == [1, 2]
    assert selection.reasons == {0: "near-duplicate of scene 2"}


def test_what_comes_first_is_paid_first() -> None:
    scenes = [(9.0, 10, 0), (0.0, 10, 0)]
    assert select_by_score(np.asarray([9.0, 0.0]), _costs(scenes), 12, repeats={}, first=[1]).chosen == [1]
    assert select_by_score(np.asarray([9.0, 0.0]), _costs(scenes), 12, repeats={}).chosen == [0]


def test_novelty_prefers_the_unlike() -> None:
    likeness = np.asarray([[1.0, 0.95, 0.0], [0.95, 1.0, 0.0], [0.0, 0.0, 1.0]])
    scenes = [(0.9, 5, 0), (0.85, 5, 0), (0.5, 5, 0)]
    values = np.asarray([0.9, 0.85, 0.5])
    assert select_with_novelty(values, lambda place: likeness[place], _costs(scenes), 11).chosen == [0, 2]
    assert select_with_novelty(values, lambda place: np.zeros(3), _costs(scenes), 11).chosen == [0, 1]
