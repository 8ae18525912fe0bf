"""The forecast's peak memory beside what a real model takes: predicted, measured, and their quotient (JSON last).

    python -m hyperscene_plugin.bench.forecast [--only NAME …] [--quick] [--system-malloc]

Each measurement is a process of its own on the CPU: a model with random weights is built from a built-in configuration
(some with fewer layers, their widths as they are), a random prompt is prefilled through ``generate`` and a few tokens
are decoded. A case marked ``hypercode`` loads a stored compact cache of random slots from disk instead, assembles it
and answers a question behind it; what it maps of the file is resident too, and added to the prediction.

Measured is the process's largest resident memory from then on (``VmHWM``, reset after the model is built through
``/proc/self/clear_refs``) minus what was resident before the model was built, after a tiny model of the same kind had
run once: libraries and thread pools are no part of it. glibc keeps freed memory for later, up to 32 MiB a piece, which
would be counted too; ``MALLOC_MMAP_THRESHOLD_`` is set so that every tensor above 64 KiB goes back at once, as on an
accelerator's own allocator within one pass. ``--system-malloc`` shows the difference. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hyperscene_plugin.bench.resident import MALLOC, forget_largest, largest, resident
from hyperscene_plugin.errors import HypersceneError, InputError, MissingPackageError
from hyperscene_plugin.forecast.cache import hypercode
from hyperscene_plugin.forecast.memory import Peak, full_peak, hypercode_peak
from hyperscene_plugin.forecast.parameters import weights_of
from hyperscene_plugin.forecast.references import REFERENCES
from hyperscene_plugin.forecast.request import Request
from hyperscene_plugin.forecast.shape import DTYPE_BYTES, ModelShape, shape_of

__all__ = ["CASES", "Case", "main", "measure", "predict"]

_NEW_TOKENS = 4
_QUESTION_TOKENS = 64
_RATIO = 12.0
_MIB = 1024**2
_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: a built-in model (``layers`` of it, if given) on ``prompt`` random tokens."""

    model: str
    prompt: int
    dtype: str = "float32"
    layers: int | None = None
    prefill_chunk: int | None = None
    way: str = "full"

    @property
    def name(self) -> str:
        """A short name that says what differs."""
        parts = [self.model, f"{self.layers} layers" if self.layers else "", self.dtype, f"{self.prompt:,} tokens"]
        parts.append(f"chunks of {self.prefill_chunk:,}" if self.prefill_chunk else "")
        return ", ".join(part for part in parts if part) + ("" if self.way == "full" else f" ({self.way})")

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as ``transformers`` takes it."""
        config = {key: value for key, value in REFERENCES[self.model].items() if not key.startswith("_")}
        return config | ({"num_hidden_layers": self.layers} if self.layers else {})


CASES = (
    *(Case("smollm2-135m", prompt) for prompt in (1024, 2048, 4096, 8192)),
    Case("smollm2-135m", 8192, prefill_chunk=512),
    Case("smollm2-135m", 4096, dtype="bfloat16"),
    Case("qwen2.5-0.5b", 4096),
    Case("qwen2.5-0.5b", 8192, dtype="bfloat16"),
    Case("qwen3-0.6b", 4096, layers=12),
    Case("llama-3.2-1b", 4096, layers=4),
    Case("mistral-7b", 4096, layers=2, dtype="bfloat16"),
    Case("phi-3-mini", 3072, layers=4),
    Case("gemma-3-1b", 4096, layers=12),
    Case("gemma-3-1b", 4096, layers=12, prefill_chunk=1024),
    Case("gemma-3-1b", 24_576, layers=2),
    Case("smollm2-135m", 4096, way="hypercode"),
    Case("qwen2.5-0.5b", 8192, dtype="bfloat16", way="hypercode"),
    Case("llama-3.2-1b", 16_384, layers=4, way="hypercode"),
    Case("phi-3-mini", 32_768, layers=2, dtype="bfloat16", way="hypercode"),
)
_QUICK = (
    Case("smollm2-135m", 1024),
    Case("smollm2-135m", 1024, prefill_chunk=256),
    Case("smollm2-135m", 2048, way="hypercode"),
)


def predict(case: Case) -> tuple[ModelShape, Peak]:
    """Return the shape of a case's model and its peak by the forecast's arithmetic."""
    shape = shape_of(case.config, case.model)
    weights = weights_of(shape, case.dtype)
    question = 1 if case.way == "full" else _QUESTION_TOKENS
    request = Request(
        context=case.prompt - question,
        ratio=_RATIO,
        question_tokens=question,
        new_tokens=_NEW_TOKENS,
        prefill_chunk=case.prefill_chunk,
        dtype=case.dtype,
    )
    return shape, _PREDICT[case.way](shape, request, weights.bytes, DTYPE_BYTES[case.dtype])


def _predict_hypercode(shape: ModelShape, request: Request, weights: int, size: int) -> Peak:
    """Return the forecast's peak, and on top of it the stored slots, which a CPU process maps from the file."""
    compact = hypercode(shape, request.context, request.ratio, size)
    peak = hypercode_peak(shape, request, weights, compact, size)
    return replace(peak, cache=peak.cache + compact.compact)


