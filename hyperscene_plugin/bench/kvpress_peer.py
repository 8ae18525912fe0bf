"""Contexts and questions as token ids → what NVIDIA's kvpress keeps and answers on the demo model, at the same bytes.

    python -m hyperscene_plugin.bench.kvpress_peer [--cases FILE] [--out FILE] [--ratios 4 12 20] [--methods NAME …]

kvpress wants an older transformers than this package, so it gets a virtual environment of its own, made once (by pip,
from the package index) and driven through files. Before anything is measured, the logits there must equal the ones
here. A context is compressed without its questions; then each answer is exact when every one of its tokens (the end
token too) is the greedy choice. Bytes are counted twice: ``kept_bytes`` of the entries still attended to, which is
what a method could shrink to, and ``held_bytes`` of the memory that the cache really takes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from hyperscene_plugin.bench import kvpress_worker
from hyperscene_plugin.bench.kvpress_worker import LEFT_OUT, METHODS
from hyperscene_plugin.demo_model import weights_path
from hyperscene_plugin.demo_model.data import FragmentEncoder
from hyperscene_plugin.demo_model.evaluate import load_demo_model
from hyperscene_plugin.demo_model.lexicon import REPEAT_REQUESTS
from hyperscene_plugin.demo_model.tokenizer import ASSISTANT, BOS, END, SYSTEM, USER, load_tokenizer, token_id
from hyperscene_plugin.demo_model.world import World
from hyperscene_plugin.errors import HypersceneError, InputError, ModelError

__all__ = ["Case", "Question", "convert_config", "main", "read_cases", "run_peers", "world_cases", "write_cases"]

KVPRESS = "kvpress==0.5.5"
# Asked for first and by itself: which build comes (CPU, CUDA) is the index's choice.
TORCH = "torch==2.13.0"
DEFAULT_VENV = Path(".cache") / "kvpress-venv"
RATIOS = (4.0, 12.0, 20.0)
LOGIT_TOLERANCE = 1e-3
CHECK_QUESTIONS = 4
# One answer in so many may turn on rounding between two versions of a library.
DIFFERING_ONE_IN = 500


@dataclass(frozen=True)
class Question:
    """``ids``: all that follows the context, up to and with the assistant token; ``answer_ids`` ends with the end."""

    ids: list[int]
    answer_ids: list[int]


@dataclass(frozen=True)
class Case:
    """One context: prompt = ``prefix_ids`` + ``context_ids`` + a question's ids.

    ``repeat_ids`` (optional) stand between the context and its own repetition in the model's chat format; the
    methods named "chat replay" need them.
    """

    id: str
    prefix_ids: list[int]
    context_ids: list[int]
    questions: list[Question]
    repeat_ids: list[int] | None = None


def write_cases(path: Path, cases: Iterable[Case]) -> None:
    """Write JSON Lines that `read_cases` reads."""
    path.write_text("".join(json.dumps(_row(case)) + "\n" for case in cases), encoding="utf-8")


def _row(case: Case) -> dict[str, Any]:
    return {key: value for key, value in asdict(case).items() if value is not None}


def read_cases(path: Path) -> list[Case]:
    """The cases of a JSON Lines file; InputError names the line that is not one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: no cases can be read ({type(error).__name__})") from error
    cases: dict[str, Case] = {}
    for number, line in enumerate(lines, 1):
        try:
            case = _case(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path.name}, line {number}: not a case ({type(error).__name__}: {error})") from error
        if case.id in cases:
            raise InputError(f"{path.name}, line {number}: the id {case.id!r} is there already")
        cases[case.id] = case
    if not cases:
        raise InputError(f"{path.name}: no cases")
    return list(cases.values())


def _case(row: Any) -> Case:
    unknown = set(row) - {"id", "prefix_ids", "context_ids", "questions", "repeat_ids"}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    questions = [Question(_ids(q["ids"], "ids"), _ids(q["answer_ids"], "answer_ids")) for q in row["questions"]]
    if not isinstance(row["id"], str) or not questions:
        raise ValueError("id must be a text, and there must be questions")
    repeat = _ids(row["repeat_ids"], "repeat_ids") if "repeat_ids" in row else None
    return Case(
        row["id"], _ids(row["prefix_ids"], "prefix_ids"), _ids(row["context_ids"], "context_ids"), questions, repeat
    )


