"""What each head is worth to this model, as log factors on its keys' scores: measured once, kept beside the model.

Attention alone does not say how much a head matters: some attend sharply and change nothing, some decide the answer.
A profile is found by trying: raise or lower one head's factor, share the same budget anew, and keep the change where
the model's answers to held-out cues come closer to those with the full context. It belongs to the model, not to a text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hyperscene_plugin.errors import HypercodeCorruptError

__all__ = ["HeadProfile", "search_weights"]

FILE_NAME = "head_profile.json"


@dataclass(frozen=True, slots=True)
class HeadProfile:
    """Log factors (layers, heads) for each of some byte ratios; ``model`` is the fingerprint they were found with."""

    ratios: tuple[float, ...]
    weights: tuple[Tensor, ...]
    model: str
    report: dict[str, float]

    def at(self, ratio: float) -> Tensor:
        """Return the factors for a byte ratio, interpolated in its logarithm; the nearest one outside the range."""
        order = sorted(range(len(self.ratios)), key=lambda i: self.ratios[i])
        known = [math.log(self.ratios[i]) for i in order]
        wanted = min(max(math.log(ratio), known[0]), known[-1])
        for low, high, i, j in zip(known, known[1:], order, order[1:], strict=False):
            if low <= wanted <= high:
                part = (wanted - low) / (high - low)
                return self.weights[i] * (1 - part) + self.weights[j] * part
        return self.weights[order[0]]

    def save(self, file: Path) -> None:
        """Write the profile as JSON (a temporary file, renamed)."""
        plain = {
            "model": self.model,
            "report": self.report,
            "ratios": list(self.ratios),
            "weights": [[[round(x, 3) for x in row] for row in w.tolist()] for w in self.weights],
        }
        draft = file.with_suffix(".tmp")
        draft.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        draft.replace(file)

    @classmethod
    def load(cls, file: Path) -> HeadProfile:
        """Read a profile.

        Raises:
            HypercodeCorruptError: the file is not one.
        """
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
            weights = tuple(torch.tensor(rows, dtype=torch.float32) for rows in plain["weights"])
            if not weights or len(weights) != len(plain["ratios"]) or any(w.dim() != 2 for w in weights):
                raise ValueError("ratios and weights do not fit each other")
            return cls(tuple(map(float, plain["ratios"])), weights, str(plain["model"]), dict(plain["report"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HypercodeCorruptError(
                f"{file} is not a head profile ({error}); delete it or calibrate again"
            ) from error


def search_weights(
    loss: Callable[[Tensor], float],
    shape: tuple[int, int],
    *,
    start: Tensor | None = None,
    steps: Sequence[float] = (1.2, 0.6, 0.3),
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[Tensor, float, float]:
    """Return ``(factors, loss there, loss at the start)`` found by changing one head at a time; deterministic.

    ``loss(factors)`` is what the factors cost; each head is moved by each step in the direction that helps, as often
    as it helps (at most three times).
    """
    best = torch.zeros(shape) if start is None else start.clone()
    first = lowest = loss(best)
    done, total = 0, len(steps) * shape[0] * shape[1]
    for step in steps:
        for layer in range(shape[0]):
            for head in range(shape[1]):
                for sign in (-1.0, 1.0):
                    moved = 0
                    while moved < 3:
                        tried = best.clone()
                        tried[layer, head] += sign * step
                        cost = loss(tried)
                        if cost >= lowest - 1e-4:
                            break
                        best, lowest, moved = tried, cost, moved + 1
                    if moved:
                        break
                done += 1
                if progress:
                    progress(done, total, lowest)
    return best, lowest, first
