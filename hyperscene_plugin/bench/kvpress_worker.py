"""A job file (model folder, token ids, methods, ratios) → answers on caches that kvpress compressed, as a JSON file.

Run as a file by the Python of the environment that `kvpress_peer` makes; nothing of this package is importable there,
so only torch, transformers, kvpress and the standard library are used: ``python -I kvpress_worker.py JOB RESULT``.

What a cache answers is measured without kvpress's stand-in for removal. Its head-wise methods (AdaKV, KVzip and
others) leave every entry in the cache and overwrite the removed keys during attention; here those entries get a real
mask per head and layer, which gives the same attention (a sample of answers is compared with kvpress's own
pipeline) and also works for several questions at once and for layers of unequal length.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import math
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

__all__ = ["LEFT_OUT", "METHODS", "Layer", "Method", "answer", "compression_ratio", "entries", "main"]

Json = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """How one row's press is made: ``build(kvpress, compression_ratio)``.

    ``unit`` is what kvpress cuts to size (the entries of a head, a layer or the whole model), ``prunes`` whether it
    rounds the removed number down rather than the kept one. ``eager``: prefill with eager attention, which returns
    the weights. ``rerotated``: keys are moved to consecutive positions, so the question comes right behind them.
    ``chat_replay``: the context is repeated in the model's own chat format (a case's ``repeat_ids``).
    """

    build: Callable[[Any, float], Any]
    unit: str = "head"
    prunes: bool = False
    eager: bool = False
    rerotated: bool = False
    chat_replay: bool = False


def _snap(kvpress: Any, ratio: float) -> Any:
    # The default window of 64 tokens is all that a 16-fold cut of 1,000 tokens keeps.
    return kvpress.SnapKVPress(ratio, window_size=8)


def _expected(kvpress: Any, ratio: float, **settings: Any) -> Any:
    return kvpress.ExpectedAttentionPress(ratio, **({"n_future_positions": 64, "epsilon": 0.01} | settings))


# A press by its name has kvpress's defaults; what differs from them is in the name.
METHODS: dict[str, Method] = {
    "StreamingLLMPress": Method(lambda k, r: k.StreamingLLMPress(r)),
    "KeyRerotationPress(StreamingLLMPress)": Method(
        lambda k, r: k.KeyRerotationPress(k.StreamingLLMPress(r)), rerotated=True
    ),
    "SnapKVPress": Method(lambda k, r: k.SnapKVPress(r)),
    "SnapKVPress(window 8)": Method(_snap),
    "PyramidKVPress(window 8, beta 2)": Method(lambda k, r: k.PyramidKVPress(r, window_size=8, beta=2)),
    "TOVAPress": Method(lambda k, r: k.TOVAPress(r)),
    "ObservedAttentionPress": Method(lambda k, r: k.ObservedAttentionPress(r), eager=True),
    "ExpectedAttentionPress": Method(lambda k, r: k.ExpectedAttentionPress(r)),
    "ExpectedAttentionPress(64 positions, epsilon .01)": Method(_expected),
    "KnormPress": Method(lambda k, r: k.KnormPress(r)),
    "KeyDiffPress": Method(lambda k, r: k.KeyDiffPress(r)),
    "BlockPress(KeyDiffPress)": Method(lambda k, r: k.BlockPress(k.KeyDiffPress(r))),
    "LagKVPress(lag 16)": Method(lambda k, r: k.LagKVPress(r, lag_size=16)),
    "CURPress": Method(lambda k, r: k.CURPress(r)),
    "CapPress": Method(lambda k, r: k.CapPress(r)),
    "LeverageScorePress": Method(lambda k, r: k.LeverageScorePress(r)),
    "NonCausalAttnPress": Method(lambda k, r: k.NonCausalAttnPress(r)),
    "CompactorPress": Method(lambda k, r: k.CompactorPress(r)),
    "ChunkPress(LeverageScorePress, chunks of 128)": Method(
        lambda k, r: k.ChunkPress(k.LeverageScorePress(r), chunk_length=128)
    ),
    "ChunkKVPress(SnapKVPress(window 8))": Method(lambda k, r: k.ChunkKVPress(_snap(k, r))),
    "EntropyGatedChunkKVPress(SnapKVPress(window 8))": Method(lambda k, r: k.EntropyGatedChunkKVPress(_snap(k, r))),
    "MergingPress(SnapKVPress(window 8))": Method(lambda k, r: k.MergingPress(_snap(k, r))),
    "MergingPress(CompactorPress)": Method(lambda k, r: k.MergingPress(k.CompactorPress(r))),
    "CriticalKVPress(SnapKVPress(window 8))": Method(lambda k, r: k.CriticalKVPress(_snap(k, r))),
    "AdaKVPress(SnapKVPress(window 8))": Method(lambda k, r: k.AdaKVPress(_snap(k, r))),
    "AdaKVPress(ExpectedAttentionPress(64 positions, epsilon .01))": Method(lambda k, r: k.AdaKVPress(_expected(k, r))),
    "AdaKVPress(KeyDiffPress)": Method(lambda k, r: k.AdaKVPress(k.KeyDiffPress(r))),
    "AdaKVPress(LagKVPress(lag 16, cross scoring))": Method(
        lambda k, r: k.AdaKVPress(k.LagKVPress(r, lag_size=16, cross_scoring=True))
    ),
    "AdaKVPress(LeverageScorePress)": Method(lambda k, r: k.AdaKVPress(k.LeverageScorePress(r))),
    "AdaKVPress(CompactorPress)": Method(lambda k, r: k.AdaKVPress(k.CompactorPress(r))),
    "CriticalAdaKVPress(ExpectedAttentionPress(64 positions, no v norm))": Method(
        lambda k, r: k.CriticalAdaKVPress(_expected(k, r, use_vnorm=False))
    ),
    "KVComposePress": Method(lambda k, r: k.KVComposePress(compression_ratio=r), unit="layers"),
    "KVComposePress(unstructured)": Method(
        lambda k, r: k.KVComposePress(structured=False, compression_ratio=r), unit="model"
    ),
    "KVComposePress, chat replay": Method(
        lambda k, r: k.KVComposePress(compression_ratio=r), "layers", chat_replay=True
    ),
    "KVComposePress(unstructured), chat replay": Method(
        lambda k, r: k.KVComposePress(structured=False, compression_ratio=r), "model", chat_replay=True
    ),
    "KVzipPress": Method(lambda k, r: k.KVzipPress(r), unit="model", prunes=True),
    "KVzipPress(layerwise)": Method(lambda k, r: k.KVzipPress(r, layerwise=True), unit="layer", prunes=True),
    "KVzipPress(plus)": Method(lambda k, r: k.KVzipPress(r, kvzip_plus_normalization=True), unit="model", prunes=True),
    "KVgradPress": Method(lambda k, r: k.KVgradPress(r), unit="model", prunes=True),
    "KVzipPress, chat replay": Method(lambda k, r: k.KVzipPress(r), "model", prunes=True, chat_replay=True),
    "KVzipPress(plus), chat replay": Method(
        lambda k, r: k.KVzipPress(r, kvzip_plus_normalization=True), "model", prunes=True, chat_replay=True
    ),
    "KVgradPress, chat replay": Method(lambda k, r: k.KVgradPress(r), "model", prunes=True, chat_replay=True),
    "RandomPress": Method(lambda k, r: k.RandomPress(r)),
}

LEFT_OUT = {
    "ExpectedAttentionStatsPress": "needs query statistics of this very model, collected on a data set of the hub",
    "DuoAttentionPress": "needs head patterns of this very model, or a data set of the hub",
    "FastKVzipPress": "needs gates trained for this very model",
    "KVzapPress": "needs a scorer trained for this very model",
    "QFilterPress": "needs filters trained for this very model",
    "LUKVPress": "needs a budget curve computed for this very model",
    "RestoreKVPress": "needs an adapter trained for this very model",
    "FinchPress": "sees the question while it compresses",
    "ThinKPress": "sets key channels to zero; no entry and no byte goes",
    "SimLayerKVPress": "keeps whole layers by a threshold; no ratio can be asked for",
    "DMSPress": "evicts by a threshold; no ratio can be asked for",
    "DecodingPress": "compresses while the answer is written, as its kin do (CAM, PrefillDecoding, CompressionRatio)",
    "PerLayerCompressionPress": "needs ratios per layer from outside, and flash attention",
    "ComposedPress": "chains presses; names none",
}


@dataclass(frozen=True)
class Layer:
    """One layer's cache: keys and values (1, num_kv_heads, num_slots, head_dim); ``kept`` (num_kv_heads, num_slots)."""

    keys: torch.Tensor
    values: torch.Tensor
    kept: torch.Tensor


