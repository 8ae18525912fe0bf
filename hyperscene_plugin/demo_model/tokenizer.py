"""The demo model's tokenizer: byte-level BPE trained on the world's words and a sample book, with a chat template.

Every name and every one-word value is one token (with its leading space), every digit is one token, and any
other text encodes through bytes, so nothing is ever out of vocabulary. `build_tokenizer` is deterministic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hyperscene_plugin.demo_model.lexicon import ADJECTIVES, MONTHS, NAMES, OBJECTS, RELATIONS, UNKNOWN
from hyperscene_plugin.demo_model.world import World
from hyperscene_plugin.errors import InputError

BOS, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (PAD, BOS, END, SYSTEM, USER, ASSISTANT)

# A header token, a space, the content, <|end|>. The space gives the first word the same token as inside a text.
CHAT_TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception("unknown role '" ~ message['role'] ~ "'; known: system, user, assistant") -}}
{%- endif -%}
{{- '<|' ~ message['role'] ~ '|> ' ~ (message['content'] | trim) ~ '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""

_SPLIT = r"\n|\d| ?\p{L}+| ?[^\s\p{L}\d]+|\s"


def lexicon_words() -> tuple[str, ...]:
    """The words that must be single tokens after a space, sorted."""
    words = {*NAMES, *MONTHS, *ADJECTIVES, *OBJECTS}
    for relation in RELATIONS:
        words.update(v for v in relation.values if " " not in v)
    return tuple(sorted(words))


def build_tokenizer(book: str = "", vocab_size: int = 3072, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train the tokenizer on world text and `book` (plain text, may be empty).

    Returns a fast tokenizer with special tokens and a chat template. Raises InputError when a word of the
    lexicon did not become a single token (the vocabulary is too small).
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(book, seed), trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    broken = [w for w in lexicon_words() if len(fast.encode(" " + w, add_special_tokens=False)) != 1]
    if broken:
        raise InputError(f"{len(broken)} words are not single tokens, e.g. {broken[:5]}; raise vocab_size")
    return fast


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token of the vocabulary; KeyError when it has none."""
    return int(tokenizer.get_vocab()[token])


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in `folder` (``tokenizer.json`` with its configuration and template)."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def _corpus(book: str, seed: int) -> Iterator[str]:
    world, rng = World(seed), random.Random(seed)
    for word in lexicon_words():
        yield f" {word}" * 400
    for name in NAMES:
        yield f"{name}:\n{name} " * 60
    for word in ("Where", "What", "Which", "Who", "Whose", "When", "In", "On", "The", "A", "Quote", "Repeat", *MONTHS):
        yield f"{word}\n" * 400
    for _ in range(400):
        style = rng.choice(("plain", "plain", "chat"))
        context = world.make_context(rng, 8, 5, held_out=None, num_things=4, style=style)
        yield " " + context.text
        for fact in context.facts:
            yield " " + world.ask(fact, rng).text
            yield " " + UNKNOWN
    for paragraph in book.split("\n\n"):
        yield " " + paragraph