_PREDICT: Mapping[str, Callable[[ModelShape, Request, int, int], Peak]] = {
    "full": full_peak,
    "hypercode": _predict_hypercode,
}


def measure(case: Case, *, system_malloc: bool = False) -> dict[str, Any]:
    """Run a case in a new process; return its memory in bytes: ``weights`` after building, ``peak``, and ``seconds``.

    Raises:
        HypersceneError: the process failed; the message ends with what it said.
    """
    environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if not system_malloc:
        environment |= MALLOC
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hyperscene_plugin.bench.forecast", "--measure", json.dumps(asdict(case))],
            capture_output=True,
            text=True,
            env=environment,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HypersceneError(f"{case.name}: no result within {_SECONDS} s") from error
    if done.returncode:
        raise HypersceneError(f"{case.name}: the measuring process failed: {done.stderr.strip()[-600:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases of these built-in models only")
    parser.add_argument("--quick", action="store_true", help="two small cases, seconds instead of minutes")
    parser.add_argument("--system-malloc", action="store_true", help="leave glibc's thresholds as they are")
    parser.add_argument("--measure", metavar="JSON", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(_measure_here(Case(**json.loads(options.measure)))))
        return
    cases = [case for case in (_QUICK if options.quick else CASES) if not options.only or case.model in options.only]
    if not cases:
        raise InputError(f"no case of {options.only}; models measured: {sorted({case.model for case in CASES})}")
    print("MiB; 'beyond weights' is the same difference without the weights, the harder part to foresee")
    print(
        f"{'case':52} {'predicted':>10} {'measured':>10} {'quotient':>8} {'beyond weights':>22} {'quotient':>8}"
        f"  {'worst moment':12} seconds"
    )
    rows = [_row(case, options.system_malloc) for case in cases]
    worst = max(abs(row["quotient"] - 1) for row in rows)
    print(f"largest error of the whole: {worst:.1%}")
    print(
        json.dumps(
            {
                "rows": rows,
                "largest_error": round(worst, 4),
                "largest_error_beyond_weights": round(max(abs(row["quotient_beyond"] - 1) for row in rows), 4),
                "system_malloc": options.system_malloc,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
        )
    )


def _row(case: Case, system_malloc: bool) -> dict[str, Any]:
    _, peak = predict(case)
    measured = measure(case, system_malloc=system_malloc)
    beyond, measured_beyond = peak.bytes - peak.weights, measured["peak"] - measured["weights"]
    row = {
        "case": case.name,
        "predicted": peak.bytes,
        "measured": measured["peak"],
        "quotient": round(peak.bytes / measured["peak"], 4),
        "predicted_beyond": beyond,
        "measured_beyond": measured_beyond,
        "quotient_beyond": round(beyond / measured_beyond, 4),
        "moment": peak.moment.name,
        "method": measured["method"],
        "seconds": round(measured["seconds"], 1),
    }
    print(
        f"{case.name:52} {peak.bytes / _MIB:10,.0f} {measured['peak'] / _MIB:10,.0f} {row['quotient']:8.3f} "
        f"{beyond / _MIB:10,.0f} {measured_beyond / _MIB:11,.0f} {row['quotient_beyond']:8.3f}  "
        f"{peak.moment.name:12} {measured['seconds']:.0f}",
        flush=True,
    )
    return row


def _measure_here(case: Case) -> dict[str, Any]:
    """Build, run and measure in this process, which does nothing else."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise MissingPackageError(error.name or "transformers", "model", "measuring a model") from error

    auto_model: Any = AutoModelForCausalLM

    def build(config: Mapping[str, Any]) -> Any:
        torch.manual_seed(0)
        return auto_model.from_config(_configuration(config), dtype=getattr(torch, case.dtype)).eval()

    small = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "vocab_size": 256,
    }
    little = replace(case, prompt=2 * _QUESTION_TOKENS, prefill_chunk=case.prefill_chunk and 32)
    with tempfile.TemporaryDirectory(prefix="hyperscene-forecast-") as scratch:
        stored = {}
        for name, config, one in (("small", case.config | small, little), ("real", case.config, case)):
            stored[name] = Path(scratch) / name
            if case.way == "hypercode":
                _store_slots(config, one, stored[name])
        warm = build(case.config | small)
        _RUN[case.way](warm, little, stored["small"])
        del warm
        baseline = resident()
        model = build(case.config)
        weights = resident()
        method = forget_largest()
        started = time.perf_counter()
        _RUN[case.way](model, case, stored["real"])
        seconds = time.perf_counter() - started
    return {
        "weights": weights - baseline,
        "peak": largest() - baseline,
        "baseline": baseline,
        "method": method,
        "seconds": seconds,
    }


def _run_full(model: Any, case: Case, stored: Path) -> None:
    """Prefill a random prompt and decode a few tokens, as ``LocalModel.generate`` does."""
    _generate(model, case.prompt, prefill_chunk_size=case.prefill_chunk)


def _run_hypercode(model: Any, case: Case, stored: Path) -> None:
    """Load the stored slots, assemble them behind a prefix of one token and answer a question, as ``LocalModel``."""
    from hyperscene_plugin.kv.storage import load_compact
    from hyperscene_plugin.model.cache_bridge import NAME, HyperCache, register
    from hyperscene_plugin.model.composition import ContextPart, assemble_context
    from hyperscene_plugin.model.prefill import prefill_source
    from hyperscene_plugin.model.rope_of import ModelRope

    register()
    model.set_attn_implementation(NAME)
    code = load_compact(stored)
    prefix = prefill_source(model, (1,), [])
    context = assemble_context(prefix, [ContextPart(code)], ModelRope(model), case.prompt + _QUESTION_TOKENS)
    cache = HyperCache(model.config, [context])
    _generate(model, _QUESTION_TOKENS, past_key_values=cache, position_ids=cache.position_ids(_QUESTION_TOKENS))


def _generate(model: Any, tokens: int, **more: Any) -> None:
    import torch

    ids = torch.randint(3, model.config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=_NEW_TOKENS,
        max_new_tokens=_NEW_TOKENS,
        pad_token_id=0,
        **more,
    )


_RUN: Mapping[str, Callable[[Any, Case, Path], None]] = {"full": _run_full, "hypercode": _run_hypercode}


def _store_slots(config: Mapping[str, Any], case: Case, folder: Path) -> None:
    """Save random slots, as many in every head as the forecast has for the context of a case."""
    import torch

    from hyperscene_plugin.kv.layout import CompactCache, LayerSlots, SceneSpan
    from hyperscene_plugin.kv.storage import save_compact

    shape = shape_of(config, case.model)
    tokens = case.prompt - _QUESTION_TOKENS
    slots = hypercode(shape, tokens, _RATIO, DTYPE_BYTES[case.dtype]).slots
    heads, dtype = shape.num_kv_heads, getattr(torch, case.dtype)
    index = torch.linspace(0, tokens - 1, slots).to(torch.int32).repeat(heads)
    generator = torch.Generator().manual_seed(0)

    def random() -> Any:
        return torch.randn(heads * slots, shape.head_dim, generator=generator).to(dtype)

    layers = tuple(
        LayerSlots(
            random(),
            random(),
            torch.zeros(heads * slots),
            torch.arange(0, (heads + 1) * slots, slots, dtype=torch.int32),
            index,
        )
        for _ in range(shape.num_layers)
    )
    scene = SceneSpan(0, tokens, "random slots", "random")
    cache = CompactCache(layers, (scene,), torch.zeros(tokens, dtype=torch.int64), _RATIO, 0, "fast", {})
    save_compact(cache, folder)


def _configuration(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    fields = {key: value for key, value in config.items() if key not in ("model_type", "dtype")}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # within the warm-up model's vocabulary too
    return AutoConfig.for_model(config["model_type"], attn_implementation="sdpa", **fields, **special)


if __name__ == "__main__":
    main()
