"""Frozen records shared by every layer: sources come in as these, scenes and results go out as these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hyperscene_plugin.errors import ScopeError

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "CompressionResult",
    "Document",
    "DroppedScene",
    "Encoder",
    "KeptScene",
    "Message",
    "Metadata",
    "Scalar",
    "Scene",
    "SceneKind",
    "Scope",
    "Source",
    "TokenCounter",
]

Scalar = str | int | float | bool | None
Metadata = Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose memory this is. At least one of the three must be set; a lookup never crosses a scope."""

    user_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("user_id", "agent_id", "session_id"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ScopeError(f"{name} must be a non-empty string or None, got {value!r}")
        if self.user_id is None and self.agent_id is None and self.session_id is None:
            raise ScopeError("a scope needs at least one of user_id, agent_id, session_id; all three are None")


class SceneKind(StrEnum):
    """What sort of passage a scene is; everything but prose, heading and message is kept whole."""

    PROSE = "prose"
    HEADING = "heading"
    CODE = "code"
    TABLE = "table"
    LIST = "list"
    TOOL = "tool"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message as handed in. ``created_at`` is ISO 8601 or any text the app uses for time."""

    role: str
    content: str
    name: str | None = None
    id: str | None = None
    created_at: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One document as handed in (a retrieved node, a file). ``metadata`` values stay scalar."""

    text: str
    id: str | None = None
    title: str | None = None
    metadata: Metadata = field(default_factory=dict)


Source = str | Sequence[Message | Document | Mapping[str, object]] | Message | Document


@dataclass(frozen=True, slots=True)
class Scene:
    """A self-contained passage with its provenance.

    ``text == source_text[start:end]`` exactly (surrounding whitespace included), where the source text is
    the document, or, for a chat, the content of the message named in ``message_ids``. The scenes of one
    source tile it: concatenating their texts in order gives the source back.

    ``id`` is ``None`` until a store assigns one (unguessable, ``hs_…``); ``key`` identifies the scene before.
    ``title`` is the document's title or heading path; ``index`` is the scene's place in its source.
    """

    text: str
    source_id: str
    start: int
    end: int
    index: int = 0
    kind: SceneKind = SceneKind.PROSE
    message_ids: tuple[str, ...] = ()
    speaker: str | None = None
    role: str | None = None
    created_at: str | None = None
    title: str | None = None
    metadata: Metadata = field(default_factory=dict)
    id: str | None = None

    @property
    def key(self) -> str:
        """``source[#message]:start-end``, unique among the scenes of one input."""
        message = f"#{'+'.join(self.message_ids)}" if self.message_ids else ""
        return f"{self.source_id}{message}:{self.start}-{self.end}"


@dataclass(frozen=True, slots=True)
class KeptScene:
    """A scene that is in the compressed text: its score (higher is better), its tokens, and why it was kept."""

    scene: Scene
    score: float
    num_tokens: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DroppedScene:
    """A scene that was left out, and the reason (``budget``, ``near-duplicate of …``, ``empty``…)."""

    scene: Scene
    score: float
    num_tokens: int
    reason: str


@dataclass(frozen=True, slots=True)
class CompressionResult:
    """What ``compress`` returns: the text for the model, and an account of every scene.

    ``tokens_after <= max_tokens`` always, counted by ``tokenizer`` on ``text`` itself. ``notes`` records every
    fallback (for example ``semantic scores off: no encoder``).
    """

    text: str
    kept: tuple[KeptScene, ...]
    dropped: tuple[DroppedScene, ...]
    tokens_before: int
    tokens_after: int
    max_tokens: int
    tokenizer: str
    query: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def token_ratio(self) -> float:
        """Tokens before ÷ tokens after; infinite when nothing was kept."""
        return self.tokens_before / self.tokens_after if self.tokens_after else float("inf")


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into vectors of length 1 for cosine similarity."""

    @property
    def name(self) -> str:
        """The model's name or path, stored beside the vectors so that different models never mix."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 vectors of shape ``(len(texts), dimension)``, each of L2 norm 1."""
        ...


@runtime_checkable
class TokenCounter(Protocol):
    """Counts tokens the way one named tokenizer does (no special tokens added)."""

    @property
    def name(self) -> str:
        """The tokenizer's name or path."""
        ...

    def count(self, text: str) -> int:
        """Return the number of tokens of ``text``."""
        ...

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        ...
