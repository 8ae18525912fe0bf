"""What the engine asks of a language model: messages in, text out, streamed. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.types import Message, Scene, TokenCounter

__all__ = [
    "CachePlan",
    "FinishReason",
    "GenerationOptions",
    "GenerationResult",
    "HypercodeModel",
    "LanguageModel",
    "PlannedCache",
    "TextChunk",
    "Usage",
]

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to generate. ``temperature=0`` is greedy and deterministic; otherwise ``seed`` makes it repeatable.

    ``stop`` strings end the text and are not part of it.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.temperature < 0:
            raise InputError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k must be at least 1 or None, got {self.top_k}")
        if isinstance(self.stop, str) or any(not isinstance(text, str) or not text for text in self.stop):
            raise InputError(f"stop must be a sequence of non-empty strings, got {self.stop!r}")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one generation cost: tokens, bytes of the full key/value cache at the end, and seconds."""

    prompt_tokens: int
    completion_tokens: int
    kv_cache_bytes: int
    seconds_to_first_token: float
    seconds: float

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class PlannedCache:
    """What becomes of one compact cache: in the prompt, or left out for a ``reason``.

    ``zoomed`` are the token spans of its source that are read verbatim, ``zoomed_text`` what they say; ``pointing`` is
    how much the question points at its best span (comparable within one prompt only).
    """

    source_id: str
    active: bool
    reason: str
    num_source_tokens: int
    zoomed: tuple[tuple[int, int], ...]
    zoomed_text: tuple[str, ...]
    pointing: float


@dataclass(frozen=True, slots=True)
class CachePlan:
    """How compact caches go before a prompt: each one's fate, bytes held and in full, and positions taken."""

    caches: tuple[PlannedCache, ...]
    nbytes: int
    full_nbytes: int
    num_positions: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The finished text and how it ended. ``notes`` records every fallback taken on the way.

    ``caches`` says of each compact cache that was handed in whether it was used, and what was read verbatim
    (``PlannedCache``).
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    notes: tuple[str, ...] = ()
    caches: tuple[PlannedCache, ...] = ()


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of streamed text. The last chunk carries the whole ``result``; its own ``text`` may be empty."""

    text: str
    result: GenerationResult | None = None


@runtime_checkable
class LanguageModel(Protocol):
    """The thin face of a local model."""

    @property
    def name(self) -> str:
        """The path or id it was loaded from."""
        ...

    @property
    def context_window(self) -> int:
        """The most tokens, prompt and completion together, the model was trained to see."""
        ...

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the full key/value cache for each token of context."""
        ...

    @property
    def token_counter(self) -> TokenCounter:
        """Counts tokens by the model's own tokenizer."""
        ...

    def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return the tokens of ``messages`` formatted by the chat template, up to the reply."""
        ...

    def generate(self, prompt: str | Sequence[Message], options: GenerationOptions | None = None) -> GenerationResult:
        """Generate a whole reply to a chat, or a continuation of raw text."""
        ...

    def stream(self, prompt: str | Sequence[Message], options: GenerationOptions | None = None) -> Iterator[TextChunk]:
        """Generate piece by piece; closing the iterator cancels the generation."""
        ...


@runtime_checkable
class HypercodeModel(LanguageModel, Protocol):
    """A language model that can also stand behind compact caches (``CompactCache``; opaque here)."""

    def compact(
        self,
        source: Sequence[Scene],
        compaction_ratio: float = 12.0,
        *,
        quality: str = "balanced",
        zoom_share: float | None = None,
        source_id: str | None = None,
        instructions: str = "",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Any:
        """Return a compact cache of the scenes."""
        ...

    def load_compact(self, folder: str | Path, *, instructions: str = "") -> Any:
        """Load a saved cache made with this model and these instructions."""
        ...

    def plan_caches(
        self, prompt: str | Sequence[Message], caches: Sequence[Any], *, instructions: str = "", reserve: int = 256
    ) -> CachePlan:
        """Decide which caches and which of their sentences a prompt would see, without generating."""
        ...

    def stream(
        self,
        prompt: str | Sequence[Message],
        options: GenerationOptions | None = None,
        *,
        caches: Sequence[Any] = (),
        instructions: str = "",
    ) -> Iterator[TextChunk]:
        """Generate piece by piece behind the caches."""
        ...
