"""Tokenizer: any text comes back, lexicon words and digits are single tokens, the template refuses unknown roles."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from hyperscene_plugin.demo_model import weights_path
from hyperscene_plugin.demo_model.data import FragmentEncoder
from hyperscene_plugin.demo_model.tokenizer import build_tokenizer, lexicon_words, load_tokenizer
from hyperscene_plugin.demo_model.world import World


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """The shipped tokenizer."""
    return _shipped()


@settings(max_examples=100)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back(text: str) -> None:
    tokenizer = _shipped()
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("text", ["Привет, мир!", "a\n\n b\t c  ", "Anna: I live in Oslo.", "12 + 34 = 46", "日本"])
def test_named_texts_come_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_lexicon_words_and_digits_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    for word in lexicon_words():
        assert len(tokenizer.encode(" " + word, add_special_tokens=False)) == 1, word
    for digit in "0123456789":
        assert len(tokenizer.encode("7" + digit, add_special_tokens=False)) == 2


def test_building_is_deterministic() -> None:
    first, second = (build_tokenizer("A short book about the sea.").get_vocab() for _ in range(2))
    assert first == second


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="single tokens"):
        build_tokenizer(vocab_size=400)


def test_fragments_encode_like_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = FragmentEncoder(tokenizer)
    text = " " + World(1).make_context(num_people=8, facts_per_person=5, num_things=3).text
    for sample in (text, "Zoë's  café\n\nна 12.5 —\tdone"):
        assert encoder.encode(sample) == tokenizer.encode(sample, add_special_tokens=False)


def test_template_for_many_turns(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "Anna lives in Oslo."},
        {"role": "user", "content": "Where does Anna live?"},
        {"role": "assistant", "content": "Oslo."},
        {"role": "user", "content": "Who lives in Oslo?"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|begin|><|system|> Anna lives in Oslo.<|end|><|user|> Where does Anna live?<|end|><|assistant|> Oslo.<|end|>"
        "<|user|> Who lives in Oslo?<|end|><|assistant|>"
    )
    shorter = tokenizer.apply_chat_template(messages[:2], tokenize=False)
    assert str(text).startswith(str(shorter))


def test_template_refuses_an_unknown_role(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="unknown role 'tool'"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


@cache
def _shipped() -> PreTrainedTokenizerFast:
    return load_tokenizer(weights_path())
