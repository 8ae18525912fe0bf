"""The shipped weights answer held-out questions from the context, and do not without it."""

from __future__ import annotations

import json
import random
from functools import cache

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from hyperscene_plugin.demo_model import weights_path
from hyperscene_plugin.demo_model.evaluate import SUITES, Item, Judge, evaluate, load_demo_model
from hyperscene_plugin.demo_model.world import World, exact_match


@cache
def shipped() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The shipped model and tokenizer, loaded once."""
    return load_demo_model()


FLOORS = {
    "4 people x 5 facts": 0.9,
    "16 people x 5 facts": 0.9,
    "same relation, 16 people": 0.9,
    "counterfactual: values swapped, 8 x 3": 0.9,
    "absent facts, 8 x 3": 0.9,
}


def test_it_reads_its_context() -> None:
    for score in evaluate(*shipped(), questions=40, suites=list(FLOORS)):
        assert score.exact >= FLOORS[score.suite], score


def test_without_the_context_it_is_near_chance() -> None:
    (score,) = evaluate(*shipped(), questions=60, suites=["no context (control), 8 x 3"])
    assert score.exact < 0.1


def test_the_one_pass_check_equals_real_generation() -> None:
    model, tokenizer = shipped()
    items = [
        *SUITES["8 people x 5 facts"](8, random.Random(1)),
        Item("Anna lives in Oslo.", "Where does Anna live?", "Bergen."),
    ]
    judge = Judge(model, tokenizer)
    for i, (item, good) in enumerate(zip(items, judge.correct(items), strict=True)):
        prompt = torch.tensor([judge.prompt(item, i % 2 == 0)])
        ids = model.generate(  # type: ignore[misc]
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False
        )
        answer = tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)
        assert exact_match(str(answer), item.answer) == good, (answer, item)


def test_the_judges_prompt_is_the_chat_templates() -> None:
    _, tokenizer = shipped()
    context = World(2).make_context(num_people=2, facts_per_person=2)
    item = Item(context.text, "Where does Anna live?", "Oslo.")
    judge = Judge(*shipped())
    messages = [{"role": "system", "content": item.context}, {"role": "user", "content": item.question}]
    for in_system, chat in (
        (True, messages),
        (False, [{"role": "user", "content": f"{item.context}\n\n{item.question}"}]),
    ):
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert tokenizer.encode(text, add_special_tokens=False) == judge.prompt(item, in_system)


def test_the_folder_is_small_and_complete() -> None:
    folder = weights_path()
    names = {p.name for p in folder.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "training_report.json",
    } <= names
    assert sum(p.stat().st_size for p in folder.iterdir()) < 16 * 2**20
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"] == ["LlamaForCausalLM"]


def test_unknown_suites_are_refused() -> None:
    with pytest.raises(ValueError, match="known"):
        evaluate(*shipped(), suites=["nonsense"])
