"""``LocalModel``: a transformers causal language model, placed by accelerate, behind the ``LanguageModel`` face."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from threading import Lock, Thread
from typing import Any

from hyperscene_plugin.errors import InputError, ModelError, OutOfMemoryError
from hyperscene_plugin.model.loading import load_pretrained
from hyperscene_plugin.model.port import FinishReason, GenerationOptions, GenerationResult, TextChunk, Usage
from hyperscene_plugin.model.streaming import TextAssembler, TokenStream
from hyperscene_plugin.model.template import encode_prompt
from hyperscene_plugin.tokens import token_counter
from hyperscene_plugin.types import Message, TokenCounter

__all__ = ["LocalModel"]


class LocalModel:
    """A local model. Build it with :meth:`load`. One generation runs at a time; others wait their turn."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str, notes: tuple[str, ...] = ()) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.notes = notes
        self._name = name
        self._lock = Lock()

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

    def generate(self, prompt: str | Sequence[Message], options: GenerationOptions | None = None) -> GenerationResult:
        """Generate a whole reply to a chat, or a continuation of raw text; errors as :meth:`stream`."""
        for chunk in self.stream(prompt, options):
            if chunk.result is not None:
                return chunk.result
        raise AssertionError("a finished stream ends with its result")

    def stream(self, prompt: str | Sequence[Message], options: GenerationOptions | None = None) -> Iterator[TextChunk]:
        """Generate piece by piece; the last chunk carries the result; closing the iterator cancels.

        The prompt is checked when this is called, not at the first piece.

        Raises:
            InputError: an empty prompt, or one that leaves no room in the context window.
            OutOfMemoryError: memory ran out while generating.
            ModelError: the chat template or the model failed.
        """
        options = options or GenerationOptions()
        ids, notes = encode_prompt(self.tokenizer, prompt)
        room = self.context_window - len(ids)
        if room < 1:
            raise InputError(
                f"the prompt has {len(ids)} tokens and the window of {self.name!r} is {self.context_window}; "
                "shorten it, or let the engine compress it (max_tokens)"
            )
        if room < options.max_new_tokens:
            notes = (*notes, f"max_new_tokens cut from {options.max_new_tokens} to {room}: the window ends there")
        return self._stream(ids, min(room, options.max_new_tokens), options, (*self.notes, *notes))

    def _stream(
        self, ids: list[int], max_new_tokens: int, options: GenerationOptions, notes: tuple[str, ...]
    ) -> Iterator[TextChunk]:
        stream = TokenStream()
        assembler = TextAssembler(self._decode, options.stop)
        started = time.perf_counter()
        worker = Thread(target=self._run, args=(ids, max_new_tokens, options, stream), daemon=True)
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
            prompt_tokens=len(ids),
            completion_tokens=new_tokens,
            kv_cache_bytes=self.kv_bytes_per_token * (len(ids) + max(0, new_tokens - 1)),
            seconds_to_first_token=(stream.first_token_at or ended) - started,
            seconds=ended - started,
        )
        yield TextChunk(rest, GenerationResult(assembler.text, finish, usage, notes))

    def _run(self, ids: list[int], max_new_tokens: int, options: GenerationOptions, stream: TokenStream) -> None:
        """Generate in the worker thread; every error travels to the reader through ``stream``."""
        import torch
        from transformers import StoppingCriteriaList

        error: BaseException | None = None
        try:
            with self._lock, self._seeded(options.seed):
                inputs = torch.tensor([ids], device=self.model.device)
                self.model.generate(
                    input_ids=inputs,
                    attention_mask=torch.ones_like(inputs),
                    max_new_tokens=max_new_tokens,
                    streamer=stream,
                    stopping_criteria=StoppingCriteriaList([_ReaderGone(stream)]),
                    pad_token_id=self._pad_id(),
                    **_sampling(options),
                )
        except (torch.OutOfMemoryError, MemoryError) as caught:
            error = OutOfMemoryError(
                f"memory ran out with a prompt of {len(ids)} tokens: its key/value cache alone takes "
                f"{len(ids) * self.kv_bytes_per_token / 1024**2:.0f} MiB. Lower max_tokens or use a smaller model "
                f"({caught})"
            )
        except Exception as caught:
            error = ModelError(f"generation with {self.name!r} failed ({type(caught).__name__}: {caught})")
            error.__cause__ = caught
        finally:
            stream.close(error)

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
