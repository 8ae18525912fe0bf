"""Compact caches of the demo model, and tiny models with a tokenizer, for the tests of hypercode."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

from hyperscene_plugin import LocalModel
from hyperscene_plugin.demo_model.world import Context, World, exact_match
from hyperscene_plugin.kv.layout import CompactCache
from hyperscene_plugin.model import GenerationOptions
from hyperscene_plugin.types import Scene
from tests.model.tiny_architectures import tiny_model
from tests.tiny_model import save_tiny_model

SHORT = GenerationOptions(max_new_tokens=10)


@cache
def demo() -> LocalModel:
    """The demo model, loaded once."""
    return LocalModel.load("demo", device_map="cpu")


@cache
def world_text(seed: int = 1, people: int = 6) -> Context:
    """A text of the demo model's world: three facts about each of some people."""
    return World(seed).make_context(random.Random(seed), people, 3, joined=0.0)


@cache
def demo_cache(seed: int = 1, ratio: float = 4.0, quality: str = "balanced", **options: Any) -> CompactCache:
    """That text as a compact cache, made once."""
    return demo().compact(world_text(seed).text, ratio, quality=quality, source_id=f"text-{seed}", **options)


def questions(seed: int = 1, count: int = 8) -> list[tuple[str, str]]:
    """Questions about that text, with their answers."""
    world = World(0)
    asked = [world.ask(fact, random.Random(number)) for number, fact in enumerate(world_text(seed).facts[:count])]
    return [(question.text, question.answer) for question in asked]


def right(local: LocalModel, seed: int = 1, count: int = 8, **options: Any) -> int:
    """How many of the questions are answered exactly."""
    return sum(
        exact_match(local.generate(text, SHORT, **options).text, answer) for text, answer in questions(seed, count)
    )


def tiny(folder: Path, name: str = "llama", window: int = 512) -> LocalModel:
    """A tiny random model of an architecture, with a tokenizer of its own."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(save_tiny_model(folder))
    fields = {"vocab_size": len(tokenizer), "max_position_embeddings": window, "eos_token_id": tokenizer.eos_token_id}
    return LocalModel(tiny_model(name, **fields), tokenizer, name=str(folder))


def scenes_of(*texts: str) -> list[Scene]:
    """Scenes that follow each other in one source."""
    scenes, at = [], 0
    for number, text in enumerate(texts):
        scenes.append(Scene(text, "doc", at, at + len(text), number))
        at += len(text)
    return scenes


STORY = (
    "Anna Berg moved to Oslo on 12 March. She keeps a grey parrot.\n",
    "Ivan repairs 340 old clocks in Lima. His locker is number 7661.\n",
    "Oscar sings in a choir of 25 people. Nadia plays the violin.\n",
    "The bridge was built in 1931. It is 88 metres long.\n",
    "Vera studies logic in Rome. Her birthday is June 8.\n",
)
