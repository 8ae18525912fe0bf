"""Measure the demo model: ``python -m hyperscene_plugin.demo_model.evaluate [--json]`` (seeded; last line is JSON).

Every figure is exact match of greedy answers with the full context in the prompt, on pairings that training never
wrote. Answers are checked in one forward pass: greedy decoding gives the gold answer and then the end token exactly
when each of those tokens is the model's top choice given the ones before, so no generation loop is needed.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from hyperscene_plugin.demo_model import weights_path
from hyperscene_plugin.demo_model.data import PERSON_RELATIONS, FragmentEncoder, load_passages
from hyperscene_plugin.demo_model.lexicon import BY_NAME
from hyperscene_plugin.demo_model.tokenizer import ASSISTANT, BOS, END, PAD, SYSTEM, USER, load_tokenizer, token_id
from hyperscene_plugin.demo_model.world import Context, Question, World
from hyperscene_plugin.errors import InputError


@dataclass(frozen=True)
class Item:
    """One test item: a context text (may be empty), a question, its exact answer, and the chance of guessing it."""

    context: str
    question: str
    answer: str
    chance: float | None = None


@dataclass(frozen=True)
class Score:
    """Exact-match accuracy on one suite; `tokens` is the mean prompt length."""

    suite: str
    exact: float
    questions: int
    tokens: float
    chance: float | None


def load_demo_model(folder: Path | None = None) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The shipped model (bf16 on disk, computed in float32) and its tokenizer."""
    folder = folder or weights_path()
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train(False)
    return model, load_tokenizer(folder)


