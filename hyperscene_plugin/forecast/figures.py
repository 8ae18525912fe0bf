"""A number with the arithmetic that made it, as one value: ``Figure``; and how bytes, counts and FLOPs are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Figure", "Unit", "written"]

Unit = Literal["bytes", "count", "tokens", "flops", "times", "number"]

_BINARY = ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
_DECIMAL = ((10**18, "EFLOP"), (10**15, "PFLOP"), (10**12, "TFLOP"), (10**9, "GFLOP"), (10**6, "MFLOP"))

_EXACT_BELOW = 10 * 1024  # fewer bytes than this are written out


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a forecast: ``label = formula = value``; ``formula`` has the numbers put in.

    ``key`` names it in JSON. ``value`` is in the unit's base: bytes, elements or pairs, tokens, FLOP (one multiply
    or one add), a quotient of two like amounts (``times``), or a plain number.
    """

    key: str
    label: str
    formula: str
    value: float
    unit: Unit

    def __str__(self) -> str:
        return f"{self.label} = {self.formula} = {written(self.value, self.unit)}"


def written(value: float, unit: Unit) -> str:
    """Return a number as people read it: ``7.32 GiB``, ``1,800,030``, ``5,000 tokens``, ``841.00 TFLOP``, ``11.9×``."""
    if unit == "bytes":
        return _scaled(value, _BINARY, "bytes") if abs(value) >= _EXACT_BELOW else f"{value:,.0f} bytes"
    if unit == "flops":
        return _scaled(value, _DECIMAL, "FLOP")
    if unit == "tokens":
        return f"{value:,.0f} tokens"
    if unit == "times":
        return f"{value:,.0f}×" if value >= 100 else f"{value:.1f}×" if value >= 10 else f"{value:.2f}×"
    return f"{value:,.1f}" if unit == "number" else f"{value:,.0f}"


def _scaled(value: float, steps: tuple[tuple[int, str], ...], base: str) -> str:
    for size, name in steps:
        if abs(value) >= size:
            return f"{value / size:,.2f} {name}"
    return f"{value:,.0f} {base}"
