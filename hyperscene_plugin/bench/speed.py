"""First token, decoding, memory and the cost of compaction: full context beside stored hypercode, same model, one run.

    python -m hyperscene_plugin.bench.speed                                   Qwen2.5-0.5B's shape, 4,096 tokens, CPU
    python -m hyperscene_plugin.bench.speed --context 1024 2048 4096 8192 --plot docs/images
    python -m hyperscene_plugin.bench.speed --device cuda --model-config llama-3.2-1b --context 4096 16384 60000

The model is a real folder with random weights (``random_model``): what it costs is its shape's, what it says means
nothing. The context is a book. Times are medians of ``--repeats`` interleaved runs in this process, through
``LocalModel.stream``; memory is the peak of a fresh process for each way of answering (``speed_memory``). The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyperscene_plugin.bench.random_model import configuration_of, save_random_model
from hyperscene_plugin.bench.speed_memory import Task, measure_memory
from hyperscene_plugin.bench.speed_plot import check_plotting, plot_speed
from hyperscene_plugin.errors import InputError, MissingPackageError
from hyperscene_plugin.kv.layout import CompactCache
from hyperscene_plugin.kv.manifest import SLOTS, VERBATIM
from hyperscene_plugin.model.hf import LocalModel
from hyperscene_plugin.model.port import GenerationOptions
from hyperscene_plugin.model.prefill import prefill_source
from hyperscene_plugin.text.render import render_pieces
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.types import Message

__all__ = ["BARS", "Settings", "main", "measure_length"]

BARS = {"first_token": 20.0, "kv": 12.0, "compaction": 4.0}
"""First token, bytes of the cache: so many times less, at least. ``balanced`` compaction: so many prefills, at most."""
BOOK = Path(__file__).parents[1] / "demo" / "samples" / "the-time-machine.en.md"
QUESTION = "What did the Time Traveller bring back from the future, and who believed him?"
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how often."""

    folder: Path
    dtype: str
    device: str
    ratio: float
    zoom_share: float
    qualities: tuple[str, ...]
    new_tokens: int
    repeats: int
    memory: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds to the first token, all preparation counted, and tokens a second after it."""

    first_token: float
    decode: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-config", default="qwen2.5-0.5b", metavar="NAME", help="built-in name or config.json")
    parser.add_argument("--context", type=int, nargs="+", default=[4096], metavar="TOKENS")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--device", default="cpu", help="as accelerate's device_map takes it: cpu, cuda, cuda:0")
    parser.add_argument("--ratio", type=float, default=12.0)
    parser.add_argument("--zoom-share", type=float, default=0.5)
    parser.add_argument("--quality", nargs="+", default=["fast", "balanced"], choices=("fast", "balanced", "best"))
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of the processor; by default torch's choice")
    parser.add_argument("--layers", type=int, help="so many layers of the configuration only")
    parser.add_argument("--file", type=Path, default=BOOK, help="text of the context; repeated where it is too short")
    parser.add_argument("--no-memory", action="store_true", help="leave out the fresh processes")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw speed.png there (several --context)")
    options = parser.parse_args(arguments)
    config = configuration_of(options.model_config, **({"num_hidden_layers": options.layers} if options.layers else {}))
    _check_window(config, max(options.context), options.new_tokens)
    try:
        book = options.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{options.file} cannot be read as text ({error})") from error
    if options.plot:
        check_plotting(options.context)
    _quiet()
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="hyperscene-speed-") as scratch:
        folder = save_random_model(Path(scratch) / "model", config, book, options.dtype)
        settings = Settings(
            folder,
            options.dtype,
            options.device,
            options.ratio,
            options.zoom_share,
            tuple(dict.fromkeys(options.quality)),
            options.new_tokens,
            options.repeats,
            not options.no_memory,
        )
        model = LocalModel.load(str(folder), dtype=options.dtype, device_map=options.device)
        rows = [measure_length(model, book, length, settings) for length in options.context]
    report = {
        "model_config": options.model_config,
        "layers": config["num_hidden_layers"],
        "dtype": options.dtype,
        "device": options.device,
        "ratio": options.ratio,
        "zoom_share": options.zoom_share,
        "repeats": options.repeats,
        "weight_bytes": model.weight_bytes,
        "rows": rows,
        "bars": BARS,
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "threads": options.threads,
    }
    if options.plot:
        print(f"drawn: {plot_speed(report, options.plot)}")
    print(json.dumps(report))


def measure_length(model: LocalModel, book: str, length: int, settings: Settings) -> dict[str, Any]:
    """Measure one context length, print the figures and return them.

    Args:
        model: loaded from ``settings.folder``.
        book: text that the context is cut from.
        length: tokens.
        settings: ratio, qualities, repeats.
    """
    text = _cut(model, book, length)
    read = "".join(render_pieces(segment(text)))  # as a hypercode's source reads: the same tokens on both sides
    prompt = [Message("system", read), Message("user", QUESTION)]
    options = GenerationOptions(max_new_tokens=settings.new_tokens)
    model.generate(QUESTION, replace(options, max_new_tokens=2))  # thread pools, kernels
    print(f"{length:,} tokens", flush=True)
    with tempfile.TemporaryDirectory(prefix="hyperscene-code-") as scratch:
        codes, compaction = _compact_all(model, text, read, settings)
        code = codes[settings.qualities[-1]]
        stored = code.save(Path(scratch) / "code")
        load: Callable[[], CompactCache] = lambda: model.load_compact(stored)  # noqa: E731
        ways: dict[str, Callable[[], Answer]] = {
            "full": lambda: _answer(model, prompt, options),
            "stored": lambda: _answer(model, QUESTION, options, load, zoom=False),
            "stored_zoom": lambda: _answer(model, QUESTION, options, load, zoom=True),
            "loaded": lambda: _answer(model, QUESTION, options, lambda: code, zoom=False),
        }
        ways["stored_zoom"]()  # fingerprint and prefix: once a process, see "first use" beside the memory
        taken: dict[str, list[Answer]] = {name: [] for name in ways}
        for _ in range(settings.repeats):
            for name, way in ways.items():
                taken[name].append(way())
        template = model.hypercode.template()
        plans = {zoom: model.hypercode.prepare(QUESTION, [code], zoom=zoom)[1] for zoom in (False, True)}
        prefix = model.hypercode.prefix(template).context().nbytes  # the same in front of every source
        row: dict[str, Any] = {
            "context": length,
            "source_tokens": code.num_source_tokens,
            "question_tokens": len(template.suffix_ids(QUESTION)),
            "first_token_s": {name: _median([a.first_token for a in taken[name]]) for name in ways},
            "decode_tokens_per_s": {name: _median([a.decode for a in taken[name]]) for name in ways},
            "kv_bytes": {
                "full": code.full_nbytes,
                "hypercode": plans[False].nbytes - prefix,
                "hypercode_zoom": plans[True].nbytes - prefix,
                "prefix": prefix,
            },
            "disk_bytes": {"slots": (stored / SLOTS).stat().st_size, "verbatim": _size(stored / VERBATIM)},
            "compaction": compaction,
        }
        if settings.memory:
            row["memory"] = _memory(read, stored, settings)
    row["ratios"] = _ratios(row)
    _print(row)
    return row


def _compact_all(
    model: LocalModel, text: str, read: str, settings: Settings
) -> tuple[dict[str, CompactCache], dict[str, dict[str, float]]]:
    """Compact with each quality, a plain prefill of the same tokens timed before and after each."""
    hypercode = model.hypercode
    prefix = hypercode.template().prefix_ids
    ids = model.tokenizer(read, add_special_tokens=False)["input_ids"]

    def prefill() -> float:
        return _seconds(model, lambda: prefill_source(model.model, prefix, ids))

    codes: dict[str, CompactCache] = {}
    taken: dict[str, dict[str, float]] = {}
    model.compact(text[:1500], settings.ratio, quality="fast")  # morphology and kernels are loaded once
    before = prefill()
    for quality in settings.qualities:

        def compact(quality: str = quality) -> None:
            codes[quality] = model.compact(text, settings.ratio, quality=quality, zoom_share=settings.zoom_share)

        seconds, after = _seconds(model, compact), prefill()
        one = (before + after) / 2
        taken[quality] = {"seconds": seconds, "prefill_s": one, "prefills": seconds / one}
        before = after
    return codes, taken


def _answer(
    model: LocalModel,
    prompt: str | Sequence[Message],
    options: GenerationOptions,
    load: Callable[[], CompactCache] | None = None,
    *,
    zoom: bool = False,
) -> Answer:
    started = time.perf_counter()
    chunks = model.stream(prompt, options, caches=[load()] if load else [], zoom=zoom)
    prepared = time.perf_counter() - started  # tokenized; with caches also loaded and assembled
    result = next(chunk.result for chunk in chunks if chunk.result is not None)
    usage = result.usage
    decoding = usage.seconds - usage.seconds_to_first_token
    speed = (usage.completion_tokens - 1) / decoding if usage.completion_tokens > 1 and decoding > 0 else float("nan")
    return Answer(prepared + usage.seconds_to_first_token, speed)


def _memory(text: str, stored: Path, settings: Settings) -> dict[str, dict[str, Any]]:
    base = Task(str(settings.folder), settings.dtype, settings.device, QUESTION, settings.new_tokens)
    return {
        "full": measure_memory(replace(base, text=text)),
        "stored": measure_memory(replace(base, stored=str(stored))),
        "stored_zoom": measure_memory(replace(base, stored=str(stored), zoom=True)),
    }


def _ratios(row: dict[str, Any]) -> dict[str, float]:
    first, kv, compaction = row["first_token_s"], row["kv_bytes"], row["compaction"]
    found = {f"first_token_{name}": first["full"] / seconds for name, seconds in first.items() if name != "full"}
    found |= {f"kv_{name}": kv["full"] / number for name, number in kv.items() if name.startswith("hyper")}
    found |= {f"compaction_{name}": taken["prefills"] for name, taken in compaction.items()}
    for name, peak in row.get("memory", {}).items():
        if name != "full":
            whole = row["memory"]["full"]
            found[f"peak_{name}"] = whole["peak"] / peak["peak"]
            found[f"peak_beyond_weights_{name}"] = whole["beyond_weights"] / max(1, peak["beyond_weights"])
    return {name: round(value, 3) for name, value in found.items()}


def _print(row: dict[str, Any]) -> None:
    ratios = row["ratios"]
    print(f"  {'':30}{'full':>10}{'stored':>10}{'+ zoom':>10}{'loaded':>10}")
    for key, label, digits in (("first_token_s", "first token, s", 3), ("decode_tokens_per_s", "decode, tokens/s", 1)):
        numbers = (row[key][name] for name in ("full", "stored", "stored_zoom", "loaded"))
        print(f"  {label:30}" + "".join(f"{number:10.{digits}f}" for number in numbers))
    held = (row["kv_bytes"][name] / _MIB for name in ("full", "hypercode", "hypercode_zoom"))
    print(f"  {'cache, MiB':30}" + "".join(f"{number:10.2f}" for number in held))
    for key, label in (("peak", "peak, MiB"), ("beyond_weights", "peak beyond weights, MiB")):
        if "memory" in row:
            peaks = (row["memory"][name][key] / _MIB for name in ("full", "stored", "stored_zoom"))
            print(f"  {label:30}" + "".join(f"{peak:10.0f}" for peak in peaks))
    disk = row["disk_bytes"]
    print(f"  on disk: slots {disk['slots'] / _MIB:.2f} MiB, verbatim for zoom {disk['verbatim'] / _MIB:.2f} MiB")
    for quality, taken in row["compaction"].items():
        print(f"  compaction {quality}: {taken['seconds']:.1f} s = {taken['prefills']:.2f} prefills")
    first = min(ratios["first_token_stored"], ratios["first_token_stored_zoom"])
    kv = min(ratios["kv_hypercode"], ratios["kv_hypercode_zoom"])
    verdicts = [("first token", first, BARS["first_token"], True), ("cache bytes", kv, BARS["kv"], True)]
    if "compaction_balanced" in ratios:
        verdicts.append(("balanced compaction, prefills", ratios["compaction_balanced"], BARS["compaction"], False))
    for label, value, bar, more in verdicts:
        met = value >= bar if more else value <= bar
        print(f"  {label}: {value:.2f} (bar {'≥' if more else '≤'} {bar:g}) {'held' if met else 'MISSED'}", flush=True)


def _cut(model: LocalModel, book: str, length: int) -> str:
    """Return the beginning of the book, repeated where it is too short, that has ``length`` tokens."""
    if length < 64:
        raise InputError(f"a context needs at least 64 tokens; got {length}")
    ends = [end for _, end in model.tokenizer(book, return_offsets_mapping=True)["offset_mapping"]]
    if not ends or not book.strip():
        raise InputError("the text of the context is empty")
    text = book
    while len(ends) < length:
        text = f"{text}\n\n{book}"
        ends = [end for _, end in model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]]
    return text[: ends[length - 1]]


def _check_window(config: dict[str, Any], length: int, new_tokens: int) -> None:
    window, needed = int(config["max_position_embeddings"]), length + 512 + new_tokens
    if needed > window:
        raise InputError(
            f"a context of {length:,} tokens with question, references and reply needs a window of {needed:,}; the "
            f"configuration has {window:,}. Take another --model-config (llama-3.2-1b has 131,072)"
        )


def _seconds(model: LocalModel, run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    if model.model.device.type == "cuda":
        import torch

        torch.cuda.synchronize(model.model.device)
    return time.perf_counter() - started


def _median(numbers: Sequence[float]) -> float:
    return statistics.median(numbers)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    found: Any = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return str(found) or platform.machine()


def _quiet() -> None:
    try:
        from hyperscene_plugin.model import hide_library_bars
    except ImportError as error:
        raise MissingPackageError(error.name or "transformers", "model", "measuring a model") from error
    hide_library_bars()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
