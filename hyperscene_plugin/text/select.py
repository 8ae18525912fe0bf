"""Scores, costs and a budget → which scenes are kept, in the order of choosing, and why each other is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hyperscene_plugin.text.costs import Costs

__all__ = ["Selection", "select_by_score", "select_with_novelty"]


@dataclass(frozen=True)
class Selection:
    """Positions of scenes: ``chosen`` in the order of choosing, ``reasons`` for those left out."""

    chosen: list[int]
    reasons: dict[int, str] = field(default_factory=dict)


def select_by_score(
    scores: np.ndarray,
    costs: Costs,
    budget: int,
    *,
    repeats: dict[int, int],
    first: Sequence[int] = (),
    never: dict[int, str] | None = None,
) -> Selection:
    """Choose greedily by score; what does not fit is passed over, what comes after may still fit.

    Args:
        scores: ``(scenes,)``, higher is better; ties go to the earlier scene.
        costs: tokens of bodies and headers.
        budget: tokens in all.
        repeats: scene → the scene whose words it repeats; only the better-scored of the two is kept.
        first: scenes to take before any other, in order.
        never: scenes that are no candidates, with the reason.
    """
    purse = _Purse(costs, budget)
    reasons = dict(never or {})
    originals: dict[int, int] = {}
    order = [*first, *(int(position) for position in np.argsort(-scores, kind="stable"))]
    seen: set[int] = set()
    for position in order:
        if position in seen or position in reasons:
            continue
        seen.add(position)
        original = repeats.get(position, position)
        if original in originals:
            reasons[position] = f"near-duplicate of scene {originals[original]}"
        elif purse.pay(position):
            originals[original] = position
        else:
            reasons[position] = "budget"
    return Selection(purse.chosen, reasons)


def select_with_novelty(
    values: np.ndarray,
    likeness: Callable[[int], np.ndarray],
    costs: Costs,
    budget: int,
    *,
    first: Sequence[int] = (),
    never: dict[int, str] | None = None,
) -> Selection:
    """Choose one scene after another by value less likeness to what is chosen already (maximal marginal relevance).

    Args:
        values: ``(scenes,)`` in 0–1.
        likeness: scene → its likeness to every scene, ``(scenes,)`` in 0–1.
        costs: tokens of bodies and headers.
        budget: tokens in all.
        first: scenes to take before any other, in order.
        never: scenes that are no candidates, with the reason.

    Source: Carbonell & Goldstein 1998.
    """
    purse = _Purse(costs, budget)
    reasons = dict(never or {})
    open_ = np.ones(len(values), dtype=bool)
    open_[list(reasons)] = False
    nearest = np.zeros(len(values))
    waiting = [position for position in first if open_[position]]
    while open_.any():
        position = waiting.pop(0) if waiting else int(np.argmax(np.where(open_, values - nearest, -np.inf)))
        open_[position] = False
        if purse.pay(position):
            nearest = np.maximum(nearest, likeness(position))
        else:
            reasons[position] = "budget"
        if not purse.left:
            break
    reasons |= dict.fromkeys(np.flatnonzero(open_).tolist(), "budget")
    return Selection(purse.chosen, reasons)


class _Purse:
    """A budget being spent: bodies cost, and the first scene of a run pays its header too."""

    def __init__(self, costs: Costs, budget: int) -> None:
        self._bodies = costs.bodies.tolist()
        self._runs = costs.runs.tolist()
        self._headers = costs.headers.tolist()
        self._paid: set[int] = set()
        self.left = budget
        self.chosen: list[int] = []

    def pay(self, position: int) -> bool:
        run = self._runs[position]
        cost = self._bodies[position] + (0 if run in self._paid else self._headers[position])
        if cost > self.left:
            return False
        self.left -= cost
        self._paid.add(run)
        self.chosen.append(position)
        return True
