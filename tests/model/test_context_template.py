"""Prefix, context and suffix are the whole prompt: token for token what the chat template gives in one piece."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hyperscene_plugin import Message
from hyperscene_plugin.demo_model import weights_path
from hyperscene_plugin.errors import InputError, ModelError
from hyperscene_plugin.model.context_template import ContextTemplate
from tests.tiny_model import save_tiny_model

NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXTS = ("Anna lives in Oslo.\nIvan has a dog.", " starts with a blank", "\n\nstarts with lines\n", "Анна 🐈", "42")
TURNS = [Message("user", "Who?"), Message("assistant", "Anna."), Message("user", "Where does Anna live?")]


@cache
def demo() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(weights_path())


@pytest.fixture(scope="module", params=["demo", "tiny", "tiny-no-system"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "demo":
        return demo()
    from transformers import AutoTokenizer

    folder = save_tiny_model(tmp_path_factory.mktemp(request.param))
    made = AutoTokenizer.from_pretrained(folder)
    if request.param == "tiny-no-system":
        made.chat_template = NO_SYSTEM
    return made


def tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def whole(tokenizer: Any, context: str, messages: list[Message]) -> list[int]:
    """The prompt in one piece: the context as the system message, or in the first user message."""
    first, *rest = messages
    if tokenizer.chat_template == NO_SYSTEM:
        chat = [Message(first.role, f"{context}\n\n{first.content}"), *rest]
    else:
        chat = [Message("system", context), *messages]
    plain = [{"role": m.role, "content": m.content} for m in chat]
    return tokens(tokenizer, tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True))


def pieces(template: ContextTemplate, tokenizer: Any, context: str, prompt: Any) -> list[int]:
    return [*template.prefix_ids, *tokens(tokenizer, template.context_text(context)[0]), *template.suffix_ids(prompt)]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("instructions", ["", "Answer from the text."])
def test_the_pieces_join_to_the_template_s_own_tokens(tokenizer: Any, context: str, instructions: str) -> None:
    template = ContextTemplate(tokenizer, instructions=instructions)
    stands = f"{instructions}\n\n{context}" if instructions else context
    for prompt in ([Message("user", "Where does Anna live?")], TURNS):
        joined, single = pieces(template, tokenizer, context, prompt), whole(tokenizer, stands, prompt)
        if context[0].isspace():  # a template may trim what it is given, and a seam may split blanks otherwise
            assert "".join(tokenizer.decode(joined).split()) == "".join(tokenizer.decode(single).split())
        else:
            assert joined == single
    assert template.suffix_ids("Where?") == template.suffix_ids([Message("user", "Where?")])


def test_the_context_s_lead_is_counted(tokenizer: Any) -> None:
    for instructions in ("", "Answer from the text."):
        template = ContextTemplate(tokenizer, instructions=instructions)
        text, lead = template.context_text("Anna")
        assert text[lead:] == "Anna"
        assert text[:lead].strip() == ""
        assert tokenizer.decode(list(template.prefix_ids)).rstrip() == tokenizer.decode(list(template.prefix_ids))


def test_a_reply_follows_its_question(tokenizer: Any) -> None:
    template = ContextTemplate(tokenizer)
    asked, told = template.reply_ids("Where does Anna live?", "Oslo.")
    assert asked == template.suffix_ids("Where does Anna live?")
    assert tokenizer.decode(told).replace(" ", "").startswith("Oslo.")
    assert told[: len(tokens(tokenizer, "Oslo."))] == tokens(tokenizer, "Oslo.") or tokenizer is demo()


def test_system_messages_go_in_with_the_first_user_message(tokenizer: Any) -> None:
    template = ContextTemplate(tokenizer)
    mixed = template.suffix_ids([Message("system", "Be brief."), Message("user", "Where?")])
    assert mixed == template.suffix_ids([Message("user", "Be brief.\n\nWhere?")])
    assert template.suffix_ids([Message("system", "Be brief.")]) == template.suffix_ids("Be brief.")
    late = [Message("assistant", "Yes?"), Message("user", "Where?"), Message("system", "Be brief.")]
    if tokenizer.chat_template != NO_SYSTEM:
        folded = [Message("assistant", "Yes?"), Message("user", "Be brief.\n\nWhere?")]
        assert template.suffix_ids(late) == template.suffix_ids(folded)


def test_raw_prompts_have_the_tokenizer_s_beginning(tokenizer: Any) -> None:
    template = ContextTemplate(tokenizer, chat=False)
    assert set(template.prefix_ids) <= set(tokenizer("")["input_ids"])
    assert template.context_text("Anna") == ("Anna", 0)
    assert template.suffix_ids("Where?") == tokens(tokenizer, "Where?")
    asked, told = template.reply_ids("Where?", "Oslo.")
    assert (tokenizer.decode(asked), tokenizer.decode(told)) == ("\nWhere?\n", "Oslo.")


def test_fingerprints_tell_prefixes_apart(tokenizer: Any) -> None:
    made = [
        ContextTemplate(tokenizer),
        ContextTemplate(tokenizer, instructions="Answer."),
        ContextTemplate(tokenizer, instructions="Answer!"),
        ContextTemplate(tokenizer, chat=False),
    ]
    assert len({template.fingerprint for template in made}) == 4
    assert ContextTemplate(tokenizer).fingerprint == made[0].fingerprint


def test_without_a_template_roles_are_written_out(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(save_tiny_model(tmp_path / "plain", chat_template=None))
    template = ContextTemplate(plain)
    assert plain.decode(list(template.prefix_ids)) == "system:"
    joined = pieces(template, plain, "Anna", "Where?")
    assert plain.decode(joined) == "system: Anna\nuser: Where?\nassistant:"


def test_what_cannot_be_a_prompt_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="empty"):
        ContextTemplate(tokenizer).suffix_ids([])


def test_a_template_that_refuses_or_drops_the_context_is_named(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(save_tiny_model(tmp_path / "tiny"))
    with pytest.raises(ModelError, match="unknown role wizard"):
        ContextTemplate(made).suffix_ids([Message("wizard", "hello")])
    made.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(ModelError, match="dropped the context"):
        ContextTemplate(made)
