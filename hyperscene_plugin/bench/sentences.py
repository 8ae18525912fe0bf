"""Hand-marked sentences → precision, recall, F1 and speed of our splitter beside those installed from PyPI (JSON last).

    python -m hyperscene_plugin.bench.sentences [--speed-file FILE]

The text is ``sentences.txt`` beside this file: one sentence a line, a blank line between paragraphs, ``# code`` before
each language; `` | `` parts two sentences that share a line. It was written for this measurement and leans to the hard
cases (abbreviations, initials, quoted speech, dialogue dashes). Our rules were amended after a first look at it, so our
own figures on it are no test of new text; the libraries' are. Splitters that are not
installed are left out: ``pip install razdel pysbd sentencex syntok``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hyperscene_plugin.demo
from hyperscene_plugin.text.reading import read_text_file
from hyperscene_plugin.text.sentences import sentence_ends

__all__ = ["SENTENCES", "main", "read_marked"]

SENTENCES = Path(__file__).with_name("sentences.txt")
_LINE_STARTERS = "—-–"
Splitter = Callable[[str], list[int]]
"""Text → where its sentences start, the first left out."""


def read_marked(path: Path = SENTENCES) -> dict[str, list[list[str]]]:
    """Return the paragraphs of each language, each a list of its sentences."""
    languages: dict[str, list[list[str]]] = {}
    paragraphs: list[list[str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            paragraphs = languages.setdefault(line[2:], [[]])
        elif not line:
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    return {code: [paragraph for paragraph in found if paragraph] for code, found in languages.items()}


def joined(sentences: list[str]) -> tuple[str, set[int]]:
    """A paragraph's text and where its sentences start; a line of dialogue starts on a line of its own."""
    text, starts = "", set()
    for line in sentences:
        for place, sentence in enumerate(line.split(" | ")):
            if text:
                unspaced = text[-1] in "。！？」”" and text[-2:] != ".”"
                text += "\n" if sentence[0] in _LINE_STARTERS and not place else "" if unspaced else " "
                starts.add(len(text))
            text += sentence
    return text, starts


def _ours(text: str) -> list[int]:
    return sentence_ends(text)[:-1]


def _libraries(code: str) -> dict[str, Splitter]:
    known = code if code in ("en", "ru") else "en"
    splitters: dict[str, Splitter] = {"ours": _ours}
    if importlib.util.find_spec("razdel"):
        razdel: Any = importlib.import_module("razdel")
        splitters["razdel"] = lambda text: [part.start for part in razdel.sentenize(text)][1:]
    if importlib.util.find_spec("pysbd"):
        segmenter: Any = importlib.import_module("pysbd").Segmenter(language=known, clean=False)
        splitters["pysbd"] = lambda text: _found(text, segmenter.segment(text))
    if importlib.util.find_spec("sentencex"):
        sentencex: Any = importlib.import_module("sentencex")
        splitters["sentencex"] = lambda text: _found(text, list(sentencex.segment(known, text)))
    if importlib.util.find_spec("syntok"):
        syntok: Any = importlib.import_module("syntok.segmenter")
        splitters["syntok"] = lambda text: [
            sentence[0].offset for paragraph in syntok.analyze(text) for sentence in paragraph
        ][1:]
    return splitters


def _found(text: str, parts: list[str]) -> list[int]:
    """Where the parts stand in the text; libraries that return bare strings may have changed the blanks."""
    starts: list[int] = []
    place = 0
    for part in parts:
        if not part.strip():
            continue
        at = text.find(part.strip(), place)
        if at < 0:
            continue
        starts.append(at)
        place = at + len(part.strip())
    return starts[1:]


def main(arguments: list[str] | None = None) -> None:
    """Print the table and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    sample = Path(hyperscene_plugin.demo.__file__).parent / "samples" / "the-time-machine.en.md"
    parser.add_argument("--speed-file", type=Path, default=sample, help="text the speed is measured on")
    options = parser.parse_args(arguments)
    results: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'':16}{'sentences':>10}{'precision':>11}{'recall':>9}{'F1':>8}")
    for code, paragraphs in read_marked().items():
        results[code] = {}
        for name, split in _libraries(code).items():
            right = found = wanted = 0
            for sentences in paragraphs:
                text, starts = joined(sentences)
                got = {start + len(text[start:]) - len(text[start:].lstrip()) for start in split(text)}
                right, found, wanted = right + len(got & starts), found + len(got), wanted + len(starts)
            precision, recall = right / max(1, found), right / max(1, wanted)
            f1 = 2 * precision * recall / max(1e-12, precision + recall)
            results[code][name] = {"precision": round(precision, 4), "recall": round(recall, 4), "f1": round(f1, 4)}
            print(f"{code:6}{name:10}{wanted + len(paragraphs):>10}{precision:>11.3f}{recall:>9.3f}{f1:>8.3f}")
    text = read_text_file(options.speed_file)
    speed: dict[str, float] = {}
    for name, split in _libraries("en").items():
        started = time.process_time()
        split(text)
        speed[name] = round(len(text) / 1e6 / max(1e-9, time.process_time() - started), 3)
        print(f"{name:16}{speed[name]:>10.2f} million characters per second of CPU")
    print(json.dumps({"bench": "sentences", "results": results, "million_characters_per_second": speed}))


if __name__ == "__main__":
    main()
