"""Chat messages → prompt token ids, by the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyperscene_plugin.errors import InputError, ModelError
from hyperscene_plugin.types import Message

__all__ = ["PLAIN_FORMAT_NOTE", "SYSTEM_FOLDED_NOTE", "apply_to_text", "encode_prompt"]

PLAIN_FORMAT_NOTE = "the tokenizer has no chat template: roles were written out as plain text"
SYSTEM_FOLDED_NOTE = "the chat template has no system role: the system text was put before the first user message"


def encode_prompt(tokenizer: Any, prompt: str | Sequence[Message]) -> tuple[list[int], tuple[str, ...]]:
    """Return ``(token ids, notes)``: raw text with the tokenizer's usual special tokens, or a formatted chat.

    Raises:
        InputError: nothing to encode.
        ModelError: the chat template refuses the messages.
    """
    if isinstance(prompt, str):
        if not prompt:
            raise InputError("the prompt is empty; give some text or at least one message")
        return list(tokenizer(prompt)["input_ids"]), ()
    if not prompt:
        raise InputError("the list of messages is empty; give at least one message")
    if not tokenizer.chat_template:
        return list(tokenizer(apply_to_text(tokenizer, prompt))["input_ids"]), (PLAIN_FORMAT_NOTE,)
    try:
        return _apply(tokenizer, prompt), ()
    except Exception as error:  # templates raise jinja2.TemplateError, but also KeyError and TypeError
        folded = _fold_system(prompt)
        if folded is None:
            raise _refused(tokenizer, error) from error
    try:
        return _apply(tokenizer, folded), (SYSTEM_FOLDED_NOTE,)
    except Exception as error:
        raise _refused(tokenizer, error) from error


def apply_to_text(tokenizer: Any, messages: Sequence[Message], reply: bool = True) -> str:
    """Return the chat as one string, up to the reply if ``reply``; plain lines where there is no template.

    Raises whatever the template raises.
    """
    if not tokenizer.chat_template:
        return "".join(f"{message.role}: {message.content}\n" for message in messages) + ("assistant:" if reply else "")
    chat = [{"role": message.role, "content": message.content} for message in messages]
    return str(tokenizer.apply_chat_template(chat, add_generation_prompt=reply, tokenize=False))


def _apply(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    chat = [{"role": message.role, "content": message.content} for message in messages]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    return list(ids)


def _fold_system(messages: Sequence[Message]) -> list[Message] | None:
    system = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    if not system or not rest or rest[0].role != "user":
        return None
    first = Message(role="user", content="\n\n".join([*system, rest[0].content]))
    return [first, *rest[1:]]


def _refused(tokenizer: Any, error: Exception) -> ModelError:
    return ModelError(
        f"the chat template of {tokenizer.name_or_path!r} refused the messages ({type(error).__name__}: {error}); "
        "check the roles and their order, or pass the prompt as raw text"
    )
