"""The forecast itself: a model and a request in, one printable value out. Start reading here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.forecast.cache import Hypercode, full_cache_figures, hypercode
from hyperscene_plugin.forecast.figures import Figure
from hyperscene_plugin.forecast.fits import CARDS_GIB, RESERVE_GIB, Fit, fits_of
from hyperscene_plugin.forecast.memory import CHUNK, Peak, full_peak, hypercode_peak
from hyperscene_plugin.forecast.parameters import Weights, weights_of
from hyperscene_plugin.forecast.request import Request
from hyperscene_plugin.forecast.shape import DTYPE_BYTES, ModelShape, shape_of
from hyperscene_plugin.forecast.source import ModelSource, find_model
from hyperscene_plugin.forecast.work import Work, work_of

__all__ = ["Forecast", "forecast"]

_SMALL = 1024**3 // 4  # bytes of weights below which hyperscene_plugin.model.loading makes that choice


@dataclass(frozen=True, slots=True)
class Forecast:
    """Everything computed for one model and request; ``str()`` is the report, ``to_dict()`` the JSON.

    ``full_chunked`` is the peak of the full context with a prefill in chunks, the fairest baseline for memory; ``None``
    when the request names a chunk itself or chunks save nothing. ``dtype`` is the one in force.
    """

    source: ModelSource
    shape: ModelShape
    request: Request
    dtype: str
    weights: Weights
    full_cache: tuple[Figure, ...]
    hypercode: Hypercode
    full: Peak
    full_chunked: Peak | None
    compact: Peak
    work: Work
    fits: tuple[Fit, ...]
    reserve_gib: float
    notes: tuple[str, ...]

    @property
    def memory(self) -> tuple[Figure, ...]:
        """The lines of the peak memory, ending with the quotients."""
        lines = [*self.full.figures("full", "full"), *self.compact.figures("hypercode", "hypercode")]
        if self.full_chunked is not None:
            chunked = self.full_chunked.figures("full_chunked", f"full, prefill in chunks of {CHUNK:,}")
            lines[2:2] = chunked
        for key, label, peak in (
            ("less", "full ÷ hypercode", self.full),
            ("less_chunked", "full in chunks ÷ hypercode", self.full_chunked),
            ("less_without_weights", "the same without the weights", self.full),
        ):
            if peak is not None:
                apart = self.weights.bytes if key == "less_without_weights" else 0
                above, below = peak.bytes - apart, self.compact.bytes - apart
                lines.append(Figure(key, label, f"{above:,} ÷ {below:,} bytes", above / below, "times"))
        return tuple(lines)

    @property
    def sections(self) -> Mapping[str, tuple[Figure, ...]]:
        """All lines by section, in reading order."""
        return {
            "weights": self.weights.figures,
            "cache": (*self.full_cache, *self.hypercode.figures),
            "peak_memory": self.memory,
            "attention_pairs": self.work.pairs,
            "first_token": self.work.first_token,
            "each_token": self.work.each_token,
        }

    def __str__(self) -> str:
        from hyperscene_plugin.forecast.report import report

        return report(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: every line with its formula, value and unit under ``section`` and ``key``."""
        shape = asdict(self.shape)
        shape.pop("notes")
        return {
            "model": {"name": self.source.name, "origin": self.source.origin, **shape, "dtype": self.dtype},
            "request": asdict(self.request) | {"dtype": self.dtype},
            **{
                name: {
                    line.key: {"label": line.label, "formula": line.formula, "value": line.value, "unit": line.unit}
                    for line in lines
                }
                for name, lines in self.sections.items()
            },
            "fits": [asdict(fit) for fit in self.fits],
            "reserve_gib": self.reserve_gib,
            "notes": list(self.notes),
        }


def forecast(
    model: str,
    request: Request,
    *,
    cards_gib: tuple[float, ...] = CARDS_GIB,
    reserve_gib: float = RESERVE_GIB,
) -> Forecast:
    """Compute memory and work of answering from ``request.context`` tokens, in full and as hypercode.

    Args:
        model: ``demo``, a folder with ``config.json``, such a file, a built-in name, or a hub id.
        request: lengths, ratio, dtype, quantisation.
        cards_gib: memory of the cards to try, in GiB.
        reserve_gib: GiB of each card that are not for the model.

    Raises:
        ModelNotFoundError, UnsupportedModelError, InputError, MissingPackageError: as ``find_model`` and ``shape_of``.
    """
    source = find_model(model)
    shape = shape_of(source.config, source.name)
    notes = list(shape.notes)
    dtype = request.dtype or shape.dtype
    if dtype is None:
        dtype = "bfloat16"
        notes.append("the configuration names no dtype; bfloat16 is assumed")
    if dtype not in DTYPE_BYTES:
        raise InputError(
            f"{source.name}: the configuration's dtype is {dtype!r}; name one of {', '.join(DTYPE_BYTES)} with --dtype"
        )
    size = DTYPE_BYTES[dtype]
    weights = weights_of(shape, dtype, request.quantization, source.stored)
    code = hypercode(shape, request.context, request.ratio, size)
    full = full_peak(shape, request, weights.bytes, size)
    chunked = full_peak(shape, replace(request, prefill_chunk=CHUNK), weights.bytes, size)
    notes += [*weights.notes, *_notes(shape, request)]
    if request.dtype is None and dtype == "bfloat16" and weights.bytes < _SMALL and request.quantization is None:
        notes.append("on a CPU, LocalModel computes bfloat16 models this small in float32: --dtype float32 for that")
    return Forecast(
        source=source,
        shape=shape,
        request=request,
        dtype=dtype,
        weights=weights,
        full_cache=full_cache_figures(shape, request.context, size),
        hypercode=code,
        full=full,
        full_chunked=chunked if request.prefill_chunk is None and chunked.bytes < full.bytes else None,
        compact=hypercode_peak(shape, request, weights.bytes, code, size),
        work=work_of(shape, request, weights, code, size),
        fits=fits_of(shape, request, weights.bytes, size, cards_gib=cards_gib, reserve_gib=reserve_gib),
        reserve_gib=reserve_gib,
        notes=tuple(notes),
    )


def _notes(shape: ModelShape, request: Request) -> list[str]:
    """Return what a reader must know about these figures."""
    notes = [
        "the hypercode is made once, by a prefill of the whole context: its peak is at least that of the full prefill "
        "(in chunks, if you like), on whatever machine makes it",
        "FLOPs and bytes are work, not time; batch of one, dense attention through SDPA",
    ]
    total = request.prompt + request.new_tokens
    if total > shape.window:
        notes.append(
            f"context, question and reply are {total:,} tokens, beyond the model's native window of {shape.window:,}: "
            "the figures are arithmetic, the model was not made for it either way"
        )
    if not shape.num_global_layers:
        notes.append("every layer has a sliding window: there is nothing to compact, hypercode equals the full cache")
    elif shape.num_sliding_layers:
        notes.append(
            f"{shape.num_sliding_layers} of {shape.num_layers} layers keep a window of {shape.sliding_window:,} tokens "
            "in both; until a prefill pass is followed by another, transformers holds all keys of that pass in them"
        )
    return notes
