"""The main path: remember = segment → encode → store; answer = find scenes → choose by budget → assemble → run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Required, Self, TypedDict, Unpack

from hyperscene_plugin.assemble import (
    INSTRUCTIONS,
    PlanBudget,
    PromptPlan,
    activations_of,
    activations_of_cache,
    context_message,
    room_for_scenes,
)
from hyperscene_plugin.citations import Citation, cite
from hyperscene_plugin.errors import InputError, ModelError
from hyperscene_plugin.hypercode_tier import HypercodeTier, StoredCache
from hyperscene_plugin.model.port import (
    CachePlan,
    GenerationOptions,
    GenerationResult,
    HypercodeModel,
    LanguageModel,
    TextChunk,
)
from hyperscene_plugin.recall import Progress, Recall
from hyperscene_plugin.text.render import render
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.types import Encoder, Message, Scene, Scope, Source

if TYPE_CHECKING:
    from hyperscene_plugin.store.base import ForgetReport, StorePort

__all__ = ["Asked", "Engine", "EngineReply", "RememberReport", "ReplyChunk"]

_ALL_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class RememberReport:
    """What ``remember`` did: one id per scene in source order; ``added + existing == len(scene_ids)``."""

    source_ids: tuple[str, ...]
    scene_ids: tuple[str, ...]
    added: int
    existing: int
    num_tokens: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineReply:
    """An answer, the plan it was made from, and the source sentences that hold it."""

    text: str
    plan: PromptPlan
    citations: tuple[Citation, ...]
    result: GenerationResult

    @property
    def notes(self) -> tuple[str, ...]:
        """Every fallback taken, in planning and in generation."""
        return (*self.plan.notes, *self.result.notes)


@dataclass(frozen=True, slots=True)
class ReplyChunk:
    """A piece of a streamed answer; the last one carries the whole ``reply``."""

    text: str
    reply: EngineReply | None = None


class Asked(TypedDict, total=False):
    """What goes with a question; each is explained at :meth:`Engine.plan`."""

    scope: Required[Scope]
    history: Sequence[Message]
    max_tokens: int | None
    options: GenerationOptions | None
    hypercode: bool


class Engine:
    """Memory for a local model: stores sources as scenes and answers from those that matter.

    Args:
        store: an open ``SceneStore``, or a path or URL to open one.
        model: a ``LanguageModel``; ``None`` for a store that is only filled, searched and planned for by text.
        encoder: an encoder, a model name, ``"auto"`` (default; works lexically and says so when none can be
            loaded) or ``None`` for lexical on purpose.
        instructions: what the model is told above the scenes. The bundled demo model was trained on bare
            passages and gets none by default.

    All methods may be called from several threads; the ``a…`` ones do not block the event loop.
    """

    def __init__(
        self,
        store: StorePort | str | Path,
        model: LanguageModel | None = None,
        encoder: Encoder | str | None = "auto",
        *,
        instructions: str | None = None,
    ) -> None:
        if isinstance(store, str | Path):
            from hyperscene_plugin.store import SceneStore

            store = SceneStore.open(store)
        self.store: StorePort = store
        self.model = model
        self._recall = Recall(store, encoder)
        demo = model is not None and model.name == "demo"
        self.instructions = instructions if instructions is not None else "" if demo else INSTRUCTIONS
        self._hypercode = HypercodeTier(store, model, self.instructions)

    @property
    def encoder(self) -> Encoder | None:
        """The encoder in use; ``None`` when scenes are found by words alone."""
        return self._recall.encoder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store. The model stays loaded."""
        self.store.close()

    # remember -----------------------------------------------------------------------------------------------

    def remember(
        self,
        source: Source,
        *,
        scope: Scope,
        source_id: str | None = None,
        ttl: float | timedelta | None = None,
        progress: Progress | None = None,
    ) -> RememberReport:
        """Cut ``source`` into scenes and store them. What is stored already is left as it is.

        All scenes of a source are stored in one transaction, except for more than 20,000 at once: those go in
        batches, each whole, and calling again completes an interrupted one.

        Raises:
            InputError: an empty or unreadable source.
            StoreError: the store refused; nothing of this call (or of the current batch) was saved.
        """
        scenes = segment(source, source_id=source_id)
        if not scenes:
            raise InputError("there is nothing to remember: the source is empty or blank")
        name = self._recall.encoder_name
        if len(scenes) > _ALL_AT_ONCE:
            report = self.store.add_many(
                scenes,
                scope,
                encode=(lambda batch: self._recall.encode(batch, None)) if self.encoder is not None else None,
                encoder_name=name,
                ttl=ttl,
                progress=(lambda done: progress("store", done, len(scenes))) if progress else None,
            )
        else:
            vectors = self._recall.vectors_for(scenes, scope, progress)
            report = self.store.add(scenes, scope, vectors=vectors, encoder_name=name, ttl=ttl)
            if progress:
                progress("store", len(scenes), len(scenes))
        sources = tuple(dict.fromkeys(scene.source_id for scene in scenes))
        tokens = sum(self.model.token_counter.count_many([scene.text for scene in scenes])) if self.model else 0
        return RememberReport(sources, report.ids, report.added, report.existing, tokens, self._recall.notes)

    def forget(
        self,
        scope: Scope,
        *,
        ids: Sequence[str] | None = None,
        source_id: str | None = None,
        older_than: timedelta | None = None,
        everything: bool = False,
    ) -> ForgetReport:
        """Remove scenes for good: rows, index entries, vectors and files. See ``StorePort.forget``."""
        return self.store.forget(scope, ids=ids, source_id=source_id, older_than=older_than, everything=everything)

    # hypercode ----------------------------------------------------------------------------------------------

    def compact(
        self,
        source_id: str,
        *,
        scope: Scope,
        compaction_ratio: float = 12.0,
        quality: str = "balanced",
        zoom_share: float | None = None,
        progress: Progress | None = None,
    ) -> StoredCache:
        """Turn a remembered source into hypercode, kept in the store; later questions see it in that form.

        Arguments as ``LocalModel.compact``. Forgetting any scene of the source puts the rest back to text until it is
        compacted again.

        Raises:
            InputError: no such source in the scope, or an argument out of range.
            UnsupportedModelError: the model's architecture cannot stand behind compact caches.
        """
        return self._hypercode.compact(source_id, scope, compaction_ratio, quality, zoom_share, progress)

    def uncompact(self, source_id: str, *, scope: Scope) -> bool:
        """Delete a source's hypercode; its scenes stay and go in as text. Return whether there was any."""
        return self._hypercode.remove(source_id, scope)

    # plan ---------------------------------------------------------------------------------------------------

    def plan(
        self,
        question: str,
        *,
        scope: Scope,
        history: Sequence[Message] = (),
        max_tokens: int | None = None,
        options: GenerationOptions | None = None,
        hypercode: bool = True,
    ) -> PromptPlan:
        """Decide what the model will see for ``question``, without running it.

        Sources that were compacted stand before the messages as hypercode, with the sentences that the question points
        at verbatim; everything else is recalled as text.

        Args:
            question: the user's words.
            scope: whose memory.
            history: earlier messages that go in verbatim; the last user message also helps to find scenes.
            max_tokens: hard budget for the recalled text; a quarter of the window by default.
            options: their ``max_new_tokens`` is kept free for the reply.
            hypercode: ``False`` recalls compacted sources as text, too.

        Raises:
            InputError: a blank question.
            BudgetError: no room is left for scenes, or the budget is smaller than the smallest scene.
            ModelError: the engine has no model.
        """
        if not question.strip():
            raise InputError("the question is blank")
        model = self._require_model()
        options = options or GenerationOptions()
        reserve = min(options.max_new_tokens, model.context_window // 2)
        ending = (*history, Message(role="user", content=question))
        stored, notes = self._hypercode.find(scope) if hypercode else ([], ())
        caches = self._plan_caches(ending, stored, reserve)
        behind = caches.num_positions if caches else 0
        instructions = "" if caches else self.instructions  # with caches they stand in the prefix already
        bare = context_message("", instructions)
        fixed = model.count_prompt_tokens((bare, *ending) if bare else ending) + behind
        budget = room_for_scenes(
            context_window=model.context_window, fixed_tokens=fixed, reserved_for_reply=reserve, max_tokens=max_tokens
        )
        inside = frozenset(
            str(scene.id)
            for item in stored
            for scene, span in zip(item.scenes, item.cache.scenes, strict=True)
            if not span.text_only
        )
        query = _query(question, history)
        result, found = self._recall.find(query, scope, budget, model.token_counter, inside)
        message = context_message(result.text if result else "", instructions)
        messages = (message, *ending) if message else ending
        before, after = (result.tokens_before, result.tokens_after) if result else (0, 0)
        activations = activations_of(result) if result else ()
        left_out = result.dropped if result else ()
        each = model.kv_bytes_per_token
        for number, item in enumerate(stored if caches else ()):
            assert caches is not None
            spans = [(span.start, span.end) for span in item.cache.scenes]
            used, dropped = activations_of_cache(item.scenes, spans, caches, number, item.cache.byte_ratio)
            activations, left_out = (*activations, *used), (*left_out, *dropped)
            before += item.cache.num_source_tokens
        held = caches.nbytes if caches else 0
        return PromptPlan(
            question=question,
            messages=messages,
            activations=activations,
            left_out=left_out,
            budget=PlanBudget(
                model.context_window, reserve, budget, after, model.count_prompt_tokens(messages) + behind
            ),
            tokens_before=before,
            tokens_after=after + round(held / each),
            kv_bytes_before=before * each,
            kv_bytes_after=after * each + held,
            model=model.name,
            tokenizer=model.token_counter.name,
            notes=tuple(dict.fromkeys((*notes, *(caches.notes if caches else ()), *found))),
            cache_keys=tuple(item.key for item in stored) if caches else (),
        )

    def _plan_caches(
        self, messages: Sequence[Message], stored: Sequence[StoredCache], reserve: int
    ) -> CachePlan | None:
        if not stored or not isinstance(self.model, HypercodeModel):
            return None
        return self.model.plan_caches(
            messages, [item.cache for item in stored], instructions=self.instructions, reserve=reserve
        )

    # answer -------------------------------------------------------------------------------------------------

    def generate(self, question: str, **asked: Unpack[Asked]) -> EngineReply:
        """Plan and run; arguments and errors as :meth:`plan`, plus those of the model."""
        plan = self.plan(question, **asked)
        return self.run(plan, asked.get("options"))

    def run(self, plan: PromptPlan, options: GenerationOptions | None = None) -> EngineReply:
        """Run a plan as it is."""
        for chunk in self._run(plan, options):
            if chunk.result is not None:
                return _reply(plan, chunk.result)
        raise AssertionError("a finished stream ends with its result")

    def _run(self, plan: PromptPlan, options: GenerationOptions | None) -> Iterator[TextChunk]:
        model = self._require_model()
        if not plan.cache_keys:
            return model.stream(plan.messages, options)
        assert isinstance(model, HypercodeModel)
        caches = [self._hypercode.by_key(key).cache for key in plan.cache_keys]
        return model.stream(plan.messages, options, caches=caches, instructions=self.instructions)

    def stream(self, question: str, **asked: Unpack[Asked]) -> Iterator[ReplyChunk]:
        """Plan, then yield the answer piece by piece; the last chunk carries the reply. Closing it cancels."""
        plan = self.plan(question, **asked)
        for chunk in self._run(plan, asked.get("options")):
            yield ReplyChunk(chunk.text, _reply(plan, chunk.result) if chunk.result else None)

    async def aremember(
        self,
        source: Source,
        *,
        scope: Scope,
        source_id: str | None = None,
        ttl: float | timedelta | None = None,
        progress: Progress | None = None,
    ) -> RememberReport:
        """Async :meth:`remember`."""
        return await asyncio.to_thread(
            self.remember, source, scope=scope, source_id=source_id, ttl=ttl, progress=progress
        )

    async def aplan(self, question: str, **asked: Unpack[Asked]) -> PromptPlan:
        """Async :meth:`plan`."""
        return await asyncio.to_thread(self.plan, question, **asked)

    async def agenerate(self, question: str, **asked: Unpack[Asked]) -> EngineReply:
        """Async :meth:`generate`; cancelling the task cancels the generation."""
        async for chunk in self.astream(question, **asked):
            if chunk.reply is not None:
                return chunk.reply
        raise AssertionError("a finished stream ends with its reply")

    async def astream(self, question: str, **asked: Unpack[Asked]) -> AsyncIterator[ReplyChunk]:
        """Async :meth:`stream`."""
        plan = await self.aplan(question, **asked)
        chunks = self._run(plan, asked.get("options"))
        try:
            while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                yield ReplyChunk(chunk.text, _reply(plan, chunk.result) if chunk.result else None)
        finally:
            await asyncio.shield(asyncio.to_thread(_close, chunks))

    # inside -------------------------------------------------------------------------------------------------

    def _require_model(self) -> LanguageModel:
        if self.model is None:
            raise ModelError("this engine has no model: pass one, for example Engine(store, LocalModel.load('demo'))")
        return self.model


def _query(question: str, history: Sequence[Message]) -> str:
    """Return the question, with the last user message before it: what a short follow-up refers to."""
    earlier = next((message.content for message in reversed(history) if message.role == "user"), None)
    return question if earlier is None else f"{question}\n{earlier}"


def _reply(plan: PromptPlan, result: GenerationResult) -> EngineReply:
    scenes = [activation.scene for activation in plan.activations]
    return EngineReply(result.text, plan, cite(result.text, scenes, question=plan.question), result)


def _close(chunks: Iterator[TextChunk]) -> None:
    """Close a stream; after a cancelled wait another thread may be inside it until the next token comes."""
    close = getattr(chunks, "close", None)
    while close is not None:
        try:
            close()
            return
        except ValueError:  # "generator already executing"
            time.sleep(0.005)


def full_context_messages(scenes: Sequence[Scene], question: str, instructions: str) -> tuple[Message, ...]:
    """Return the prompt that carries every scene: the baseline that a plan is compared with."""
    message = context_message(render(list(scenes)), instructions)
    ending = Message(role="user", content=question)
    return (message, ending) if message else (ending,)
