"""Composition of separately compacted documents, and an unrelated cache in front of a full context: two extra tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from hyperscene_plugin.bench.hypercode_cases import Case, answer_batch, full_source, judge, make_cases
from hyperscene_plugin.demo_model.world import Fact, Question, World
from hyperscene_plugin.kv.layout import AssembledContext
from hyperscene_plugin.model.hf import LocalModel
from hyperscene_plugin.model.references import ReferenceBatch
from hyperscene_plugin.types import Message

__all__ = ["composition", "off_topic"]

PEOPLE_IN_ALL = 32
_RESERVE = 48


def composition(
    model: LocalModel, seed: int, counts: Sequence[int] = (1, 2, 4, 8), contexts: int = 4, ratio: float = 12.0
) -> list[dict[str, Any]]:
    """Facts spread over k documents, each compacted alone, against one joint full context of the same texts.

    ``pairs`` are two questions in one conversation whose answers stand in two documents (in two halves of the one
    for k = 1); a pair counts only when both answers are right.
    """
    hypercode = model.hypercode
    rows = []
    for count in counts:
        rng = random.Random(f"{seed}/{count}")
        full: list[bool] = []
        small: list[bool] = []
        full_pairs: list[bool] = []
        small_pairs: list[bool] = []
        for _ in range(contexts):
            texts, facts = _documents(rng, count)
            world = World(0)
            joint = full_source(hypercode, "\n".join(texts)).context()
            caches = [
                model.compact(text, ratio, quality="best", source_id=f"document {number}")
                for number, text in enumerate(texts)
            ]
            picked = [(rng.choice(own), rng) for own in facts for _ in range(max(1, 24 // count))]
            questions = [world.ask(fact, rng) for fact, _ in picked]
            batch = answer_batch(hypercode.template(), questions)
            full += judge(model.model, batch, joint)
            for number, question in enumerate(questions):
                _, plan = hypercode.prepare(question.text, caches, reserve=_RESERVE)
                small += judge(model.model, batch.rows(torch.tensor([number])), plan.context)
            for _ in range(10):
                first, second = _two(rng, facts)
                pair = (world.ask(first, rng), world.ask(second, rng))
                full_pairs.append(_both(model, pair, joint, None))
                small_pairs.append(_both(model, pair, None, caches))
        exact, whole = sum(small) / len(small), sum(full) / len(full)
        both, whole_both = sum(small_pairs) / len(small_pairs), sum(full_pairs) / len(full_pairs)
        rows.append(
            {
                "documents": count,
                "questions": len(small),
                "joint_full": round(whole, 4),
                "hypercode": round(exact, 4),
                "relative": round(exact / whole, 4),
                "pairs": len(small_pairs),
                "joint_full_pairs": round(whole_both, 4),
                "hypercode_pairs": round(both, 4),
                "relative_pairs": round(both / whole_both, 4) if whole_both else None,
            }
        )
    return rows


def off_topic(model: LocalModel, seed: int, contexts: int = 6, questions: int = 50) -> dict[str, Any]:
    """The full context in the user's message, with and without an unrelated compact cache in the system's place."""
    cases = make_cases(contexts, 16, questions, seed)
    others = make_cases(contexts, 16, 1, seed + 1000)
    alone: list[bool] = []
    behind: list[bool] = []
    behind_full: list[bool] = []
    template = model.hypercode.template()
    for case, other in zip(cases, others, strict=True):
        batch = answer_batch(template, [_with_context(case, question) for question in case.questions])
        code = model.compact(other.text, 12.0, quality="best")
        _, plan = model.hypercode.prepare(case.questions[0].text, [code], zoom=False, reserve=_RESERVE)
        source = full_source(model.hypercode, other.text)
        alone += judge(model.model, batch, source.context(prefix_only=True))
        behind += judge(model.model, batch, plan.context)
        behind_full += judge(model.model, batch, source.context())
    return {
        "questions": len(alone),
        "full_context_alone": round(sum(alone) / len(alone), 4),
        "behind_unrelated_hypercode": round(sum(behind) / len(behind), 4),
        "behind_unrelated_full_cache": round(sum(behind_full) / len(behind_full), 4),
    }


def _documents(rng: random.Random, count: int) -> tuple[list[str], list[list[Fact]]]:
    """Return ``count`` texts about different people, and each one's facts."""
    world = World(0)
    people = PEOPLE_IN_ALL // count
    texts: list[str] = []
    facts: list[list[Fact]] = []
    seen: set[str] = set()
    while len(texts) < count:
        context = world.make_context(rng, people, 5, held_out=True)
        names = set(context.subjects())
        if names & seen:
            continue
        seen |= names
        texts.append(context.text)
        facts.append(list(context.facts))
    return texts, facts


def _two(rng: random.Random, facts: list[list[Fact]]) -> tuple[Fact, Fact]:
    if len(facts) == 1:
        first, second = rng.sample(facts[0], 2)
        return first, second
    one, other = rng.sample(facts, 2)
    return rng.choice(one), rng.choice(other)


def _both(
    model: LocalModel, pair: tuple[Question, Question], joint: AssembledContext | None, caches: Sequence[Any] | None
) -> bool:
    """Ask the two questions in one conversation, the second after the gold answer to the first."""
    hypercode = model.hypercode
    template = hypercode.template()
    history: list[Message] = []
    for question in pair:
        messages = [*history, Message("user", question.text)]
        asked = template.suffix_ids(messages)
        _, told = template.reply_ids(question.text, question.answer)
        context = joint
        if caches is not None:
            _, plan = hypercode.prepare(messages, caches, reserve=_RESERVE)
            context = plan.context
        assert context is not None
        if not judge(model.model, _row(asked, told), context)[0]:
            return False
        history = [*messages, Message("assistant", question.answer)]
    return True


def _row(asked: list[int], told: list[int]) -> ReferenceBatch:
    ids = torch.tensor([asked + told])
    reply = torch.zeros_like(ids, dtype=torch.bool)
    reply[0, len(asked) - 1 : ids.shape[1] - 1] = True
    return ReferenceBatch(ids, reply, torch.ones_like(reply), reply.float(), torch.zeros(1, dtype=torch.int64))


def _with_context(case: Case, question: Question) -> Question:
    return Question(f"{case.text}\n\n{question.text}", question.answer, question.fact, question.kind)
