"""Peak memory of one answer: from the full context, and from its hypercode.

A peak is weights + cache + live tensors at the worst point. Full: the end of the prefill (all keys are there, one
layer's tensors are alive) or the end of the reply. Hypercode: the compact cache is there, only question and reply are
live. What the process takes besides (driver, libraries, fragmentation) is not counted here; ``fits.py`` sets it aside.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperscene_plugin.forecast.activations import Moment, Pass, largest_moment
from hyperscene_plugin.forecast.cache import Hypercode, full_cache, token_bytes
from hyperscene_plugin.forecast.figures import Figure, written
from hyperscene_plugin.forecast.request import Request
from hyperscene_plugin.forecast.shape import ModelShape

__all__ = ["CHUNK", "Peak", "full_peak", "hypercode_peak"]

CHUNK = 2048  # tokens a pass of the prefill in chunks that is shown beside the one in a single pass


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes at the worst point of an answer, by what holds them; ``phase`` is ``prefill`` or ``reply``."""

    phase: str
    weights: int
    cache: int
    moment: Moment

    @property
    def bytes(self) -> int:
        """Everything together."""
        return self.weights + self.cache + self.moment.bytes

    def figures(self, key: str, label: str) -> tuple[Figure, ...]:
        """Return the two lines that make up the peak: ``<key>_live`` and ``<key>``."""
        live = self.moment
        parts = " + ".join(written(part, "bytes") for part in (self.weights, self.cache, live.bytes))
        return (
            Figure(f"{key}_live", f"{label}: live tensors, {live.name}", live.formula, live.bytes, "bytes"),
            Figure(key, f"{label}: peak, in the {self.phase}", f"{parts} (weights, cache, live)", self.bytes, "bytes"),
        )


def full_peak(shape: ModelShape, request: Request, weights: int, size: int) -> Peak:
    """Return the peak of prefilling context and question (in chunks, if asked for) and decoding the reply.

    Args:
        shape: the model.
        request: lengths and prefill chunk.
        weights: bytes of the weights.
        size: bytes per element of cache and activations.
    """
    prompt, total = request.prompt, request.prompt + request.new_tokens
    chunk = min(request.prefill_chunk or prompt, prompt)
    # transformers keeps a view of a pass's keys in sliding layers: all of them stay until the next pass replaces it
    held = min(prompt, _past_window(shape) + chunk)
    per_layer = token_bytes(shape, size)
    prefill = Peak(
        "prefill",
        weights,
        per_layer * (shape.num_global_layers * prompt + shape.num_sliding_layers * held),
        largest_moment(shape, Pass(chunk, prompt, held), size),
    )
    reply = Peak(
        "reply",
        weights,
        full_cache(shape, total, size),
        largest_moment(shape, Pass(1, total, shape.sliding_tokens(total)), size),
    )
    return max(prefill, reply, key=lambda peak: peak.bytes)


def hypercode_peak(shape: ModelShape, request: Request, weights: int, compact: Hypercode, size: int) -> Peak:
    """Return the peak of answering from a stored hypercode: prefill the question, decode the reply.

    Arguments as ``full_peak``; ``compact`` is the hypercode of the context, already in the model's memory. What a CPU
    maps of the stored file beside it, and the one layer that is turned to its positions at a time, are not counted.
    """
    question, live = request.question_tokens, request.question_tokens + request.new_tokens
    per_layer = token_bytes(shape, size)

    def peak(phase: str, tokens: int, forward: int, sliding: int) -> Peak:
        cache = per_layer * (shape.num_global_layers * tokens + shape.num_sliding_layers * sliding)
        moment = largest_moment(shape, Pass(forward, tokens, sliding, compact.slots), size)
        return Peak(phase, weights, compact.compact + cache, moment)

    prefill = peak("prefill", question, question, min(request.prompt, _past_window(shape) + question))
    reply = peak("reply", live, 1, shape.sliding_tokens(request.context + live))
    return max(prefill, reply, key=lambda found: found.bytes)


def _past_window(shape: ModelShape) -> int:
    """Return how many earlier tokens a sliding layer keeps between passes."""
    return 0 if shape.sliding_window is None else shape.sliding_window - 1
