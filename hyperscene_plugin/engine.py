"""The main path: remember = segment → encode → store; answer = find scenes → choose by budget → assemble → run."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Self

import numpy as np

from hyperscene_plugin.assemble import (
    INSTRUCTIONS,
    PlanBudget,
    PromptPlan,
    activations_of,
    context_message,
    room_for_scenes,
)
from hyperscene_plugin.citations import Citation, cite
from hyperscene_plugin.errors import EncoderError, InputError, ModelError
from hyperscene_plugin.model.port import GenerationOptions, GenerationResult, LanguageModel
from hyperscene_plugin.store.base import SceneFilter
from hyperscene_plugin.text.auto_encoder import resolve_encoder
from hyperscene_plugin.text.compress import compress_scenes
from hyperscene_plugin.text.index import SceneIndex, embedding_text
from hyperscene_plugin.text.render import render
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.types import CompressionResult, Encoder, Message, Scene, Scope, Source

if TYPE_CHECKING:
    from hyperscene_plugin.store.base import ForgetReport, StorePort

__all__ = ["Engine", "EngineReply", "RememberReport", "ReplyChunk"]

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)``; stages are ``encode`` and ``store``."""

_MOST_RANKED = 2000
_ENCODE_BATCH = 256
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
        self.encoder, self._encoder_notes = resolve_encoder(encoder)
        demo = model is not None and model.name == "demo"
        self.instructions = instructions if instructions is not None else "" if demo else INSTRUCTIONS
        self._indexes = _IndexCache()

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
        name = self.encoder.name if self.encoder is not None else None
        if len(scenes) > _ALL_AT_ONCE:
            report = self.store.add_many(
                scenes,
                scope,
                encode=(lambda batch: self._encode(batch, None)) if self.encoder is not None else None,
                encoder_name=name,
                ttl=ttl,
                progress=(lambda done: progress("store", done, len(scenes))) if progress else None,
            )
        else:
            vectors = self._stored_or_encoded(scenes, scope, progress)
            report = self.store.add(scenes, scope, vectors=vectors, encoder_name=name, ttl=ttl)
            if progress:
                progress("store", len(scenes), len(scenes))
        sources = tuple(dict.fromkeys(scene.source_id for scene in scenes))
        tokens = sum(self.model.token_counter.count_many([scene.text for scene in scenes])) if self.model else 0
        return RememberReport(sources, report.ids, report.added, report.existing, tokens, self._encoder_notes)

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

    # plan ---------------------------------------------------------------------------------------------------

    def plan(
        self,
        question: str,
        *,
        scope: Scope,
        history: Sequence[Message] = (),
        max_tokens: int | None = None,
        options: GenerationOptions | None = None,
    ) -> PromptPlan:
        """Decide what the model will see for ``question``, without running it.

        Args:
            question: the user's words.
            scope: whose memory.
            history: earlier messages that go in verbatim; the last user message also helps to find scenes.
            max_tokens: hard budget for the recalled text; a quarter of the window by default.
            options: their ``max_new_tokens`` is kept free for the reply.

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
        bare = context_message("", self.instructions)
        fixed = model.count_prompt_tokens((bare, *ending) if bare else ending)
        budget = room_for_scenes(
            context_window=model.context_window, fixed_tokens=fixed, reserved_for_reply=reserve, max_tokens=max_tokens
        )
        result, notes = self._recall(_query(question, history), scope, budget)
        message = context_message(result.text if result else "", self.instructions)
        messages = (message, *ending) if message else ending
        prompt_tokens = model.count_prompt_tokens(messages)
        before, after = (result.tokens_before, result.tokens_after) if result else (0, 0)
        return PromptPlan(
            question=question,
            messages=messages,
            activations=activations_of(result) if result else (),
            left_out=result.dropped if result else (),
            budget=PlanBudget(model.context_window, reserve, budget, after, prompt_tokens),
            tokens_before=before,
            tokens_after=after,
            kv_bytes_before=before * model.kv_bytes_per_token,
            kv_bytes_after=after * model.kv_bytes_per_token,
            model=model.name,
            tokenizer=model.token_counter.name,
            notes=notes,
        )

    # answer -------------------------------------------------------------------------------------------------

    def generate(
        self,
        question: str,
        *,
        scope: Scope,
        history: Sequence[Message] = (),
        max_tokens: int | None = None,
        options: GenerationOptions | None = None,
    ) -> EngineReply:
        """Plan and run; arguments and errors as :meth:`plan`, plus those of the model."""
        plan = self.plan(question, scope=scope, history=history, max_tokens=max_tokens, options=options)
        return self.run(plan, options)

    def run(self, plan: PromptPlan, options: GenerationOptions | None = None) -> EngineReply:
        """Run a plan as it is."""
        return _reply(plan, self._require_model().generate(plan.messages, options))

    def stream(
        self,
        question: str,
        *,
        scope: Scope,
        history: Sequence[Message] = (),
        max_tokens: int | None = None,
        options: GenerationOptions | None = None,
    ) -> Iterator[ReplyChunk]:
        """Plan, then yield the answer piece by piece; the last chunk carries the reply. Closing it cancels."""
        plan = self.plan(question, scope=scope, history=history, max_tokens=max_tokens, options=options)
        for chunk in self._require_model().stream(plan.messages, options):
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

    async def aplan(
        self,
        question: str,
        *,
        scope: Scope,
        history: Sequence[Message] = (),
        max_tokens: int | None = None,
        options: GenerationOptions | None = None,
    ) -> PromptPlan:
        """Async :meth:`plan`."""
        return await asyncio.to_thread(
            self.plan, question, scope=scope, history=history, max_tokens=max_tokens, options=options
        )

    async def agenerate(
        self,
        question: str,
        *,
        scope: Scope,
        history: Sequence[Message] = (),
        max_tokens: int | None = None,
        options: GenerationOptions | None = None,
    ) -> EngineReply:
        """Async :meth:`generate`; cancelling the task cancels the generation."""
        async for chunk in self.astream(question, scope=scope, history=history, max_tokens=max_tokens, options=options):
            if chunk.reply is not None:
                return chunk.reply
        raise AssertionError("a finished stream ends with its reply")

    async def astream(
        self,
        question: str,
        *,
        scope: Scope,
        history: Sequence[Message] = (),
        max_tokens: int | None = None,
        options: GenerationOptions | None = None,
    ) -> AsyncIterator[ReplyChunk]:
        """Async :meth:`stream`."""
        plan = await self.aplan(question, scope=scope, history=history, max_tokens=max_tokens, options=options)
        chunks = self._require_model().stream(plan.messages, options)
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

    def _recall(self, query: str, scope: Scope, budget: int) -> tuple[CompressionResult | None, tuple[str, ...]]:
        """Return the compressed text of the scope's scenes for ``query``, and notes on how they were found."""
        notes = list(self._encoder_notes)
        held = self.store.count(scope)
        if held == 0:
            return None, (*notes, "the scope holds no scenes: the model answers from the question alone")
        if held <= _MOST_RANKED:
            scenes = self.store.list(scope, limit=held, order="source")
        else:
            vector = self.encoder.encode([query])[0] if self.encoder is not None else None
            name = self.encoder.name if self.encoder is not None else None
            found = self.store.search(query, scope, vector=vector, encoder_name=name, top_k=_MOST_RANKED)
            scenes = sorted((hit.scene for hit in found), key=lambda scene: (scene.source_id, scene.index))
            notes += [*found.notes, f"ranked the {len(scenes)} best of {held} scenes found by search"]
            if not scenes:
                return None, (*notes, "no scene matches the question")
        index = self._indexes.get(scenes, lambda: self._build_index(scenes, scope))
        result = compress_scenes(
            index,
            query,
            max_tokens=budget,
            tokenizer=self._require_model().token_counter,
            encoder=self.encoder,
        )
        return result, tuple(dict.fromkeys((*notes, *result.notes)))

    def _build_index(self, scenes: Sequence[Scene], scope: Scope) -> SceneIndex:
        vectors = None
        if self.encoder is not None:
            ids = [scene.id for scene in scenes if scene.id is not None]
            vectors = self.store.get_vectors(ids, scope, self.encoder.name)
            if vectors is None:  # some were stored under another encoder, or under none
                vectors = self._encode(scenes, None)
        return SceneIndex.build(scenes, encoder=self.encoder, vectors=vectors)

    def _stored_or_encoded(self, scenes: Sequence[Scene], scope: Scope, progress: Progress | None) -> np.ndarray | None:
        """Return one vector per scene; what is stored already (a chat sent again whole) is not encoded again."""
        if self.encoder is None:
            return None
        where = SceneFilter(source_id=tuple(dict.fromkeys(scene.source_id for scene in scenes)))
        held = self.store.list(scope, where, limit=max(1, self.store.count(scope, where)))
        id_of = {(scene.key, scene.text): scene.id for scene in held}
        known = [place for place, scene in enumerate(scenes) if id_of.get((scene.key, scene.text))]
        ids = [id_of[scenes[place].key, scenes[place].text] for place in known]
        stored = self.store.get_vectors([i for i in ids if i], scope, self.encoder.name) if known else None
        if stored is None:
            return self._encode(scenes, progress)
        new = sorted(set(range(len(scenes))) - set(known))
        vectors = np.empty((len(scenes), stored.shape[1]), dtype=np.float32)
        vectors[known] = stored
        if new:
            vectors[new] = self._encode([scenes[place] for place in new], progress)
        return vectors

    def _encode(self, scenes: Sequence[Scene], progress: Progress | None) -> np.ndarray:
        """Return float32 vectors of shape (scenes, dimension); needs an encoder."""
        if self.encoder is None:
            raise EncoderError("this engine has no encoder")
        parts = []
        for start in range(0, len(scenes), _ENCODE_BATCH):
            parts.append(self.encoder.encode([embedding_text(s) for s in scenes[start : start + _ENCODE_BATCH]]))
            if progress:
                progress("encode", min(start + _ENCODE_BATCH, len(scenes)), len(scenes))
        return np.concatenate(parts)