def entries(ratio: float, num_tokens: int, unit: int) -> int:
    """How many of ``unit`` × ``num_tokens`` entries may stay when all must fit in 1/``ratio``."""
    return max(1, math.floor(num_tokens * unit / ratio + 1e-9))


def compression_ratio(method: Method, ratio: float, num_tokens: int, num_layers: int, num_heads: int) -> float:
    """kvpress's ``compression_ratio`` (the removed share) for which its own rounding keeps exactly `entries`."""
    unit = {"head": 1, "layer": num_heads, "layers": num_layers, "model": num_layers * num_heads}[method.unit]
    total = unit * num_tokens
    removed = total - entries(ratio, num_tokens, unit)
    return max(0.0, removed + (0.5 if method.prunes else -0.5)) / total


def compress(model: Any, press: Any | None, ids: Sequence[int]) -> tuple[list[Layer], Json]:
    """Prefill ``ids`` under ``press`` → the cache's layers and what it costs (bytes; ``num_slots_cut`` off its end)."""
    attention = [layer.self_attn for layer in model.model.layers]
    for module in attention:
        module.masked_key_indices = None
    cache: Any = transformers.DynamicCache()
    with press(model) if press is not None else contextlib.nullcontext():
        model.model(input_ids=torch.tensor([list(ids)]), past_key_values=cache)
    layers, held, kept_bytes, masks, cut = [], 0, 0, 0, 0
    for module, entry in zip(attention, cache.layers, strict=True):
        held += entry.keys.untyped_storage().nbytes() + entry.values.untyped_storage().nbytes()
        cut = max(cut, entry.keys.shape[2] - len(ids))
        keys, values = entry.keys[:, :, : len(ids)].detach(), entry.values[:, :, : len(ids)].detach()
        kept = torch.ones(keys.shape[1:3], dtype=torch.bool)
        masked = getattr(module, "masked_key_indices", None)
        if masked is not None:
            kept[masked[1], masked[2]] = False
            masks += sum(part.numel() * part.element_size() for part in masked)
        kept_bytes += int(kept.sum()) * keys.element_size() * (keys.shape[3] + values.shape[3])
        layers.append(Layer(keys, values, kept))
    return layers, {"kept_bytes": kept_bytes, "held_bytes": held, "mask_bytes": masks, "num_slots_cut": cut}


