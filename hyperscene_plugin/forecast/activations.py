"""The live tensors of one forward pass, moment by moment, as ``transformers`` with SDPA allocates them.

A pass over t tokens holds two things all along: the embedded input and the rotary tables, t · (h + 2d) · e bytes (and a
mask where SDPA needs one). On top comes one moment at a time; the peak is the largest. All layers are alike, so one is
enough. Widths: h hidden, q all query heads, k all key heads, d one head, i MLP, V vocabulary; e bytes per element.

    normalise      t · h · (e + 8)                      input, and its float32 copies
    head norm      t · (2h · e + q · (e + 8))           models that normalise queries and keys
    rotate         t · (2h + 4q) · e                    residual, normed input; q, q·cos, half-turned q, its ·sin
    append         t · (2h + q) · e + keys · k · e      cached keys are copied to make room (not in a first pass)
    attend         t · (2h + 2q) · e + t · heads · 4    query, output, one float32 log-sum per row
      under a mask + t · keys · e + 2 · keys · q · e    the mask as numbers; keys and values, repeated per query head
    slots          over a hypercode, in float32: scores, their shifted copy, probabilities; slots are those of a KV head
      question     t · (2h + 2q) · e + t · (2q + 2k) · 4 + 3 · rows · slots · 4 + 2 · slots · d · 4   head by head; rows
                                                        rows: t · query heads of a KV head, at most 2²⁴ scores
      reply        t · (2h + 2q) · e + 3 · heads · slots · KV heads · 4 + slots · k · 4   all heads in one product
                                                        (keys and values as float32 only where they are not)
    project out    t · (3h + 2q) · e
    MLP            t · (3h + 3i) · e                    layer input, residual, normed input; gate, up, their product
                                                        (4i where gate and up are fused)
    logits         t · 2h · e + V · (e + 4)             of the last token, with their float32 copy

Keys and values themselves are counted with the cache. SDPA is given a mask when queries and keys differ in number (a
chunk after the first) or a layer's window is shorter than the prompt: t · keys bytes, kept all along.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperscene_plugin.forecast.shape import ModelShape

__all__ = ["MAX_SCORES", "Moment", "Pass", "largest_moment", "moments"]

MAX_SCORES = 2**24  # of all heads at once, as in kv.attention


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass of a batch of one: ``tokens`` attend to so many keys (their own included) per kind of layer.

    ``sliding_keys`` is ignored without sliding layers. ``slots`` are those of a hypercode in front, per KV head.
    """

    tokens: int
    global_keys: int
    sliding_keys: int
    slots: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """Bytes alive besides weights and cache at one point of the pass; ``held`` is the part that lasts all along."""

    name: str
    formula: str
    bytes: int
    held: int


def moments(shape: ModelShape, forward: Pass, size: int) -> tuple[Moment, ...]:
    """Return every moment of a pass; ``size`` is bytes per element of the activations."""
    t, e = forward.tokens, size
    h, q, k, i = shape.hidden_size, shape.query_width, shape.kv_width, shape.intermediate_size
    parts = 4 if shape.fused else 3
    found = [
        ("normalise", f"{t:,} · {h:,} · ({e} + 8)", t * h * (e + 8)),
        ("rotate", f"{t:,} · (2 · {h:,} + 4 · {q:,}) · {e}", t * (2 * h + 4 * q) * e),
        ("MLP", f"{t:,} · (3 · {h:,} + {parts} · {i:,}) · {e}", t * (3 * h + parts * i) * e),
        (
            "logits",
            f"{t:,} · 2 · {h:,} · {e} + {shape.vocab_size:,} · ({e} + 4)",
            t * 2 * h * e + shape.vocab_size * (e + 4),
        ),
    ]
    if shape.qk_norm:
        found.append(("head norm", f"{t:,} · (2 · {h:,} · {e} + {q:,} · ({e} + 8))", t * (2 * h * e + q * (e + 8))))
    copied = max(
        forward.global_keys if shape.num_global_layers else 0, forward.sliding_keys if shape.num_sliding_layers else 0
    )
    if copied > t:
        found.append(
            (
                "append",
                f"{t:,} · (2 · {h:,} + {q:,}) · {e} + {copied:,} · {k:,} · {e}",
                (t * (2 * h + q) + copied * k) * e,
            )
        )
    masked = _masked_keys(shape, forward)
    found += _attention(shape, forward, masked, size)
    held = t * (h + 2 * shape.rope_tables * shape.head_dim) * e + t * sum(masked)
    return tuple(Moment(name, f"{formula} + {held:,} held", total + held, held) for name, formula, total in found)