class _IndexCache:
    """The last few scene indexes, by the ids they hold, so that a second question costs no second indexing."""

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._lock = Lock()
        self._held: OrderedDict[tuple[str | None, ...], SceneIndex] = OrderedDict()

    def get(self, scenes: Sequence[Scene], build: Callable[[], SceneIndex]) -> SceneIndex:
        """Return the index of exactly these scenes, built now if it is not held."""
        key = tuple(scene.id for scene in scenes)
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        index = build()
        with self._lock:
            self._held[key] = index
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return index


def _query(question: str, history: Sequence[Message]) -> str:
    """Return the question, with the last user message before it: what a short follow-up refers to."""
    earlier = next((message.content for message in reversed(history) if message.role == "user"), None)
    return question if earlier is None else f"{question}\n{earlier}"


def _reply(plan: PromptPlan, result: GenerationResult) -> EngineReply:
    scenes = [activation.scene for activation in plan.activations]
    return EngineReply(result.text, plan, cite(result.text, scenes, question=plan.question), result)


def _close(chunks: object) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        close()


def full_context_messages(scenes: Sequence[Scene], question: str, instructions: str) -> tuple[Message, ...]:
    """Return the prompt that carries every scene: the baseline that a plan is compared with."""
    message = context_message(render(list(scenes)), instructions)
    ending = Message(role="user", content=question)
    return (message, ending) if message else (ending,)