def copied(layers: Sequence[Layer], rows: int) -> Any:
    """A cache with ``rows`` copies of the layers; the layers stay as they are."""
    cache = transformers.DynamicCache()
    for index, layer in enumerate(layers):
        shape = (rows, -1, -1, -1)
        cache.update(layer.keys.expand(shape).contiguous(), layer.values.expand(shape).contiguous(), index)
    return cache


@contextlib.contextmanager
def _masks(model: Any, layers: Sequence[Layer], length: int) -> Iterator[None]:
    """Give every layer its own mask for ``length`` new tokens, and switch kvpress's fake keys off meanwhile."""
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    causal = torch.full((length, length), float("-inf")).triu(1)
    saved, hooks = [], []
    for block, layer in zip(model.model.layers, layers, strict=True):
        past = torch.zeros(layer.kept.shape).masked_fill(~layer.kept, float("-inf")).repeat_interleave(groups, 0)
        shape = (len(past), length, -1)
        mask = torch.cat([past[:, None].expand(shape), causal.expand(len(past), -1, -1)], dim=-1)[None]

        def replace(module: Any, args: Any, kwargs: Json, mask: torch.Tensor = mask) -> tuple[Any, Json]:
            return args, kwargs | {"attention_mask": mask}

        saved.append(getattr(block.self_attn, "masked_key_indices", None))
        block.self_attn.masked_key_indices = None
        hooks.append(block.self_attn.register_forward_pre_hook(replace, with_kwargs=True))
    try:
        yield
    finally:
        for hook, block, masked in zip(hooks, model.model.layers, saved, strict=True):
            hook.remove()
            block.self_attn.masked_key_indices = masked


