"""A file's first 60,000 tokens → the count of every stage, beside the promised sizes (JSON on the last line).

    python -m hyperscene_plugin.bench.analysis [FILE] [--tokenizer NAME] [--tokens N]

Without ``FILE`` the bundled *The Time Machine* is used (40,000 tokens: the promises scale with the tokens).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import hyperscene_plugin.demo
from hyperscene_plugin.text.analysis import Analysis, analyse
from hyperscene_plugin.text.reading import read_text_file
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.tokens import token_counter

__all__ = ["excerpt", "main", "promises"]


def excerpt(text: str, num_tokens: int, tokenizer: str) -> str:
    """The first scenes of ``text`` that together hold at most ``num_tokens`` tokens."""
    counter = token_counter(tokenizer)
    scenes = segment(text)
    filled = 0
    end = 0
    for scene, size in zip(scenes, counter.count_many([scene.text for scene in scenes]), strict=True):
        if filled + size > num_tokens:
            break
        filled += size
        end = scene.end
    return text[:end]


def promises(analysis: Analysis) -> dict[str, bool]:
    """Which promised sizes hold, scaled to the text's tokens (60,000 → ≤ 5,000, 800–1,400, 50–100)."""
    counts = analysis.counts
    scale = counts.tokens / 60_000
    return {
        "hypertokens at most 5,000": counts.hypertokens <= 5_000 * scale,
        "scenes 800 to 1,400": 800 * scale <= counts.scenes <= 1_400 * scale,
        "themes 50 to 100": 50 * scale <= counts.themes <= 100 * scale,
        "no group over 20 tokens": counts.long_hypertokens == 0,
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the table, whether the promises hold, and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    sample = Path(hyperscene_plugin.demo.__file__).parent / "samples" / "the-time-machine.en.md"
    parser.add_argument("file", type=Path, nargs="?", default=sample)
    parser.add_argument("--tokenizer", default="cl100k_base")
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    text = excerpt(read_text_file(options.file), options.tokens, options.tokenizer)
    started, cpu_started = time.perf_counter(), time.process_time()
    analysis = analyse(text, tokenizer=options.tokenizer, seed=options.seed)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    held = promises(analysis)
    print(
        f"{options.file.name}: {len(text):,} characters, language {analysis.language}, "
        f"{seconds:.1f} s ({cpu_seconds:.1f} s of CPU)"
    )
    print(analysis)
    for theme in analysis.themes.themes[:5]:
        print(f"theme of {len(theme.scenes)} scenes: {', '.join(theme.terms)}")
    for promise, holds in held.items():
        print(f"{'holds' if holds else 'FAILS':6} {promise}")
    result = {
        "bench": "analysis",
        "file": options.file.name,
        "tokenizer": analysis.tokenizer,
        "language": analysis.language,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "counts": asdict(analysis.counts),
        "promises": held,
    }
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
