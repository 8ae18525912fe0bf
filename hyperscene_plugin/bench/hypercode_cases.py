"""Contexts of the demo model's world with questions, and how answers are judged: shared by the hypercode benchmark.

A greedy answer is the gold one exactly when each of its tokens, and the end token, is the model's top choice given the
ones before; so one forward pass judges many questions (``demo_model.evaluate`` does the same).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hyperscene_plugin.demo_model.world import Question, World
from hyperscene_plugin.kv.layout import AssembledContext
from hyperscene_plugin.model.context_template import ContextTemplate
from hyperscene_plugin.model.hypercode import Hypercode
from hyperscene_plugin.model.prefill import SourceKV, prefill_source
from hyperscene_plugin.model.references import ReferenceBatch, hidden_states
from hyperscene_plugin.text.segment import segment

__all__ = ["Case", "answer_batch", "full_source", "judge", "make_cases"]


@dataclass(frozen=True, slots=True)
class Case:
    """A context and its questions."""

    text: str
    questions: tuple[Question, ...]


def make_cases(contexts: int, people: int, questions: int, seed: int) -> list[Case]:
    """Return contexts of ``people`` × 5 facts, pairings that training never wrote, with ``questions`` each."""
    world, rng = World(0), random.Random(seed)
    cases = []
    for _ in range(contexts):
        context = world.make_context(rng, people, 5, held_out=True)
        facts = rng.sample(list(context.facts), questions)
        cases.append(Case(context.text, tuple(world.ask(fact, rng) for fact in facts)))
    return cases


def full_source(hypercode: Hypercode, text: str) -> SourceKV:
    """Return the full cache of a text behind the prefix."""
    template = hypercode.template()
    ids, _, _ = hypercode.tokens_of(segment(text), template)
    return prefill_source(hypercode.model, template.prefix_ids, ids)


def answer_batch(template: ContextTemplate, questions: Sequence[Question]) -> ReferenceBatch:
    """Return the questions with their gold answers as one batch of live tokens."""
    rows = [template.reply_ids(question.text, question.answer) for question in questions]
    width = max(len(asked) + len(told) for asked, told in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    reply = torch.zeros(len(rows), width, dtype=torch.bool)
    real = torch.zeros_like(reply)
    for row, (asked, told) in enumerate(rows):
        length = len(asked) + len(told)
        ids[row, :length] = torch.tensor(asked + told)
        reply[row, len(asked) - 1 : length - 1] = True
        real[row, :length] = True
    return ReferenceBatch(ids, reply, real, reply.float(), torch.zeros(len(rows), dtype=torch.int64))


@torch.no_grad()
def judge(model: Any, batch: ReferenceBatch, context: AssembledContext) -> list[bool]:
    """Say of each question whether the greedy answer behind ``context`` is the gold one."""
    hidden = hidden_states(model, batch, context)
    predicted = model.lm_head(hidden).argmax(-1)
    good = (predicted[:, :-1] == batch.ids[:, 1:]) | ~batch.reply[:, :-1]
    answers: list[bool] = good.all(1).tolist()
    return answers