def answer(model: Any, layers: Sequence[Layer], questions: Sequence[Json], start: int, rows: int = 32) -> list[bool]:
    """Whether each answer is exactly the greedy one, ``start`` being the position of a question's first token."""
    good = []
    for first in range(0, len(questions), rows):
        batch = questions[first : first + rows]
        width = max(len(q["ids"]) + len(q["answer_ids"]) for q in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for row, q in enumerate(batch):
            ids[row, : len(q["ids"]) + len(q["answer_ids"])] = torch.tensor([*q["ids"], *q["answer_ids"]])
        positions = torch.arange(start, start + width).expand(len(batch), -1)
        with _masks(model, layers, width):
            past = copied(layers, len(batch))
            hidden = model.model(input_ids=ids, past_key_values=past, position_ids=positions).last_hidden_state
        for row, q in enumerate(batch):
            at = hidden[row, len(q["ids"]) - 1 : len(q["ids"]) + len(q["answer_ids"]) - 1]
            good.append(model.lm_head(at).argmax(-1).tolist() == list(q["answer_ids"]))
    return good


def with_chat_replay(press: Any, num_prefix: int, ids: Sequence[int], repeat_ids: Sequence[int]) -> Any:
    """Let a KVzip or KVCompose press repeat the context behind ``repeat_ids`` instead of in its own way.

    KVzip has a request of its own; a later chunk of it comes behind the last tokens of the one before, as an answer
    that goes on. KVCompose has none, and forgets the prompts it was given when the context comes in.
    """
    head = torch.tensor([list(repeat_ids)])

    def prepare(model: Any, tokenizer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        press.prefix_length = press.start_idx = num_prefix
        before, pairs = torch.zeros(1, 0, dtype=torch.long), []
        for chunk, _ in original(model, tokenizer):
            pairs.append((chunk, torch.cat([head, before, chunk], dim=1)))
            before = chunk[:, -8:]
        return pairs

    def register_context_ids(context_ids: torch.Tensor) -> None:
        original(context_ids)
        press.register_prompt_ids([torch.cat([head, torch.tensor([list(ids)])[:, num_prefix:]], dim=1)])

    if hasattr(press, "register_context_ids"):
        original, press.register_context_ids = press.register_context_ids, register_context_ids
    else:
        original, press.prepare = press.prepare, prepare
    return press


class Run:
    """One job: the models it needs, the cases, and the rows of its result."""

    def __init__(self, job: Json) -> None:
        import kvpress

        logging.getLogger("kvpress").setLevel(logging.ERROR)
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.kvpress, self.job, self.cases = kvpress, job, job["cases"]
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
        self.models = {name: self._load(name) for name in ("sdpa", "eager")}
        self.model = self.models["sdpa"]
        self.pipeline = kvpress.KVPressTextGenerationPipeline(model=self.model, tokenizer=self.tokenizer)
        config = self.model.config
        self.num_layers, self.num_heads = config.num_hidden_layers, config.num_key_value_heads

    def _load(self, attention: str) -> Any:
        load = transformers.AutoModelForCausalLM.from_pretrained
        model = load(self.job["model"], dtype=torch.float32, attn_implementation=attention)
        model.train(False)
        return model

    def logit_difference(self) -> float:
        """The largest difference to the logits that the job expects at the ends of its samples."""
        largest = 0.0
        for sample in self.job["logits"]:
            logits = self.model(input_ids=torch.tensor([sample["ids"]]), logits_to_keep=1).logits[0, -1]
            largest = max(largest, float((logits - torch.tensor(sample["logits"])).abs().max()))
        return largest

    def row(self, name: str | None, ratio: float) -> Json:
        """All cases with one method at one ratio; None is the full cache."""
        row: Json = {"method": name or "full context", "ratio": ratio, "exact": 0.0, "questions": 0}
        row |= dict.fromkeys(("kept_bytes", "held_bytes", "mask_bytes", "full_bytes", "num_slots_cut"), 0)
        row |= {"seconds": 0.0, "answer_seconds": 0.0, "hits": {}}
        checked: Json = {"checked": 0, "agreeing": 0}
        for number, case in enumerate(self.cases):
            self._case(row, checked, METHODS[name] if name else None, ratio, case, number)
        hits = "".join(row["hits"].values())
        row |= {"exact": hits.count("1") / len(hits), "questions": len(hits), "pipeline": checked}
        return row | {key: round(row[key], 3) for key in ("seconds", "answer_seconds")}

    def _case(self, row: Json, checked: Json, method: Method | None, ratio: float, case: Json, number: int) -> None:
        ids = [*case["prefix_ids"], *case["context_ids"]]
        press = None
        if method is not None:
            share = compression_ratio(method, ratio, len(ids), self.num_layers, self.num_heads)
            press = method.build(self.kvpress, share)
            if method.chat_replay:
                if "repeat_ids" not in case:
                    raise ValueError(f"case {case['id']!r} has no repeat_ids")
                press = with_chat_replay(press, len(case["prefix_ids"]), ids, case["repeat_ids"])
        torch.manual_seed(number)
        started = time.perf_counter()
        layers, costs = compress(self.models["eager" if method and method.eager else "sdpa"], press, ids)
        compressed = time.perf_counter()
        start = layers[0].keys.shape[2] if method and method.rerotated else len(ids)
        good = answer(self.model, layers, case["questions"], start)
        row["seconds"] += compressed - started
        row["answer_seconds"] += time.perf_counter() - compressed
        entry = layers[0].keys.element_size() * (layers[0].keys.shape[3] + layers[0].values.shape[3])
        costs["full_bytes"] = len(ids) * self.num_layers * self.num_heads * entry
        for key, cost in costs.items():
            row[key] += cost
        row["hits"][case["id"]] = "".join("01"[hit] for hit in good)
        if number == 0:
            self._check(checked, layers, case, start, good)

    def _check(self, checked: Json, layers: list[Layer], case: Json, start: int, good: list[bool]) -> None:
        """Answer the first questions through kvpress's own pipeline too; its failure is noted and goes no further."""
        try:
            for question, hit in list(zip(case["questions"], good, strict=True))[: self.job["check_questions"]]:
                ids, gold = torch.tensor([question["ids"]]), question["answer_ids"]
                text = self.pipeline.generate_answer(ids, copied(layers, 1), start, len(gold))
                checked["checked"] += 1
                checked["agreeing"] += (text == self.tokenizer.decode(gold, skip_special_tokens=True)) == hit
        except Exception as error:  # whatever the peer raises is a finding, and is reported as one
            checked["error"] = described(error)


def described(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


@torch.no_grad()
def work(job: Json, save: Callable[[Json], None]) -> None:
    """Do the job; ``save`` gets the whole result so far after every row."""
    if job.get("threads"):
        torch.set_num_threads(job["threads"])
    run = Run(job)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    versions |= {"kvpress": importlib.metadata.version("kvpress"), "python": platform.python_version()}
    result: Json = {"versions": versions, "dtype": "float32", "logit_difference": run.logit_difference(), "rows": []}
    save(result)
    if not result["logit_difference"] <= job["tolerance"]:
        return
    for ratio, name in [(1, None), *((ratio, name) for ratio in job["ratios"] for name in job["methods"])]:
        try:
            row = run.row(name, ratio)
            note = f"{row['exact']:.3f} exact, {row['seconds'] + row['answer_seconds']:.1f} s"
        except Exception as error:  # a method that fails is a row of the result; the others still run
            traceback.print_exc()
            row = {"method": name, "ratio": ratio, "error": described(error)}
            note = row["error"]
        print(f"  {ratio:g}x  {row['method']}: {note}", file=sys.stderr, flush=True)
        result["rows"].append(row)
        save(result)


def main(arguments: list[str] | None = None) -> int:
    """``JOB RESULT``: read one JSON file, write the other; returns the exit status."""
    job_path, result_path = (Path(argument) for argument in (arguments or sys.argv[1:]))

    def save(result: Json) -> None:
        result_path.write_text(json.dumps(result), encoding="utf-8")

    work(json.loads(job_path.read_text(encoding="utf-8")), save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