def _ids(value: Any, name: str) -> list[int]:
    if not isinstance(value, list) or not value or not all(type(item) is int and item >= 0 for item in value):
        raise ValueError(f"{name} must be a list of token ids")
    return value


def world_cases(
    contexts: int = 3, people: int = 25, facts: int = 5, questions: int = 20, seed: int = 7, weights: Path | None = None
) -> list[Case]:
    """Seeded contexts of the demo model's world (held-out pairings), in its chat format with the text as system."""
    tokenizer = load_tokenizer(weights or weights_path())
    encode = FragmentEncoder(tokenizer).encode
    bos, end, system, user, assistant = (token_id(tokenizer, t) for t in (BOS, END, SYSTEM, USER, ASSISTANT))
    world, cases = World(0), []
    for number in range(contexts):
        rng = random.Random(f"{seed}/{number}")
        context = world.make_context(rng, people, facts, held_out=True)
        asked = [world.ask(fact, rng) for fact in rng.sample(context.facts, min(questions, len(context.facts)))]
        turns = [
            Question([end, user, *encode(" " + q.text), end, assistant], [*encode(" " + q.answer), end]) for q in asked
        ]
        repeat = [end, user, *encode(" " + REPEAT_REQUESTS[0]), end, assistant]
        cases.append(Case(f"world-{seed}-{number}", [bos, system], encode(" " + context.text), turns, repeat))
    return cases


