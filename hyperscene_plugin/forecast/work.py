"""Attention pairs and FLOPs of an answer, full context against hypercode, and bytes read per decoded token.

One multiply-add is two FLOPs. A token costs 2 FLOPs per linear weight; a pair of query and key costs 4 · heads · head
size per layer (the score and the weighted value). Causal: token j of a prompt attends to itself and what came before.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperscene_plugin.forecast.cache import Hypercode, full_cache, token_bytes
from hyperscene_plugin.forecast.figures import Figure, Unit, written
from hyperscene_plugin.forecast.parameters import Weights
from hyperscene_plugin.forecast.request import Request
from hyperscene_plugin.forecast.shape import ModelShape

__all__ = ["Work", "causal_pairs", "work_of"]


@dataclass(frozen=True, slots=True)
class Work:
    """The lines of three sections: attention pairs as the project counts them, first token, each further token."""

    pairs: tuple[Figure, ...]
    first_token: tuple[Figure, ...]
    each_token: tuple[Figure, ...]


def causal_pairs(queries: int, past: int = 0, window: int | None = None) -> int:
    """Return the pairs of ``queries`` new tokens with themselves and ``past`` earlier ones, at most ``window`` each."""
    first, last = past + 1, past + queries
    if window is None or last <= window:
        return (first + last) * queries // 2
    if first >= window:
        return window * queries
    growing = window - past
    return (first + window) * growing // 2 + window * (queries - growing)


def work_of(shape: ModelShape, request: Request, weights: Weights, compact: Hypercode, size: int) -> Work:
    """Return the work of an answer; ``size`` is bytes per element of the cache."""
    return Work(
        pairs=_pairs(shape, request, compact),
        first_token=_first_token(shape, request, weights, compact),
        each_token=_each_token(shape, request, weights, compact, size),
    )


def _pairs(shape: ModelShape, request: Request, compact: Hypercode) -> tuple[Figure, ...]:
    if not shape.num_global_layers:
        return ()
    full, slots = request.context**2, compact.slots**2
    return (
        Figure("full", "full", f"{request.context:,}²", full, "count"),
        Figure("hypercode", "hypercode", f"{compact.slots:,}²", slots, "count"),
        Figure("fewer", "fewer pairs (quadratic in the ratio)", f"{full:,} ÷ {slots:,}", full / slots, "times"),
    )


def _first_token(shape: ModelShape, request: Request, weights: Weights, compact: Hypercode) -> tuple[Figure, ...]:
    prompt, question, past = request.prompt, request.question_tokens, request.context
    slots, own = compact.slots, causal_pairs(request.question_tokens)
    full = _Prefill.of(shape, weights, "full", prompt, causal_pairs(prompt), f"{prompt:,} · {prompt + 1:,} ÷ 2", 0)
    kept = _Prefill.of(
        shape, weights, "kept", question, question * past + own, f"({question:,} · {past:,} tokens + {own:,})", past
    )
    code = _Prefill.of(
        shape,
        weights,
        "hypercode",
        question,
        question * slots + own,
        f"({question:,} · {slots:,} slots + {own:,})",
        past,
    )
    return (
        *full.figures("full", "prefill of context and question"),
        *code.figures("hypercode", "prefill of the question"),
        _quotient("less", "less work to the first token", full.total, code.total, "flops"),
        *kept.figures("full cache kept from before", "prefill of the question")[-1:],
        _quotient("less_than_kept", "less work than with that cache", kept.total, code.total, "flops"),
    )


def _each_token(
    shape: ModelShape, request: Request, weights: Weights, compact: Hypercode, size: int
) -> tuple[Figure, ...]:
    prompt, question = request.prompt, request.question_tokens
    per_pair = 4 * shape.query_width
    linear = 2 * (weights.parameters.matrices + shape.hidden_size * shape.vocab_size)
    windowed = shape.num_sliding_layers * shape.sliding_tokens(prompt + 1)
    figures = []
    read = {}
    for key, keys, cache in (
        ("full", prompt, full_cache(shape, prompt, size)),
        (
            "hypercode",
            compact.slots + question,
            compact.bytes + token_bytes(shape, size) * shape.num_global_layers * question,
        ),
    ):
        attention = per_pair * (shape.num_global_layers * (keys + 1) + windowed)
        read[key] = weights.read_per_token + cache
        work = f"{written(linear, 'flops')} linear + {written(attention, 'flops')} attention"
        moved = f"{written(weights.read_per_token, 'bytes')} of weights + {written(cache, 'bytes')} of cache"
        figures.append(Figure(key, f"{key}: work", work, linear + attention, "flops"))
        figures.append(Figure(f"{key}_read", f"{key}: bytes read", moved, read[key], "bytes"))
    return (*figures, _quotient("less_read", "fewer bytes read", read["full"], read["hypercode"], "bytes"))


@dataclass(frozen=True, slots=True)
class _Prefill:
    """FLOPs of one prefill, linear and attention, with their formulas."""

    key: str
    linear: int
    attention: int
    linear_formula: str
    attention_formula: str

    @classmethod
    def of(
        cls, shape: ModelShape, weights: Weights, key: str, tokens: int, pairs: int, pairs_formula: str, past: int
    ) -> _Prefill:
        """``pairs`` are those of one global layer; sliding layers see ``past`` earlier tokens, window permitting."""
        matrices, head = weights.parameters.matrices, 2 * shape.hidden_size * shape.vocab_size
        glob, slid = shape.num_global_layers, shape.num_sliding_layers
        windowed = causal_pairs(tokens, past=past, window=shape.sliding_window)
        terms = [f"{glob} layers · {pairs_formula}"] if glob else []
        terms += [f"{slid} sliding layers · {windowed:,} pairs"] if slid else []
        return cls(
            key,
            2 * matrices * tokens + head,
            4 * shape.query_width * (glob * pairs + slid * windowed),
            f"2 · {matrices:,} · {tokens:,} tokens + 2 · {shape.hidden_size:,} · {shape.vocab_size:,} for one output",
            f"4 · {shape.num_heads} heads · {shape.head_dim} · ({' + '.join(terms)})",
        )

    @property
    def total(self) -> int:
        return self.linear + self.attention

    def figures(self, label: str, what: str) -> tuple[Figure, ...]:
        addends = f"{written(self.linear, 'flops')} + {written(self.attention, 'flops')}"
        return (
            Figure(f"{self.key}_linear", f"{label}: linear", self.linear_formula, self.linear, "flops"),
            Figure(f"{self.key}_attention", f"{label}: attention", self.attention_formula, self.attention, "flops"),
            Figure(self.key, f"{label}: {what}", addends, self.total, "flops"),
        )


def _quotient(key: str, label: str, above: int, below: int, unit: Unit) -> Figure:
    return Figure(key, label, f"{written(above, unit)} ÷ {written(below, unit)}", above / below, "times")
