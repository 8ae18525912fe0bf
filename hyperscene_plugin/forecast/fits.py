"""Which cards hold an answer, and the longest context that fits, by bisection on the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.forecast.cache import hypercode
from hyperscene_plugin.forecast.memory import CHUNK, full_peak, hypercode_peak
from hyperscene_plugin.forecast.request import Request
from hyperscene_plugin.forecast.shape import ModelShape

__all__ = ["CARDS_GIB", "RESERVE_GIB", "Fit", "fits_of"]

CARDS_GIB = (4.0, 8.0, 12.0, 24.0)
RESERVE_GIB = 0.5  # set aside on a card for the driver's context, libraries and fragmentation: an assumption
_GIB = 1024**3
_LONGEST = 2**40  # tokens; far beyond any card


@dataclass(frozen=True, slots=True)
class Fit:
    """One card and one way: does this context fit, and the longest that does, in tokens (0: not even one).

    ``way`` is ``full``, ``full in chunks`` (of ``CHUNK`` tokens; not if the request names its own) or ``hypercode``.
    ``by_memory`` ignores the model's native window, ``longest`` does not; ``window_limits`` tells which one decides.
    """

    card_gib: float
    way: str
    peak_bytes: int
    usable_bytes: int
    fits: bool
    by_memory: int
    longest: int
    window_limits: bool


def fits_of(
    shape: ModelShape,
    request: Request,
    weights: int,
    size: int,
    *,
    cards_gib: tuple[float, ...] = CARDS_GIB,
    reserve_gib: float = RESERVE_GIB,
) -> tuple[Fit, ...]:
    """Return for each card how the full context and the hypercode fit; question and reply keep their lengths.

    Args:
        shape: the model.
        request: what is asked; its context is the one that must fit.
        weights: bytes of the weights.
        size: bytes per element of cache and activations.
        cards_gib: memory of the cards, in GiB.
        reserve_gib: GiB of each card that are not for the model.

    Raises:
        InputError: a card without memory, or a negative reserve.
    """
    if any(not 0 < card < 1e6 for card in cards_gib) or not 0 <= reserve_gib < 1e6:
        raise InputError(f"cards need more than 0 GiB and the reserve 0 or more; got {cards_gib} and {reserve_gib}")

    def full(context: int) -> int:
        return full_peak(shape, replace(request, context=context), weights, size).bytes

    def chunked(context: int) -> int:
        asked = replace(request, context=context, prefill_chunk=CHUNK)
        return full_peak(shape, asked, weights, size).bytes

    def compact(context: int) -> int:
        code = hypercode(shape, context, request.ratio, size)
        return hypercode_peak(shape, replace(request, context=context), weights, code, size).bytes

    ways = {"full": full, "full in chunks": chunked, "hypercode": compact}
    if request.prefill_chunk is not None:
        del ways["full in chunks"]
    room = max(0, shape.window - request.question_tokens - request.new_tokens)
    found = []
    for card in cards_gib:
        usable = max(0, int((card - reserve_gib) * _GIB))
        for way, peak in ways.items():
            here, most = peak(request.context), _longest(peak, usable)
            found.append(Fit(card, way, here, usable, here <= usable, most, min(most, room), most > room))
    return tuple(found)


def _longest(peak: Callable[[int], int], usable: int) -> int:
    """Return the largest context whose peak is within ``usable`` bytes; peaks never fall as the context grows."""
    if peak(1) > usable:
        return 0
    low, high = 1, 2
    while high < _LONGEST and peak(high) <= usable:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if peak(middle) <= usable else (low, middle)
    return low
