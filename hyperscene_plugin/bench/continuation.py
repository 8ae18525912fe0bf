"""Real text: the loss on the continuation of a book, behind its full cache, hypercode, evicted caches and nothing.

    python -m hyperscene_plugin.bench.continuation [--model DIR] [--file BOOK] [--context 1024] [--continuation 256]

Windows are spread over the book. Of each, ``--context`` tokens are read and the loss of the next ``--continuation``
tokens is taken, teacher-forced, raw (no chat template), no zoom. At every ratio hypercode and eviction hold the same
bytes: ``streaming`` keeps the first tokens and the most recent ones at their positions, and is charged for keys and
values only, hypercode for its biases, offsets and indices too. The first token of the continuation has no prediction
behind a hypercode and counts for no method. The last line is JSON.

The bundled demo model is no language model (it reads facts out of a made-up world): its losses on a book are high, and
with it only the order of the methods is of interest. For real figures name a pretrained model's folder.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.kv.layout import AssembledContext
from hyperscene_plugin.model.cache_bridge import HyperCache, use_compact_attention
from hyperscene_plugin.model.compactor import evicted_context, full_global_bytes
from hyperscene_plugin.model.hf import LocalModel
from hyperscene_plugin.model.prefill import SourceKV, prefill_source

__all__ = ["Window", "continuation_loss", "main", "measure_window", "streaming_context", "windows_of"]

BOOK = Path(__file__).parents[1] / "demo" / "samples" / "the-time-machine.en.md"
_SINK = 4
_DEMO_NOTE = "the demo model is no language model: its losses on real text are high, only the order means something"


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of the book, and what follows it."""

    context: str
    continuation: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", metavar="DIR", help="demo, a model folder or a hub id")
    parser.add_argument("--file", type=Path, default=BOOK, help="the text; the bundled book by default")
    parser.add_argument("--context", type=int, default=1024, metavar="TOKENS")
    parser.add_argument("--continuation", type=int, default=256, metavar="TOKENS")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--ratio", type=float, nargs="+", default=[4.0, 12.0, 20.0])
    parser.add_argument("--quality", default="balanced", choices=("fast", "balanced", "best"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu", help="as accelerate's device_map takes it")
    options = parser.parse_args(arguments)
    try:
        book = options.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{options.file} cannot be read as text ({error})") from error
    from hyperscene_plugin.model import hide_library_bars

    hide_library_bars()
    started = time.perf_counter()
    model = LocalModel.load(options.model, dtype=options.dtype, device_map=options.device)
    losses: dict[tuple[str, float], list[float]] = {}
    shares: dict[tuple[str, float], list[float]] = {}
    for window in windows_of(model, book, options.context, options.continuation, options.windows):
        for key, (loss, share) in measure_window(model, window, options.ratio, options.quality).items():
            losses.setdefault(key, []).append(loss)
            shares.setdefault(key, []).append(share)
    rows = [
        {
            "method": method,
            "ratio": ratio,
            "loss": round(_mean(found), 4),
            "perplexity": round(math.exp(min(_mean(found), 700.0)), 2),
            "over_full": round(_mean(found) - _mean(losses["full", 1.0]), 4),
            "share_of_bytes": round(_mean(shares[method, ratio]), 4),
            "by_window": [round(loss, 4) for loss in found],
        }
        for (method, ratio), found in losses.items()
    ]
    _print(rows, options.model)
    print(
        json.dumps(
            {
                "model": options.model,
                "file": options.file.name,
                "context": options.context,
                "continuation": options.continuation,
                "windows": options.windows,
                "quality": options.quality,
                "rows": rows,
                "note": _DEMO_NOTE if options.model == "demo" else "",
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    )


def windows_of(model: LocalModel, book: str, context: int, continuation: int, count: int) -> Iterator[Window]:
    """Yield ``count`` windows, evenly spread over the book; lengths in tokens of the model.

    Raises:
        InputError: a length below its least, or the book or the model's window is too short.
    """
    if context < 64 or continuation < 2 or count < 1:
        raise InputError(
            "the context needs at least 64 tokens, the continuation 2, and there must be a window; "
            f"got {context}, {continuation} and {count}"
        )
    if context + continuation + 256 > model.context_window:
        raise InputError(
            f"{context} + {continuation} tokens and 256 for references do not fit the window of {model.context_window}"
        )
    ends = [0, *(end for _, end in model.tokenizer(book, return_offsets_mapping=True)["offset_mapping"])]
    last = len(ends) - 1 - context - continuation
    if last < 0:
        raise InputError(f"the text has {len(ends) - 1} tokens, a window takes {context + continuation}")
    for number in range(count):
        start = last * number // max(1, count - 1)
        first, middle, end = (ends[start + tokens] for tokens in (0, context, context + continuation))
        yield Window(book[first:middle], book[middle:end])


@torch.no_grad()
def measure_window(
    model: LocalModel, window: Window, ratios: Sequence[float], quality: str
) -> dict[tuple[str, float], tuple[float, float]]:
    """Return by method and ratio the loss (nats a token) and the share of the source's full bytes that is held."""
    hypercode = model.hypercode
    template = hypercode.template(chat=False)
    prefix = hypercode.prefix(template)
    found: dict[tuple[str, float], tuple[float, float]] = {}
    source: SourceKV | None = None
    live: list[int] = []
    for ratio in ratios:
        code = model.compact(window.context, ratio, quality=quality, zoom_share=0.0, chat=False)
        live, plan = hypercode.prepare(window.continuation, [code], chat=False, zoom=False, reserve=0)
        if source is None:
            source = prefill_source(hypercode.model, template.prefix_ids, code.token_ids.tolist())
            found["full", 1.0] = (continuation_loss(model, source.context(), live), 1.0)
        full = full_global_bytes(source)
        kept = streaming_context(source, code.nbytes)
        for name, context in (("hypercode", plan.context), ("streaming", kept)):
            own = code.nbytes if name == "hypercode" else _entry_bytes(context) - _entry_bytes(prefix.context())
            found[name, ratio] = (continuation_loss(model, context, live), own / full)
    assert source is not None
    found["no context", math.inf] = (continuation_loss(model, source.context(prefix_only=True), live), 0.0)
    return found


def streaming_context(source: SourceKV, num_bytes: int) -> AssembledContext:
    """Return prefix, the first four tokens and as many of the last as fit with them, at their own positions.

    ``num_bytes`` are those of keys and values in all heads of the global layers.
    """
    places = [(layer, head) for layer, keys in enumerate(source.keys) for head in range(keys.shape[0])]
    places = [(layer, head) for layer, head in places if source.windows[layer] is None]
    keys = source.keys[places[0][0]]
    count = min(source.num_tokens, num_bytes // (len(places) * 2 * keys.shape[2] * keys.element_size()))
    sink = min(_SINK, count)
    rows = torch.arange(source.num_tokens, device=keys.device)
    kept = torch.cat([rows[:sink], rows[source.num_tokens - count + sink :]])
    return evicted_context(source, dict.fromkeys(places, kept))


@torch.no_grad()
def continuation_loss(model: LocalModel, context: AssembledContext, live: Sequence[int]) -> float:
    """Return the mean loss in nats of ``live[1:]`` behind a context, each token given all before it."""
    inner = model.model
    ids = torch.tensor([list(live)], device=inner.device)
    cache = HyperCache(inner.config, [context], keep_live=False)
    with use_compact_attention(inner):
        logits: Tensor = inner(
            input_ids=ids,
            position_ids=cache.position_ids(ids.shape[1]).to(inner.device),
            past_key_values=cache,
            use_cache=True,
        ).logits
    return float(torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:]))


def _entry_bytes(context: AssembledContext) -> int:
    return sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in context.layers if layer.window is None)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _print(rows: Sequence[dict[str, Any]], model: str) -> None:
    if model == "demo":
        print(_DEMO_NOTE)
    print(f"{'method':12} {'ratio':>6} {'loss':>8} {'over full':>10} {'perplexity':>11} {'bytes held':>11}")
    for row in sorted(rows, key=lambda row: (row["ratio"], row["method"])):
        ratio = "–" if math.isinf(row["ratio"]) else f"{row['ratio']:g}×"
        print(
            f"{row['method']:12} {ratio:>6} {row['loss']:8.3f} {row['over_full']:+10.3f} {row['perplexity']:11.1f} "
            f"{row['share_of_bytes']:11.1%}"
        )
        if math.isinf(row["ratio"]):
            row["ratio"] = None


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
