"""The forecast's peak memory beside what a real model takes: predicted, measured, and their quotient (JSON last).

    python -m hyperscene_plugin.bench.forecast [--only NAME …] [--quick] [--system-malloc]

Each measurement is a process of its own on the CPU: a model with random weights is built from a built-in configuration
(some with fewer layers, their widths as they are), a random prompt is prefilled through ``generate`` and a few tokens
are decoded. Measured is the process's largest resident memory from then on (``VmHWM``, reset after the model is built
through ``/proc/self/clear_refs``) minus what was resident before the model was built, after a tiny model of the same
kind had run once: libraries and thread pools are no part of it. glibc keeps freed memory for later, up to 32 MiB a
piece, which would be counted too; ``MALLOC_MMAP_THRESHOLD_`` is set so that every tensor above 64 KiB goes back at
once, as on an accelerator's own allocator within one pass. ``--system-malloc`` shows the difference. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hyperscene_plugin.errors import HypersceneError, InputError, MissingPackageError
from hyperscene_plugin.forecast.memory import Peak, full_peak
from hyperscene_plugin.forecast.parameters import weights_of
from hyperscene_plugin.forecast.references import REFERENCES
from hyperscene_plugin.forecast.request import Request
from hyperscene_plugin.forecast.shape import DTYPE_BYTES, ModelShape, shape_of

__all__ = ["CASES", "Case", "main", "measure", "predict"]

_NEW_TOKENS = 4
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
)
_QUICK = (Case("smollm2-135m", 1024), Case("smollm2-135m", 1024, prefill_chunk=256))


def predict(case: Case) -> tuple[ModelShape, Peak]:
    """Return the shape of a case's model and its peak by the forecast's arithmetic."""
    shape = shape_of(case.config, case.model)
    weights = weights_of(shape, case.dtype)
    request = Request(
        context=case.prompt - 1,
        question_tokens=1,
        new_tokens=_NEW_TOKENS,
        prefill_chunk=case.prefill_chunk,
        dtype=case.dtype,
    )
    return shape, _PREDICT[case.way](shape, request, weights.bytes, DTYPE_BYTES[case.dtype])


_PREDICT: Mapping[str, Callable[[ModelShape, Request, int, int], Peak]] = {"full": full_peak}


def measure(case: Case, *, system_malloc: bool = False) -> dict[str, Any]:
    """Run a case in a new process; return its memory in bytes: ``weights`` after building, ``peak``, and ``seconds``.

    Raises:
        HypersceneError: the process failed; the message ends with what it said.
    """
    environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if not system_malloc:
        environment["MALLOC_MMAP_THRESHOLD_"] = str(64 * 1024)
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
    warm = build(case.config | small)
    _RUN[case.way](warm, replace(case, prompt=64, prefill_chunk=case.prefill_chunk and 32))
    del warm
    baseline = _resident()
    model = build(case.config)
    weights = _resident()
    method = _reset_largest()
    started = time.perf_counter()
    _RUN[case.way](model, case)
    seconds = time.perf_counter() - started
    return {
        "weights": weights - baseline,
        "peak": _largest() - baseline,
        "baseline": baseline,
        "method": method,
        "seconds": seconds,
    }


def _run_full(model: Any, case: Case) -> None:
    """Prefill a random prompt and decode a few tokens, as ``LocalModel.generate`` does."""
    import torch

    ids = torch.randint(3, model.config.vocab_size, (1, case.prompt), generator=torch.Generator().manual_seed(0))
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=_NEW_TOKENS,
        max_new_tokens=_NEW_TOKENS,
        prefill_chunk_size=case.prefill_chunk,
        pad_token_id=0,
    )


# Another way of answering (from a compact cache) is one more entry here and one in _PREDICT.
_RUN: Mapping[str, Callable[[Any, Case], None]] = {"full": _run_full}


def _configuration(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    fields = {key: value for key, value in config.items() if key not in ("model_type", "dtype")}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # within the warm-up model's vocabulary too
    return AutoConfig.for_model(config["model_type"], attn_implementation="sdpa", **fields, **special)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise HypersceneError(f"/proc/self/status has no {field}; this benchmark runs on Linux")


def _resident() -> int:
    return _status("VmRSS")


def _largest() -> int:
    return _status("VmHWM")


def _reset_largest() -> str:
    """Make the kernel forget the largest resident size so far; say whether it did."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return "largest resident size since the process started (it cannot be reset here)"
    return "largest resident size since the model was built"


if __name__ == "__main__":
    main()