def convert_config(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a transformers 5 ``config.json`` that transformers 4 and the early 5 read too."""
    converted = dict(config)
    rope = config.get("rope_parameters")
    if rope is not None:
        converted["rope_theta"] = rope["rope_theta"]
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        converted["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    if "dtype" in config:
        converted["torch_dtype"] = config["dtype"]
    return converted


def _convert_tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
    converted = config | {"tokenizer_class": "PreTrainedTokenizerFast"}
    extra = converted.pop("extra_special_tokens", None)
    return converted if extra is None else converted | {"additional_special_tokens": extra}


def write_model_copy(weights: Path, folder: Path) -> None:
    """Copy a model folder into ``folder`` (made), with both configurations converted."""
    folder.mkdir(parents=True)
    for name, convert in (("config.json", convert_config), ("tokenizer_config.json", _convert_tokenizer_config)):
        config = json.loads((weights / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(convert(config), indent=1), encoding="utf-8")
    for source in sorted(weights.iterdir()):
        if source.suffix in (".safetensors", ".jinja") or source.name in ("tokenizer.json", "generation_config.json"):
            shutil.copyfile(source, folder / source.name)


def ensure_environment(venv: Path) -> Path:
    """The Python of the environment with kvpress in ``venv``, which is made when it is not there yet.

    Raises InputError when ``venv`` is something else, HypersceneError when the installation fails.
    """
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    marker, wanted = venv / ".installed", f"{TORCH}\n{KVPRESS}\n"
    if python.is_file() and marker.is_file() and marker.read_text(encoding="utf-8") == wanted:
        return python
    if venv.exists() and not (venv / "pyvenv.cfg").is_file() and not (venv.is_dir() and not any(venv.iterdir())):
        raise InputError(f"{venv} is there and is no virtual environment; name another place for kvpress")
    _say(f"Making a virtual environment for {KVPRESS} (once; some minutes and about 1.5 GB)")
    if not (venv / "pyvenv.cfg").is_file():
        _install([sys.executable, "-m", "venv", str(venv)], f"No virtual environment could be made for {KVPRESS}")
    pip = [
        str(python),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "--retries",
        "1",
        "install",
        "--quiet",
    ]
    _say(f"  installing {TORCH}")
    try:
        _install([*pip, TORCH], f"{TORCH} could not be installed")
    except HypersceneError as error:
        _say(f"  {error}; leaving the version of torch to pip")
    _say(f"  installing {KVPRESS}")
    _install(
        [*pip, KVPRESS], f"{KVPRESS} could not be installed; it comes from the package index, is the network there?"
    )
    marker.write_text(wanted, encoding="utf-8")
    return python


def _install(command: list[str], complaint: str) -> None:
    try:
        status = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        raise HypersceneError(f"{complaint} ({type(error).__name__})") from error
    if status:
        raise HypersceneError(f"{complaint} (exit status {status}; the messages are above)")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@torch.no_grad()
def _full_context(weights: Path, cases: Sequence[Case]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """This environment's logits at the end of some prompts, and its exact answers with the whole context."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model, _ = load_demo_model(weights)
    samples: list[dict[str, Any]] = []
    hits: dict[str, str] = {}
    for case in cases:
        hits[case.id] = ""
        for number, question in enumerate(case.questions):
            prompt = [*case.prefix_ids, *case.context_ids, *question.ids]
            ids = torch.tensor([prompt + question.answer_ids])
            hidden = model.model(ids[:, :-1]).last_hidden_state[0, len(prompt) - 1 :]
            logits = model.lm_head(hidden)
            hits[case.id] += "01"[logits.argmax(-1).tolist() == question.answer_ids]
            if number == 0 and len(samples) < 3:
                samples.append({"ids": prompt, "logits": logits[0].tolist()})
    return samples, hits


def run_peers(
    cases: Path,
    out: Path,
    ratios: Sequence[float] = RATIOS,
    methods: Sequence[str] = tuple(METHODS),
    venv: Path = DEFAULT_VENV,
    *,
    weights: Path | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure ``methods`` at ``ratios`` on a file of cases; the result is returned and written to ``out`` as JSON.

    Every row has ``exact`` and ``relative`` (to the full context in the same environment), ``kept_bytes``,
    ``held_bytes`` and ``full_bytes`` summed over contexts, ``seconds`` for prefill and compression, and ``hits``, a
    0 or 1 per question. A method that failed has ``error`` instead. Raises InputError for unusable cases, ratios or
    methods, HypersceneError when the environment cannot be made, ModelError when it computes other logits.
    """
    loaded = read_cases(cases)
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise InputError(f"unknown methods {unknown}; known: {list(METHODS)}")
    if not ratios or not all(ratio > 1 for ratio in ratios):
        raise InputError(f"ratios must be numbers above 1, not {list(ratios)}")
    weights = weights or weights_path()
    out.parent.mkdir(parents=True, exist_ok=True)
    python = ensure_environment(venv)
    samples, hits = _full_context(weights, loaded)
    with tempfile.TemporaryDirectory(prefix="kvpress-") as folder:
        write_model_copy(weights, Path(folder) / "model")
        job: dict[str, Any] = {"model": str(Path(folder) / "model"), "cases": [_row(case) for case in loaded]}
        job |= {"methods": list(methods), "ratios": list(ratios), "logits": samples, "threads": threads}
        job |= {"tolerance": LOGIT_TOLERANCE, "check_questions": CHECK_QUESTIONS}
        raw = _work(python, Path(folder), job)
    result = summarise(raw, hits)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _work(python: Path, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    job_path, result_path = folder / "job.json", folder / "result.json"
    job_path.write_text(json.dumps(job), encoding="utf-8")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # -I keeps the worker's own folder off the path: its datasets.py would hide the package that kvpress needs.
    command = [str(python), "-I", str(Path(kvpress_worker.__file__)), str(job_path), str(result_path)]
    status = subprocess.run(command, env=environment, check=False).returncode
    if status or not result_path.is_file():
        raise HypersceneError(f"the kvpress worker ended with exit status {status}; its messages are above")
    result: dict[str, Any] = json.loads(result_path.read_text(encoding="utf-8"))
    return result


def summarise(raw: dict[str, Any], hits: dict[str, str]) -> dict[str, Any]:
    """A worker's result → the benchmark's: checked against this environment's ``hits``, with relative figures.

    Raises ModelError when the other environment's logits or full-context answers are not the ones of this one.
    """
    difference = raw["logit_difference"]
    if not difference <= LOGIT_TOLERANCE:
        raise ModelError(
            f"the model computes other logits under {raw['versions']}: they differ by up to {difference:.2g}, "
            f"allowed are {LOGIT_TOLERANCE:g}; the converted configuration does not fit that transformers"
        )
    full, rows = raw["rows"][0], [dict(row) for row in raw["rows"][1:]]
    if "error" in full:
        raise ModelError(f"kvpress's environment cannot run the model uncompressed: {full['error']}")
    ours, theirs = "".join(hits.values()), "".join(full["hits"][name] for name in hits)
    differing = sum(a != b for a, b in zip(ours, theirs, strict=True))
    if differing > len(ours) // DIFFERING_ONE_IN:
        raise ModelError(f"with the whole context, {differing} of {len(ours)} answers differ between the environments")
    for row in rows:
        if "error" not in row:
            row["relative"] = round(row["exact"] / full["exact"], 4) if full["exact"] else None
            row["exact"] = round(row["exact"], 4)
            row["over_budget"] = row["kept_bytes"] * row["ratio"] > row["full_bytes"] * 1.005
    summary = {"exact": round(full["exact"], 4), "exact_here": round(ours.count("1") / len(ours), 4)}
    head = {key: value for key, value in raw.items() if key != "rows"}
    return {"bench": "kvpress_peer"} | head | {"full": full | summary | {"differing": differing}, "rows": rows}


def _print_table(result: dict[str, Any]) -> None:
    full, rows = result["full"], result["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    print(f"{len(full['hits'])} contexts, {full['questions']} questions; {versions}")
    print(f"full context: {full['exact']:.3f} exact there, {full['exact_here']:.3f} here\n")
    ratios = list(dict.fromkeys(row["ratio"] for row in rows))
    print(f"{'exact (held / kept bytes)':70s}" + "".join(f"{f'{ratio:g}x':>16s}" for ratio in ratios))
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = {row["ratio"]: _cell(row) for row in rows if row["method"] == method}
        print(f"{method:70s}" + "".join(f"{cells.get(ratio, ''):>16s}" for ratio in ratios))
    for row in rows:
        problem = row.get("error") or row["pipeline"].get("error")
        if problem:
            where = "" if "error" in row else " (only in kvpress's own pipeline)"
            print(f"{row['method']} at {row['ratio']:g}x{where}: {problem}")


def _cell(row: dict[str, Any]) -> str:
    if "error" in row:
        return "error"
    return f"{row['exact']:.3f} ({row['held_bytes'] / row['kept_bytes']:.1f})" + ("!" if row["over_budget"] else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m hyperscene_plugin.bench.kvpress_peer", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cases", type=Path, help="JSON Lines of cases (default: made from the demo model's world)")
    parser.add_argument("--write-cases", type=Path, help="also keep the cases made from the world in this file")
    parser.add_argument("--contexts", type=int, default=3, help="contexts to make (default: %(default)s)")
    parser.add_argument("--people", type=int, default=25, help="people in each (default: %(default)s)")
    parser.add_argument("--facts", type=int, default=5, help="facts per person (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=20, help="questions per context (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS), metavar="R")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME", help="see --list")
    parser.add_argument("--list", action="store_true", help="print the methods, and why others are left out")
    parser.add_argument("--venv", type=Path, default=DEFAULT_VENV, help="kvpress's environment (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(".cache") / "kvpress_peer.json", help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="threads of the other environment's torch")
    options = parser.parse_args(argv)
    if options.list:
        print("\n".join([*METHODS, "", *(f"left out: {name}: {why}" for name, why in LEFT_OUT.items())]))
        return 0
    with tempfile.TemporaryDirectory(prefix="kvpress-cases-") as folder:
        cases = options.cases or options.write_cases or Path(folder) / "cases.jsonl"
        if options.cases is None:
            made = world_cases(options.contexts, options.people, options.facts, options.questions, options.seed)
            write_cases(cases, made)
        result = run_peers(cases, options.out, options.ratios, options.methods, options.venv, threads=options.threads)
    _print_table(result)
    rows = [{key: value for key, value in row.items() if key != "hits"} for row in result["rows"]]
    full = {key: value for key, value in result["full"].items() if key != "hits"}
    print(json.dumps(result | {"full": full, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
