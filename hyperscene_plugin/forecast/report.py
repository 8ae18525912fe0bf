"""A ``Forecast`` → the report people read: each number with the arithmetic that made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperscene_plugin.forecast.figures import written

if TYPE_CHECKING:
    from hyperscene_plugin.forecast.plan import Forecast

__all__ = ["report"]

_TITLES = {
    "weights": "Weights",
    "cache": "Key/value cache of the context",
    "peak_memory": "Peak memory of one answer",
    "attention_pairs": "Attention pairs, context against itself",
    "first_token": "Work to the first token",
    "each_token": "Work of each further token",
}


def report(found: Forecast) -> str:
    """Return the whole report as text, without a trailing line break."""
    lines = [*_heading(found)]
    for name, figures in found.sections.items():
        if figures:
            lines += ["", _TITLES[name], *(f"  {figure}" for figure in figures)]
    lines += ["", *_fits(found), "", "Notes", *(f"  – {note}" for note in found.notes)]
    return "\n".join(lines)


def _heading(found: Forecast) -> list[str]:
    shape, request = found.shape, found.request
    sliding = (
        f", {shape.num_sliding_layers} of them with a window of {shape.sliding_window:,} tokens"
        if shape.num_sliding_layers
        else ""
    )
    prefill = f"prefill in chunks of {request.prefill_chunk:,}" if request.prefill_chunk else "prefill in one pass"
    weights = f"{request.quantization} weights, " if request.quantization else ""
    return [
        f"{found.source.name} ({found.source.origin})",
        f"  {shape.model_type}: {shape.num_layers} layers{sliding}, hidden {shape.hidden_size:,}, MLP "
        f"{shape.intermediate_size:,}, {shape.num_heads} query heads, {shape.num_kv_heads} KV heads of "
        f"{shape.head_dim}, vocabulary {shape.vocab_size:,}, native window {shape.window:,}",
        f"  context {request.context:,} tokens, question {request.question_tokens:,}, reply {request.new_tokens:,}, "
        f"ratio {request.ratio:g}, {weights}{found.dtype}, {prefill}",
    ]


def _fits(found: Forecast) -> list[str]:
    lines = [f"What fits ({found.reserve_gib:g} GiB of each card set aside for driver, libraries and fragmentation)"]
    for fit in found.fits:
        verdict = "fits" if fit.fits else f"{written(fit.peak_bytes - fit.usable_bytes, 'bytes')} too much"
        if fit.by_memory == 0:
            longest = "no context fits, however short"
        elif fit.window_limits:
            longest = f"longest {written(fit.longest, 'tokens')}, by the native window (memory: {fit.by_memory:,})"
        else:
            longest = f"longest {written(fit.longest, 'tokens')}, by memory"
        lines.append(
            f"  {fit.card_gib:3g} GB, {fit.way:14}  {written(fit.peak_bytes, 'bytes'):>10} of "
            f"{written(fit.usable_bytes, 'bytes')}: {verdict}; {longest}"
        )
    return lines
