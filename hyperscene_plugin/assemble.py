"""A compression result and a question → a ``PromptPlan``: the messages for the model and an account of every choice.

The plan is data. ``explain`` prints it, tests check it without a model, and every fallback taken is in ``notes``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hyperscene_plugin.errors import BudgetError
from hyperscene_plugin.model.port import CachePlan
from hyperscene_plugin.types import CompressionResult, DroppedScene, Message, Scene

__all__ = [
    "INSTRUCTIONS",
    "Activation",
    "PlanBudget",
    "PromptPlan",
    "activations_of",
    "activations_of_cache",
    "context_message",
    "room_for_scenes",
]

INSTRUCTIONS = (
    "Answer from the passages below. They are excerpts in source order. "
    "If they do not hold the answer, say that you do not know."
)
"""What a general model is told above the recalled scenes."""


@dataclass(frozen=True, slots=True)
class Activation:
    """One scene that is in the prompt: at which tier, why, and what it costs."""

    scene: Scene
    tier: str
    score: float
    num_tokens: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlanBudget:
    """Tokens, by the model's tokenizer: the window and how the plan divides it."""

    context_window: int
    reserved_for_reply: int
    max_scene_tokens: int
    scene_tokens: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """Everything decided before the model runs.

    ``tokens_before`` counts all scenes the scope holds (what a full-context prompt would carry), ``tokens_after``
    those in this prompt; ``kv_bytes_*`` are the same in bytes of key/value cache. Hypercode counts as the tokens whose
    full cache would take its bytes. ``cache_keys`` name the compact caches that stand before the messages.
    """

    question: str
    messages: tuple[Message, ...]
    activations: tuple[Activation, ...]
    left_out: tuple[DroppedScene, ...]
    budget: PlanBudget
    tokens_before: int
    tokens_after: int
    kv_bytes_before: int
    kv_bytes_after: int
    model: str
    tokenizer: str
    notes: tuple[str, ...] = ()
    cache_keys: tuple[str, ...] = ()

    def left_out_by_reason(self) -> dict[str, int]:
        """Return how many scenes each reason left out, most first."""
        return dict(Counter(scene.reason for scene in self.left_out).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        plain["left_out_by_reason"] = self.left_out_by_reason()
        return plain

    def __str__(self) -> str:
        ratio = self.tokens_before / self.tokens_after if self.tokens_after else float("inf")
        lines = [
            f"question: {self.question}",
            f"model: {self.model} (window {self.budget.context_window} tokens, tokenizer {self.tokenizer})",
            f"scenes: {self.tokens_before} → {self.tokens_after} tokens ({ratio:.1f}× fewer), "
            f"KV {_size(self.kv_bytes_before)} → {_size(self.kv_bytes_after)}",
            f"budget: {self.tokens_after}/{self.budget.max_scene_tokens} scene tokens, "
            f"{self.budget.prompt_tokens} prompt tokens, {self.budget.reserved_for_reply} kept for the reply",
            "in the prompt:",
        ]
        for activation in self.activations:
            reasons = ", ".join(activation.reasons)
            lines.append(
                f"  [{activation.tier}] {activation.scene.id or activation.scene.key} score {activation.score:.3f}, "
                f"{activation.num_tokens} tokens ({reasons}): {_excerpt(activation.scene.text)}"
            )
        if not self.activations:
            lines.append("  (no scene)")
        lines.append("left out:")
        lines += [f"  {count} × {reason}" for reason, count in self.left_out_by_reason().items()] or ["  (none)"]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def context_message(text: str, instructions: str) -> Message | None:
    """Return the system message that carries the recalled text, or ``None`` when there is nothing to say."""
    parts = [part for part in (instructions, text) if part]
    return Message(role="system", content="\n\n".join(parts)) if parts else None


def room_for_scenes(*, context_window: int, fixed_tokens: int, reserved_for_reply: int, max_tokens: int | None) -> int:
    """Return the token budget for scenes: ``max_tokens``, or a quarter of the window, within what is left of it.

    Raises:
        BudgetError: the question, history and reply leave no room at all.
    """
    left = context_window - fixed_tokens - reserved_for_reply
    if left < 1:
        raise BudgetError(
            f"no room for scenes: the window is {context_window} tokens, the question and history take {fixed_tokens} "
            f"and {reserved_for_reply} are kept for the reply; shorten them or lower max_new_tokens"
        )
    wanted = context_window // 4 if max_tokens is None else max_tokens
    return max(1, min(wanted, left))


def activations_of(result: CompressionResult) -> tuple[Activation, ...]:
    """Return the kept scenes of the text tier as activations."""
    return tuple(Activation(kept.scene, "text", kept.score, kept.num_tokens, kept.reasons) for kept in result.kept)


def activations_of_cache(
    scenes: Sequence[Scene], spans: Sequence[tuple[int, int]], plan: CachePlan, number: int, ratio: float
) -> tuple[tuple[Activation, ...], tuple[DroppedScene, ...]]:
    """Return one cache's scenes as activations (``hypercode``, or ``zoom`` where a part is verbatim), or as left out.

    ``spans`` are the scenes' token spans in the source. A scene's tokens here are what its share of the bytes would
    hold in full.
    """
    planned = plan.caches[number]
    if not planned.active:
        dropped = [
            DroppedScene(s, planned.pointing, b - a, planned.reason) for s, (a, b) in zip(scenes, spans, strict=True)
        ]
        return (), tuple(dropped)
    used = []
    for scene, (start, end) in zip(scenes, spans, strict=True):
        verbatim = sum(max(0, min(end, b) - max(start, a)) for a, b in planned.zoomed)
        cost = verbatim + round((end - start) / ratio)
        reasons = (f"{ratio:.0f}x slots",) + (
            (f"{verbatim} tokens verbatim: the question points there",) if verbatim else ()
        )
        used.append(Activation(scene, "zoom" if verbatim else "hypercode", planned.pointing, cost, reasons))
    return tuple(sorted(used, key=lambda a: a.tier != "zoom")), ()


def _excerpt(text: str, length: int = 90) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else f"{flat[: length - 1]}…"


def _size(count: int) -> str:
    return f"{count / 1024**2:.2f} MiB"
