"""One way of answering → the peak memory of a process that does nothing else: ``measure_memory``.

On a CPU that is the largest resident size over what was resident before the model was loaded; mapped files (weights, a
stored hypercode) count as far as they were read. On a GPU it is the allocator's peak. The process loads the model,
answers a short question once, and only then is watched, so thread pools and kernels are no part of it; the fingerprint
of the model and the prefix of the prompt, computed at first use, are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from hyperscene_plugin.bench.resident import MALLOC, forget_largest, largest, resident
from hyperscene_plugin.errors import HypersceneError

__all__ = ["Task", "measure_memory"]

_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Task:
    """Answer ``question`` behind ``text`` in full, or behind the hypercode in the folder ``stored``."""

    model: str
    dtype: str
    device: str
    question: str
    new_tokens: int
    text: str = ""
    stored: str = ""
    zoom: bool = False


def measure_memory(task: Task) -> dict[str, Any]:
    """Run a task in a new process; return bytes: ``weights``, ``peak``, ``beyond_weights``, and ``first_use_s``.

    ``first_use_s`` are the seconds to the first token in that fresh process, the model loaded and warm.

    Raises:
        HypersceneError: the process failed; the message ends with what it said.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hyperscene_plugin.bench.speed_memory"],
            input=json.dumps(asdict(task)),
            capture_output=True,
            text=True,
            env=dict(os.environ) | MALLOC | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HypersceneError(f"memory of an answer: no result within {_SECONDS} s") from error
    if done.returncode:
        raise HypersceneError(f"memory of an answer: the measuring process failed: {done.stderr.strip()[-600:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _measure_here(task: Task) -> dict[str, Any]:
    import torch

    from hyperscene_plugin.model.hf import LocalModel
    from hyperscene_plugin.model.port import GenerationOptions
    from hyperscene_plugin.types import Message

    baseline = resident()
    model = LocalModel.load(task.model, dtype=task.dtype, device_map=task.device)
    model.generate(task.question, GenerationOptions(max_new_tokens=2))
    gpu = model.model.device.type == "cuda"
    weights = torch.cuda.memory_allocated() if gpu else resident() - baseline
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        method = "peak of torch's CUDA allocator"
    else:
        method = forget_largest()
    options = GenerationOptions(max_new_tokens=task.new_tokens)
    started = time.perf_counter()
    if task.stored:
        chunks = model.stream(task.question, options, caches=[model.load_compact(task.stored)], zoom=task.zoom)
    else:
        chunks = model.stream([Message("system", task.text), Message("user", task.question)], options)
    prepared = time.perf_counter() - started
    result = next(chunk.result for chunk in chunks if chunk.result is not None)
    peak = torch.cuda.max_memory_allocated() if gpu else largest() - baseline
    return {
        "weights": weights,
        "peak": peak,
        "beyond_weights": peak - weights,
        "first_use_s": prepared + result.usage.seconds_to_first_token,
        "method": method,
    }


if __name__ == "__main__":
    print(json.dumps(_measure_here(Task(**json.load(sys.stdin)))))