class Judge:
    """Scores items with a model; `in_system` puts the context in the system message instead of the user's."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tokens: int = 16000) -> None:
        self.model, self.tokenizer, self.tokens = model, tokenizer, tokens
        self._encoder = FragmentEncoder(tokenizer)
        self._bos, self._end, self._pad = (token_id(tokenizer, t) for t in (BOS, END, PAD))
        self._system, self._user, self._assistant = (token_id(tokenizer, t) for t in (SYSTEM, USER, ASSISTANT))

    def prompt(self, item: Item, in_system: bool) -> list[int]:
        """Token ids of the chat prompt, equal to the chat template's with a generation prompt."""
        encode = self._encoder.encode
        if not item.context:
            body = [self._user, *encode(" " + item.question)]
        elif in_system:
            body = [self._system, *encode(" " + item.context), self._end, self._user, *encode(" " + item.question)]
        else:
            body = [self._user, *encode(f" {item.context}\n\n{item.question}")]
        return [self._bos, *body, self._end, self._assistant]

    def correct(self, items: Sequence[Item]) -> list[bool]:
        """Whether the greedy answer to each item is exactly the gold answer (see the module's first lines)."""
        prompts = [self.prompt(item, i % 2 == 0) for i, item in enumerate(items)]
        answers = [[*self._encoder.encode(" " + i.answer), self._end] for i in items]
        order = sorted(range(len(items)), key=lambda i: len(prompts[i]) + len(answers[i]))
        results = [False] * len(items)
        while order:
            width = len(prompts[order[0]]) + len(answers[order[0]])
            rows = [order.pop(0)]
            while order:
                width = max(width, len(prompts[order[0]]) + len(answers[order[0]]))
                if width * (len(rows) + 1) > self.tokens:
                    break
                rows.append(order.pop(0))
            for row, good in zip(rows, self._check([(prompts[r], answers[r]) for r in rows]), strict=True):
                results[row] = good
        return results

    @torch.no_grad()
    def _check(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
        width = max(len(p) + len(a) for p, a in pairs)
        ids = torch.full((len(pairs), width), self._pad)
        for row, (prompt, answer) in enumerate(pairs):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        hidden = self.model.model(ids.to(self.model.device)).last_hidden_state
        good = []
        for row, (prompt, answer) in enumerate(pairs):
            at = hidden[row, len(prompt) - 1 : len(prompt) + len(answer) - 1]
            good.append(self.model.lm_head(at).argmax(-1).tolist() == answer)
        return good

    def score(self, suite: str, items: Sequence[Item]) -> Score:
        """Exact-match accuracy over `items`."""
        hits = self.correct(items)
        tokens = sum(len(self.prompt(i, False)) for i in items) / max(1, len(items))
        chances = [i.chance for i in items if i.chance is not None]
        chance = sum(chances) / len(chances) if chances else None
        return Score(suite, sum(hits) / max(1, len(hits)), len(items), round(tokens, 1), chance)


def _facts(
    people: int,
    per: int,
    questions: int,
    rng: random.Random,
    style: str = "plain",
    kind: str = "forward",
    relations: Sequence[str] | None = None,
    swap: bool = False,
    empty: bool = False,
    noise: float = 0.0,
) -> list[Item]:
    world = World(0)
    items: list[Item] = []
    while len(items) < questions:
        chosen = [rng.choice(PERSON_RELATIONS)] if relations == [] else relations
        context = world.make_context(rng, people, per, chosen, held_out=True, style=style, noise=noise)
        if swap:
            context = world.write(world.swap_values(context.facts, rng), rng, style=style)
        for fact in rng.sample(list(context.facts), min(4, len(context.facts))):
            if kind == "absent":
                question: Question = world.ask_absent(context, rng)
            elif kind == "reverse":
                same = [f for f in context.facts if (f.relation, f.value) == (fact.relation, fact.value)]
                if len(same) > 1 or not BY_NAME[fact.relation].reverse:
                    continue
                question = world.ask_reverse(fact, rng)
            else:
                question = world.ask(fact, rng)
            chance = _chance(context, question) if relations == [] else None
            items.append(Item("" if empty else context.text, question.text, question.answer, chance))
    return items[:questions]


def _chance(context: Context, question: Question) -> float | None:
    if question.fact is None:
        return None
    return 1 / len({f.value for f in context.facts if f.relation == question.fact.relation})


def _quotes(questions: int, rng: random.Random) -> list[Item]:
    passages = load_passages(held_out=True)[1]
    items: list[Item] = []
    while passages and len(items) < questions:
        sentences = rng.choice(passages)
        sentence = rng.choice(sentences)
        rest = " ".join(s for s in sentences if s is not sentence)
        marks = [w for w in sorted(set(re.findall(r"[A-Za-z]{5,}", sentence))) if w not in rest]
        if marks:
            items.append(Item(" ".join(sentences), f"Quote the sentence that mentions {rng.choice(marks)}.", sentence))
    return items


def _repeats(questions: int, rng: random.Random) -> list[Item]:
    world = World(0)
    contexts = [world.make_context(rng, 2, 2, held_out=True) for _ in range(questions)]
    return [Item(c.text, q.text, q.answer) for c in contexts for q in [world.ask_repeat(c, rng)]]


Build = Callable[[int, random.Random], list[Item]]
SUITES: dict[str, Build] = {
    "2 people x 5 facts": lambda n, r: _facts(2, 5, n, r),
    "4 people x 5 facts": lambda n, r: _facts(4, 5, n, r),
    "8 people x 5 facts": lambda n, r: _facts(8, 5, n, r),
    "16 people x 5 facts": lambda n, r: _facts(16, 5, n, r),
    "50 people x 5 facts (~2,000 tokens)": lambda n, r: _facts(50, 5, n, r),
    "counterfactual: values swapped, 8 x 3": lambda n, r: _facts(8, 3, n, r, swap=True),
    "same relation, 8 people": lambda n, r: _facts(8, 1, n, r, relations=[]),
    "same relation, 16 people": lambda n, r: _facts(16, 1, n, r, relations=[]),
    "absent facts, 8 x 3": lambda n, r: _facts(8, 3, n, r, kind="absent"),
    "chat turns, 6 x 3": lambda n, r: _facts(6, 3, n, r, style="chat"),
    "chat turns in small talk, 6 x 6": lambda n, r: _facts(6, 6, n, r, style="chat", noise=0.6),
    "facts among other sentences, 8 x 3": lambda n, r: _facts(8, 3, n, r, noise=0.6),
    "reverse questions, 8 x 3": lambda n, r: _facts(8, 3, n, r, kind="reverse"),
    "no context (control), 8 x 3": lambda n, r: _facts(8, 3, n, r, empty=True),
    "repeat a short text": _repeats,
    "quote a sentence of unseen pages": _quotes,
}


def evaluate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: int = 200,
    seed: int = 7,
    suites: Sequence[str] | None = None,
) -> list[Score]:
    """Scores on the named suites (all by default), each with `questions` items and its own seed.

    Raises InputError for an unknown suite.
    """
    names = list(SUITES) if suites is None else list(suites)
    unknown = [n for n in names if n not in SUITES]
    if unknown:
        raise InputError(f"unknown suites {unknown}; known: {list(SUITES)}")
    judge = Judge(model, tokenizer)
    scores = []
    for name in names:
        items = SUITES[name](questions, random.Random(f"{seed}/{name}"))
        if items:
            scores.append(judge.score(name, items))
    return scores


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m hyperscene_plugin.demo_model.evaluate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=None, help="a weights folder (default: the shipped one)")
    parser.add_argument("--questions", type=int, default=200, help="questions per suite (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--suite", action="append", help="only suites whose name contains this; repeatable")
    parser.add_argument("--into-report", action="store_true", help="also write the scores to training_report.json")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    args = parser.parse_args(argv)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    started = time.perf_counter()
    names = [s for s in SUITES if args.suite is None or any(part in s for part in args.suite)]
    scores = evaluate(*load_demo_model(args.weights), questions=args.questions, seed=args.seed, suites=names)
    if not args.json:
        print(f"{'suite':42} {'exact':>7} {'chance':>7} {'questions':>9} {'tokens':>7}")
        for s in scores:
            chance = "" if s.chance is None else f"{s.chance:.3f}"
            print(f"{s.suite:42} {s.exact:7.3f} {chance:>7} {s.questions:9d} {s.tokens:7.0f}")
    rows = [replace(s, exact=round(s.exact, 4), chance=s.chance and round(s.chance, 4)).__dict__ for s in scores]
    seconds = round(time.perf_counter() - started, 1)
    if args.into_report:
        path = (args.weights or weights_path()) / "training_report.json"
        report = json.loads(path.read_text(encoding="utf-8"))
        report["evaluation"] = {"seed": args.seed, "questions": args.questions, "scores": rows}
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"seed": args.seed, "seconds": seconds, "scores": rows}))


if __name__ == "__main__":
    main()
