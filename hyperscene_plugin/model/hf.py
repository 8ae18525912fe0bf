"""``LocalModel``: a transformers causal language model, placed by accelerate, behind the ``LanguageModel`` face."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock, RLock, Thread
from typing import TYPE_CHECKING, Any

from hyperscene_plugin.errors import HypersceneError, InputError, ModelError, OutOfMemoryError
from hyperscene_plugin.model.loading import load_pretrained
from hyperscene_plugin.model.port import (
    CachePlan,
    FinishReason,
    GenerationOptions,
    GenerationResult,
    TextChunk,
    Usage,
)
from hyperscene_plugin.model.streaming import TextAssembler, TokenStream
from hyperscene_plugin.model.template import encode_prompt
from hyperscene_plugin.tokens import token_counter
from hyperscene_plugin.types import Message, Scene, Source, TokenCounter

if TYPE_CHECKING:
    from hyperscene_plugin.kv.layout import CompactCache
    from hyperscene_plugin.model.hypercode import ContextPlan, Hypercode, Progress

__all__ = ["LocalModel"]


class LocalModel:
    """A local model. Build it with :meth:`load`. One generation runs at a time; others wait their turn."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str, notes: tuple[str, ...] = ()) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.notes = notes
        self._name = name
        self._lock = Lock()
        self._hypercode: Hypercode | None = None
        self._hypercode_lock = RLock()

    @classmethod
    def load(
        cls,
        path_or_id: str = "demo",
        *,
        device_map: str | dict[str, Any] | None = "auto",
        dtype: str = "auto",
        quantization: object = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> LocalModel:
        """Load a model and its tokenizer.

        Args:
            path_or_id: ``"demo"`` (bundled), a folder with ``config.json`` and ``*.safetensors``, or a hub id.
            device_map: as accelerate takes it: ``"auto"``, ``"cpu"``, ``"cuda:0"``, a module → device mapping.
            dtype: ``auto`` (as stored), ``float32``, ``bfloat16``, ``float16``.
            quantization: ``"8bit"``, ``"4bit"`` (bitsandbytes) or a transformers quantisation config.
            revision: branch, tag or commit of a hub id.
            trust_remote_code: run code from the model's repository. Off by default: it runs as you.

        Raises:
            ModelNotFoundError: no such folder, a file missing in it, or a hub id that cannot be fetched.
            UnsupportedModelError: not a causal language model, or an architecture transformers does not know.
            OutOfMemoryError: the weights do not fit; says how much is needed and free.
            ConfigError: a wrong ``dtype`` or ``quantization``.
            MissingPackageError: torch, transformers, accelerate or bitsandbytes is not installed.
        """
        model, tokenizer, notes = load_pretrained(
            path_or_id,
            device_map=device_map,
            dtype=dtype,
            quantization=quantization,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        return cls(model, tokenizer, name=path_or_id, notes=notes)

    @property
    def name(self) -> str:
        """The path or id it was loaded from."""
        return self._name

    @property
    def context_window(self) -> int:
        """The most tokens, prompt and completion together, the model was trained to see."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the full key/value cache for each token: 2 · layers · KV heads · head dim · bytes per number."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * head_dim * self.model.dtype.itemsize)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in memory, as loaded."""
        return int(self.model.get_memory_footprint())

    @property
    def token_counter(self) -> TokenCounter:
        """Counts tokens by the model's own tokenizer."""
        return token_counter(self.tokenizer)

    def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return the tokens of ``messages`` formatted by the chat template, up to the reply."""
        return len(encode_prompt(self.tokenizer, messages)[0])

    # hypercode ----------------------------------------------------------------------------------------------

    @property
    def hypercode(self) -> Hypercode:
        """What compacts and assembles for this model; made at first use.

        Raises:
            UnsupportedModelError: compact caches cannot stand behind this architecture; the message names it.
        """
        from hyperscene_plugin.model.hypercode import Hypercode

        with self._hypercode_lock:
            if self._hypercode is None:
                with self._lock:
                    self._hypercode = Hypercode(self.model, self.tokenizer, name=self._name)
            return self._hypercode

    def compact(
        self,
        source: Source | Sequence[Scene],
        compaction_ratio: float = 12.0,
        *,
        quality: str = "balanced",
        zoom_share: float | None = None,
        max_bytes: int | None = None,
        max_slots: int | None = None,
        source_id: str | None = None,
        instructions: str = "",
        chat: bool = True,
        checkpoint: str | Path | None = None,
        progress: Progress | None = None,
        seed: int = 0,
    ) -> CompactCache:
        """Compact a text, chat, documents or scenes into a cache that stands before any later question.

        Args:
            source: what ``segment`` takes, or scenes.
            compaction_ratio: bytes of the full cache ÷ bytes of this one, 2 to 64, same dtype, everything counted.
            quality: ``fast`` (keys are chosen, nothing is fitted), ``balanced``, or ``best`` (many more questions are
                asked of the text; minutes instead of seconds on long texts).
            zoom_share: part of the bytes that is kept free for reading the sentences a question points at verbatim;
                by default a half up to 20×, more beyond (0.9 at 50×). 0 keeps no verbatim copy.
            max_bytes: an absolute budget instead of a ratio.
            max_slots: the same in slots for each layer and head, on average.
            source_id: names the source in plans and errors.
            instructions: what stands above the source in every prompt; the same must be given to ``generate``.
            chat: ``False`` for raw prompts without the chat template.
            checkpoint: a folder; finished blocks are saved there, and a call that was interrupted goes on from them.
            progress: called as ``progress(stage, tokens done, tokens in all)``.
            seed: of the questions' wording.

        Raises:
            InputError: nothing to compact, or an argument out of range.
            BudgetError: the budget holds no slot.
            UnsupportedModelError: not an architecture for compact caches; its name, and what to do.
        """
        hypercode = self.hypercode
        with self._lock, self._mapped(lambda: "compacting the source"):
            return hypercode.compact(
                source,
                compaction_ratio,
                quality=quality,
                zoom_share=zoom_share,
                max_bytes=max_bytes,
                max_slots=max_slots,
                source_id=source_id,
                instructions=instructions,
                chat=chat,
                checkpoint=checkpoint,
                progress=progress,
                seed=seed,
            )

    def load_compact(self, folder: str | Path, *, instructions: str = "", chat: bool = True) -> CompactCache:
        """Load a saved cache (``CompactCache.save``); arrays come into memory when they are used.

        Raises:
            FingerprintMismatchError: it was made with another model, tokenizer or prefix; lists every difference.
            HypercodeError: not there, damaged, or of a newer release.
        """
        return self.hypercode.load(folder, instructions=instructions, chat=chat)

    def plan_caches(
        self,
        prompt: str | Sequence[Message],
        caches: Sequence[CompactCache],
        *,
        gate: bool = True,
        zoom: bool = True,
        instructions: str = "",
        chat: bool = True,
        reserve: int = 256,
    ) -> CachePlan:
        """Decide what :meth:`generate` would put before ``prompt``; arguments and errors as :meth:`stream`.

        ``reserve`` positions are kept free for the reply.
        """
        hypercode = self.hypercode
        with self._lock, self._mapped(lambda: "assembling the compact context"):
            _, plan = hypercode.prepare(
                prompt, caches, instructions=instructions, chat=chat, gate=gate, zoom=zoom, reserve=reserve
            )
        return CachePlan(plan.caches, plan.nbytes, plan.full_nbytes, plan.context.num_positions, plan.notes)

    # generate -----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str | Sequence[Message],
        options: GenerationOptions | None = None,
        *,
        caches: Sequence[CompactCache] = (),
        gate: bool = True,
        zoom: bool = True,
        instructions: str = "",
        chat: bool = True,
    ) -> GenerationResult:
        """Generate a whole reply to a chat, or a continuation of raw text; arguments and errors as :meth:`stream`."""
        for chunk in self.stream(
            prompt, options, caches=caches, gate=gate, zoom=zoom, instructions=instructions, chat=chat
        ):
            if chunk.result is not None:
                return chunk.result
        raise AssertionError("a finished stream ends with its result")

    def stream(
        self,
        prompt: str | Sequence[Message],
        options: GenerationOptions | None = None,
        *,
        caches: Sequence[CompactCache] = (),
        gate: bool = True,
        zoom: bool = True,
        instructions: str = "",
        chat: bool = True,
    ) -> Iterator[TextChunk]:
        """Generate piece by piece; the last chunk carries the result; closing the iterator cancels.

        The prompt is checked when this is called, not at the first piece.

        Args:
            prompt: messages, or text. With caches, text is the user's message unless ``chat=False``.
            options: lengths, sampling, stops.
            caches: compact caches that stand before the prompt, in the order of their positions.
            gate: leave out caches that the question does not point at (where there are several).
            zoom: read the sentences that the question points at verbatim, within each cache's ``zoom_bytes``.
            instructions: what the caches were compacted with.
            chat: ``False`` for raw prompts behind caches compacted with ``chat=False``.

        Raises:
            InputError: an empty prompt, or one that leaves no room in the context window.
            BudgetError: the caches do not fit the window.
            FingerprintMismatchError: a cache belongs to another model, tokenizer or prefix.
            OutOfMemoryError: memory ran out while generating.
            ModelError: the chat template or the model failed.
        """
        options = options or GenerationOptions()
        plan: ContextPlan | None = None
        if caches:
            reserve = min(options.max_new_tokens, self.context_window // 2)
            hypercode = self.hypercode
            with self._lock, self._mapped(lambda: "assembling the compact context"):
                ids, plan = hypercode.prepare(
                    prompt, caches, instructions=instructions, chat=chat, gate=gate, zoom=zoom, reserve=reserve
                )
            notes, before = plan.notes, plan.context.num_positions
        else:
            ids, notes = encode_prompt(self.tokenizer, prompt)
            before = 0
        room = self.context_window - before - len(ids)
        if room < 1:
            raise InputError(
                f"the prompt has {before + len(ids)} tokens and the window of {self.name!r} is {self.context_window}; "
                "shorten it, or let the engine compress it (max_tokens)"
            )
        if room < options.max_new_tokens:
            notes = (*notes, f"max_new_tokens cut from {options.max_new_tokens} to {room}: the window ends there")
        return self._stream(ids, min(room, options.max_new_tokens), options, (*self.notes, *notes), plan)

    def _stream(
        self,
        ids: list[int],
        max_new_tokens: int,
        options: GenerationOptions,
        notes: tuple[str, ...],
        plan: ContextPlan | None,
    ) -> Iterator[TextChunk]:
        stream = TokenStream()
        assembler = TextAssembler(self._decode, options.stop)
        started = time.perf_counter()
        worker = Thread(target=self._run, args=(ids, max_new_tokens, options, stream, plan), daemon=True)
        finish: FinishReason = "cancelled"
        new_tokens = 0
        ended_by_eos = False
        worker.start()
        try:
            for token in stream:
                new_tokens += 1
                ended_by_eos = token in self._eos_ids()
                piece = "" if ended_by_eos else assembler.push(token)
                if piece:
                    yield TextChunk(piece)
                if assembler.stopped:
                    break
            finish = "stop" if ended_by_eos or assembler.stopped else "length"
        finally:
            stream.cancelled.set()
            worker.join()
        rest = assembler.finish()
        ended = time.perf_counter()
        usage = Usage(
            prompt_tokens=len(ids) + (plan.context.num_positions if plan else 0),
            completion_tokens=new_tokens,
            kv_cache_bytes=self.kv_bytes_per_token * (len(ids) + max(0, new_tokens - 1)) + (plan.nbytes if plan else 0),
            seconds_to_first_token=(stream.first_token_at or ended) - started,
            seconds=ended - started,
        )
        yield TextChunk(rest, GenerationResult(assembler.text, finish, usage, notes, plan.caches if plan else ()))

    def _run(
        self,
        ids: list[int],
        max_new_tokens: int,
        options: GenerationOptions,
        stream: TokenStream,
        plan: ContextPlan | None,
    ) -> None:
        """Generate in the worker thread; every error travels to the reader through ``stream``."""
        import torch
        from transformers import StoppingCriteriaList

        error: BaseException | None = None
        try:
            with self._lock, self._seeded(options.seed), self._mapped(lambda: f"a prompt of {len(ids)} tokens"):
                inputs = torch.tensor([ids], device=self.model.device)
                self.model.generate(
                    input_ids=inputs,
                    attention_mask=torch.ones_like(inputs),
                    max_new_tokens=max_new_tokens,
                    streamer=stream,
                    stopping_criteria=StoppingCriteriaList([_ReaderGone(stream)]),
                    pad_token_id=self._pad_id(),
                    **_behind(self.model, plan, len(ids)),
                    **_sampling(options),
                )
        except Exception as caught:
            error = caught
        finally:
            stream.close(error)

    @contextlib.contextmanager
    def _mapped(self, what: Any) -> Iterator[None]:
        """Turn foreign errors into this package's own."""
        import torch

        try:
            yield
        except HypersceneError:
            raise
        except (torch.OutOfMemoryError, MemoryError) as caught:
            raise OutOfMemoryError(
                f"memory ran out with {what()}; each token takes {self.kv_bytes_per_token} bytes of full cache. Lower "
                f"max_tokens, raise compaction_ratio, or use a smaller model ({caught})"
            ) from caught
        except Exception as caught:
            raise ModelError(f"{what()} with {self.name!r} failed ({type(caught).__name__}: {caught})") from caught

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _eos_ids(self) -> set[int]:
        eos = self.model.generation_config.eos_token_id
        if eos is None:
            eos = self.tokenizer.eos_token_id
        return set(eos) if isinstance(eos, list) else {eos}

    def _pad_id(self) -> int | None:
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else self.tokenizer.eos_token_id

    @contextlib.contextmanager
    def _seeded(self, seed: int | None) -> Iterator[None]:
        """Seed torch's generators for one generation and give the caller's state back afterwards."""
        import torch

        if seed is None:
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield


class _ReaderGone:
    """Stopping criterion: the reader has closed the stream."""

    def __init__(self, stream: TokenStream) -> None:
        self._stream = stream

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        return torch.full((input_ids.shape[0],), self._stream.should_stop(), device=input_ids.device)


def _behind(model: Any, plan: ContextPlan | None, num_live: int) -> dict[str, Any]:
    """Return ``generate``'s arguments that put a compact context before the live tokens."""
    if plan is None:
        return {}
    from hyperscene_plugin.model.cache_bridge import HyperCache

    cache = HyperCache(model.config, [plan.context])
    return {"past_key_values": cache, "position_ids": cache.position_ids(num_live).to(model.device)}


def _sampling(options: GenerationOptions) -> dict[str, Any]:
    """Return ``generate``'s arguments; greedy clears what the model's own generation config may set."""
    if options.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {
        "do_sample": True,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k or 0,
    }
