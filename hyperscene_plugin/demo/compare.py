"""One question → the same model's answers from full context, scenes as text, and hypercode: tokens, bytes, seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass

from hyperscene_plugin.engine import Engine, EngineReply, full_context_messages
from hyperscene_plugin.model.port import GenerationOptions, GenerationResult
from hyperscene_plugin.types import Message, Scope

__all__ = ["Comparison", "FullRun", "HypercodeRun", "PlannedRun", "compare"]


@dataclass(frozen=True, slots=True)
class FullRun:
    """The baseline: every scene of the scope in the prompt.

    When that is longer than the model's window, the prompt is cut to what fits from the beginning; then ``fits`` is
    false, ``prompt_tokens`` counts the whole and the seconds and bytes are of the part that was run.
    """

    fits: bool
    prompt_tokens: int
    run_tokens: int
    kv_bytes: int
    kv_bytes_whole: int
    seconds_to_first_token: float
    answer: str


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """The plan's run. ``seconds_to_first_token`` includes the planning, which ``seconds_to_plan`` says by itself."""

    prompt_tokens: int
    kv_bytes: int
    seconds_to_plan: float
    seconds_to_first_token: float
    reply: EngineReply


@dataclass(frozen=True, slots=True)
class HypercodeRun:
    """The run behind stored hypercode. ``kv_bytes`` are all that is held; ``zoomed`` was read verbatim."""

    kv_bytes: int
    seconds_to_first_token: float
    answer: str
    zoomed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All runs of one question. ``expected`` is the known answer, where there is one; ``hypercode`` where compacted."""

    source: str
    question: str
    expected: str | None
    full: FullRun
    planned: PlannedRun
    hypercode: HypercodeRun | None = None

    def correct(self, answer: str) -> bool | None:
        """Say whether ``answer`` is the expected one (case, blanks and a final stop aside); ``None`` if unknown."""
        if self.expected is None:
            return None
        return " ".join(answer.casefold().split()).rstrip(".") == self.expected.casefold()


def compare(
    engine: Engine, scope: Scope, *, source: str, question: str, expected: str | None, max_tokens: int
) -> Comparison:
    """Run ``question`` every way, the plan first; greedy, so all are repeatable."""
    options = GenerationOptions(max_new_tokens=64)
    started = time.perf_counter()
    plan = engine.plan(question, scope=scope, max_tokens=max_tokens, options=options, hypercode=False)
    planned_in = time.perf_counter() - started
    reply = engine.run(plan, options)
    usage = reply.result.usage
    planned = PlannedRun(
        usage.prompt_tokens, usage.kv_cache_bytes, planned_in, planned_in + usage.seconds_to_first_token, reply
    )
    full = _run_full(engine, scope, question, options)
    return Comparison(source, question, expected, full, planned, _run_hypercode(engine, scope, question, options))


def _run_hypercode(engine: Engine, scope: Scope, question: str, options: GenerationOptions) -> HypercodeRun | None:
    """Run behind the scope's compact caches, planning included in the time; ``None`` where there are none."""
    started = time.perf_counter()
    plan = engine.plan(question, scope=scope, options=options)
    if not plan.cache_keys:
        return None
    planned_in = time.perf_counter() - started
    result = engine.run(plan, options).result
    zoomed = tuple(text for cache in result.caches for text in cache.zoomed_text)
    usage = result.usage
    return HypercodeRun(usage.kv_cache_bytes, planned_in + usage.seconds_to_first_token, result.text, zoomed)


def _run_full(engine: Engine, scope: Scope, question: str, options: GenerationOptions) -> FullRun:
    model = engine.model
    assert model is not None
    scenes = engine.store.list(scope, limit=engine.store.count(scope), order="source")
    messages = full_context_messages(scenes, question, engine.instructions)
    whole = model.count_prompt_tokens(messages)
    room = model.context_window - options.max_new_tokens
    fits = whole <= room
    if not fits:
        messages = _cut(engine, messages, whole, room)
    result: GenerationResult = model.generate(messages, options)
    usage = result.usage
    return FullRun(
        fits,
        whole,
        usage.prompt_tokens,
        usage.kv_cache_bytes,
        whole * model.kv_bytes_per_token,
        usage.seconds_to_first_token,
        result.text,
    )


def _cut(engine: Engine, messages: tuple[Message, ...], whole: int, room: int) -> tuple[Message, ...]:
    """Shorten the first message from its end until the prompt fits the room."""
    model = engine.model
    assert model is not None
    first, *rest = messages
    length = int(len(first.content) * room / whole)
    while True:
        cut = (Message(role=first.role, content=first.content[:length]), *rest)
        if model.count_prompt_tokens(cut) <= room:
            return cut
        length = int(length * 0.97)
