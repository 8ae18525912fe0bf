"""Scores, costs and a budget → which scenes are kept, in the order of choosing, and why each other is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Selection", "select_by_score"]


@dataclass(frozen=True)
class Selection:
    """Positions of scenes: ``chosen`` in the order of choosing, ``reasons`` for those left out."""

    chosen: list[int]
    reasons: dict[int, str] = field(default_factory=dict)


def select_by_score(
    scores: np.ndarray,
    costs: np.ndarray,
    groups: Sequence[int],
    group_costs: np.ndarray,
    budget: int,
    duplicates: dict[int, int],
    first: Sequence[int] = (),
) -> Selection:
    """Choose greedily by score while the budget holds.

    Args:
        scores: ``(scenes,)``, higher is better.
        costs: tokens of each scene, ``(scenes,)``.
        groups: which header each scene stands under; a header is paid once, ``group_costs`` tokens.
        budget: tokens in all.
        duplicates: scene → the earlier scene whose words it repeats.
        first: scenes to take before any other, in order.
    """
    chosen: list[int] = []
    taken: set[int] = set()
    paid: set[int] = set()
    reasons: dict[int, str] = {}
    left = budget
    order = [*first, *(int(position) for position in np.argsort(-scores, kind="stable"))]
    for position in order:
        if position in taken or position in reasons:
            continue
        twin = duplicates.get(position)
        if twin is not None and twin in taken:
            reasons[position] = f"near-duplicate of {twin}"
            continue
        group = groups[position]
        cost = int(costs[position]) + (0 if group in paid else int(group_costs[group]))
        if cost > left:
            reasons[position] = "budget"
            continue
        left -= cost
        taken.add(position)
        paid.add(group)
        chosen.append(position)
    return Selection(chosen, reasons)