def largest_moment(shape: ModelShape, forward: Pass, size: int) -> Moment:
    """Return the moment of the pass with the most bytes alive; ``size`` is bytes per element."""
    return max(moments(shape, forward, size), key=lambda moment: moment.bytes)


def _attention(shape: ModelShape, forward: Pass, masked: list[int], size: int) -> list[tuple[str, str, int]]:
    """Return the moments of attention itself as (name, formula, bytes)."""
    t, e, heads = forward.tokens, size, shape.num_heads
    h, q, k = shape.hidden_size, shape.query_width, shape.kv_width
    fused = t * (q + 2 * k) * e if shape.fused else 0  # the joint projection lives until its layer's attention ends
    joint = f" + {t:,} · {q + 2 * k:,} · {e}" if fused else ""
    base, base_formula = t * (2 * h + 2 * q) * e, f"{t:,} · (2 · {h:,} + 2 · {q:,}) · {e}"
    attend, formula = base + t * heads * 4 + fused, f"{base_formula} + {t:,} · {heads} · 4{joint}"
    if masked:
        keys = max(masked)
        attend, formula = attend + t * keys * e, f"{formula} + {t:,} · {keys:,} · {e}"
        if 1 < shape.num_kv_heads < heads:  # a single KV head is repeated as a view, without a copy
            attend, formula = attend + 2 * keys * q * e, f"{formula} + 2 · {keys:,} · {q:,} · {e}"
    found = [
        ("attend", formula, attend),
        ("project out", f"{t:,} · (3 · {h:,} + 2 · {q:,}) · {e}{joint}", t * (3 * h + 2 * q) * e + fused),
    ]
    if forward.slots:
        more, more_formula = _over_slots(shape, forward, size)
        found.append(("slots", f"{base_formula} + {more_formula}{joint}", base + more + fused))
    return found


def _over_slots(shape: ModelShape, forward: Pass, size: int) -> tuple[int, str]:
    """Return what attention over a hypercode holds besides query and output, and its formula (``kv.attention``)."""
    t, slots, kv_heads, d = forward.tokens, forward.slots, shape.num_kv_heads, shape.head_dim
    converted = 0 if size == 4 else 1
    if t == 1:
        every = slots * kv_heads
        return (
            3 * shape.num_heads * every * 4 + converted * every * d * 4,
            f"3 · {shape.num_heads} · {every:,} · 4" + (f" + {every:,} · {d} · 4" if converted else ""),
        )
    most = max(1, MAX_SCORES // (shape.num_heads * (forward.global_keys + slots)))
    rows = min(t, most) * (shape.num_heads // kv_heads)
    live = t * (2 * shape.query_width + converted * 2 * shape.kv_width) * 4
    formula = f"{live:,} live + 3 · {rows:,} · {slots:,} · 4" + (f" + 2 · {slots:,} · {d} · 4" if converted else "")
    return live + 3 * rows * slots * 4 + converted * 2 * slots * d * 4, formula


def _masked_keys(shape: ModelShape, forward: Pass) -> list[int]:
    """Return the number of keys under each mask that SDPA is given."""
    if forward.tokens == 1:
        return []  # one query needs none, or one row
    masked = []
    if shape.num_global_layers and forward.global_keys > forward.tokens:
        masked.append(forward.global_keys)
    slides = shape.sliding_window is not None and forward.sliding_keys >= shape.sliding_window
    if shape.num_sliding_layers and (slides or forward.sliding_keys > forward.tokens):
        masked.append(forward.sliding_keys)
    return masked
